"""What a user's code returned becomes JSON or tensors, or the reason why it cannot."""

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core

from headrace.runners.custom_failure import Failure, raised


def split(result: Any, inputs: int, where: str) -> list[Any]:
    """The outputs of a call with as many inputs, one for each.

    `result` is a list, an array (anything that numpy can make one of) or arrays by name; an exception among the outputs
    is that input's own. Raises Failure.
    """
    outputs = _listed(result, where, inputs)
    if len(outputs) != inputs:
        raise Failure(500, f"{where} returned {len(outputs)} outputs for {inputs} inputs", "model_error")
    return [raised(where, each) if isinstance(each, Exception) else each for each in outputs]


def to_json(value: Any, where: str) -> bytes:
    """`value` as JSON; arrays as lists, NaN and infinity as null. Raises Failure."""
    try:
        return pydantic_core.to_json(value, fallback=_plain, inf_nan_mode="null")
    except (ValueError, TypeError, RecursionError) as error:  # PydanticSerializationError is a ValueError
        raise Failure(500, f"{where} returned what is no JSON: {error}", "model_error") from None


def to_tensors(outputs: Sequence[Any], where: str) -> dict[str, Any]:
    """Outputs, one for each input, as arrays with the batch first: one for each key where they are all objects with the same
    keys, else one named "output". Raises Failure.
    """
    values = [each if _is_array(each) else _jsonable(each, where) for each in outputs]
    first = values[0]
    if isinstance(first, dict) and all(isinstance(each, dict) and each.keys() == first.keys() for each in values):
        return {str(name): _stacked([each[name] for each in values], f'"{name}"', where) for name in first}
    return {"output": _stacked(values, "outputs", where)}


def _listed(result: Any, where: str, inputs: int) -> Sequence[Any]:
    if isinstance(result, list | tuple):
        return result
    if _is_array(result):
        import numpy as np

        array = np.asarray(result)
        return list(array) if array.ndim else [array]
    if isinstance(result, Mapping) and result and all(_is_array(each) for each in result.values()):
        columns = {name: _listed(each, where, inputs) for name, each in result.items()}
        if {len(each) for each in columns.values()} == {inputs}:
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        sizes = ", ".join(f"{len(each)} in {name}" for name, each in columns.items())
        raise Failure(500, f"{where} returned {sizes} for {inputs} inputs", "model_error")
    raise Failure(
        500,
        f"{where} returned {type(result).__name__}; it must return a list with an output for each of {inputs} inputs",
        "model_error",
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, type)


def _plain(value: Any) -> Any:
    """What is no JSON as it is: numpy's arrays and numbers, torch's tensors."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it holds a {type(value).__name__}")


def _jsonable(value: Any, where: str) -> Any:
    if isinstance(value, dict):  # arrays in it keep their types
        return {name: each if _is_array(each) else _jsonable(each, where) for name, each in value.items()}
    try:
        return pydantic_core.to_jsonable_python(value, fallback=_plain)
    except (ValueError, TypeError, RecursionError) as error:
        raise Failure(500, f"{where} returned what is no tensor: {error}", "model_error") from None


def _stacked(values: Sequence[Any], what: str, where: str) -> Any:
    import numpy as np

    try:
        if all(_is_array(each) for each in values):
            return np.stack([np.asarray(each) for each in values])
        array = np.array([each.tolist() if _is_array(each) else each for each in values], object)
    except ValueError as error:
        raise Failure(500, f"{where}: {what} are no tensor: {error}; V1 can carry them", "model_error") from None
    kinds = {type(each) for each in array.ravel()}
    for allowed, dtype in (({bool}, np.bool_), ({int}, np.int64), ({int, float}, np.float64), ({str}, np.object_)):
        if kinds <= allowed:
            try:
                return array.astype(dtype)
            except OverflowError:
                break
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise Failure(500, f"{where}: {what} are no tensor (of {names}); V1 can carry them", "model_error")
