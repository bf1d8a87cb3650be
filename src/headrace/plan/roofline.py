"""What one step of an engine must move and compute on a GPU, and how long that takes: a roofline with named limits.

The form is that of Williams et al., "Roofline" (CACM 2009), with the terms of ../shared/facts/planning.md section 4; what is
fitted are the `Rates`. Every formula is plain arithmetic, so that benchmarks/speed_fit.py runs the same lines over columns.
"""

from dataclasses import dataclass, fields
from math import ceil, inf, log2
from typing import Literal

from headrace.facts.hardware import Gpu
from headrace.facts.model import CacheGroup, ModelFacts

Limit = Literal["memory bandwidth", "compute", "interconnect", "cache size", "launch overhead"]

SHARPNESS = 4
"""Exponent of the smooth maximum of memory and compute time: at the ridge both overlap imperfectly (19 % above the larger)."""

_ACTIVATION_BYTES = 2
_STATE_BYTES = 4
"""A state is read and written in every step, at 16 bits."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How much of a GPU's data sheet an engine reaches, and what it costs to start work.

    Shares of the vendor's figure, above 0: `memory` (dense weights), `experts` (routed experts), `cache` (KV cache), `compute`
    (decode), `prefill` and, times it, `mixture_prefill`, `link`. Seconds: `reduce_seconds` per all-reduce and doubling of GPUs,
    `fixed_seconds` per step, `layer_seconds` and `mixture_seconds` per layer, `request_seconds` per request in a step,
    `prefill_seconds` per prompt on the GPU, `first_seconds` before the first token outside of it. `carry` is the share of
    others' prefill that a decoding request waits for.
    """

    memory: float
    experts: float
    cache: float
    compute: float
    link: float
    reduce_seconds: float
    fixed_seconds: float
    layer_seconds: float
    mixture_seconds: float
    request_seconds: float
    carry: float
    prefill: float
    prefill_seconds: float
    mixture_prefill: float
    first_seconds: float

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}, and a number above 0 is needed.")


@dataclass(frozen=True, slots=True)
class Work:
    """What one GPU does in one step: bytes it reads, operations, bytes that all-reduces carry, things it starts."""

    dense_bytes: float
    expert_bytes: float
    cache_bytes: float
    operations: float
    reduced_bytes: float
    reductions: float
    layers: float
    mixture_layers: float
    requests: float


@dataclass(frozen=True, slots=True)
class Card:
    """What of a GPU the roofline needs: bytes per second, operations per second in the format used, and its link.

    One that has no link sends nothing, in no time: `link` is then infinite.
    """

    bandwidth: float
    peak: float
    link: float


@dataclass(frozen=True, slots=True)
class Step:
    """How long a step takes, its parts in seconds, and which limit binds: the largest part.

    `seconds` is less than the sum: moving and computing overlap.
    """

    seconds: float
    memory: float
    compute: float
    interconnect: float
    overhead: float

    @property
    def limit(self) -> Limit:
        parts: dict[Limit, float] = {
            "memory bandwidth": self.memory,
            "compute": self.compute,
            "interconnect": self.interconnect,
            "launch overhead": self.overhead,
        }
        return max(parts, key=lambda name: parts[name])


def card(gpu: Gpu, weight_bits: float, quantization: str, tp: int = 1) -> Card:
    """The GPU, computing in the fastest format that these weights allow, with what `tp` GPUs that add up leave of its link.

    PCIe is shared by all: NVIDIA's NCCL tables (aiconfigurator-core 0.12.0, all-reduce of 32 MiB) reach 63, 16 and 5% of it with
    2, 4 and 8 L40S, and 57, 39 and 37% with RTX PRO 6000; NVLink keeps its speed.

    Integers of 4 bits (AWQ, GPTQ, GGUF) are unpacked and multiplied at 16 bits; MXFP4 and NVFP4 run natively where the GPU can
    (compute capability 10), and at 16 bits elsewhere (Marlin kernels of vLLM).
    """
    name = quantization.lower()
    wanted = "fp16"
    if weight_bits <= 6:
        wanted = "fp4" if "fp4" in name or "modelopt" in name else "fp16"
    elif weight_bits <= 8.5 and not name.startswith("q8"):
        wanted = "fp8"
    peak = gpu.flops.get(wanted) or gpu.flops.get("fp16") or max(gpu.flops.values())
    crowd = max(1.0, tp / 2) if gpu.link_kind == "pcie" else 1.0
    return Card(gpu.bandwidth, peak, gpu.link / crowd or inf)


def decode_work(facts: ModelFacts, tp: int, batch: float, context: float, weight_bits: float, kv_bits: float) -> Work:
    """One token for each of `batch` requests that have `context` tokens, with every matrix cut over `tp` GPUs.

    Of E experts, b tokens that choose k touch E x (1 - (1 - k/E)^b) when choices are independent.
    """
    dense, experts = _weight_bytes(facts, weight_bits)
    attention = sum(_decode_attention(group, facts.heads, context) for group in facts.cache)
    return Work(
        dense_bytes=dense / tp,
        expert_bytes=experts / tp * _touched(facts, batch),
        cache_bytes=batch * cache_read_bytes(facts, tp, context, kv_bits),
        operations=batch * (2 * _active(facts) + attention) / tp,
        requests=batch,
        **_shared(facts, tp, batch),
    )


def prefill_work(facts: ModelFacts, tp: int, tokens: float, past: float, weight_bits: float) -> Work:
    """`tokens` of a prompt, of which `past` are computed already. Each token attends to those before it."""
    dense, experts = _weight_bytes(facts, weight_bits)
    seen = past + tokens / 2
    attention = sum(2 * group.layers * facts.heads * group.numbers * _kept(group, seen) for group in _growing(facts))
    return Work(
        dense_bytes=dense / tp,
        expert_bytes=experts / tp * _touched(facts, tokens),
        cache_bytes=0.0,
        operations=tokens * (2 * _active(facts) + attention) / tp,
        requests=1,
        **_shared(facts, tp, tokens),
    )


def decode_step(work: Work, card: Card, rates: Rates) -> Step:
    """Reading and computing overlap; all-reduces and launches do not."""
    cache = work.cache_bytes / (card.bandwidth * rates.cache)
    weights = work.dense_bytes / (card.bandwidth * rates.memory) + work.expert_bytes / (card.bandwidth * rates.experts)
    memory = weights + cache
    compute = work.operations / (card.peak * rates.compute)
    interconnect = _interconnect(work, card, rates)
    layers = work.layers * rates.layer_seconds + work.mixture_layers * rates.mixture_seconds
    overhead = rates.fixed_seconds + layers + work.requests * rates.request_seconds
    overlapped = (memory**SHARPNESS + compute**SHARPNESS) ** (1 / SHARPNESS)
    return Step(overlapped + interconnect + overhead, memory, compute, interconnect, overhead)


def prefill_step(work: Work, card: Card, rates: Rates) -> Step:
    """A prompt computes; its weights are read in the shadow of that, or of the decoding in the same step."""
    mixture = work.mixture_layers / work.layers
    compute = work.operations / (card.peak * rates.prefill * rates.mixture_prefill**mixture)
    interconnect = _transfer(work, card, rates)
    return Step(compute + interconnect + rates.prefill_seconds, 0.0, compute, interconnect, rates.prefill_seconds)


def cache_read_bytes(facts: ModelFacts, tp: int, context: float, kv_bits: float) -> float:
    """The cache of one request of `context` tokens on one GPU: what a step reads of it.

    KV heads are copied when there are more GPUs than heads; a latent cache (MLA) is whole on every GPU (planning.md section 2).
    """
    return sum(_group_bytes(group, tp, context, kv_bits) for group in facts.cache)


def _group_bytes(group: CacheGroup, tp: int, context: float, kv_bits: float) -> float:
    if group.kind == "state":
        return group.layers * group.numbers * _STATE_BYTES / tp
    heads = 1 if group.kind == "latent" else ceil(group.kv_heads / tp)
    return group.layers * heads * group.numbers * _kept(group, context) * kv_bits / 8


def _kept(group: CacheGroup, context: float) -> float:
    return min(context, group.window) if group.window else context


def _growing(facts: ModelFacts) -> list[CacheGroup]:
    return [group for group in facts.cache if group.kind != "state"]


def _decode_attention(group: CacheGroup, heads: int, context: float) -> float:
    """Operations of one new token. Latent attention is absorbed: key and value both are the latent vector, for every head."""
    if group.kind == "state":
        return 0.0
    return 2 * group.layers * heads * group.numbers * _kept(group, context) * (2 if group.kind == "latent" else 1)


def _weight_bytes(facts: ModelFacts, weight_bits: float) -> tuple[float, float]:
    """Bytes of what every token uses, and of routed experts.

    Four-bit releases of mixtures leave the rest at 16 bits: config.json of gpt-oss, Kimi-K2.5 and the NVFP4 ones says so.
    """
    experts = facts.experts.parameters if facts.experts else 0
    rest_bits = 16 if facts.experts and weight_bits < 6 else weight_bits
    return (facts.parameters - experts) * rest_bits / 8, experts * weight_bits / 8


def _touched(facts: ModelFacts, tokens: float) -> float:
    if not facts.experts:
        return 0.0
    missed: float = (1 - facts.experts.per_token / facts.experts.count) ** float(tokens)
    return 1 - missed


def _active(facts: ModelFacts) -> float:
    if facts.parameters_active:
        return facts.parameters_active
    if not facts.experts:
        return facts.parameters
    return facts.parameters - facts.experts.parameters * (1 - facts.experts.per_token / facts.experts.count)


def _shared(facts: ModelFacts, tp: int, tokens: float) -> dict[str, float]:
    """A ring all-reduce carries 2 x (tp - 1)/tp of its data; a layer needs two (after attention, after the MLP)."""
    carried = tokens * facts.hidden * _ACTIVATION_BYTES * 2 * (tp - 1) / tp
    return {
        "reduced_bytes": 2 * facts.layers * carried,
        "reductions": 2 * facts.layers * log2(tp),
        "layers": float(facts.layers),
        "mixture_layers": float(facts.layers if facts.experts else 0),
    }


def _interconnect(work: Work, card: Card, rates: Rates) -> float:
    return _transfer(work, card, rates) + work.reductions * rates.reduce_seconds


def _transfer(work: Work, card: Card, rates: Rates) -> float:
    return work.reduced_bytes / (card.link * rates.link)
