"""ONNX graphs are read as far as the files beside them, and no name leads out of their folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ModelError
from headrace.weights.onnx import outside
from tests.contract import onnx_writer


@pytest.mark.parametrize(
    ("graph", "names"),
    [
        (onnx_writer.linear(), ()),
        (onnx_writer.words(), ()),
        (onnx_writer.outside("model.onnx_data")[0], ("model.onnx_data",)),
        # a constant of a graph within graphs, as in the branches of an If
        (onnx_writer.constant(onnx_writer.kept_at("w.bin"), depth=3), ("w.bin",)),
        # of two places that one tensor names, both have to be there: which one counts is up to the reader
        (onnx_writer.constant(onnx_writer.kept_at("b", "a")), ("a", "b")),
        (onnx_writer.constant(onnx_writer.kept_at("..data")), ("..data",)),
    ],
)
def test_the_files_that_hold_weights_are_found_wherever_tensors_can_be(graph: bytes, names: tuple[str, ...]) -> None:
    assert outside(memoryview(graph)) == names


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "..", ".", "", "a/b", "a\\b", "w\0.bin"])
def test_a_graph_that_reads_other_files_of_the_machine_is_refused(name: str) -> None:
    for graph in (onnx_writer.outside(name)[0], onnx_writer.constant(onnx_writer.kept_at(name), depth=2)):
        with pytest.raises(ModelError, match="not in its own folder"):
            outside(memoryview(graph))


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><title>Log in</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
        b"\x80\x04\x95\x10",  # a pickle
        b"GGUF\x03\0\0\0",
        b"PK\x03\x04",
        b"\x08\x08",  # a version and no graph
        onnx_writer.linear()[:-3],
        onnx_writer.constant(onnx_writer.kept_at("w"), depth=200),
    ],
)
def test_what_is_no_graph_is_told(data: bytes) -> None:
    with pytest.raises(ModelError):
        outside(memoryview(data))


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 255))
def test_bytes_of_anybody_end_in_names_or_an_error(data: bytes, at: int, byte: int) -> None:
    spoilt = bytearray(onnx_writer.outside("w.bin")[0])
    spoilt[at % len(spoilt)] = byte
    for each in (data, bytes(spoilt), bytes(spoilt[:at])):
        try:
            names = outside(memoryview(each))
        except ModelError:
            continue
        assert all("/" not in name and name not in ("", ".", "..") for name in names)
