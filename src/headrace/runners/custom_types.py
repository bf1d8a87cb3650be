"""What a user's `predict` takes and gives, as its annotations say; inputs are checked before it is called, outputs after.

`list[X]` with anything that pydantic knows (models, dataclasses, TypedDicts, plain types), `np.ndarray`, which is one array
with the batch as its first dimension, or `dict[str, np.ndarray]`, several of them by name. Without annotations: lists of
what JSON holds.
"""

import collections.abc
import dataclasses
import inspect
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from headrace.runners.custom_failure import Failure, said
from headrace.runners.custom_load import CannotLoad

Form = Literal["list", "array", "arrays"]

_LISTS = (list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Iterable,
)
_MOST_MISTAKES = 3
_DATATYPES: Mapping[Any, str] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs ready for `predict`: as many as the request has. Only those with the same key fit into one array."""

    inputs: Sequence[Any]
    key: Hashable = None


@dataclass(frozen=True, slots=True)
class Signature:
    """How `predict` is called. `item` checks one input, `output` one output; None where nothing is declared."""

    where: str
    streams: bool
    form: Form
    dtype: Any
    """Of `array`; None leaves it to the data."""
    item: TypeAdapter[Any] | None
    output: TypeAdapter[Any] | None
    takes: Any
    """The type of one input; Any where nothing is declared."""
    gives: Any
    """The type of one output."""

    def from_json(self, instances: Sequence[Any]) -> Batch:
        """Inputs from JSON values. Raises Failure."""
        if self.form == "array":
            return self._rows(self._array(instances, "instances"))
        if self.form == "arrays":
            return self._rows_by_name(self._columns(instances))
        return Batch(self._checked(instances))

    def from_tensors(self, tensors: Mapping[str, Any]) -> Batch:
        """Inputs from tensors, whose first dimension is the batch. Raises Failure."""
        sizes = {array.shape[:1] for array in tensors.values()}
        if () in sizes:
            raise _bad("a tensor without dimensions has no inputs; the first dimension is the batch")
        if len(sizes) > 1 or sizes == {(0,)}:
            raise _bad(f"the first dimension is the batch, and here it is {', '.join(str(size[0]) for size in sorted(sizes))}")
        if self.form == "arrays":
            return self._rows_by_name(tensors)
        if self.form == "list" and (_has_parts(self.takes) or len(tensors) > 1):
            columns = {name: _plain(array) for name, array in tensors.items()}
            rows = zip(*columns.values(), strict=True)
            return Batch(self._checked([dict(zip(columns, row, strict=True)) for row in rows]))
        if len(tensors) > 1:
            raise _bad(f"{self.where} takes one tensor, and there are {', '.join(tensors)}")
        (array,) = tensors.values()
        if self.form == "list":
            return Batch(self._checked(_plain(array)))
        return self._rows(array if self.dtype is None else self._array(array, "the tensor"))

    def argument(self, inputs: Sequence[Any]) -> Any:
        """What `predict` is called with for `inputs`, which have the same key."""
        if self.form == "list":
            return list(inputs)
        import numpy as np

        if self.form == "array":
            return np.stack(inputs)
        return {name: np.stack([row[name] for row in inputs]) for name in inputs[0]}

    def checked_output(self, value: Any) -> Any:
        """One output as JSON holds it, where it is declared. Raises Failure when it is not what is declared."""
        if self.output is None:
            return value
        try:
            return self.output.dump_python(self.output.validate_python(value), mode="json")
        except ValidationError as error:
            raise Failure(
                500, f"{self.where} returned what it does not declare: {mistakes(error, 'output')}", "model_error"
            ) from None

    def _checked(self, instances: Sequence[Any]) -> list[Any]:
        if self.item is None:
            return list(instances)
        found = []
        for number, instance in enumerate(instances):
            try:
                found.append(self.item.validate_python(instance))
            except ValidationError as error:
                raise _bad(mistakes(error, f"instances[{number}]")) from None
        return found

    def _array(self, values: Any, what: str) -> Any:
        import numpy as np

        try:
            array = np.asarray(values, self.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise _bad(f"{what} are no array of {self.dtype or 'one shape'}: {error}") from None
        if array.dtype.kind == "O" and not all(isinstance(each, bytes) for each in array.ravel()):
            raise _bad(f"{what} are no array of numbers or text")
        return array

    def _columns(self, instances: Sequence[Any]) -> dict[str, Any]:
        if not all(isinstance(each, dict) and each.keys() == instances[0].keys() for each in instances) or not instances[0]:
            raise _bad("instances are not objects with the same keys, one for each array")
        return {name: self._array([each[name] for each in instances], f'the values of "{name}"') for name in instances[0]}

    def _rows(self, array: Any) -> Batch:
        return Batch(list(array), (array.dtype.str, array.shape[1:]))

    def _rows_by_name(self, arrays: Mapping[str, Any]) -> Batch:
        rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
        return Batch(rows, tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(arrays.items())))


def signature(function: Callable[..., Any], where: str) -> Signature:
    """How to call the bound method `predict`, by its annotations. Raises CannotLoad for those that say something else."""
    plain = inspect.unwrap(function)
    streams = inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain)
    takes, gives = _annotations(function, plain, where)
    form, dtype = _form(takes)
    item = takes if streams else _inside(takes, where)
    if form != "list":
        item = Any
    output = Any if gives is None else _output(gives, where, streams)
    return Signature(where, streams, form, dtype, _adapter(item, where), _adapter(output, where), item, output)


def tensors(declared: Any, name: str) -> list[dict[str, Any]]:
    """V2's description of inputs or outputs of a type, as far as it says: one tensor for each part, or the one called `name`."""
    if _has_parts(declared) and isinstance(declared, type):
        parts = [_tensor(kind, part) for part, kind in typing.get_type_hints(declared).items()]
    else:
        parts = [_tensor(declared, name)]
    return [part for part in parts if part] if all(parts) else []


def _tensor(kind: Any, name: str) -> dict[str, Any] | None:
    shape = [-1]
    while typing.get_origin(kind) is list:
        (kind,) = typing.get_args(kind)
        shape.append(-1)
    return {"name": name, "datatype": _DATATYPES[kind], "shape": shape} if kind in _DATATYPES else None


def mistakes(error: ValidationError, what: str) -> str:
    """Where and what, of the first few: `instances[1].amount: Input should be a valid number`."""
    found = error.errors(include_url=False, include_context=False)
    lines = [what + "".join(_step(step) for step in each["loc"]) + f": {each['msg']}" for each in found[:_MOST_MISTAKES]]
    more = [f"and {len(found) - _MOST_MISTAKES} more"] if len(found) > _MOST_MISTAKES else []
    return "; ".join(lines + more)


def _step(step: int | str) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


def _bad(message: str) -> Failure:
    return Failure(400, message, "invalid_input")


def _plain(array: Any) -> list[Any]:
    """Rows as JSON holds them; BYTES as text."""
    if array.dtype.kind != "O":
        return list(array.tolist())
    try:
        return list(_decoded(array.tolist()))
    except UnicodeDecodeError:
        raise _bad("BYTES that are no UTF-8 are for a predict that takes np.ndarray") from None


def _decoded(value: Any) -> Any:
    return [_decoded(each) for each in value] if isinstance(value, list) else value.decode()


# ---- annotations


def _annotations(bound: Callable[..., Any], plain: Callable[..., Any], where: str) -> tuple[Any, Any]:
    """(of the first parameter, of what is returned); Any and None where there is none."""
    parameters = list(inspect.signature(bound).parameters)
    if not parameters:
        raise CannotLoad(f"cannot load {where}: it takes nothing; write predict(self, batch)")
    try:
        hints = typing.get_type_hints(plain, include_extras=True)
    except Exception as error:
        raise CannotLoad(f"cannot load {where}: its annotations cannot be read: {said(error)}") from error
    return hints.get(parameters[0], Any), hints.get("return")


def _form(annotation: Any) -> tuple[Form, Any]:
    """(the form of a batch, the type of an array's elements where it is named)."""
    if _is_array(annotation):
        dtype = [kind for each in typing.get_args(annotation)[1:] for kind in typing.get_args(each)]  # NDArray[np.float32]
        named = [each for each in dtype if each is not Any and getattr(each, "__name__", "") != "generic"]
        return "array", named[0] if named else None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (dict, collections.abc.Mapping) and len(arguments) == 2 and _is_array(arguments[1]):
        return "arrays", None
    return "list", None


def _is_array(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    return isinstance(kind, type) and kind.__module__ == "numpy" and kind.__name__ == "ndarray"


def _inside(annotation: Any, where: str) -> Any:
    """X of list[X]."""
    if annotation is Any or annotation in _LISTS or _form(annotation)[0] != "list":
        return Any
    if typing.get_origin(annotation) in _LISTS:
        return typing.get_args(annotation)[0]
    raise CannotLoad(
        f"cannot load {where}: it is declared with {_shown(annotation)}; a batch is list[X], np.ndarray or dict[str, np.ndarray]"
    )


def _output(annotation: Any, where: str, streams: bool) -> Any:
    if not streams:
        return _inside(annotation, where)
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) in _STREAMS else Any


def _adapter(annotation: Any, where: str) -> TypeAdapter[Any] | None:
    if annotation is Any:
        return None
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise CannotLoad(
            f"cannot load {where}: {_shown(annotation)} cannot be checked: {error.message.splitlines()[0]}"
        ) from error


def _has_parts(annotation: Any) -> bool:
    return (
        dataclasses.is_dataclass(annotation)
        or hasattr(annotation, "model_fields")
        or hasattr(annotation, "__required_keys__")  # a TypedDict, of typing or of typing_extensions
        or typing.get_origin(annotation) in (dict, collections.abc.Mapping)
    )


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
