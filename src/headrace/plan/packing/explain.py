"""Packing → text for the terminal: a row for every replica, what found no place, and how good it is."""

from collections.abc import Iterator

from headrace.columns import aligned
from headrace.plan.packing.base import Assignment, Packing
from headrace.plan.packing.reason import where_text
from headrace.units import show_bytes

_HEAD = ("replica", "device", "gpu", "share", "memory", "why")


def explain(packing: Packing) -> str:
    """A table of the assignments, then the unplaced, the warnings and the sum."""
    rows = [_HEAD, *(_row(each) for each in packing.assignments)]
    blocks = [
        aligned(rows) if packing.assignments else [],
        list(_unplaced(packing)),
        [f"! {w}" for w in packing.warnings],
        [_sum(packing)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _row(each: Assignment) -> tuple[str, ...]:
    share = f"{each.share} {each.profile} at {each.start}" if each.profile else each.share
    return (
        f"{each.name}#{each.replica}",
        where_text(each.devices),
        each.gpu,
        share,
        show_bytes(each.memory_bytes + each.process_bytes),
        each.reason,
    )


def _unplaced(packing: Packing) -> Iterator[str]:
    for each in packing.unplaced:
        yield f"{each.name}#{each.replica} has no place: {each.reason} {each.fix}"


def _sum(packing: Packing) -> str:
    used = f"{_count(len(packing.assignments), 'replica')} on {_count(packing.devices, 'device')}"
    bound = "the fewest possible" if packing.devices == packing.least_devices else _gap(packing)
    moved = f"; moved: {', '.join(f'{name}#{replica}' for name, replica in packing.moved)}" if packing.moved else ""
    return f"{used}, {bound}; {show_bytes(packing.waste_bytes)} left on them{moved}"


def _gap(packing: Packing) -> str:
    return f"and no packing uses fewer than {packing.least_devices} (at most {packing.gap:.1%} above it)"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
