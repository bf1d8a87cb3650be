"""Does it fit: the memory of one replica as a sum with named terms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from headrace.facts.model import CacheGroup, ModelFacts
from headrace.units import show_bytes

_NUMBER_BYTES = 2
CACHE_FACTORS: Mapping[str, Fraction] = {
    "f32": Fraction(2),
    "f16": Fraction(1),
    "q8_0": Fraction(34, 64),
    "q4_0": Fraction(18, 64),
    "u8": Fraction(38, 64),
}
"""Size of a cached number against 16 bits. ggml packs 32 numbers into 34 (q8_0) or 18 (q4_0) bytes: ggml-common.h. OpenVINO's u8
was measured at 13,680 bytes per token of SmolLM2, which at 16 bits takes 23,040: scales and zero points are in it.
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one replica takes, in bytes; prints as a sum. `free_bytes` is what there is, None to leave it unsaid."""

    weights_bytes: int
    cache_bytes: int
    runtime_bytes: int
    free_bytes: int | None = None

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.runtime_bytes

    def __str__(self) -> str:
        terms = {"weights": self.weights_bytes, "cache": self.cache_bytes, "runtime": self.runtime_bytes}
        added = " + ".join(f"{name} {show_bytes(count)}" for name, count in terms.items() if count)
        free = "" if self.free_bytes is None else f" of {show_bytes(self.free_bytes)} free"
        return f"{added} = {show_bytes(self.total_bytes)}{free}"


def fit(
    facts: ModelFacts,
    context: int,
    slots: int,
    cache_type: str,
    overhead_bytes: int,
    free_bytes: int | None = None,
    batch: int = 512,
) -> Memory:
    """The memory of one replica that serves `slots` requests of `context` tokens at once, `batch` tokens at a time.

    `overhead_bytes` is the engine's own figure for what is neither weights nor KV cache (`Engine.overhead`).
    """
    return Memory(facts.weight_bytes, cache_bytes(facts, context, slots, cache_type, batch), overhead_bytes, free_bytes)


def cache_bytes(facts: ModelFacts, context: int, slots: int, cache_type: str, batch: int = 512) -> int:
    """Bytes of the cache of one replica, rounded up: what grows with the context, windows, and states that do neither.

    llama.cpp keeps a window and one batch of each sliding layer (llama-kv-cache-iswa.cpp), and states in their own format.
    """
    if not facts.cache:
        return math.ceil(facts.cache_bytes_per_token * context * slots * CACHE_FACTORS[cache_type])
    kept = sum(_kept(group, context, batch) for group in facts.cache if group.kind != "state")
    states = sum(_kept(group, context, batch) for group in facts.cache if group.kind == "state")
    return math.ceil(_NUMBER_BYTES * slots * (kept * CACHE_FACTORS[cache_type] + states))


def _kept(group: CacheGroup, context: int, batch: int) -> int:
    """Numbers that one request keeps in these layers."""
    tokens = context
    if group.kind == "state":
        tokens = 1
    elif group.window is not None:
        tokens = min(context, group.window + batch)
    return group.layers * group.kv_heads * group.numbers * tokens
