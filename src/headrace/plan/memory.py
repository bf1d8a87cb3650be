"""Does it fit: the memory of one replica as a sum with named terms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from headrace.facts.model import ModelFacts
from headrace.units import show_bytes

CACHE_FACTORS: Mapping[str, Fraction] = {"f16": Fraction(1), "q8_0": Fraction(34, 64), "q4_0": Fraction(18, 64)}
"""Size of a cached number against 16 bits. ggml packs 32 numbers into 34 (q8_0) or 18 (q4_0) bytes: ggml-common.h."""


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
    facts: ModelFacts, context: int, slots: int, cache_type: str, overhead_bytes: int, free_bytes: int | None = None
) -> Memory:
    """The memory of one replica that serves `slots` requests of `context` tokens at once.

    `overhead_bytes` is the engine's own figure for what is neither weights nor KV cache (`Engine.overhead`).
    """
    return Memory(facts.weight_bytes, cache_bytes(facts, context, slots, cache_type), overhead_bytes, free_bytes)


def cache_bytes(facts: ModelFacts, context: int, slots: int, cache_type: str) -> int:
    """Bytes of the KV cache of one replica, rounded up."""
    return math.ceil(facts.cache_bytes_per_token * context * slots * CACHE_FACTORS[cache_type])
