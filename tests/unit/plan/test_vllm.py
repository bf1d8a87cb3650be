"""vLLM's memory: the sum that its own profiling makes, what of it is promised, and how it prints."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_models import ALL, GIB, GPT_OSS_120B, KIMI, LLAMA_8B, LLAMA_70B_FP8, QWEN3_32B, QWEN3_235B

from headrace.errors import PlanError
from headrace.facts.constants import measured
from headrace.facts.model import ModelFacts
from headrace.plan.vllm.constants import card_key, parse, release
from headrace.plan.vllm.cpu import vllm_cpu_memory
from headrace.plan.vllm.memory import VllmMemory, batch, vllm_memory
from headrace.plan.vllm.weights import refuse_parallel, weights_bytes

CONSTANTS = parse(measured("vllm"))
H100 = round(79.18 * GIB)
L40S = round(44.42 * GIB)


def planned(facts: ModelFacts, gpu: int = H100, tp: int = 1, context: int = 8192, card: str = "H100", **more: Any) -> VllmMemory:
    asked = {"version": "0.11.0", "utilization": 0.9, **more}
    return vllm_memory(facts, gpu, tp, asked.pop("pp", 1), context, constants=CONSTANTS, card=card, **asked)


MEASURED = [
    # facts, GPU, card, tp, version, flags, cache in GiB as logged, tolerance; ids of benchmarks/data/vllm_memory.csv
    (LLAMA_8B, H100, "H100", 1, "0.11.0", {}, 51.38, 0.01),  # 4: the sampler of 1,024 requests is the peak
    (LLAMA_70B_FP8, H100, "H100", 2, "0.11.0", {}, 32.00, 0.01),  # 3: two GPUs
    (QWEN3_235B, L40S, "L40S", 8, "0.10.2", {}, 10.65, 0.03),  # 56: more GPUs than KV heads, 256 requests
    (GPT_OSS_120B, H100, "H100", 1, "0.11.0", {"utilization": 0.95}, 3.33, 0.05),  # 2: MXFP4 grows in memory
]


@pytest.mark.parametrize(("facts", "gpu", "card", "tp", "version", "flags", "cache", "tolerance"), MEASURED)
def test_the_cache_is_what_was_measured(
    facts: ModelFacts, gpu: int, card: str, tp: int, version: str, flags: dict[str, Any], cache: float, tolerance: float
) -> None:
    memory = planned(facts, gpu, tp, card=card, version=version, **flags)
    assert memory.cache_bytes / GIB == pytest.approx(cache, rel=tolerance)
    assert memory.cache_low_bytes / GIB <= cache


FAILED = [
    (LLAMA_70B_FP8, 16_000, 0.9),  # 9: no room for any cache
    (QWEN3_32B, 32_000, 0.9),  # 10: room, and not for one request of 32,000
    (GPT_OSS_120B, 131_072, 0.95),  # 23: likewise with windows in half the layers
    (GPT_OSS_120B, 8_192, 0.9),  # 24: at the default utilization
]


@pytest.mark.parametrize(("facts", "context", "utilization"), FAILED)
def test_what_failed_is_not_said_to_fit(facts: ModelFacts, context: int, utilization: float) -> None:
    memory = planned(facts, context=context, utilization=utilization)
    assert memory.verdict == "does not fit"
    assert memory.shortfall_bytes > 0
    assert memory.longest_context < context


def test_it_prints_as_a_sum() -> None:
    assert str(planned(LLAMA_8B)) == (
        "weights 14.96 + cache 51.4 + activations 4.75 + runtime 0.13 = 71.3 of 79.2 GiB; "
        "421,280 tokens of cache = 51 requests of 8,192"
    )


def test_what_does_not_fit_says_by_how_much() -> None:
    assert str(planned(QWEN3_32B, context=32_000)).endswith("a request of 32,000 needs 7.81, 3.50 is sure: 4.32 GiB short")


def test_graphs_count_from_0_21_on_and_not_when_eager() -> None:
    names = {version: [term.name for term in planned(LLAMA_8B, version=version).terms] for version in ("0.20.2", "0.21.0")}
    assert "graphs" not in names["0.20.2"]
    assert "graphs" in names["0.21.0"]
    assert "graphs" not in [term.name for term in planned(LLAMA_8B, version="0.33.0", eager=True).terms]


BATCHES = [
    ("0.11.0", 79, "NVIDIA H100 80GB HBM3", 1024, 8192),
    ("0.11.0", 79, "NVIDIA A100-SXM4-80GB", 256, 2048),  # by its name, whatever its memory
    ("0.33.0", 119, "NVIDIA GB10", 256, 2048),
    ("0.33.0", 268, "NVIDIA B300", 1024, 16384),
    ("0.11.0", 268, "NVIDIA B300", 1024, 8192),  # the 160 GiB step is newer
    ("0.33.0", 15, "Tesla T4", 256, 2048),
    ("0.6.3", 79, "H100", 256, 8192),  # V0 takes a whole prompt at once: its context, 8,192
]


@pytest.mark.parametrize(("version", "gib", "card", "seqs", "tokens"), BATCHES)
def test_defaults_are_vllms_own(version: str, gib: int, card: str, seqs: int, tokens: int) -> None:
    chosen = batch(CONSTANTS.at(version, card), gib * GIB, card, 8192)
    assert (chosen.max_num_seqs, chosen.max_num_batched_tokens) == (seqs, tokens)


def test_utilization_changed_with_the_version() -> None:
    assert [CONSTANTS.at(version).utilization for version in ("0.11.0", "0.33.0")] == [0.90, 0.92]


def test_requests_are_capped_by_batched_tokens() -> None:
    assert batch(CONSTANTS.at("0.33.0"), H100, max_num_batched_tokens=512).max_num_seqs == 512


def test_an_absolute_cache_ignores_utilization() -> None:
    memory = planned(LLAMA_8B, kv_cache_bytes=50 * GIB, utilization=0.1)
    assert memory.cache_bytes == memory.cache_low_bytes == 50 * GIB
    assert memory.fits
    assert not planned(LLAMA_8B, kv_cache_bytes=70 * GIB).fits


def test_a_card_nobody_measured_lowers_confidence() -> None:
    assert planned(LLAMA_8B).confidence == "high"
    unknown = planned(LLAMA_8B, card="A10", gpu=22 * GIB)
    assert unknown.confidence != "high"
    assert "no start of this version was measured on A10" in unknown.why


def test_facts_in_doubt_are_promised_less() -> None:
    doubted = planned(replace(LLAMA_8B, doubts=("bytes are computed from shapes",)))
    assert doubted.cache_bytes == planned(LLAMA_8B).cache_bytes
    assert doubted.cache_low_bytes < planned(LLAMA_8B).cache_low_bytes
    assert doubted.confidence == "medium"


def test_an_unknown_vocabulary_is_doubted_and_taken_as_large() -> None:
    memory = planned(replace(LLAMA_8B, vocabulary=None))
    assert memory.term("activations").bytes > planned(LLAMA_8B).term("activations").bytes
    assert "vocabulary" in memory.why


@pytest.mark.parametrize("version", ["", "latest", "0.2x", "v", "0" * 9000])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(PlanError, match="not a version of vLLM"):
        release(version)


CARDS = {
    "NVIDIA H100 80GB HBM3": "h100",
    "A100-80": "a100",
    "Tesla T4": "t4",
    "NVIDIA GeForce RTX 5090": "rtx5090",
    "L40S": "l40s",
}


@pytest.mark.parametrize(("name", "key"), CARDS.items())
def test_a_card_is_known_by_any_of_its_names(name: str, key: str) -> None:
    assert card_key(name) == key


SPLITS = [
    (LLAMA_8B, 3, 1, "does not divide 32 heads"),
    (LLAMA_8B, 16, 1, None),  # two GPUs share a KV head
    (replace(LLAMA_8B, heads=36, kv_heads=6), 4, 1, "neither a part nor a multiple of 6 KV heads"),
    (LLAMA_8B, 1, 33, "more than 32 layers"),
    (KIMI, 8, 2, None),
]


@pytest.mark.parametrize(("facts", "tp", "pp", "reason"), SPLITS)
def test_what_vllm_refuses_to_split_is_refused(facts: ModelFacts, tp: int, pp: int, reason: str | None) -> None:
    said = refuse_parallel(facts, tp, pp)
    assert (said is None) == (reason is None)
    assert (reason or "") in (said or "")


def test_experts_that_do_not_divide_leave_one_gpu_fuller() -> None:
    shared = weights_bytes(QWEN3_235B, 8, expert_parallel=True).expected
    assert shared == weights_bytes(QWEN3_235B, 8).expected
    assert weights_bytes(KIMI, 5, expert_parallel=True).expected > weights_bytes(KIMI, 5).expected


def test_vllm_on_a_cpu_holds_the_blocks_that_were_measured() -> None:
    small = replace(LLAMA_8B, layers=30, kv_heads=3, head_dim=64, cache=(), parameters=134_515_008, weight_bytes=269_030_016)
    for cache, tokens in ((64, 2816), (256, 11_648), (1024, 46_592)):
        memory = vllm_cpu_memory(small, 8 * GIB, 2048, cache * 2**20, constants=CONSTANTS)
        assert memory.cache_tokens == tokens
    assert memory.total_bytes == pytest.approx(3.07e9, rel=0.1)
    assert vllm_cpu_memory(small, 8 * GIB, 2048, GIB, constants=CONSTANTS, float32=True).cache_tokens == 23_296


SETTINGS = {
    "facts": st.sampled_from(ALL),
    "gpu": st.integers(8 * GIB, 300 * GIB),
    "tp": st.sampled_from([1, 2, 4, 8]),
    "pp": st.integers(1, 4),
    "context": st.integers(1, 131_072),
    "version": st.sampled_from(["0.6.3", "0.11.0", "0.15.1", "0.20.2", "0.33.0"]),
    "card": st.sampled_from(["H100", "A100", "L4", ""]),
    "max_num_seqs": st.sampled_from([8, 128, 256, 1024]),
    "kv_dtype": st.sampled_from(["auto", "fp8", "float32"]),
}


@settings(max_examples=200, deadline=None)
@given(asked=st.fixed_dictionaries(SETTINGS))
def test_terms_are_not_negative_and_add_up(asked: dict[str, Any]) -> None:
    memory = planned(**asked)
    assert all(0 <= term.bytes <= term.worst_bytes and term.source for term in memory.terms)
    assert sum(term.bytes for term in memory.terms) + memory.cache_bytes == memory.budget_bytes <= memory.gpu_bytes
    assert memory.cache_low_bytes <= memory.cache_bytes <= memory.cache_high_bytes
    assert memory.fits == (memory.shortfall_bytes == 0)
    assert not memory.fits or memory.longest_context >= memory.context
    assert str(planned(**asked)) == str(memory)


@settings(max_examples=150, deadline=None)
@given(asked=st.fixed_dictionaries(SETTINGS), more=st.integers(0, 100 * GIB))
def test_more_memory_never_turns_fits_into_no_fit(asked: dict[str, Any], more: int) -> None:
    """With the batch given: by default vLLM takes a larger one on larger cards, which costs memory and is its own choice."""
    asked |= {"max_num_batched_tokens": 8192}
    smaller, larger = planned(**asked), planned(**asked | {"gpu": asked["gpu"] + more})
    assert larger.fits >= smaller.fits
    assert larger.max_concurrency >= smaller.max_concurrency
    for before, after in zip(smaller.stages or (smaller,), larger.stages or (larger,), strict=True):
        assert after.cache_bytes >= before.cache_bytes, "of each stage: with more memory another one may be the one that limits"


@settings(max_examples=150, deadline=None)
@given(asked=st.fixed_dictionaries(SETTINGS), more=st.integers(0, 131_072))
def test_longer_context_never_frees_memory(asked: dict[str, Any], more: int) -> None:
    shorter, longer = planned(**asked), planned(**asked | {"context": asked["context"] + more})
    assert longer.max_concurrency <= shorter.max_concurrency
    for before, after in zip(shorter.stages or (shorter,), longer.stages or (longer,), strict=True):
        assert after.request_bytes >= before.request_bytes
        assert after.cache_bytes <= before.cache_bytes


@settings(max_examples=150, deadline=None)
@given(asked=st.fixed_dictionaries(SETTINGS))
def test_twice_the_gpus_never_hold_more_each(asked: dict[str, Any]) -> None:
    """NCCL's buffers may cost more than half of a very small model; weights, peak and cache never do."""
    asked |= {"tp": 1}
    alone, shared = planned(**asked), planned(**asked | {"tp": 2})
    for one, two in zip(alone.stages or (alone,), shared.stages or (shared,), strict=True):
        assert two.term("weights").bytes <= one.term("weights").bytes
        assert two.term("activations").bytes <= one.term("activations").bytes
        assert two.request_bytes <= one.request_bytes
