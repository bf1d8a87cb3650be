"""A class of the user's with `predict(batch)`, in a Python file: the same class that the engine `custom` serves.

Triton wants to know types and sizes before it serves: the class says them in `inputs` and `outputs`, as
`{"x": ("FP32", [4])}`, without the batch dimension. `predict(batch)` gets what its annotation says: `np.ndarray`, the batch
as its first dimension; `dict[str, np.ndarray]`, several of them by name; else a list with a value for each row, or a dict of
values where there are several inputs. It returns as many outputs in the same order, in any of these forms.
"""

import importlib.util
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import Array, Arrays, as_bytes, as_text, zeros
from .classes import candidates
from .described import Asked, Model, Tensor, Unusable


def load(asked: Asked) -> Model:
    """The class in the file, constructed and loaded. Raises Unusable."""
    model = _made(_class(asked))
    inputs, outputs = _declared(model, "inputs"), _declared(model, "outputs")
    return Model(inputs, outputs, True, _predict(model, inputs, outputs))


def _class(asked: Asked) -> Any:
    module, wanted = _module(asked.path), asked.settings.get("class", "")
    if wanted:
        named = getattr(module, wanted, None)  # also one that it imports
        if not isinstance(named, type) or not callable(getattr(named, "predict", None)):
            raise Unusable(f"there is no class {wanted} with a method predict in it")
        return named
    own = candidates(module, ("predict",))
    if len(own) != 1:
        found = f"{len(own)} ({', '.join(each.__name__ for each in own)}); say which in `class`" if own else "none"
        raise Unusable(f"one class with a method predict is needed, and there is {found}")
    return own[0]


def _module(path: str) -> Any:
    """The file as a module; its neighbours can be imported by it."""
    sys.path.append(os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location("headrace_model", path)
    if spec is None or spec.loader is None:
        raise Unusable("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Unusable(f"it cannot be imported: {_said(error)}") from error
    return module


def _made(kind: Any) -> Any:
    try:
        model = kind()
        if hasattr(model, "load"):
            model.load()
    except Exception as error:
        raise Unusable(f"{kind.__name__} cannot be loaded: {_said(error)}") from error
    return model


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _declared(model: Any, what: str) -> tuple[Tensor, ...]:
    declared: Any = getattr(model, what, None)
    try:
        tensors = tuple(Tensor(str(name), kind, tuple(int(size) for size in dims)) for name, (kind, dims) in declared.items())
        for tensor in tensors:
            zeros(tensor.datatype, ())
    except (AttributeError, TypeError, ValueError, StopIteration):
        tensors = ()
    if not tensors:
        like = f'{what} = {{"x": ("FP32", [4])}}'
        raise Unusable(f"{type(model).__name__} must say its {what} in types and sizes, as {like}; it has {declared!r}")
    return tensors


def _predict(model: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
    given_as = _form(model.predict)
    types = {each.name: zeros(each.datatype, ()).dtype for each in outputs}

    def predict(given: Arrays) -> Arrays:
        rows = len(next(iter(given.values())))
        if given_as is np.ndarray:
            found = model.predict(next(iter(given.values())))
        else:
            found = model.predict(dict(given) if given_as is dict else _listed(given, inputs))
        return {each.name: _column(found, each, len(outputs), types[each.name], rows) for each in outputs}

    return predict


def _form(predict: Any) -> Any:
    """np.ndarray, dict or list: the annotation of the first parameter."""
    try:
        hints = typing.get_type_hints(predict)
    except Exception:  # names that exist only for type checkers
        hints = {}
    first = next((kind for name, kind in hints.items() if name != "return"), list)
    origin = typing.get_origin(first) or first
    return origin if origin in (np.ndarray, dict) else list


def _listed(given: Arrays, inputs: Sequence[Tensor]) -> list[Any]:
    """Rows of plain values; a tensor of one element is that element."""
    single = {each.name for each in inputs if each.dims == (1,)}
    columns = {
        name: (as_text(array) if array.dtype.kind == "O" else array).reshape(array.shape[:1] if name in single else array.shape)
        for name, array in given.items()
    }
    values = {name: column.tolist() for name, column in columns.items()}
    if len(values) == 1:
        return next(iter(values.values()))
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _column(found: Any, tensor: Tensor, outputs: int, dtype: Any, rows: int) -> Array:
    """One output of all rows. Raises ValueError when there are not as many as rows."""
    if isinstance(found, Mapping):
        found = found[tensor.name]
    elif outputs > 1 or (len(found) and isinstance(found[0], Mapping)):
        found = [row[tensor.name] for row in found]
    if len(found) != rows:
        raise ValueError(f"predict returned {len(found)} outputs for a batch of {rows}")
    array = as_bytes(np.stack([np.asarray(value, dtype) for value in found]))
    return array[:, None] if array.ndim == 1 and tensor.dims == (1,) else array
