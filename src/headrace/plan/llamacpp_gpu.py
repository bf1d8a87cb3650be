"""A model with llama.cpp on one GPU, all layers there: does it fit, and how fast, where vLLM does not run or loads no GGUF."""

from dataclasses import dataclass, replace
from typing import Any

from headrace.facts.hardware import Gpu
from headrace.facts.model import ModelFacts
from headrace.plan.fleet import UTILIZATION
from headrace.plan.intent import Intent
from headrace.plan.memory import Memory, fit
from headrace.units import show_bytes

_RUNTIME_BYTES = 512 * 2**20
_LOGIT_BYTES = 4 * 512
"""Of compute buffers, for each entry of the vocabulary: a batch of 512 tokens in 32 bits. With the runtime above an estimate."""

_Q4_K_M_BITS = 4.85
"""Bits a weight, with its scales: 4.58 GiB of Llama-3.1-8B."""

_SHARE = (0.45, 0.9)
"""Of the memory's bandwidth that decoding reaches. Llama-3.1-8B in Q4_K_M gave 46.2 tokens/s on an M1 Max, 57 % of 400 GB/s, and
20.9 on an M4, 86 % of 120 GB/s (brand-o/normiebench, issues 40 and 3 of March 2026).
"""

_STEP_SECONDS = (0.003, 0.0005)
"""Of a step besides. TinyLlama-1.1B in Q4_K_M, 0.67 GB, gave 243 tokens/s on an M1 Ultra of 800 GB/s (geerlingguy/ai-benchmarks,
issue 48 of February 2026): 4.1 ms, of which reading takes 0.8.
"""


@dataclass(frozen=True, slots=True)
class OnLlamaCpp:
    """`slots` requests of `context` tokens on one GPU; 0 slots: not even one fits. Tokens per second are (low, high)."""

    gpu: Gpu
    quantization: str
    memory: Memory
    context: int
    slots: int
    one: tuple[float, float]
    together: tuple[float, float]

    def __str__(self) -> str:
        where = f"llama.cpp, all layers of {self.quantization} on one {self.gpu.name}"
        if not self.slots:
            return f"{where}: it does not fit: {self.memory} of {show_bytes(self.gpu.memory_bytes)}."
        places = f"{self.slots} slots of {self.context:,} tokens" if self.slots > 1 else f"1 slot of {self.context:,} tokens"
        speed = f"{_rates(self.one)} tokens/s for one request"
        speed += f", {_rates(self.together)} for {self.slots} at once" if self.slots > 1 else ""
        sure = f"low confidence: {_SHARE[0]:.0%} to {_SHARE[1]:.0%} of the memory's bandwidth, whatever it can compute"
        return f"{where}: {places}, {self.memory} of {show_bytes(self.gpu.memory_bytes)}; {speed}; {sure}."

    def data(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "gpu": self.gpu.name,
            "quantization": self.quantization,
            "slots": self.slots,
            "context": self.context,
            "memory_bytes": self.memory.total_bytes,
            "tokens_per_second_one": self.one,
            "tokens_per_second_together": self.together,
            "confidence": "low",
        }


def on_llamacpp(facts: ModelFacts, gpu: Gpu, intent: Intent) -> OnLlamaCpp:
    """With as many slots of the users as fit. Weights that are no GGUF are taken to be made one of about 4.85 bits a weight."""
    made = facts if facts.format == "gguf" else _converted(facts)
    wanted = intent.context or 1 << (intent.prompt + intent.output - 1).bit_length()
    context = min(wanted, facts.context or wanted)
    overhead = _RUNTIME_BYTES + (facts.vocabulary or 0) * _LOGIT_BYTES
    room = gpu.memory_bytes * UTILIZATION
    slots = intent.users
    while slots and fit(made, context, slots, "f16", overhead).total_bytes > room:
        slots //= 2
    memory = fit(made, context, max(1, slots), "f16", overhead)
    read = made.weight_bytes * (facts.parameters_active or facts.parameters or 1) / (facts.parameters or 1)
    kept = facts.cache_bytes_per_token * min(context, intent.prompt + intent.output // 2)
    one, several = (_rate(gpu, read + count * kept, count) for count in (1, max(1, slots)))
    return OnLlamaCpp(gpu, made.quantization, memory, context, slots, one, several)


def _converted(facts: ModelFacts) -> ModelFacts:
    return replace(facts, weight_bytes=round(facts.parameters * _Q4_K_M_BITS / 8), quantization="a GGUF in Q4_K_M")


def _rate(gpu: Gpu, read_bytes: float, count: int) -> tuple[float, float]:
    """Tokens per second of `count` requests: each step reads the weights once, and the cache of every request."""
    pairs = zip(_SHARE, _STEP_SECONDS, strict=True)
    low, high = (count / (read_bytes / (share * gpu.bandwidth) + besides) for share, besides in pairs)
    return low, high


def _rates(range_: tuple[float, float]) -> str:
    return " to ".join(f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" for rate in range_)
