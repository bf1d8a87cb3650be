"""The words for a plan that does not fit: by how much, and what would."""

from collections.abc import Callable, Mapping, Sequence

from headrace.plan.place import Placed, place, total
from headrace.units import show_bytes

_STEP = 256
"""Contexts are offered in multiples of this, as llama.cpp rounds them."""


def shortage(placed: Sequence[Placed], free_bytes: int) -> tuple[str, str]:
    """(what is missing, what would fit) for `placed`, which takes more than `free_bytes`."""
    needed = total(placed)
    lines = [f"models.{one.draft.name}: {_each(one)}{one.memory}" for one in placed]
    short = show_bytes(needed - free_bytes)
    lines.append(f"{show_bytes(needed)} needed, {show_bytes(free_bytes)} free: {short} short.")
    fixes = [fix for one in placed for fix in _fixes(one, free_bytes - (needed - one.total_bytes))]
    return "\n".join(lines), f"To fit, set {', or '.join(fixes)}." if fixes else _HOPELESS


def too_much(taken: Mapping[str, int], free_bytes: int) -> tuple[str, str]:
    """(what is missing, what to do) for models that are no language models and take more than there is by themselves."""
    lines = [f"models.{name}: {show_bytes(count)}" for name, count in taken.items()]
    needed = sum(taken.values())
    lines.append(f"{show_bytes(needed)} needed, {show_bytes(free_bytes)} free: {show_bytes(needed - free_bytes)} short.")
    return "\n".join(lines), "Set `memory` of a model where the estimate is too high, or serve fewer at once."


_HOPELESS = "Changing one model's context or slots is not enough: use smaller or more quantized weights, or free memory."


def _each(one: Placed) -> str:
    return f"{one.draft.replicas} replicas, each " if one.draft.replicas > 1 else ""


def _fixes(one: Placed, room: int) -> list[str]:
    """What to change in one model, the others as they are, so that its replicas take at most `room` bytes."""
    fixes = []
    if context := _longest_context(one, room):
        fixes.append(f"models.{one.draft.name}.context to {context} or less")
    if slots := _most_slots(one, room):
        fixes.append(f"models.{one.draft.name}.slots to {slots} or less")
    if one.draft.replicas > 1 and (count := min(room // one.memory.total_bytes, one.draft.replicas - 1)) > 0:
        fixes.append(f"models.{one.draft.name}.replicas to {count} or less")
    return fixes


def _longest_context(one: Placed, room: int) -> int:
    draft, placement = one.draft, one.placement
    steps = (placement.context - 1) // _STEP
    longest = _STEP * _most(steps, lambda n: place(draft, n * _STEP, placement.slots).total_bytes <= room)
    return longest if longest >= draft.least_context else 0


def _most_slots(one: Placed, room: int) -> int:
    draft, placement = one.draft, one.placement
    return _most(placement.slots - 1, lambda n: place(draft, placement.context, n).total_bytes <= room)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, by bisection; 0 when none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
