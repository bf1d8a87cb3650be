"""A draft at some context and slots → its placement and the memory it takes; contexts lowered until all of them fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.engines.base import Placement
from headrace.plan.base import Decision
from headrace.plan.choose import Draft
from headrace.plan.memory import Memory, fit

SHORTEST_AUTO_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Placed:
    """A draft with its placement; `memory` is that of one replica."""

    draft: Draft
    placement: Placement
    memory: Memory

    @property
    def total_bytes(self) -> int:
        """The memory of all its replicas. Each counts in full, although the kernel may share pages of their weights."""
        return self.memory.total_bytes * self.draft.replicas

    def speed(self, cores: int) -> tuple[Decision, ...]:
        """What speed to expect of one replica, where anything was measured."""
        return self.draft.rates.estimate(self.draft.engine.name, self.draft.facts, self.placement.slots, cores)


def place(draft: Draft, context: int, slots: int) -> Placed:
    """`draft` with `context` tokens for each of `slots` requests."""
    chosen = draft.settings
    rough = Placement(
        draft.name,
        draft.engine.name,
        draft.task,
        draft.weights,
        context,
        slots,
        chosen.threads,
        memory_bytes=0,
        options=chosen.options,
        python=draft.python,
        adapters=draft.adapters,
        also=tuple(draft.adapters),
    )
    if draft.engine.speaks(rough) != "openai":
        rough = replace(rough, template=draft.facts.template or None)
    overhead = draft.engine.overhead(draft.facts, rough)
    memory = fit(draft.facts, context, slots, chosen.cache_type, overhead, batch=chosen.batch)
    options = {**chosen.options, "cache_bytes": memory.cache_bytes} if draft.engine.name in _ABSOLUTE else chosen.options
    return Placed(draft, replace(rough, memory_bytes=memory.total_bytes, options=options), memory)


_ABSOLUTE = ("openvino", "vllm")
"""Engines that are told the bytes of their KV cache; llama.cpp is told context and slots."""


def shorter(drafts: Sequence[Draft]) -> Iterator[list[Placed]]:
    """The drafts placed as chosen, then with contexts that are `auto` held to ever smaller powers of two, to 512.

    One bound for all models, so that more memory never shortens any of them.
    """
    yield [place(draft, draft.context, draft.slots) for draft in drafts]
    longest = max((draft.context for draft in drafts if _gives(draft)), default=0)
    bound = 1 << max(longest - 1, 0).bit_length() - 1 if longest > 1 else 0
    while bound >= SHORTEST_AUTO_CONTEXT:
        yield [place(d, min(d.context, bound) if _gives(d) else d.context, d.slots) for d in drafts]
        bound //= 2


def total(placed: Sequence[Placed]) -> int:
    """The bytes of all replicas of all models."""
    return sum(one.total_bytes for one in placed)


def _gives(draft: Draft) -> bool:
    """Whether a shorter context may free memory: not when the user set it, nor for encoders, which cache nothing."""
    return not draft.fixed and draft.facts.cache_bytes_per_token > 0
