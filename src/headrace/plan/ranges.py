"""Replicas that follow the load on this machine: the fewest, the most, and how many of them fit beside what never sleeps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.errors import PlanError
from headrace.plan.base import Decision, Scale
from headrace.plan.choose import Draft
from headrace.plan.place import Placed, shorter
from headrace.plan.shortage import shortage
from headrace.spec.model import ModelSpec
from headrace.units import show_bytes, show_duration


@dataclass(frozen=True, slots=True)
class Size:
    """What one model takes: bytes of a replica, the fewest and the most of them."""

    model: str
    bytes_each: int
    least: int
    most: int


def scale_of(model: ModelSpec) -> Scale | None:
    """How its replicas follow the load; None where their number is fixed."""
    if model.share == "swap":
        return Scale(0, model.scale.queue, None if model.scale.replicas is None else model.scale.idle)
    if model.scale.replicas is None or model.scale.replicas[0] == model.scale.replicas[1]:
        return None
    return Scale(model.scale.replicas[0], model.scale.queue, model.scale.idle)


def most(model: ModelSpec) -> int:
    """The most replicas that are asked for."""
    return model.scale.replicas[1] if model.scale.replicas else model.replicas


def sharing(models: Iterable[ModelSpec]) -> int:
    """Replicas that share the cores. Models of one replica that may sleep count as one together: they rarely compute at once."""
    fixed = several = sleepers = 0
    for model in models:
        if scale_of(model) is None:
            fixed += most(model)
        elif most(model) == 1:
            sleepers = 1
        else:
            several += most(model)
    return max(1, fixed + several + sleepers)


def size_of(one: Placed) -> Size:
    draft = one.draft
    return Size(draft.name, one.memory.total_bytes, draft.replicas if draft.scale is None else draft.scale.least, draft.replicas)


def kept_bytes(sizes: Iterable[Size]) -> int:
    """What never sleeps."""
    return sum(size.bytes_each * size.least for size in sizes)


def settled(drafts: Sequence[Draft], others: Sequence[Size], free_bytes: int, *, alone: bool = True) -> list[Placed]:
    """The drafts with the longest contexts at which what never sleeps fits together, and each that may sleep fits beside it.

    `others` are models that are no language models. Raises PlanError when what never sleeps does not fit, or, where the drafts
    are `alone` in the file, when none of them does.
    """
    placed: list[Placed] = []
    fallback: list[Placed] | None = None
    for placed in shorter(drafts):
        kept = kept_bytes((*map(size_of, placed), *others))
        if kept <= free_bytes:
            fallback = fallback or placed
            if all(one.memory.total_bytes + kept <= free_bytes for one in placed if size_of(one).least == 0):
                return placed
    if fallback is None:
        raise PlanError(*shortage([_copies(one) for one in placed if size_of(one).least], free_bytes - kept_bytes(others)))
    room = free_bytes - kept_bytes((*map(size_of, fallback), *others))
    chosen = [one if size_of(one).least else _alone(one.draft, room) for one in fallback]
    if alone and all(one.memory.total_bytes > free_bytes for one in chosen):
        raise PlanError(*shortage([_copies(one) for one in chosen[:1]], free_bytes))
    return chosen


def _copies(one: Placed) -> Placed:
    """With the fewest replicas that have to be there to serve at all."""
    return replace(one, draft=replace(one.draft, replicas=max(1, size_of(one).least)))


def _alone(draft: Draft, room: int) -> Placed:
    """With the longest context at which one replica fits, the shortest when none does."""
    placed = [one for (one,) in shorter([draft])]
    return next((one for one in placed if one.memory.total_bytes <= room), placed[-1])


def too_big(size: Size, sizes: Sequence[Size], free_bytes: int) -> str:
    """Why not even one replica can be there; empty when it can."""
    room = free_bytes - kept_bytes(other for other in sizes if other.model != size.model)
    if size.bytes_each <= room:
        return ""
    beside = "" if room == free_bytes else f", {show_bytes(room)} of them beside the models that never sleep"
    return (
        f"one replica takes {show_bytes(size.bytes_each)}, and there are {show_bytes(free_bytes)} of memory{beside}. "
        "Use a smaller or more quantized model, a shorter context or fewer slots."
    )


def fitting(size: Size, sizes: Sequence[Size], free_bytes: int) -> int:
    """How many replicas fit beside the others that never sleep, at most those asked for."""
    room = free_bytes - kept_bytes(other for other in sizes if other.model != size.model)
    return min(size.most, room // size.bytes_each) if size.bytes_each else size.most


def explained(size: Size, scale: Scale | None, sizes: Sequence[Size], free_bytes: int) -> Decision:
    """The decision on the number of replicas."""
    if scale is None:
        return Decision("replicas", str(size.most), "as many as the spec says")
    count = fitting(size, sizes, free_bytes)
    reason = f"follow the load; {_sleep(scale)}"
    if count < size.most:
        reason = f"{size.most} would take {show_bytes(size.most * size.bytes_each)}, {count} fit; {reason}"
    return Decision("replicas", f"{scale.least}..{count}", reason)


def _sleep(scale: Scale) -> str:
    if scale.least:
        return f"never fewer than {scale.least}"
    if scale.idle_seconds is None:
        return "asleep until somebody asks, then there until another needs the memory"
    return f"asleep until somebody asks, and again when unused for {show_duration(scale.idle_seconds)}"


def together(sizes: Sequence[Size], free_bytes: int) -> str:
    """Whether all models fit at once with one replica of those that sleep, or take turns; empty when none sleeps."""
    sleepers = [size for size in sizes if not size.least and not too_big(size, sizes, free_bytes)]
    if not sleepers:
        return ""
    kept = kept_bytes(sizes)
    needed = kept + sum(size.bytes_each for size in sleepers)
    if needed <= free_bytes:
        return f"all fit at once: {show_bytes(needed)} of {show_bytes(free_bytes)} free" if len(sizes) > 1 else ""
    sure = _how_many(sorted((size.bytes_each for size in sleepers), reverse=True), free_bytes - kept)
    best = _how_many(sorted(size.bytes_each for size in sleepers), free_bytes - kept)
    count = f"any {sure}" if sure == best else f"{sure} to {best}"
    turns = f"{len(sleepers)} models take turns: all take {show_bytes(needed)} of {show_bytes(free_bytes)} free"
    return f"{turns}, and {count} of them fit at once" + (f" beside {show_bytes(kept)} that never sleep" if kept else "")


def _how_many(sizes: Sequence[int], room: int) -> int:
    count = 0
    for size in sizes:
        room -= size
        count += room >= 0
    return count


def refused(sizes: Sequence[Size], free_bytes: int) -> Mapping[str, str]:
    """Why models that may sleep can never be woken, by name."""
    return {size.model: why for size in sizes if size.least == 0 and (why := too_big(size, sizes, free_bytes))}
