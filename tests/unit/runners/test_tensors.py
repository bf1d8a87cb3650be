"""The Open Inference Protocol, byte by byte: what its specification shows, what comes back, and what is refused."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype

from headrace.runners.tensors import DTYPES, Malformed, Request, read, write


def request(*inputs, blob=b"", **more):
    """(body, header) of a request."""
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + blob, str(len(head)) if blob else None


def tensor(shape, datatype, data=None, size=None, name="x"):
    extra = {"data": data} if size is None else {"parameters": {"binary_data_size": size}}
    return {"name": name, "shape": shape, "datatype": datatype, **extra}


def test_the_specifications_own_request_in_json():
    body, _ = request(
        tensor([2, 2], "UINT32", [1, 2, 3, 4], name="input0"),
        tensor([1], "BOOL", [True], name="input1"),
        id="42",
        outputs=[{"name": "output0"}],
    )
    asked = read(body, None)
    assert (asked.id, asked.wanted) == ("42", {"output0": False})
    assert asked.inputs["input0"].tolist() == [[1, 2], [3, 4]]
    assert asked.inputs["input0"].dtype == np.uint32
    assert asked.inputs["input1"].tolist() == [True]
    output = np.array([[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]], np.float32)
    answer, length = write("mymodel", asked, {"output0": output, "another": output})
    assert length is None
    assert json.loads(answer) == {
        "model_name": "mymodel",
        "model_version": "1",
        "id": "42",
        "outputs": [{"name": "output0", "datatype": "FP32", "shape": [3, 2], "data": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]}],
    }


def test_the_specifications_own_request_in_binary():
    body, header = request(
        tensor([2, 2], "UINT32", size=16, name="input0"),
        tensor([3], "BOOL", size=3, name="input1"),
        outputs=[{"name": "output0", "parameters": {"binary_data": True}}],
        blob=struct.pack("<4I", 1, 2, 3, 2**32 - 1) + b"\x01\x00\x01",
    )
    asked = read(body, header)
    assert asked.inputs["input0"].tolist() == [[1, 2], [3, 2**32 - 1]]
    assert asked.inputs["input1"].tolist() == [True, False, True]
    answer, length = write("mymodel", asked, {"output0": np.array([[1, 2], [3, 4], [5, 6]], np.float32)})
    assert answer[length:] == struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    (output,) = json.loads(answer[:length])["outputs"]
    assert output == {"name": "output0", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}}


def test_bytes_are_a_length_of_four_bytes_and_the_element():
    body, header = request(tensor([2], "BYTES", size=12), blob=b"\x01\x00\x00\x00a\x03\x00\x00\x00b\x00c")
    asked = read(body, header)
    assert asked.inputs["x"].tolist() == [b"a", b"b\x00c"]
    answer, length = write("m", Request({}, {"y": True}), {"y": np.array(["a", "ü"])})
    assert answer[length:] == b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xbc"


def test_bf16_is_read_as_fp32():
    body, header = request(tensor([3], "BF16", size=6), blob=struct.pack("<3H", 0x3F80, 0xC000, 0x7F80))
    assert read(body, header).inputs["x"].tolist() == [1.0, -2.0, math.inf]
    assert read(body, header).inputs["x"].dtype == np.float32


def test_all_outputs_in_binary_unless_one_says_otherwise():
    body, _ = request(
        tensor([1], "INT8", [1]),
        parameters={"binary_data_output": True},
        outputs=[{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
    )
    assert read(body, None).wanted == {"a": True, "b": False}
    body, _ = request(tensor([1], "INT8", [1]), parameters={"binary_data_output": True})
    answer, length = write("m", read(body, None), {"y": np.array([7], np.int8)})
    assert answer[length:] == b"\x07"


texts = st.one_of(st.text(max_size=5).map(str.encode), st.binary(max_size=5))
numeric = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), elements=from_dtype(dtype))
)
textual = arrays(object, array_shapes(max_dims=2, min_side=0, max_side=4), elements=texts)


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.one_of(numeric, textual), min_size=1, max_size=4), st.randoms())
def test_what_is_written_is_read_back_in_json_and_in_binary(tensors, random):
    """Our response, its outputs sent as a request's inputs: the same arrays, bit by bit where they are binary."""
    binary = {
        name: random.random() < 0.5 or (array.dtype == object and any(not _is_text(each) for each in array.ravel()))
        for name, array in tensors.items()
    }
    body, length = write("m", Request({}, binary), tensors)
    size = len(body) if length is None else length
    head = json.loads(body[:size])
    head["inputs"] = head.pop("outputs")
    new_head = json.dumps(head).encode()
    back = read(new_head + body[size:], str(len(new_head)) if length else None).inputs
    assert list(back) == list(tensors)
    for name, array in tensors.items():
        assert back[name].shape == array.shape
        assert back[name].dtype == array.dtype
        if binary[name] and array.dtype != object:
            assert back[name].tobytes() == array.tobytes()
        elif array.dtype.kind == "f":  # in JSON there is no infinity: it comes back as NaN
            np.testing.assert_array_equal(back[name], np.where(np.isfinite(array), array, np.nan))
        else:
            assert back[name].tolist() == array.tolist()


def _is_text(value):
    try:
        return value.decode() is not None
    except UnicodeDecodeError:
        return False


@given(st.sampled_from([name for name in DTYPES if "INT" in name]), st.integers(-(2**65), 2**65))
def test_integers_are_exact_or_refused(datatype, value):
    limits = np.iinfo(DTYPES[datatype])
    body, _ = request(tensor([2], datatype, [value, 0]))
    if limits.min <= value <= limits.max:
        assert read(body, None).inputs["x"].tolist() == [value, 0]
    else:
        with pytest.raises(Malformed, match=datatype):
            read(body, None)


def test_nested_data_are_as_good_as_flat_ones():
    body, _ = request(tensor([2, 2], "FP64", [[1, 2.5], [None, 4]]))
    np.testing.assert_array_equal(read(body, None).inputs["x"], [[1, 2.5], [math.nan, 4]])


GOOD = tensor([1], "INT8", [1])


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ((b"{", None), "not JSON"),
        ((b"[" * 100_000, None), "not JSON"),
        ((b"[]", None), "not a JSON object"),
        ((b"{}", None), '"inputs" is missing'),
        ((b'{"inputs": [1]}', None), '"inputs" is not a list of objects'),
        (request(GOOD, GOOD), "twice"),
        (request({**GOOD, "name": 3}), "no name"),
        (request({**GOOD, "datatype": "INT7"}), "'INT7'"),
        (request({**GOOD, "shape": [-1]}), "not a list of sizes"),
        (request({**GOOD, "shape": [True]}), "not a list of sizes"),
        (request({**GOOD, "shape": [1] * 33}), "not a list of sizes"),
        (request({**GOOD, "shape": [2]}), "1 elements; shape [2] has 2"),
        (request({**GOOD, "shape": [2**62, 2**62]}), "1 elements"),
        (request(tensor([0, 2**62, 2**62], "INT8", [])), "no arrays of shape"),
        (request({**GOOD, "data": 1}), 'no "data"'),
        (request({**GOOD, "data": [1.5]}), "INT8"),
        (request({**GOOD, "data": [True]}), "INT8"),
        (request({**GOOD, "data": [None]}), "INT8"),
        (request({**GOOD, "data": [[1], 2]}), "ragged"),
        (request({**GOOD, "data": [[1], [1, 2]]}), "ragged"),
        (request(tensor([1], "BOOL", [1])), "BOOL"),
        (request(tensor([1], "FP32", ["1"])), "FP32"),
        (request(tensor([1], "FP32", [1e300])), "out of the range"),
        (request(tensor([1], "FP64", [10**400])), "out of the range"),
        (request(tensor([1], "BYTES", [1])), "not all of its data are strings"),
        (request(GOOD, id=3), '"id"'),
        (request(GOOD, parameters=3), '"parameters"'),
        (request(GOOD, outputs=[{"name": "y", "parameters": {"classification": 2}}]), "classification"),
        (request(tensor([2], "INT8", size=3), blob=b"12"), "says that it has 3 bytes, and 2 are there"),
        (request(tensor([2], "INT8", size=True), blob=b"12"), "says that it has True bytes"),
        (request(tensor([2], "INT16", size=2), blob=b"12"), "has 2 bytes; INT16 of shape [2] has 4"),
        (request(tensor([2], "INT8", size=2), blob=b"123"), "1 bytes follow"),
        (request(tensor([1], "BYTES", size=5), blob=b"\x02\x00\x00\x00a"), "ends within an element"),
        (request(tensor([1], "BYTES", size=2), blob=b"\x02\x00"), "within the length"),
        (request(tensor([2], "BYTES", size=5), blob=b"\x01\x00\x00\x00a"), "1 elements"),
        ((request(GOOD)[0], "1000000"), "Inference-Header-Content-Length"),
        ((request(GOOD)[0], "-1"), "Inference-Header-Content-Length"),
        ((request(GOOD)[0], "²"), "Inference-Header-Content-Length"),
    ],
)
def test_what_is_wrong_is_said(asked, reason):
    with pytest.raises(Malformed) as refused:
        read(*asked)
    assert reason in str(refused.value)


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=4)))
def test_no_bytes_at_all_are_a_surprise(body, header):
    with pytest.raises(Malformed):
        read(body, header)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (np.array([{}]), "holds dict"),
        (np.array([1 + 2j]), "complex128"),
        (np.array([b"\xff"], object), "no text"),
    ],
)
def test_what_cannot_be_sent_is_said(output, reason):
    with pytest.raises(Malformed, match=reason):
        write("m", Request({}), {"y": output})


def test_an_output_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(Malformed, match='no output "z"; there is "y"'):
        write("m", Request({}, {"z": False}), {"y": np.zeros(1)})
