"""What an ONNX graph says of itself in protobuf's wire format: that it is one, and which files beside it hold its weights."""

import re
from collections.abc import Iterator, Mapping

from headrace.errors import ModelError

_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Where tensors can be in a model: field numbers of onnx.proto (onnx 1.19), and the message that each holds."""

_IR_VERSION, _GRAPH, _KEY, _VALUE = 1, 7, 1, 2
_DEEPEST = 100
_WIDTHS = {1: 8, 5: 4}
_LENGTH = 2
_BESIDE = re.compile(r"[^/\\\0]+")


def outside(data: memoryview) -> tuple[str, ...]:
    """The names of the files in the graph's own folder that hold weights of it, sorted. Raises ModelError for what is no ONNX
    graph, and for a name that leads out of the folder: such a graph would read other files of this machine.
    """
    there = {number for number, kind, _, _ in _fields(data, 0, len(data)) if kind == (_LENGTH if number == _GRAPH else 0)}
    if not {_IR_VERSION, _GRAPH} <= there:
        raise ModelError("It is no ONNX graph.")
    names = set(_locations(data, 0, len(data), "model", 0))
    if wrong := sorted(name for name in names if name in (".", "..") or not _BESIDE.fullmatch(name)):
        raise ModelError(f'It wants the file "{wrong[0][:100]}", which is not in its own folder.')
    return tuple(sorted(names))


def _locations(data: memoryview, at: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ModelError("Its graphs are nested too deeply.")
    for number, kind, begin, stop in _fields(data, at, end):
        inner = _INSIDE[message].get(number) if kind == _LENGTH else None
        if inner == "entry":
            entry = {field: bytes(data[start:over]) for field, _, start, over in _fields(data, begin, stop)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8", "replace")
        elif inner is not None:
            yield from _locations(data, begin, stop, inner, depth + 1)


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, where its value begins, where it ends) of each field."""
    while at < end:
        tag, begin = _varint(data, at, end)
        kind = tag & 7
        if kind == 0:
            at = _varint(data, begin, end)[1]
        elif kind == _LENGTH:
            size, begin = _varint(data, begin, end)
            at = begin + size
        elif kind in _WIDTHS:
            at = begin + _WIDTHS[kind]
        else:
            raise ModelError("It is no ONNX graph.")
        if at > end:
            raise ModelError("It is no ONNX graph, or is cut off.")
        yield tag >> 3, kind, begin, at


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ModelError("It is no ONNX graph, or is cut off.")
