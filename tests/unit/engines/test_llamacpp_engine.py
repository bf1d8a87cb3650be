"""llama.cpp as an engine: what it refuses, how it is launched, how its page is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import engines
from headrace.engines.base import Placement, Reading
from headrace.engines.llamacpp import ENGINE
from tests.known_models import SMOLLM2

RECORDED = Path(__file__).parents[2] / "contract" / "recorded"

GEMMA = replace(SMOLLM2, architecture="gemma3", hidden=640, heads=4, vocabulary=262_144)
BERT = replace(SMOLLM2, architecture="bert", hidden=384, heads=12, vocabulary=30_522, encoder=True)
PLACEMENT = Placement("chat", "llamacpp", "generate", "/models/chat.gguf", 2048, 4, 2, 500_000_000, {"wait": "active"})


def test_engines_are_found_by_looking():
    assert engines()["llamacpp"] is ENGINE


@pytest.mark.parametrize(
    ("facts", "task", "reason"),
    [
        (SMOLLM2, "generate", None),
        (SMOLLM2, "embed", None),  # some models that generate also embed: their GGUF names a pooling
        (BERT, "embed", None),
        (BERT, "generate", "bert is an encoder"),
        (replace(SMOLLM2, format="safetensors"), "generate", "this model is safetensors"),
    ],
)
def test_refusals_say_why(facts, task, reason):
    refused = ENGINE.refuse(facts, task)
    assert refused is None if reason is None else reason in refused


@pytest.mark.parametrize(
    ("facts", "slots", "batch", "measured_mb"),
    [
        (SMOLLM2, 1, 512, 68),
        (SMOLLM2, 8, 512, 78),
        (SMOLLM2, 32, 512, 77),
        (SMOLLM2, 4, 2048, 104),
        (GEMMA, 1, 512, 135),
        (GEMMA, 4, 512, 192),
        (GEMMA, 8, 512, 210),
        (GEMMA, 4, 2048, 210),
        (GEMMA, 1, 64, 114),
        (GEMMA, 8, 64, 238),
        (BERT, 1, 512, 66),
        (BERT, 8, 512, 94),
        (BERT, 4, 1024, 148),  # in batches of 2048 filled by less than half
    ],
)
def test_overhead_is_what_was_measured_or_a_little_more(facts, slots, batch, measured_mb):
    planned = ENGINE.overhead(facts, replace(PLACEMENT, slots=slots, options={"batch": batch})) / 1e6
    assert measured_mb <= planned < measured_mb + 115


def test_an_unknown_vocabulary_counts_as_the_largest():
    assert ENGINE.overhead(replace(SMOLLM2, vocabulary=None), PLACEMENT) > ENGINE.overhead(SMOLLM2, PLACEMENT)


def test_launch_says_everything_in_one_json_argument():
    launch = ENGINE.launch(PLACEMENT, "unix:/run/chat.sock")
    # -P: nothing in the folder that Headrace runs in may take a module's place
    assert launch.argv[:4] == ("python", "-P", "-m", "headrace.runners.llamacpp")
    assert json.loads(launch.argv[4]) == {
        "address": "unix:/run/chat.sock",
        "batch": 512,
        "cache_type": "f16",
        "context": 2048,
        "embedding": False,
        "model": "/models/chat.gguf",
        "name": "chat",
        "poll": 50,
        "slots": 4,
        "threads": 2,
        "wait": "active",
    }
    assert launch.key_variable == "ENGINE_KEY"


def test_the_recorded_page_is_read():
    page = (RECORDED / "llamacpp_metrics.txt").read_text()
    assert ENGINE.read(page, "any") == Reading(running=2, waiting=4, tokens_in_total=1154 + 221, tokens_out_total=729)


def test_what_a_page_does_not_say_is_unknown_and_not_zero():
    assert ENGINE.read("", "any") == Reading(None, None, None, None)


@pytest.mark.parametrize("page", ["<html>not a metrics page</html>", "llamacpp:requests_processing NaN\n"])
def test_a_page_that_is_none_is_a_value_error(page):
    with pytest.raises(ValueError):  # noqa: PT011 (the parser's messages are not ours)
        ENGINE.read(page, "any")


LOADING = """\
0.00.004.656 W srv          init: security: no API key is set and CORS allows all origins (see https://github.com/…)
0.00.006.953 E {first}
0.00.006.967 E llama_model_load_from_file_impl: failed to load model
0.00.006.971 E cmn  common_init_: failed to load model '/m.gguf'
0.00.006.973 E srv    load_model: failed to load model, '/m.gguf'
cannot load /m.gguf: Failed to init server, please check the input params. (llama.cpp gives the cause in the lines before)
"""
"""Said by xllamacpp 2026.10.11549."""


@pytest.mark.parametrize(
    ("first", "cause"),
    [
        (
            "llama_model_load: error loading model: unknown model architecture: 'foo'",
            "error loading model: unknown model architecture: 'foo'",
        ),
        (
            "gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'",
            "invalid magic characters: 'hell', expected 'GGUF'",
        ),
    ],
)
def test_the_cause_is_the_first_error_of_the_last_start(first, cause):
    lines = LOADING.format(first=first).splitlines()
    assert ENGINE.cause(lines) == cause
    # of its own start, not of the one before; nor of one that served in between
    assert ENGINE.cause([*LOADING.format(first="other: another cause").splitlines(), *lines]) == cause
    # Triton says more in between, and the end in its own words
    last = "cannot load /m.gguf: RuntimeError: llama.cpp cannot load it, and gives the cause in the lines before"
    assert engines()["triton"].cause([*lines[:-1], "E1127 02:17:28.754277 10748 model.cc:642] failed", last]) == cause


@pytest.mark.parametrize("lines", [[], ["serving chat"], LOADING.splitlines()[-1:], ["0.00.1 E x: y", "Segmentation fault"]])
def test_where_no_line_says_the_cause_none_is_made_up(lines):
    assert ENGINE.cause(lines) is None
