"""Formats are tried one after the other: the next one where a source has not the first, never because the first broke off."""

from dataclasses import replace

import pytest
from small_files import gguf, safetensors

from headrace.engines import engines
from headrace.errors import WeightsError
from headrace.plan.here import Here
from headrace.prepare import _in_some_format, ways_of
from headrace.spec.model import ModelSpec
from headrace.testing.engine import fake_engine
from headrace.weights.cache import Cache

MODEL = ModelSpec(source="hf:org/m")
HERE = Here({**engines(), "other": replace(fake_engine(), formats=("safetensors",))}, dict.fromkeys(("llamacpp", "other")))
GGUF = {"m.gguf": gguf(padding=1000)}
TENSORS = {"model.safetensors": safetensors({"x": ("F32", [2], b"\0" * 8)}), "config.json": b'{"model_type": "llama"}'}


def fetched(cache, *, offline=False):
    """The name of the file that is loaded, or of the folder."""
    return _in_some_format(cache, MODEL, HERE, lambda progress: None, offline=offline).format


def test_both_are_ways():
    assert ways_of(MODEL, HERE) == [("gguf",), ("safetensors",)]


@pytest.mark.parametrize(("files", "format"), [(GGUF | TENSORS, "gguf"), (GGUF, "gguf"), (TENSORS, "safetensors")])
def test_the_first_that_the_source_has_is_taken(cache, hub, files, format):
    hub.add("org/m", files)
    assert fetched(cache) == format


def test_without_room_for_the_first_no_other_is_taken(tmp_path, hub):
    hub.add("org/m", GGUF | TENSORS)
    cache = Cache(str(tmp_path / "c"), environment={}, endpoint=hub.url, free=lambda path: 20_000)
    with pytest.raises(WeightsError, match=r"needs 31.8 KiB of disk space"):
        fetched(cache)


def test_a_first_that_is_damaged_or_not_to_be_had_is_said(cache, hub):
    commit = hub.add("org/m", GGUF | TENSORS)
    hub.repositories["org/m"].gated = True
    with pytest.raises(WeightsError, match=r"^m\.gguf needs a login"):
        fetched(cache)
    hub.repositories["org/m"].gated = False
    hub.redirects[f"/org/m/resolve/{commit}/m.gguf"] = f"{hub.url}/elsewhere"
    hub.files["/elsewhere"] = ("application/octet-stream", b"\0" * len(GGUF["m.gguf"]))
    with pytest.raises(WeightsError, match="sha256"):
        fetched(cache)


def test_what_is_here_needs_no_network_in_whatever_format(cache, hub):
    hub.add("org/m", TENSORS)
    assert fetched(cache) == "safetensors"
    hub.failures = [500] * 20
    assert fetched(cache) == "safetensors"
    assert fetched(cache, offline=True) == "safetensors"
