"""Which engine is the fastest here, by what was measured; and how roughly one knows how fast."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.facts.constants import measured
from headrace.plan.local_speed import Rates
from tests.known_models import SMOLLM2

RATES = Rates.parse(measured("local"))


def test_measured_points_are_given_as_they_are() -> None:
    for engine, known in RATES.engines.items():
        assert [RATES.at(engine, users) for users in known.rates] == list(known.rates.values())


@given(st.integers(1, 300))
def test_between_points_the_rate_is_between_theirs(users: int) -> None:
    for known in RATES.engines.values():
        assert min(known.rates.values()) <= known.at(users) <= max(known.rates.values())


def test_what_was_not_measured_is_unknown() -> None:
    assert RATES.at("sglang", 8) is None


@pytest.mark.parametrize(
    ("able", "users", "best"),
    [
        (["llamacpp", "openvino"], None, "llamacpp"),
        (["llamacpp", "openvino"], 1, "llamacpp"),
        (["llamacpp", "openvino"], 2, "openvino"),
        (["llamacpp", "openvino"], 32, "openvino"),
        (["llamacpp", "vllm"], 1, "llamacpp"),  # vLLM on a CPU pays from several users on
        (["llamacpp", "vllm"], 8, "llamacpp"),  # a little faster is not worth a start of ten times
        (["llamacpp", "vllm"], 32, "vllm"),
        (["llamacpp", "openvino", "vllm"], 32, "openvino"),
        (["llamacpp"], 32, "llamacpp"),
        (["other", "llamacpp"], 8, "other"),  # an engine of another package that nobody measured keeps its place
    ],
)
def test_the_fastest_measured_engine_is_chosen(able: list[str], users: int | None, best: str) -> None:
    assert RATES.fastest(able, SMOLLM2, "generate", users).value == best


def test_the_others_figures_are_told() -> None:
    reason = RATES.fastest(["llamacpp", "openvino"], SMOLLM2, "generate", 32).reason
    ours, theirs = (RATES.engines[name].rates[32] for name in ("openvino", "llamacpp"))
    assert reason.startswith(f"with 32 requests at once {ours:.0f} tokens/s against llama.cpp {theirs:.0f}")


def test_embeddings_are_not_chosen_by_tokens() -> None:
    assert RATES.fastest(["llamacpp", "openvino"], SMOLLM2, "embed", 8).value == "llamacpp"


@pytest.mark.parametrize("engine", RATES.engines)
def test_the_measured_model_on_the_measured_cores_is_in_the_middle(engine: str) -> None:
    known = RATES.engines[engine]
    (speed,) = RATES.estimate(engine, replace(SMOLLM2, weight_bytes=known.weight_bytes), 1, known.cores)
    low, high = map(float, re.findall(r"\d+", speed.value))
    assert low * high == pytest.approx(known.at(1) ** 2, rel=0.05)


def test_ten_times_the_weights_are_a_tenth_of_the_speed() -> None:
    (large,) = RATES.estimate("llamacpp", replace(SMOLLM2, weight_bytes=980_000_000), 1, 2)
    assert large.value == "3 to 13 tokens/s"  # half and twice 67.4 / 10
