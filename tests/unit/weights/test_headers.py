"""Headers: real shapes are read, damage of any kind is a ModelError."""

import io
import json
import re
import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_files import LLAMA, gguf, safetensors

from headrace.errors import ModelError
from headrace.weights import ggml
from headrace.weights.headers import Table, Tensor, read_gguf, read_safetensors

RICH = {
    **LLAMA,
    "tokenizer.ggml.tokens": ["a", "b" * 300_000, "", "ü" * 50],
    "llama.heads": [3, 2, 1],
    "llama.eps": 0.5,
    "llama.flag": True,
    "tokenizer.chat_template": "{{ messages }}",
    "long": [7] * 5000,
}


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_header_is_read(version):
    header = read_gguf(io.BytesIO(gguf(RICH, version=version)))
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["llama.heads"] == (3, 2, 1)
    assert header.metadata["llama.eps"] == 0.5
    assert header.metadata["llama.flag"] is True
    assert header.metadata["tokenizer.chat_template"] == "{{ messages }}"
    # tokenizer tables are counted and not kept
    assert header.metadata["tokenizer.ggml.tokens"] == Table(4)
    assert header.metadata["long"] == Table(5000)
    assert header.tensors == (Tensor("token_embd.weight", "F32", (8, 4), 0, 128),)
    assert header.header_bytes + 128 == len(gguf(RICH))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends in its header"),
        (b"<!DOCTYPE html>", "like a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "like a Git LFS pointer"),
        (b"GGUF" + struct.pack("<I", 1), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9223372036854775808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50), "bytes long"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99), '"k" has the unknown type 99'),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "arrays in the array"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**41), "claims"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**39), 'inside the array "k"'),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 5), "5 dimensions"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 4, 0), "number format 4"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 33, 2, 0), "not whole blocks of 32"),
        # a single number cannot be a block
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 1, 0, 1, b"t", 0, 2, 0), "rows of 1 are not whole blocks of 32"),
        (gguf({**LLAMA, "general.alignment": 0}), "alignment"),
    ],
)
def test_a_damaged_gguf_header_says_what_is_wrong(data, reason):
    with pytest.raises(ModelError, match=re.escape(reason)):
        read_gguf(io.BytesIO(data))


def test_a_key_that_is_there_twice_is_refused():
    data = gguf({"a": 1, "b": 1}).replace(b"\1\0\0\0\0\0\0\0b", b"\1\0\0\0\0\0\0\0a")
    with pytest.raises(ModelError, match="twice"):
        read_gguf(io.BytesIO(data))


@given(st.integers(0, len(gguf(LLAMA)) - 200))
def test_every_cut_of_a_gguf_header_is_a_model_error(length):
    with pytest.raises(ModelError, match="ends in its header"):
        read_gguf(io.BytesIO(gguf(LLAMA)[:length]))


@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_never_anything_but_a_model_error(garbage, magic):
    data = b"GGUF" + struct.pack("<I", 3) + garbage if magic else garbage
    for read in (read_gguf, read_safetensors):
        with suppress(ModelError):
            read(io.BytesIO(data))


@given(st.lists(st.tuples(st.integers(0, len(gguf(RICH)) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_are_never_anything_but_a_model_error(flips):
    data = bytearray(gguf(LLAMA))
    for place, byte in flips:
        data[place % len(data)] = byte
    with suppress(ModelError):
        read_gguf(io.BytesIO(bytes(data)))


def test_absurd_claims_cost_no_memory():
    claims = [
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 10, 2**40),
        b"GGUF" + struct.pack("<IQQQ", 3, 10**6, 65_536, 16 * 2**20),
    ]
    tracemalloc.start()
    for claim in claims:
        with pytest.raises(ModelError):
            read_gguf(io.BytesIO(claim))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_safetensors_header_is_read():
    data = safetensors({"a": ("F16", [2, 3], b"x" * 12), "b": ("NEW_TYPE", [2], b"y")})
    tensors, start = read_safetensors(io.BytesIO(data))
    assert tensors == (Tensor("a", "F16", (2, 3), 0, 12), Tensor("b", "NEW_TYPE", (2,), 12, 1))
    assert start == len(data) - 13


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[]", "not an object"),
        ("{ ", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"a": 1}', 'at tensor "a"'),
        ('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', 'at tensor "a"'),
        ('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', 'at tensor "a"'),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "has 4 bytes for [2] F32"),
    ],
)
def test_a_damaged_safetensors_header_says_what_is_wrong(header, reason):
    with pytest.raises(ModelError, match=re.escape(reason)):
        read_safetensors(io.BytesIO(struct.pack("<Q", len(header)) + header.encode()))


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_is_tensors_or_a_model_error(value):
    text = json.dumps({"t": value}).encode()
    with suppress(ModelError):
        read_safetensors(io.BytesIO(struct.pack("<Q", len(text)) + text))


def test_the_table_of_number_formats_is_that_of_the_gguf_package():
    from gguf.constants import GGML_QUANT_SIZES, LlamaFileType

    assert {int(number): (number.name, *sizes) for number, sizes in GGML_QUANT_SIZES.items()} == ggml.TYPES
    names = {int(number): number.name.removeprefix("MOSTLY_").removeprefix("ALL_") for number in LlamaFileType}
    assert {number: name for number, name in names.items() if name != "GUESSED"} == ggml.FILE_TYPES
