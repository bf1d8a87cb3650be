"""What runs inside Triton's processes, as far as it needs no more than numpy: batches, classes of users."""

import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runners.triton_models import python
from headrace.runners.triton_models.arrays import as_bytes, as_text, datatype, in_turn, together, zeros
from headrace.runners.triton_models.described import Asked, Tensor, Unusable

DATATYPES = ["BOOL", "BYTES", "FP16", "FP32", "FP64", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))]


@pytest.mark.parametrize("name", DATATYPES)
def test_every_data_type_has_arrays_and_they_know_it(name):
    array = zeros(name, (2, 3))
    assert array.shape == (2, 3)
    assert datatype(array.dtype) == name


def test_what_the_protocol_has_no_name_for_is_refused():
    with pytest.raises(TypeError, match="complex128"):
        datatype(np.dtype(complex))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_each_request_gets_its_own_rows_back_from_one_call(sizes):
    calls = []

    def predict(given):
        calls.append(len(given["x"]))
        return {"y": given["x"] * 2}

    starts = np.cumsum([0, *sizes[:-1]])
    batches = [{"x": np.arange(start, start + size)[:, None]} for start, size in zip(starts, sizes, strict=True)]
    found = together(predict, batches)
    assert calls == [sum(sizes)]
    for given_, answer in zip(batches, found, strict=True):
        assert (answer["y"] == given_["x"] * 2).all()


def test_a_bad_request_does_not_take_its_neighbours_with_it():
    def predict(given):
        if (given["x"] < 0).any():
            raise ValueError("negative")
        return {"y": given["x"]}

    good, bad, other = together(predict, [{"x": np.array([[value]])} for value in (1, -1, 3)])
    assert (good["y"][0, 0], other["y"][0, 0]) == (1, 3)
    assert str(bad) == "negative"


def test_rows_that_nobody_asked_for_fail_every_request():
    """Handing them out would give one client another's answer."""
    found = together(lambda given: {"y": np.zeros((7, 1))}, [{"x": np.zeros((2, 1))}, {"x": np.zeros((1, 1))}])
    assert all("for a batch of" in str(each) for each in found)


def test_without_a_batch_dimension_each_is_called_alone():
    calls = []
    in_turn(lambda given: calls.append(1) or {"y": given["x"]}, [{"x": np.zeros(3)}, {"x": np.zeros(3)}])
    assert len(calls) == 2


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), max_size=5))
def test_text_survives_as_bytes(words):
    array = np.array(words, np.object_).reshape(-1, 1)
    there = as_bytes(array)
    assert all(isinstance(each, bytes) for each in there.ravel())
    assert as_text(there).tolist() == array.tolist()


def test_bytes_that_are_no_text_are_the_clients_mistake():
    with pytest.raises(ValueError, match="not UTF-8") as caught:
        as_text(np.array([b"fine", b"\xff"], np.object_))
    assert caught.value.status == 400


CLASS = """
import numpy as np
class Model:
    inputs = {"x": ("FP32", [1]), "name": ("BYTES", [1])}
    outputs = {"y": ("FP64", [1])}
    def predict(self, batch%s):
        return %s
"""


def model(tmp_path, annotation, body):
    path = tmp_path / "model.py"
    path.write_text(CLASS % (annotation, body))
    return python.load(Asked(str(path)))


GIVEN = {"x": np.array([[1], [2]], np.float32), "name": np.array([[b"a"], [b"b"]], np.object_)}


@pytest.mark.parametrize(
    ("annotation", "body"),
    [
        ("", "[row['x'] * (2 if row['name'] == 'b' else 1) for row in batch]"),
        (": list[dict]", "[{'y': row['x'] * (2 if row['name'] == 'b' else 1)} for row in batch]"),
        (": dict[str, np.ndarray]", "{'y': batch['x'] * np.where(batch['name'] == b'b', 2, 1)}"),
        (": 'dict[str, np.ndarray]'", "batch['x'] * np.where(batch['name'] == b'b', 2, 1)"),
    ],
)
def test_predict_gets_and_gives_what_it_says(tmp_path, annotation, body):
    loaded = model(tmp_path, annotation, body)
    assert loaded.inputs == (Tensor("x", "FP32", (1,)), Tensor("name", "BYTES", (1,)))
    found = loaded.predict(GIVEN)["y"]
    assert (found.dtype, found.tolist()) == (np.float64, [[1.0], [4.0]])


@pytest.mark.parametrize("body", ["[1.0]", "[1.0, 2.0, 3.0]", "{'y': [1.0]}"])
def test_the_wrong_number_of_outputs_is_an_error(tmp_path, body):
    with pytest.raises(ValueError, match="for a batch of 2"):
        model(tmp_path, "", body).predict(GIVEN)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("", "one class with a method predict is needed, and there is none"),
        ("def f(:", "it cannot be imported: SyntaxError"),
        (
            "class A:\n    def predict(self, batch): ...\n    def load(self): raise OSError('no file')",
            "A cannot be loaded: OSError: no file",
        ),
        ("class A:\n    inputs = {'x': 'FP32'}\n    def predict(self, batch): ...", "A must say its inputs"),
        ("class A:\n    inputs = {'x': ('FLOAT', [1])}\n    def predict(self, batch): ...", "A must say its inputs"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(tmp_path, code, cause):
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(code))
    with pytest.raises(Unusable, match=cause) as found:
        python.load(Asked(str(path)))
    assert "\n" not in str(found.value)


WHOLE = "inputs = {'x': ('FP32', [1])}; outputs = {'y': ('FP32', [1])}\n    def predict(self, batch): return "


@pytest.mark.parametrize(
    ("code", "wanted", "answer"),
    [
        (f"class Base:\n    {WHOLE}batch\nclass Child(Base):\n    {WHOLE}[2.0]", "", 2.0),  # the one made from it is meant
        (f"class Base:\n    {WHOLE}batch\nclass Child(Base):\n    {WHOLE}[2.0]", "Base", 1.0),
        (f"class _Helper:\n    {WHOLE}batch\nclass Model:\n    {WHOLE}[2.0]", "", 2.0),  # private
        (f"class Model:\n    {WHOLE}[2.0]\nOther = Model", "", 2.0),  # two names of one
        ("from kept_elsewhere import Model", "Model", 3.0),  # named, it may be imported
    ],
)
def test_the_class_is_found_as_custom_finds_it(tmp_path, monkeypatch, code, wanted, answer):
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "kept_elsewhere.py").write_text(f"class Model:\n    {WHOLE}[3.0]", "utf-8")
    (path := tmp_path / "model.py").write_text(code, "utf-8")
    loaded = python.load(Asked(str(path), settings={"class": wanted}))
    assert loaded.predict({"x": np.array([[1]], np.float32)})["y"].tolist() == [[answer]]
