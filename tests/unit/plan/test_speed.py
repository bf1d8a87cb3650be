"""Speed: a better card is never slower, the limits have names, the constants say how far to trust them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace.plan
from headrace.errors import PlanError
from headrace.facts.hardware import Gpu
from headrace.facts.model import CacheGroup, Experts, ModelFacts
from headrace.plan.roofline import Rates, decode_work
from headrace.plan.speed import Engine, Speed, decode_seconds, estimate, prefill_seconds, step_times
from headrace.plan.speed_constants import SpeedConstants, family_of
from tests.known_models import LLAMA_8B

DATA = yaml.safe_load((Path(headrace.plan.__file__).parent / "constants" / "speed.yaml").read_text())
CONSTANTS = SpeedConstants.from_mapping(DATA)
GB = 10**9
H100 = Gpu("H100-80GB", 80 * GB, 3.35e12, {"fp16": 989e12, "fp8": 1979e12}, "NVLink", 450e9, 9.0)
A10 = Gpu("A10-24GB", 24 * GB, 600e9, {"fp16": 125e12}, "PCIe", 32e9, 8.6)
T4 = Gpu("T4", 16 * GB, 320e9, {"fp16": 65e12}, "PCIe", 16e9, 7.5)
L4 = Gpu("L4", 24 * GB, 300e9, {"fp16": 121e12, "fp8": 242e12}, "PCIe", 32e9, 8.9)
CPU = Gpu("CPU of 2 cores", 16 * GB, 20e9, {"fp32": 160e9}, "none", 20e9, None)
GPT_OSS = replace(
    LLAMA_8B,
    parameters=116_789_000_000,
    weight_bytes=65 * GB,
    layers=36,
    hidden=2880,
    heads=64,
    quantization="mxfp4",
    cache=(CacheGroup("full", 18, 8, 128), CacheGroup("window", 18, 8, 128, 128)),
    experts=Experts(128, 4, 114_661_785_600),
    parameters_active=5_710_000_000,
)
DEEPSEEK = replace(
    LLAMA_8B,
    parameters=671_025_000_000,
    weight_bytes=671 * GB,
    layers=61,
    hidden=7168,
    heads=128,
    kv_heads=1,
    quantization="fp8",
    cache=(CacheGroup("latent", 61, 1, 576),),
    experts=Experts(256, 8, 653_908_770_816),
    parameters_active=37_551_000_000,
)
RATES = CONSTANTS.choose("vllm", H100).fit.rates
MODELS = st.sampled_from([LLAMA_8B, GPT_OSS, DEEPSEEK])
TP = st.sampled_from([1, 2, 4, 8])


def ask(facts: ModelFacts = LLAMA_8B, gpu: Gpu = H100, concurrency: float = 16, **more: Any) -> Speed:
    return estimate(facts, gpu, 1, 1, 1024, 256, concurrency, CONSTANTS, **more)


@given(MODELS, TP, st.integers(1, 512), st.integers(1, 60_000), st.floats(1, 10))
def test_more_of_anything_is_never_slower(facts: ModelFacts, tp: int, batch: int, context: int, more: float) -> None:
    """Bandwidth, compute and link, for decoding and for prompts."""
    better = replace(
        H100, bandwidth=H100.bandwidth * more, link=H100.link * more, flops={k: v * more for k, v in H100.flops.items()}
    )
    for gpu in (
        better,
        replace(H100, bandwidth=better.bandwidth),
        replace(H100, link=better.link),
        replace(H100, flops=better.flops),
    ):
        assert decode_seconds(facts, gpu, tp, batch, context, 8, 16, RATES).seconds <= _decode(facts, tp, batch, context) + 1e-12
        before = prefill_seconds(facts, H100, tp, context, 8, RATES).seconds
        assert prefill_seconds(facts, gpu, tp, context, 8, RATES).seconds <= before + 1e-12


def _decode(facts: ModelFacts, tp: int, batch: int, context: int) -> float:
    return decode_seconds(facts, H100, tp, batch, context, 8, 16, RATES).seconds


@given(MODELS, st.integers(1, 400), st.integers(1, 400))
def test_a_larger_batch_never_gives_fewer_tokens_until_the_cache_binds(facts: ModelFacts, one: int, other: int) -> None:
    few, many = (ask(facts, concurrency=count, kv_pool_tokens=10**9) for count in sorted((one, other)))
    assert few.tokens_per_second.expected <= many.tokens_per_second.expected * (1 + 1e-9)
    assert few.limit != "cache size"
    assert many.utilisation >= few.utilisation - 1e-9


@given(MODELS, TP, st.integers(1, 512), st.integers(1, 60_000), st.sampled_from([4.5, 8, 16]), st.sampled_from([8, 16]))
def test_tensor_parallelism_never_adds_memory_time(
    facts: ModelFacts, tp: int, batch: int, context: int, weight_bits: float, kv_bits: float
) -> None:
    one, cut = (decode_seconds(facts, H100, gpus, batch, context, weight_bits, kv_bits, RATES).memory for gpus in (tp, 2 * tp))
    assert cut <= one


def test_a_latent_cache_is_whole_on_every_gpu_and_heads_are_copied() -> None:
    """planning.md section 2: MLA is replicated, and GQA as soon as there are more GPUs than KV heads."""
    assert (
        decode_work(DEEPSEEK, 8, 1, 1000, 8, 16).cache_bytes
        == decode_work(DEEPSEEK, 1, 1, 1000, 8, 16).cache_bytes
        == 61 * 576 * 2 * 1000
    )
    assert decode_work(LLAMA_8B, 16, 1, 1000, 16, 16).cache_bytes == decode_work(LLAMA_8B, 8, 1, 1000, 16, 16).cache_bytes


def test_a_window_is_read_and_no_more() -> None:
    step = 18 * 8 * 128 * 2
    assert decode_work(GPT_OSS, 1, 1, 10_000, 4.5, 16).cache_bytes == step * 10_000 + step * 128


def test_a_mixture_reads_the_experts_that_its_tokens_choose() -> None:
    experts = [
        decode_work(GPT_OSS, 1, batch, 100, 4.5, 16).expert_bytes / (114_661_785_600 * 4.5 / 8) for batch in (1, 2, 10_000)
    ]
    assert experts == pytest.approx([4 / 128, 1 - (124 / 128) ** 2, 1])


def test_the_limit_has_a_name() -> None:
    """Few requests wait for memory, prompts for compute, a slow link for itself, small models for launches, many for cache."""
    tiny = replace(LLAMA_8B, parameters=10**8, cache=(CacheGroup("full", 32, 1, 64),))
    assert ask(concurrency=1).limit == "memory bandwidth"
    assert prefill_seconds(LLAMA_8B, H100, 1, 8192, 16, RATES).limit == "compute"
    assert decode_seconds(LLAMA_8B, replace(H100, link=1e9), 8, 256, 100, 16, 16, RATES).limit == "interconnect"
    assert decode_seconds(tiny, H100, 1, 1, 100, 16, 16, RATES).limit == "launch overhead"
    full = ask(concurrency=100, kv_pool_tokens=12_800)
    assert (full.limit, full.batch, full.utilisation, full.simulate_ttft) == ("cache size", 10, 1.0, True)


@settings(deadline=None)
@given(
    MODELS,
    st.sampled_from([H100, A10, T4, L4, CPU]),
    st.integers(1, 2000),
    st.sampled_from(["vllm", "sglang", "trtllm", "llamacpp", "tgi"]),
)
def test_the_range_holds_what_is_expected(facts: ModelFacts, gpu: Gpu, concurrency: int, engine: str) -> None:
    speed = ask(facts, gpu, concurrency, engine=Engine(engine))
    for value in (speed.tpot_seconds, speed.tokens_per_second):
        assert 0 < value.low <= value.expected <= value.high
    assert 0 < speed.utilisation <= 1


@pytest.mark.parametrize(
    ("engine", "gpu", "confidence", "said"),
    [
        ("vllm", H100, "high", "measurements"),  # hundreds of rows
        ("vllm", A10, "low", "A10-24GB: 0 measurements"),  # only its big sister A100 in static batches
        ("vllm", T4, "low", "No measurements of vllm on T4"),
        ("vllm", L4, "low", "No measurements of vllm on L4"),
        ("tgi", H100, "low", "No measurements of tgi"),  # an engine nobody measured
        ("llamacpp", CPU, "low", "llamacpp"),
    ],
)
def test_confidence_is_said_with_its_reason(engine: str, gpu: Gpu, confidence: str, said: str) -> None:
    speed = ask(gpu=gpu, engine=Engine(engine))
    assert speed.confidence == confidence
    assert said in speed.reason


def test_an_h100_nvl_is_not_an_h100() -> None:
    assert family_of(H100) == "hopper"
    nvl = ask(gpu=replace(H100, name="H100-NVL"))
    assert nvl.confidence != "high"


def test_less_trust_is_a_wider_range() -> None:
    width = [speed.tpot_seconds.high / speed.tpot_seconds.low for speed in (ask(gpu=H100), ask(gpu=L4))]
    assert width[0] < width[1]


def test_published_speeds_are_met_within_a_quarter() -> None:
    """Two measured points: Llama-3.1-70B FP8 on 2 x B200 (vLLM, id 3789) and SmolLM2 on two cores (facts/engine-llamacpp.md)."""
    b200 = Gpu("B200", 180 * GB, 8e12, {"fp16": 2250e12, "fp8": 4500e12, "fp4": 9000e12}, "NVLink", 900e9, 10.0)
    big = replace(
        LLAMA_8B,
        parameters=70_552_000_000,
        layers=80,
        hidden=8192,
        heads=64,
        quantization="fp8",
        cache=(CacheGroup("full", 80, 8, 256),),
    )
    speed = estimate(big, b200, 2, 2, 1024, 8192, 32, CONSTANTS, weight_bits=8)
    assert speed.tpot_seconds.expected == pytest.approx(12.7e-3, rel=0.25)
    smol = replace(
        LLAMA_8B, parameters=134_515_008, weight_bytes=98_362_432, layers=30, hidden=576, heads=9, kv_heads=3, quantization="Q4_1"
    )
    smol = replace(smol, cache=(CacheGroup("full", 30, 3, 128),))
    for concurrency, measured in ((1, 75.6), (8, 109.1), (32, 130.5)):
        here = estimate(smol, CPU, 1, 1, 117, 128, concurrency, CONSTANTS, engine=Engine("llamacpp", requests=32))
        assert here.tokens_per_second.expected == pytest.approx(measured, rel=0.25)


def test_the_simulation_and_the_estimate_agree_on_a_step() -> None:
    steps = step_times(LLAMA_8B, H100, 1, 16, 16, RATES)
    assert steps(16, 1152, 0) == ask(concurrency=16, kv_pool_tokens=10**6).step.seconds
    assert steps(0, 0, 1024) == prefill_seconds(LLAMA_8B, H100, 1, 1024, 16, RATES).seconds
    assert steps(16, 1152, 1024) > steps(16, 1152, 0)


def test_replicas_share_the_load() -> None:
    """Four GPUs in pairs, with 32 requests, are two replicas of 16."""
    pair = estimate(LLAMA_8B, H100, 2, 2, 1024, 256, 16, CONSTANTS)
    four = estimate(LLAMA_8B, H100, 4, 2, 1024, 256, 32, CONSTANTS)
    assert (four.replicas, four.batch, four.tpot_seconds) == (2, 16, pair.tpot_seconds)
    assert four.tokens_per_second.expected == pytest.approx(2 * pair.tokens_per_second.expected)
    assert four.tokens_per_second_per_gpu == pytest.approx(pair.tokens_per_second_per_gpu)


def test_the_same_question_has_the_same_answer() -> None:
    assert ask() == ask()


@pytest.mark.parametrize(
    ("gpus", "tp", "isl", "concurrency"),
    [
        (1, 2, 10, 1),  # more parts than GPUs
        (3, 3, 10, 1),  # 32 heads do not divide by 3
        (1, 0, 10, 1),  # no part
        (1, 1, 0, 1),  # no prompt
        (1, 1, 10, 0),  # nobody asks
    ],
)
def test_what_cannot_be_is_refused(gpus: int, tp: int, isl: float, concurrency: float) -> None:
    with pytest.raises(PlanError):
        estimate(LLAMA_8B, H100, gpus, tp, isl, 10, concurrency, CONSTANTS)


def test_an_encoder_has_no_tokens_per_second() -> None:
    with pytest.raises(PlanError, match="encoder"):
        ask(replace(LLAMA_8B, encoder=True))


@pytest.mark.parametrize("broken", [{}, {"fits": []}, {"fits": [{"engine": "any"}], "source": ""}, {"fits": 3}])
def test_constants_that_are_not_complete_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"speed\.yaml"):
        SpeedConstants.from_mapping(broken)


def test_rates_of_zero_are_refused() -> None:
    entry = {**DATA["fits"][0], "rates": {**DATA["fits"][0]["rates"], "memory": 0}}
    with pytest.raises(PlanError, match="memory"):
        SpeedConstants.from_mapping({**DATA, "fits": [entry]})
    assert isinstance(RATES, Rates)
