"""The memory of vLLM on a CPU: processes, weights, and a cache of the size it is told (VLLM_CPU_KVCACHE_SPACE)."""

from dataclasses import dataclass
from math import ceil

from headrace.facts.model import ModelFacts
from headrace.plan.vllm.cache import layout
from headrace.plan.vllm.constants import Constants
from headrace.units import show_bytes


@dataclass(frozen=True, slots=True)
class CpuMemory:
    """RAM of one replica in bytes; `worst_bytes` is what a promise is made for. Prints as a sum."""

    weights_bytes: int
    cache_bytes: int
    runtime_bytes: int
    worst_bytes: int
    memory_bytes: int
    context: int
    cache_tokens: int
    max_concurrency: float

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.runtime_bytes

    @property
    def fits(self) -> bool:
        return self.worst_bytes <= self.memory_bytes and self.max_concurrency >= 1

    def __str__(self) -> str:
        terms = {"weights": self.weights_bytes, "cache": self.cache_bytes, "runtime": self.runtime_bytes}
        added = " + ".join(f"{name} {show_bytes(count)}" for name, count in terms.items())
        held = f"{self.cache_tokens:,} tokens of cache = {self.max_concurrency:.1f} requests of {self.context:,}"
        return f"{added} = {show_bytes(self.total_bytes)} of {show_bytes(self.memory_bytes)}; {held}"


def vllm_cpu_memory(
    facts: ModelFacts,
    memory_bytes: int,
    context: int,
    kv_cache_bytes: int,
    *,
    constants: Constants,
    float32: bool = False,
    compiled: bool = False,
) -> CpuMemory:
    """RAM = 1.9 GB + weights + cache (+ 0.3 GB compiled); blocks of 128 tokens (facts/engine-vllm.md, section 5).

    Measured with one small model, exact in its blocks; the work space of larger models is not known, so a tenth of the weights is
    added at worst. `float32` doubles 16-bit weights and the cache.
    """
    cpu = constants.cpu
    dtype = "float32" if float32 else "auto"
    kept = layout(facts, 1, dtype, cpu.max_num_batched_tokens, block=cpu.block)
    weights = max(facts.weight_bytes, 4 * facts.parameters) if float32 else facts.weight_bytes
    extra = cpu.compiled_bytes if compiled else 0
    request = kept.request_bytes(context)
    blocks = kv_cache_bytes // max(1, kept.page_bytes * sum(group.layers for group in kept.groups))
    tokens = blocks * kept.groups[0].block if kept.uniform else int(kv_cache_bytes / request * context) if request else 0
    return CpuMemory(
        weights_bytes=weights,
        cache_bytes=kv_cache_bytes,
        runtime_bytes=ceil(cpu.runtime_bytes.expected) + extra,
        worst_bytes=ceil(1.1 * weights + kv_cache_bytes + cpu.runtime_bytes.worst + extra),
        memory_bytes=memory_bytes,
        context=context,
        cache_tokens=tokens,
        max_concurrency=tokens / context if kept.uniform else kv_cache_bytes / request if request else 0.0,
    )
