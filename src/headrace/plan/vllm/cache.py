"""The KV cache of vLLM: bytes per request and token of one GPU, layer group by layer group, in whole blocks."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from headrace.errors import PlanError
from headrace.facts.model import CacheGroup, ModelFacts

KV_BYTES = {
    **dict.fromkeys(("auto", "bf16", "fp16", "bfloat16", "float16", "half"), 2),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "int8"), 1),
    **dict.fromkeys(("float32", "fp32"), 4),
}
"""Bytes of a cached number by `--kv-cache-dtype`; auto is the model's own 16 bits."""

BLOCK = 16
"""Tokens of a block on GPUs (128 on CPUs: facts/engine-vllm.md, section 5)."""


@dataclass(frozen=True, slots=True)
class Pages:
    """One group of layers on one GPU: `layers` pages hold `block` tokens of a request; a state is one page for any length."""

    kind: str
    layers: int
    block: int
    window: int | None


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How one GPU keeps the cache. All pages are `page_bytes`; `in_flight` tokens are computed before windows move on."""

    groups: tuple[Pages, ...]
    page_bytes: int
    in_flight: int

    @property
    def uniform(self) -> bool:
        """Every layer keeps every token, so that the pool is so many tokens and nothing else."""
        return len(self.groups) == 1 and self.groups[0].kind in ("full", "latent")

    @property
    def token_bytes(self) -> float:
        """Bytes of one more token of a long context."""
        growing = (group for group in self.groups if group.kind in ("full", "latent"))
        return sum(self.page_bytes * group.layers / group.block for group in growing)

    def request_bytes(self, context: int) -> int:
        """Bytes of one request of `context` tokens; never falls as `context` grows."""
        return sum(self.page_bytes * group.layers * self._blocks(group, context) for group in self.groups)

    def _blocks(self, group: Pages, context: int) -> int:
        if group.kind == "state":
            return 1
        if group.window is None:
            return ceil(context / group.block)
        if group.kind == "chunk":
            return ceil(min(group.window + self.in_flight, context) / group.block)
        return ceil(min(group.window - 1 + self.in_flight, context) / group.block) + 1


def layout(facts: ModelFacts, tp: int, kv_dtype: str, in_flight: int, block: int = BLOCK) -> CacheLayout:
    """How a GPU keeps the cache of a model, or of a stage given as one (plan/stages.py).

    Read in vLLM 0.11 and 0.33 (facts/planning.md, section 2): heads replicate when tp > kv_heads, latents on every rank; groups
    are padded to equal numbers of layers, and blocks grow until pages of all groups are of one size. Raises PlanError.
    """
    if kv_dtype not in KV_BYTES:
        raise PlanError(f'"{kv_dtype}" is not a type of KV cache.', f"Known are {', '.join(sorted(KV_BYTES))}.")
    groups = [group for group in groups_of(facts) if group.layers > 0 and group.numbers > 0]
    tokens = {group: _token_bytes(group, tp, KV_BYTES[kv_dtype]) for group in groups if group.kind != "state"}
    states = [2 * ceil(group.numbers * group.kv_heads / tp) for group in groups if group.kind == "state"]
    page = _page(tokens.values(), states, block)
    size = _group_layers([group.layers for group in groups])
    pages = [
        Pages(group.kind, _padded(group.layers, size), page // tokens[group] if group in tokens else 1, group.window)
        for group in groups
    ]
    return CacheLayout(tuple(pages), page, in_flight)


def groups_of(facts: ModelFacts) -> tuple[CacheGroup, ...]:
    """The groups of a model; plain attention in every layer where the facts do not tell them apart."""
    if facts.cache or facts.encoder:
        return facts.cache
    return (CacheGroup("full", facts.layers, facts.kv_heads, 2 * facts.head_dim),)


def _token_bytes(group: CacheGroup, tp: int, number_bytes: int) -> int:
    heads = 1 if group.kind == "latent" else ceil(group.kv_heads / tp)
    return heads * group.numbers * number_bytes


def _page(tokens: Iterable[int], states: Iterable[int], block: int) -> int:
    """Bytes of a page of one layer: the largest block, raised in whole blocks until a state fits as well."""
    largest, state = block * max(tokens, default=0), max(states, default=0)
    return largest * max(1, ceil(state / largest)) if largest else state


def _group_layers(layers: list[int]) -> int:
    """Layers of a group: the fewest of any kind, or the most when they differ by less than half (v1/core/kv_cache_utils.py)."""
    if not layers:
        return 1
    return max(layers) if max(layers) < 1.5 * min(layers) else min(layers)


def _padded(layers: int, size: int) -> int:
    return size * ceil(layers / size)
