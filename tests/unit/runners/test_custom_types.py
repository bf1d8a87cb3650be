"""What annotations mean for inputs, and what becomes of outputs."""

import collections.abc
import dataclasses
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import BaseModel
from typing_extensions import TypedDict

from headrace.runners.custom_failure import Failure, said
from headrace.runners.custom_load import CannotLoad
from headrace.runners.custom_outputs import split, to_json, to_tensors
from headrace.runners.custom_types import signature, tensors


class Model(BaseModel):
    x: int
    y: list[float] = []


@dataclasses.dataclass
class Record:
    x: int


class Typed(TypedDict):
    x: int


def declared(takes=None, gives=None):
    """The signature of a predict with these annotations."""

    def predict(batch):
        return batch

    predict.__annotations__ = {name: kind for name, kind in (("batch", takes), ("return", gives)) if kind is not None}
    return signature(predict, "M.predict")


@pytest.mark.parametrize(
    ("takes", "given", "inputs"),
    [
        (None, [1, "a", None], [1, "a", None]),
        (Any, [1, "a"], [1, "a"]),
        (list, [1, "a"], [1, "a"]),
        (list[int], [1, "2"], [1, 2]),
        (typing.Sequence[float], [1], [1.0]),
        (collections.abc.Iterable[str], ["a"], ["a"]),
        (list[Model], [{"x": 1}], [Model(x=1)]),
        (list[Record], [{"x": "1"}], [Record(1)]),
        (list[Typed], [{"x": 1}], [{"x": 1}]),
        (list[dict[str, float]], [{"x": 1}], [{"x": 1.0}]),
    ],
)
def test_inputs_are_what_is_declared(takes, given, inputs):
    found = declared(takes)
    assert found.form == "list"
    assert found.argument(found.from_json(given).inputs) == inputs


@pytest.mark.parametrize(
    ("takes", "given", "reason"),
    [
        (list[int], [1, "a"], "instances[1]: Input should be a valid integer"),
        (list[Model], [{"x": 1, "y": [1, "b"]}], "instances[0].y[1]: Input should be a valid number"),
        (list[Record], [{}], "instances[0].x: Field required"),
        (np.ndarray, [[1], [1, 2]], "no array of one shape"),
        (np.ndarray, [{"x": 1}], "no array of numbers or text"),
        (NDArray[np.int8], [300], "no array of <class 'numpy.int8'>"),
        (NDArray[np.float32], ["a"], "no array of"),
        (dict[str, np.ndarray], [{"a": 1}, {"b": 1}], "same keys"),
        (dict[str, np.ndarray], [1], "same keys"),
    ],
)
def test_what_is_not_is_said_with_where(takes, given, reason):
    with pytest.raises(Failure) as refused:
        declared(takes).from_json(given)
    assert refused.value.status == 400
    assert reason in str(refused.value)


def test_only_the_first_mistakes_are_told():
    with pytest.raises(Failure, match=r"\[2\]: .*; and 7 more$"):
        declared(list[list[int]]).from_json([["a"] * 10])


def test_arrays_are_put_together_by_shape_and_type():
    found = declared(NDArray[np.float32])
    batch = found.from_json([[1, 2], [3, 4]])
    other = found.from_json([[1, 2, 3]])
    assert batch.key != other.key
    array = found.argument([*batch.inputs, *found.from_json([[5, 6]]).inputs])
    assert (array.dtype, array.tolist()) == (np.float32, [[1, 2], [3, 4], [5, 6]])
    assert declared(np.ndarray).from_json([1]).key != declared(np.ndarray).from_json([1.5]).key


def test_tensors_are_inputs_row_by_row():
    x, y = np.array([[1, 2], [3, 4]], np.float32), np.array([b"a", "ü".encode()], object)
    assert declared().from_tensors({"x": x}).inputs == [[1.0, 2.0], [3.0, 4.0]]
    assert declared().from_tensors({"x": x, "y": y}).inputs == [{"x": [1.0, 2.0], "y": "a"}, {"x": [3.0, 4.0], "y": "ü"}]
    assert declared(list[Model]).from_tensors({"x": np.array([1, 2])}).inputs == [Model(x=1), Model(x=2)]
    assert declared(list[Typed]).from_tensors({"x": np.array([1])}).inputs == [{"x": 1}]
    rows = declared(np.ndarray).from_tensors({"x": x}).inputs
    assert np.array_equal(rows, x)
    assert declared(NDArray[np.int64]).from_tensors({"x": x}).inputs[0].dtype == np.int64
    named = declared(dict[str, np.ndarray])
    batch = named.from_tensors({"x": x, "y": y})
    assert {name: array.tolist() for name, array in named.argument(batch.inputs).items()} == {"x": x.tolist(), "y": y.tolist()}


@pytest.mark.parametrize(
    ("takes", "given", "reason"),
    [
        (None, {"x": np.array(1)}, "without dimensions"),
        (None, {"x": np.zeros(2), "y": np.zeros(3)}, "here it is 2, 3"),
        (None, {"x": np.zeros((0, 2))}, "here it is 0"),
        (None, {"x": np.array([b"\xff"], object)}, "no UTF-8"),
        (np.ndarray, {"x": np.zeros(2), "y": np.zeros(2)}, "takes one tensor, and there are x, y"),
    ],
)
def test_tensors_that_are_no_inputs(takes, given, reason):
    with pytest.raises(Failure, match=reason) as refused:
        declared(takes).from_tensors(given)
    assert refused.value.status == 400


@pytest.mark.parametrize("takes", [int, dict, tuple[int], str, Model])
def test_what_no_batch_can_be_is_refused_when_it_is_loaded(takes):
    with pytest.raises(CannotLoad, match="a batch is list"):
        declared(takes)


def test_generators_take_one_input_and_declare_what_they_yield():
    class Counter:
        async def predict(self, input: int) -> collections.abc.AsyncIterator[str]:
            yield str(input)

        def plainly(self, input: NDArray[np.float32]):
            yield input

    found = signature(Counter().predict, "Counter.predict")
    assert found.streams
    assert found.from_json(["3"]).inputs == [3]
    assert found.output is not None
    assert found.checked_output("a") == "a"
    with pytest.raises(Failure):
        found.checked_output(3)
    (row,) = signature(Counter().plainly, "Counter.plainly").from_json([[1, 2]]).inputs
    assert row.tolist() == [1, 2]


def test_outputs_are_checked_where_they_are_declared():
    assert declared(None, list[Model]).checked_output({"x": "1"}) == {"x": 1, "y": []}
    assert declared(None, list[Model]).checked_output(Model(x=1)) == {"x": 1, "y": []}
    assert declared(None, np.ndarray).checked_output("anything") == "anything"
    with pytest.raises(Failure, match=r"does not declare: output\.x: Field required"):
        declared(None, list[Model]).checked_output({})


def test_what_tensors_there_are_is_said_as_far_as_it_is_declared():
    assert tensors(list[float], "input") == [{"name": "input", "datatype": "FP64", "shape": [-1, -1]}]
    assert tensors(Model, "input") == [
        {"name": "x", "datatype": "INT64", "shape": [-1]},
        {"name": "y", "datatype": "FP64", "shape": [-1, -1]},
    ]
    assert tensors(Any, "input") == tensors(dict[str, Any], "input") == []


# ---- outputs


@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        ([1, 2], [1, 2]),
        ((1, 2), [1, 2]),
        (np.array([1, 2]), [1, 2]),
        ({"a": np.array([1, 2]), "b": np.array([3, 4])}, [{"a": 1, "b": 3}, {"a": 2, "b": 4}]),
    ],
)
def test_a_result_has_an_output_for_each_input(result, outputs):
    assert split(result, 2, "M.predict") == outputs


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([1], "returned 1 outputs for 2 inputs"),
        (np.zeros((3, 2)), "returned 3 outputs for 2 inputs"),
        (np.array(1.0), "returned 1 outputs for 2 inputs"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, "returned 3 in a, 2 in b for 2 inputs"),
        ({"a": 1, "b": 2}, "returned dict; it must return a list"),
        ("ab", "returned str"),
        (None, "returned NoneType"),
        ({}, "returned dict"),
    ],
)
def test_a_result_that_has_not_is_said(result, reason):
    with pytest.raises(Failure, match=reason) as failed:
        split(result, 2, "M.predict")
    assert failed.value.status == 500


def test_an_exception_among_the_outputs_is_a_failure_in_its_place():
    good, bad = split([1, ValueError("no")], 2, "M.predict")
    assert (good, bad.status, str(bad)) == (1, 500, "M.predict raised ValueError: no")


def test_json_holds_arrays_models_and_no_nan():
    value = {"a": np.array([1.5, np.nan]), "b": np.float32(2), "c": Model(x=1), "d": float("inf"), "e": {1, 2}}
    assert to_json(value, "M") == b'{"a":[1.5,null],"b":2.0,"c":{"x":1,"y":[]},"d":null,"e":[1,2]}'


def _loop():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [object(), {"a": [lambda: None]}, _loop(), "\ud800"])
def test_what_is_no_json_is_said(value):
    with pytest.raises(Failure, match="no JSON"):
        to_json(value, "M")


@pytest.mark.parametrize(
    ("outputs", "dtype", "named"),
    [
        ([1, 2], np.int64, {"output": [1, 2]}),
        ([1, 2.5], np.float64, {"output": [1.0, 2.5]}),
        ([True, False], np.bool_, {"output": [True, False]}),
        (["a", "b\0"], np.object_, {"output": ["a", "b\0"]}),
        ([[1, 2], [3, 4]], np.int64, {"output": [[1, 2], [3, 4]]}),
        ([np.float32(1), np.float32(2)], np.float32, {"output": [1, 2]}),
        ([{"a": 1}, {"a": 2}], np.int64, {"a": [1, 2]}),
        ([{"a": np.ones(2, np.int8)}], np.int8, {"a": [[1, 1]]}),
        ([Model(x=1, y=[0.5])], None, {"x": [1], "y": [[0.5]]}),
    ],
)
def test_outputs_become_tensors(outputs, dtype, named):
    found = to_tensors(outputs, "M")
    assert {name: array.tolist() for name, array in found.items()} == named
    assert dtype is None or all(array.dtype == dtype for array in found.values())


@pytest.mark.parametrize(
    "outputs", [[1, "a"], [[1], [1, 2]], [None, 1], [2**70], [{"a": 1}, {"b": 1}], [np.zeros(1), np.zeros(2)], [object()]]
)
def test_what_is_no_tensor_is_said(outputs):
    with pytest.raises(Failure, match="no tensor") as failed:
        to_tensors(outputs, "M")
    assert failed.value.status == 500


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1), st.sampled_from([np.float32, np.float64]))
def test_numbers_keep_their_values_on_the_way_out(values, dtype):
    array = to_tensors(list(np.array(values, dtype)), "M")["output"]
    assert array.dtype == dtype
    assert array.tolist() == values


class Silent(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (Silent(), "Silent"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 488 + "…"),
    ],
)
def test_an_exception_is_said_in_one_line(error, line):
    assert said(error) == line
