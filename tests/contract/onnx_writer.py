"""ONNX files by hand, as far as the tests need them: after onnx.proto of onnx/onnx, in protobuf's wire format."""

import struct

FLOAT, INT64, STRING = 1, 7, 8


def linear(batch: int | str = "batch") -> bytes:
    """`y = x · [[1, 0], [2, 0], [3, 0], [4, 1]] + [0, 10]`, and `best`, the larger one's index, which has no dimension but
    the batch's.
    """
    weights = _tensor("w", (4, 2), (1, 0, 2, 0, 3, 0, 4, 1))
    nodes = [
        _node("Gemm", ("x", "w", "b"), ("y",)),
        _node("ArgMax", ("y",), ("best",), _int("axis", 1), _int("keepdims", 0)),
    ]
    outputs = [_value("y", FLOAT, (batch, 2)), _value("best", INT64, (batch,))]
    return _model(nodes, [weights, _tensor("b", (2,), (0, 10))], [_value("x", FLOAT, (batch, 4))], outputs)


def outside(location: str) -> tuple[bytes, bytes]:
    """The same as `linear`, and the file `location` that its `w` is in."""
    data = struct.pack("<8f", 1, 0, 2, 0, 3, 0, 4, 1)
    kept = b"".join(_message(13, _text(1, key) + _text(2, value)) for key, value in (("location", location), ("length", "32")))
    tensor = _number(1, 4) + _number(1, 2) + _number(2, FLOAT) + _text(8, "w") + kept + _number(14, 1)
    nodes = [_node("Gemm", ("x", "w", "b"), ("y",))]
    bias = _tensor("b", (2,), (0, 10))
    return _model(nodes, [tensor, bias], [_value("x", FLOAT, ("batch", 4))], [_value("y", FLOAT, ("batch", 2))]), data


def constant(tensor: bytes, depth: int = 1) -> bytes:
    """A model with a tensor as the attribute of a node, in a graph within `depth` graphs."""
    inner = _node("Constant", (), ("y",), _text(1, "value") + _message(5, tensor) + _number(20, 4))
    for _ in range(depth):
        inner = _node("If", ("c",), ("y",), _text(1, "then_branch") + _message(6, _message(1, inner)) + _number(20, 5))
    return _model([inner], [], [], [])


def kept_at(*locations: str) -> bytes:
    """A tensor that says its data are there; several places, where it is not to be believed."""
    said = b"".join(_message(13, _text(1, "location") + _text(2, each)) for each in locations)
    return _number(1, 4) + _number(2, FLOAT) + said + _number(14, 1)


def mapped() -> bytes:
    """`y = x`, and what converters of scikit-learn like to add: a sequence of maps, which is no tensor."""
    zipped = _node("ZipMap", ("x",), ("z",), _ints("classlabels_int64s", (0, 1)), domain="ai.onnx.ml")
    tensor = _message(1, _number(1, FLOAT))
    sequence = _message(2, _message(4, _message(1, _message(5, _number(1, INT64) + _message(2, tensor)))))
    nodes = [_node("Identity", ("x",), ("y",)), zipped]
    outputs = [_value("y", FLOAT, ("batch", 2)), _text(1, "z") + sequence]
    return _model(nodes, [], [_value("x", FLOAT, ("batch", 2))], outputs)


def words() -> bytes:
    """`y = x`, of text."""
    return _model([_node("Identity", ("x",), ("y",))], [], [_value("x", STRING, ("n", 1))], [_value("y", STRING, ("n", 1))])


def found() -> bytes:
    """`y = indices of what is not zero in x`: both first dimensions are free, and they are not the same."""
    return _model([_node("NonZero", ("x",), ("y",))], [], [_value("x", FLOAT, ("n",))], [_value("y", INT64, ("d", "k"))])


def _model(nodes, initializers, inputs, outputs) -> bytes:
    fields = ((1, nodes), (5, initializers), (11, inputs), (12, outputs))
    graph = _text(2, "g") + b"".join(_message(number, each) for number, values in fields for each in values)
    opsets = [_text(1, domain) + _number(2, version) for domain, version in (("", 13), ("ai.onnx.ml", 2))]
    return _number(1, 8) + _message(7, graph) + b"".join(_message(8, each) for each in opsets)


def _node(kind, inputs, outputs, *attributes, domain="") -> bytes:
    parts = [_text(1, each) for each in inputs] + [_text(2, each) for each in outputs]
    return b"".join([*parts, _text(4, kind), *(_message(5, each) for each in attributes), _text(7, domain)])


def _int(name, value) -> bytes:
    return _text(1, name) + _number(3, value) + _number(20, 2)


def _ints(name, values) -> bytes:
    return _text(1, name) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _tensor(name, dims, values) -> bytes:
    sizes = b"".join(_number(1, size) for size in dims)
    return sizes + _number(2, FLOAT) + _text(8, name) + _message(9, struct.pack(f"<{len(values)}f", *values))


def _value(name, kind, dims) -> bytes:
    sizes = [_text(2, size) if isinstance(size, str) else _number(1, size) for size in dims]
    shape = _message(2, b"".join(_message(1, size) for size in sizes))
    return _text(1, name) + _message(2, _message(1, _number(1, kind) + shape))


def _varint(value) -> bytes:
    parts = []
    while True:
        value, part = value >> 7, value & 127
        parts.append(part | (128 if value else 0))
        if not value:
            return bytes(parts)


def _number(field, value) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field, data) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field, text) -> bytes:
    return _message(field, text.encode())
