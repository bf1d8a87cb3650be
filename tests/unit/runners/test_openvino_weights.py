"""The cache of converted models: made once, whole or not at all, and only for the file that it was made of."""

import os
import threading
import time

import pytest

from headrace.runners import openvino_weights
from headrace.runners.openvino_weights import CannotConvert, folder

CONVERTER = """
import pathlib, sys
model, into = map(pathlib.Path, sys.argv[-2:])
assert not list(into.iterdir()), "begun anew"
text = model.read_text()
(into / "openvino_model.xml").write_text(text)
with open({log!r}, "a") as log:
    log.write("made\\n")
if text == "broken":
    sys.exit("some.cpp:1:\\nit is broken\\n")
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made()` says how often something was converted; the converter is a small program in the place of OpenVINO's."""
    program, log = tmp_path / "converter.py", tmp_path / "log"
    program.write_text(CONVERTER.format(log=str(log)))
    monkeypatch.setattr(openvino_weights, "CONVERTER", (str(program),))
    monkeypatch.setattr(openvino_weights, "version", lambda name: "1.0")
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "models" / "model.gguf"
    path.parent.mkdir()
    path.write_text("one")
    return path


def test_a_model_is_converted_once_and_nothing_is_written_beside_it(made, model, tmp_path):
    first = folder(model, tmp_path / "cache")
    assert folder(model, tmp_path / "cache") == first
    assert made() == 1
    assert (first / "openvino_model.xml").read_text() == "one"
    assert list(model.parent.iterdir()) == [model]


def test_another_file_at_the_same_path_takes_its_place(made, model, tmp_path):
    old = folder(model, tmp_path / "cache")
    model.write_text("other")
    new = folder(model, tmp_path / "cache")
    assert (new / "openvino_model.xml").read_text() == "other"
    assert not old.exists()


def test_another_version_of_openvino_converts_again(made, model, tmp_path, monkeypatch):
    folder(model, tmp_path / "cache")
    monkeypatch.setattr(openvino_weights, "version", lambda name: "2.0")
    folder(model, tmp_path / "cache")
    assert made() == 2


def test_a_conversion_that_broke_off_is_begun_anew(made, model, tmp_path):
    whole = folder(model, tmp_path / "cache")
    partial = whole.rename(f"{whole}.partial")
    (partial / "half.bin").write_text("half")
    assert folder(model, tmp_path / "cache") == whole
    assert not partial.exists()
    assert made() == 2


def test_a_model_that_cannot_be_read_leaves_nothing_and_says_why_in_one_line(made, model, tmp_path):
    model.write_text("broken")
    with pytest.raises(CannotConvert) as caught:
        folder(model, tmp_path / "cache")
    assert str(caught.value) == "it is broken"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_two_replicas_at_once_share_one_conversion(made, model, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(folder(model, tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(set(found)) == 1
    assert len(found) == 4
    assert made() == 1


def test_touching_the_file_is_another_file(made, model, tmp_path):
    folder(model, tmp_path / "cache")
    later = time.time_ns() + 10**9
    os.utime(model, ns=(later, later))
    folder(model, tmp_path / "cache")
    assert made() == 2
