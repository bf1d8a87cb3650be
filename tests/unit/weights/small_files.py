"""Small model files made by hand."""

import io
import json
import struct
import zipfile
from collections.abc import Mapping

LLAMA = {
    "general.architecture": "llama",
    "general.file_type": 0,
    "llama.block_count": 2,
    "llama.embedding_length": 8,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 64,
}


def gguf(metadata: Mapping[str, object] = LLAMA, padding: int = 0, version: int = 3) -> bytes:
    """A GGUF file with one F32 tensor of 8 x (4 + padding) numbers. Ints become u32, lists of str and of int arrays."""
    header = b"GGUF" + struct.pack("<IQQ", version, 1, len(metadata))
    header += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    header += _text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4 + padding, 0, 0)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + b"\1" * (8 * (4 + padding) * 4)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        case list():
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    raise TypeError(value)


def safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file from (dtype, shape, data) by name."""
    header, data = {}, b""
    for name, (dtype, shape, numbers) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(numbers)]}
        data += numbers
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def wheel(files: Mapping[str, bytes], requires: tuple[str, ...] = ()) -> bytes:
    """A wheel with `files`, without RECORD."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        metadata = "Metadata-Version: 2.1\nName: x\n" + "".join(f"Requires-Dist: {line}\n" for line in requires)
        archive.writestr("x-1.dist-info/METADATA", metadata)
    return stream.getvalue()
