"""Arrays on their way through a model: data types by name, requests put together into batches and taken apart again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]
Predict = Callable[[Arrays], Arrays]


def datatype(dtype: np.dtype[Any]) -> str:
    """Its name in the Open Inference Protocol. Raises TypeError where it has none."""
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.kind == "b":
        return "BOOL"
    if dtype.kind in _KINDS:
        return f"{_KINDS[dtype.kind]}{dtype.itemsize * 8}"
    raise TypeError(f"arrays of {dtype} have no data type in the protocol")


_KINDS = {"i": "INT", "u": "UINT", "f": "FP"}


def zeros(datatype: str, shape: Sequence[int]) -> Array:
    """An array to try a model with: zeros, empty text."""
    if datatype == "BYTES":
        return np.full(tuple(shape), "", np.object_)
    if datatype == "BOOL":
        return np.zeros(tuple(shape), np.bool_)
    kind = next(letter for letter, name in _KINDS.items() if datatype.startswith(name))
    return np.zeros(tuple(shape), f"{kind}{int(datatype.lstrip('UINTFP')) // 8}")


def in_turn(predict: Predict, batches: Sequence[Arrays]) -> list[Arrays | Exception]:
    """What `predict` gives for each, one call each; an exception where it fails."""
    return [_alone(predict, inputs) for inputs in batches]


def together(predict: Predict, batches: Sequence[Arrays]) -> list[Arrays | Exception]:
    """What `predict` gives for each, in one call along the first axis.

    When that fails and there are several, each is called alone: a bad one does not take its neighbours with it. Output that
    has not one row for each row of input is a failure of the model: nobody could say whose rows they are.
    """
    if len(batches) == 1:
        return in_turn(predict, batches)
    sizes = [len(next(iter(inputs.values()))) for inputs in batches]
    try:
        outputs = _rows(predict({name: np.concatenate([each[name] for each in batches]) for name in batches[0]}), sum(sizes))
    except Exception:
        return in_turn(lambda inputs: _rows(predict(inputs), len(next(iter(inputs.values())))), batches)
    ends = np.cumsum(sizes)
    return [{name: array[end - size : end] for name, array in outputs.items()} for size, end in zip(sizes, ends, strict=True)]


def _alone(predict: Predict, inputs: Arrays) -> Arrays | Exception:
    try:
        return predict(inputs)
    except Exception as error:
        return error


def _rows(outputs: Arrays, rows: int) -> Arrays:
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise ValueError(f'output "{name}" has the shape {list(array.shape)} for a batch of {rows}')
    return outputs


class NotText(ValueError):
    """Bytes that are no text: the request is at fault, which `status` says."""

    status = 400


def as_text(array: Array) -> Array:
    """BYTES as text, which is what models take. Raises NotText."""
    try:
        text = [each.decode() if isinstance(each, bytes) else each for each in array.ravel()]
    except UnicodeDecodeError as error:
        raise NotText(f"an element is not UTF-8: {error.reason} at byte {error.start}") from None
    return np.array(text, np.object_).reshape(array.shape)


def as_bytes(array: Array) -> Array:
    """Text as BYTES, which is what Triton takes; other arrays as they are."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array)
    encoded = [each if isinstance(each, bytes) else str(each).encode() for each in array.ravel()]
    return np.array(encoded, np.object_).reshape(array.shape)
