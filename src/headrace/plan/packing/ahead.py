"""Lookahead for time slices: a device is filled with the jobs that leave least of it unused, then the next.

Minimum bin slack (Gupta and Ho, Production Planning & Control 10, 1999) for memory and compute at once, both at the prices they
have: of what a device could hold, the set that is worth most is sought, from the largest jobs down, within a bounded search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.plan.packing.base import Key
from headrace.plan.packing.device import WHOLE_SHARE, Piece
from headrace.plan.packing.fleet import Fleet, Spot
from headrace.plan.packing.job import DeviceClass, Job, PriceList

_NODES = 250
"""Sets looked at for one device."""

_FULL = 0.004
"""A device of which no larger part is unused is full: no better set is sought."""

_NEAR = 1.05
"""A job is meant for the kinds on which it costs at most this much more than on the cheapest."""


_KEEN = 0.1
"""Added to prices where compute is asked for: nothing is free, as the prices hold when parts of devices could be bought."""


@dataclass(frozen=True, slots=True)
class Item:
    """A job on one class of device, with its worth: what it costs where it is cheapest."""

    worth: float
    bytes: int
    compute: int
    key: Key


def fill_ahead(fleet: Fleet, jobs: Sequence[Job], prices: PriceList) -> list[Job]:
    """Place time slices on devices that hold nothing; returns those left when no device takes any more."""
    pieces = {job.key: job.pieces for job in jobs}
    waiting = {cls: items for cls in sorted(fleet.empty) if (items := _items(jobs, cls, prices))}
    best = {cls: _fullest(items, cls, prices[cls]) for cls, items in waiting.items()}
    while best := {cls: chosen for cls, chosen in best.items() if chosen and fleet.empty[cls]}:
        cls = max(best, key=lambda cls: (round(sum(item.worth for item in best[cls]), 2), -cls[1], cls))
        gone = _put(fleet, cls, best[cls], pieces)
        waiting = {c: [item for item in items if item.key not in gone] for c, items in waiting.items()}
        stale = [c for c, chosen in best.items() if c == cls or any(item.key in gone for item in chosen)]
        best |= {c: _fullest(waiting[c], c, prices[c]) for c in stale}
    return [job for job in jobs if job.key not in fleet.spots]


def _items(jobs: Sequence[Job], cls: DeviceClass, prices: PriceList) -> list[Item]:
    """What may go to a class: first what is meant for it, then the rest, each the most worthy first."""
    near: list[Item] = []
    far: list[Item] = []
    for job in jobs:
        if piece := job.pieces.get(cls):
            worth = min(_cost(other, c, prices) for c, other in job.pieces.items())
            item = Item(worth, piece.total_bytes, piece.compute, job.key)
            (near if _cost(piece, cls, prices) <= worth * _NEAR else far).append(item)
    return [*sorted(near, key=_rank), *sorted(far, key=_rank)]


def _cost(piece: Piece, cls: DeviceClass, prices: PriceList) -> float:
    """What `piece` takes of a device of the class, in devices."""
    memory, compute = prices.get(cls, (1.0, 0.0))
    return memory * piece.total_bytes / cls[1] + (compute + _KEEN) * piece.compute / WHOLE_SHARE


def _rank(item: Item) -> tuple[object, ...]:
    return (-item.worth, -item.bytes, item.key)


def _put(fleet: Fleet, cls: DeviceClass, chosen: Sequence[Item], pieces: Mapping[Key, Mapping[DeviceClass, Piece]]) -> set[Key]:
    number = fleet.empty[cls][0]
    for item in chosen:
        fleet.put(Spot(pieces[item.key][cls], (number,)))
    return {item.key for item in chosen}


def _fullest(items: Sequence[Item], cls: DeviceClass, value: tuple[float, float]) -> list[Item]:
    """The set for an empty device of the class that is worth most, of those looked at; the first item is always in it."""
    if not items:
        return []
    if any(item.compute for item in items):
        value = (value[0] + _KEEN, value[1] + _KEEN)
    search = _Search(items, cls[1], value)
    search.extend(0, [], 0.0, cls[1], WHOLE_SHARE)
    if any(item.compute for item in items):
        return max(search.best, _balanced(items, cls), key=lambda chosen: sum(item.worth for item in chosen))
    return search.best


def _balanced(items: Sequence[Item], cls: DeviceClass) -> list[Item]:
    """One by one the job most like what is left of the device, so that memory and compute run out together."""
    room, compute, chosen = cls[1], WHOLE_SHARE, [items[0]]
    left = list(items[1:])
    while True:
        room, compute = room - chosen[-1].bytes, compute - chosen[-1].compute
        memory, work = room / cls[1] ** 2, compute / WHOLE_SHARE**2
        left = [item for item in left if item.bytes <= room and item.compute <= compute]
        if not left:
            return chosen
        chosen.append(max(left, key=lambda item: item.bytes * memory + item.compute * work))
        left.remove(chosen[-1])


class _Search:
    """Depth first, larger items first; the best set so far."""

    def __init__(self, items: Sequence[Item], capacity: int, value: tuple[float, float]) -> None:
        self.items = items
        self.of_room, self.of_compute = value[0] / capacity, value[1] / WHOLE_SHARE
        self.enough = _FULL * sum(value)
        self.nodes, self.worth, self.done = 0, -1.0, False
        self.best: list[Item] = []

    def extend(self, i: int, chosen: list[Item], worth: float, room: int, compute: int) -> None:
        """Try every later item that fits next to `chosen`, and none."""
        items = self.items
        last: tuple[int, int] | None = None
        while i < len(items) and not self.done:
            item = items[i]
            i += 1
            if item.bytes > room or item.compute > compute or (item.bytes, item.compute) == last:
                continue
            last = (item.bytes, item.compute)
            self.extend(i, [*chosen, item], worth + item.worth, room - item.bytes, compute - item.compute)
            if not chosen:
                return
        self._judge(chosen, worth, room, compute)

    def _judge(self, chosen: list[Item], worth: float, room: int, compute: int) -> None:
        self.nodes += 1
        if worth > self.worth:
            self.best, self.worth = chosen, worth
        full = room * self.of_room + compute * self.of_compute <= self.enough
        self.done = self.done or self.nodes >= _NODES or full
