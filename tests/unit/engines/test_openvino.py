"""OpenVINO as an engine: what it refuses, how it is launched, how its page is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import engines
from headrace.engines.base import Placement, Reading
from headrace.engines.openvino import ENGINE, cache_bytes_per_token, loaded_bytes
from headrace.facts.base import Experts
from tests.known_models import SMOLLM2

RECORDED = Path(__file__).parents[2] / "contract" / "recorded"
PLACEMENT = Placement("chat", "openvino", "generate", "/models/chat.gguf", 2048, 4, 2, 0, {"batch": 128, "cache_bytes": 10**9})
Q8 = replace(SMOLLM2, quantization="Q8_0", weight_bytes=144_811_072)
F16 = replace(SMOLLM2, quantization="F16", weight_bytes=244_343_872)
SMALL_Q8 = replace(SMOLLM2, quantization="Q8_0", weight_bytes=253_000_000, layers=12, hidden=1024)
SMALL_Q4 = replace(SMALL_Q8, quantization="Q4_0", weight_bytes=185_000_000)
LARGER_Q8 = replace(SMALL_Q8, weight_bytes=791_000_000, hidden=2048)


def test_it_is_found_by_looking():
    assert engines()["openvino"] is ENGINE


@pytest.mark.parametrize(
    ("facts", "task", "reason"),
    [
        (SMOLLM2, "generate", None),
        (replace(SMOLLM2, architecture="qwen3", quantization="Q5_K_M"), "generate", None),
        (None, "generate", "this is none"),
        (replace(SMOLLM2, format="safetensors"), "generate", "this model is safetensors"),
        (SMOLLM2, "embed", "does not embed"),
        (replace(SMOLLM2, encoder=True), "generate", "does not"),
        (replace(SMOLLM2, architecture="gemma3"), "generate", "reads llama, qwen2, qwen3 from GGUF files, not gemma3"),
        (replace(SMOLLM2, experts=Experts(8, 2, 10)), "generate", "no mixture of experts"),
    ],
)
def test_refusals_say_why(facts, task, reason):
    refused = ENGINE.refuse(facts, task)
    assert refused is None if reason is None else reason in refused


@pytest.mark.parametrize(
    ("facts", "slots", "batch", "measured_mb"),  # resident, without the weights' file and the cache
    [
        (SMOLLM2, 1, 256, 459),
        (SMOLLM2, 8, 256, 574),
        (SMOLLM2, 32, 256, 574),
        (SMOLLM2, 8, 1024, 597),
        (Q8, 8, 256, 528),
        (F16, 8, 256, 1019),
        (SMALL_Q8, 1, 256, 436),
        (SMALL_Q8, 16, 256, 604),
        (SMALL_Q4, 8, 256, 449),
        (LARGER_Q8, 8, 256, 1061),
        (LARGER_Q8, 8, 1024, 1136),
    ],
)
def test_overhead_is_what_was_measured_or_a_little_more(facts, slots, batch, measured_mb):
    planned = ENGINE.overhead(facts, replace(PLACEMENT, slots=slots, options={"batch": batch})) / 1e6
    assert measured_mb <= planned <= measured_mb + 210


def test_a_token_of_the_cache_is_a_32nd_of_the_block_that_was_measured():
    assert cache_bytes_per_token(SMOLLM2) * 32 == 437_760


def test_launch_says_everything_in_one_json_argument():
    launch = ENGINE.launch(PLACEMENT, "unix:/run/chat.sock")
    assert launch.argv[:4] == ("python", "-P", "-m", "headrace.runners.openvino")
    assert json.loads(launch.argv[4]) == {
        "address": "unix:/run/chat.sock",
        "batch": 128,
        "cache_bytes": 10**9,
        "context": 2048,
        "model": "/models/chat.gguf",
        "name": "chat",
        "slots": 4,
        "threads": 2,
    }
    assert launch.key_variable == "ENGINE_KEY"


def test_the_first_request_makes_one_token_and_needs_no_template():
    probe = ENGINE.warm(PLACEMENT)
    assert probe.path == "/v1/completions"
    assert json.loads(probe.body) == {"model": "chat", "prompt": "Hi", "max_tokens": 1}


def test_the_recorded_page_is_read():
    found = ENGINE.read((RECORDED / "openvino_metrics.txt").read_text(), "any")
    assert found == Reading(running=2, waiting=2, tokens_in_total=255, tokens_out_total=7, cache_usage=0.5)


@pytest.mark.parametrize(
    ("quantization", "bytes_per_parameter"),
    [("Q4_1", 34 / 32), ("Q5_K_M", 34 / 32), ("BF16", 2), ("F16", SMOLLM2.weight_bytes / SMOLLM2.parameters)],
)
def test_what_openvino_does_not_take_as_it_is_is_counted_as_what_it_becomes(quantization, bytes_per_parameter):
    facts = replace(SMOLLM2, quantization=quantization)
    assert loaded_bytes(facts) == pytest.approx(facts.parameters * bytes_per_parameter, rel=1e-6)
