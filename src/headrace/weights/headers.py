"""GGUF and safetensors headers from a byte stream: bounded, and never anything but a value or a ModelError."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

from headrace.errors import ModelError
from headrace.weights import ggml

Scalar = int | float | bool | str

# Far above every real file, and low enough that a damaged one is refused before it costs memory or time.
_MOST_KEYS = 65_536
_MOST_TENSORS = 1_000_000
_MOST_DIMENSIONS = 4
_MOST_STRING = 16 * 2**20
_MOST_HEADER = 512 * 2**20
_MOST_NUMBERS = 4_096
"""Longer arrays are tokenizer tables, of which only the length is kept."""
_MOST_JSON = 100_000_000
"""The safetensors library's own limit."""

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_U64 = struct.Struct("<Q")

_ELEMENT_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1},
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: `offset` counts from the start of the tensor data, `bytes` is what it takes there."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Table:
    """A long array of which only the length is kept."""

    length: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says before its data. `header_bytes` is where the tensor data starts."""

    version: int
    metadata: Mapping[str, Scalar | tuple[Scalar, ...] | Table]
    tensors: tuple[Tensor, ...]
    header_bytes: int


def read_gguf(stream: BinaryIO) -> GgufHeader:
    """The header of the GGUF file (version 2 or 3) that starts at the stream's position. Raises ModelError."""
    reader = _Reader(stream)
    version = _version(reader)
    tensor_count = reader.count("tensors", _MOST_TENSORS)
    key_count = reader.count("metadata keys", _MOST_KEYS)
    metadata: dict[str, Scalar | tuple[Scalar, ...] | Table] = {}
    for _ in range(key_count):
        key = reader.text("a metadata key")
        if key in metadata:
            raise ModelError(f'The GGUF header is damaged: the key "{key}" is there twice.')
        metadata[key] = _value(reader, reader.number("I"), key)
    tensors = tuple(_tensor(reader) for _ in range(tensor_count))
    return GgufHeader(version, metadata, tensors, _aligned(reader.position, metadata))


def _version(reader: "_Reader") -> int:
    magic = reader.take(4, "the magic")
    if magic != b"GGUF":
        kind = {b"<!DO": "a web page", b"<htm": "a web page", b"PK\x03\x04": "a zip file", b"vers": "a Git LFS pointer"}
        raise ModelError(f"This is not a GGUF file: it starts with {magic!r}, like {kind.get(magic, 'something else')}.")
    version: int = reader.number("I")
    if version & 0xFFFF == 0:
        raise ModelError("This GGUF file is big-endian.", "Fetch or convert a little-endian one.")
    if version not in (2, 3):
        raise ModelError(f"GGUF version {version} is not supported; 2 and 3 are.", "Convert the model again.")
    return version


def _value(reader: "_Reader", kind: int, key: str) -> Scalar | tuple[Scalar, ...] | Table:
    if kind == _STRING:
        return reader.text(f'the value of "{key}"')
    if kind == _ARRAY:
        return _array(reader, key)
    number: Scalar = reader.number(_number(kind, key))
    return number


def _array(reader: "_Reader", key: str) -> tuple[Scalar, ...] | Table:
    kind, length = reader.number("I"), reader.count(f'elements of "{key}"', 2**40)
    if kind == _STRING:
        reader.skip_texts(length, key)
        return Table(length)
    if kind == _ARRAY:
        raise ModelError(f'The GGUF header has arrays in the array "{key}", which no model uses.')
    code = _number(kind, key)
    size = struct.calcsize("<" + code)
    if length > _MOST_NUMBERS:
        reader.skip(length * size, f'the array "{key}"')
        return Table(length)
    numbers: tuple[Scalar, ...] = struct.unpack(f"<{length}{code}", reader.take(length * size, f'the array "{key}"'))
    return numbers


def _number(kind: int, key: str) -> str:
    if kind not in _NUMBERS:
        raise ModelError(f'The GGUF header is damaged: "{key}" has the unknown type {kind}.')
    return _NUMBERS[kind]


def _tensor(reader: "_Reader") -> Tensor:
    name = reader.text("the name of a tensor")
    dimensions = reader.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise ModelError(f'The GGUF header is damaged: tensor "{name}" has {dimensions} dimensions.')
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    number, offset = reader.number("I"), reader.number("Q")
    if number not in ggml.TYPES:
        raise ModelError(f'Tensor "{name}" has the number format {number}, which is not known.', "Update Headrace.")
    kind = ggml.TYPES[number]
    row = shape[0] if shape else 1
    if row % kind.block:
        raise ModelError(f'Tensor "{name}": rows of {row} are not whole blocks of {kind.block} ({kind.name}).')
    return Tensor(name, kind.name, shape, offset, prod(shape) // kind.block * kind.bytes)


def _aligned(position: int, metadata: Mapping[str, object]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise ModelError(f"The GGUF header is damaged: general.alignment is {alignment!r}, not a multiple of 8.")
    return -(-position // alignment) * alignment


class _Reader:
    """A stream read in blocks, that knows its position and refuses to run past the end or the limit."""

    _BLOCK = 2**18

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._before = 0

    @property
    def position(self) -> int:
        return self._before + self._at

    def take(self, length: int, what: str) -> bytes:
        self._need(length, what)
        start, self._at = self._at, self._at + length
        return self._buffer[start : self._at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), "a number"))[0]

    def count(self, what: str, most: int) -> int:
        count: int = self.number("Q")
        if count > most:
            raise ModelError(f"The GGUF header is damaged: it claims {count} {what}.")
        return count

    def text(self, what: str) -> str:
        length = self.number("Q")
        if length > _MOST_STRING:
            raise ModelError(f"The GGUF header is damaged: {what} is {length} bytes long.")
        return self.take(length, what).decode("utf-8", "replace")

    def skip(self, length: int, what: str) -> None:
        while length > 0:
            step = min(length, self._BLOCK)
            self.take(step, what)
            length -= step

    def skip_texts(self, count: int, key: str) -> None:
        """Pass over `count` strings. The inner loop is tight because tokenizers have 300 000 of them."""
        unpack, what = _U64.unpack_from, f'the array "{key}"'
        while count:
            self._need(8, what)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            while count and at <= last:
                end = at + 8 + unpack(buffer, at)[0]
                if end > len(buffer):
                    break
                at, count = end, count - 1
            if at == self._at:
                self.text(what)  # longer than what is buffered
                count -= 1
            else:
                self._at = at

    def _need(self, length: int, what: str) -> None:
        """Have at least `length` bytes in the buffer, or say that the file ends."""
        if len(self._buffer) - self._at >= length:
            return
        if self.position + length > _MOST_HEADER:
            raise ModelError(f"The GGUF header is damaged: it goes past {_MOST_HEADER} bytes.")
        have = [self._buffer[self._at :]]
        missing = length - len(have[0])
        while missing > 0:
            block = self._stream.read(self._BLOCK)
            if not block:
                raise ModelError(f"The GGUF file ends in its header, inside {what}.", "Fetch it again.")
            have.append(block)
            missing -= len(block)
        self._before, self._at, self._buffer = self.position, 0, b"".join(have)


def read_safetensors(stream: BinaryIO) -> tuple[tuple[Tensor, ...], int]:
    """(tensors, where their data starts) of the safetensors file at the stream's position. Raises ModelError."""
    start = stream.read(8)
    if len(start) < 8:
        raise ModelError(f"This is not a safetensors file: it is {len(start)} bytes long.")
    length = _U64.unpack(start)[0]
    if not 2 <= length <= _MOST_JSON:
        raise ModelError(f"This is not a safetensors file: its header would be {length} bytes long.")
    text = stream.read(length)
    if len(text) < length:
        raise ModelError(f"The safetensors file ends in its header: {len(text)} of {length} bytes.", "Fetch it again.")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"The safetensors header is damaged: {error}.") from error
    if not isinstance(header, dict):
        raise ModelError("The safetensors header is damaged: it is not an object.")
    entries = ((name, entry) for name, entry in header.items() if name != "__metadata__")
    return tuple(_entry(name, entry) for name, entry in entries), 8 + length


def _entry(name: str, entry: Any) -> Tensor:
    match entry:
        case {"dtype": str(type), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            0 <= begin <= end < 2** 63 and all(isinstance(size, int) and 0 <= size < 2**63 for size in shape)
        ):
            tensor = Tensor(name, type, tuple(shape), begin, end - begin)
        case _:
            raise ModelError(f'The safetensors header is damaged at tensor "{name}": {str(entry)[:80]}.')
    if len(shape) > 16:
        raise ModelError(f'The safetensors header is damaged: tensor "{name}" has {len(shape)} dimensions.')
    # Formats that are not in the table are counted by their offsets alone.
    if type in _ELEMENT_BYTES and tensor.elements * _ELEMENT_BYTES[type] != tensor.bytes:
        raise ModelError(f'The safetensors header is damaged: tensor "{name}" has {tensor.bytes} bytes for {shape} {type}.')
    return tensor
