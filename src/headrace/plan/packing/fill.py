"""The heuristic: the hard ones first, each where it fits tightest, then devices emptied and exchanged for smaller ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.plan.packing.ahead import fill_ahead
from headrace.plan.packing.base import Key
from headrace.plan.packing.fleet import Fleet
from headrace.plan.packing.job import Job, PriceList
from headrace.plan.packing.search import Search, find, spot_at
from headrace.plan.packing.slices import fill_slices

_SWEEPS = 3
"""Passes over the devices to empty some; each later one finds less."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to fill. `scarce` places first what few devices can hold, `small_first` what is small, else what is large goes first.

    `large`: see Search. `ahead` fills devices of time slices one by one, `patterns` those of MIG slices.
    """

    name: str
    scarce: bool = False
    large: bool = True
    ahead: bool = False
    patterns: bool = False
    small_first: bool = False


POLICIES = (
    Policy("large"),
    Policy("scarce", scarce=True),
    Policy("ahead", ahead=True),
    Policy("ahead, in patterns", ahead=True, patterns=True),
)
"""Ways to use few devices."""

LAST_RESORTS = (
    Policy("spare", large=False),
    Policy("scarce, spare", scarce=True, large=False),
    Policy("small first", small_first=True),
    Policy("small first, spare", large=False, small_first=True),
)
"""Ways to place more where none of the others places all."""


def fill(fleet: Fleet, jobs: Sequence[Job], policy: Policy, prices: PriceList) -> list[Job]:
    """Place `jobs` on the fleet, using few devices; returns those that found no place."""
    search = Search(large=policy.large)
    whole = [job for job in jobs if job.shares[:1] in ((), ("exclusive",))]
    sliced = [job for job in jobs if job.shares[:1] == ("mig",)]
    open_to_all = [job for job in jobs if job.shares[:1] not in ((), ("exclusive",), ("mig",))]
    left = _one_by_one(fleet, whole, policy, search)
    sliced = _one_by_one(fleet, sliced, policy, Search(opens=False))
    sliced = fill_slices(fleet, sliced) if policy.patterns else sliced
    left += _one_by_one(fleet, sliced, policy, search)
    if policy.ahead:
        open_to_all = _ahead(fleet, open_to_all, policy, prices)
    return left + _one_by_one(fleet, open_to_all, policy, search)


def _ahead(fleet: Fleet, jobs: Sequence[Job], policy: Policy, prices: PriceList) -> list[Job]:
    """Processes and pools one by one, then what devices in use have room for, then devices filled with lookahead."""
    pooled = _one_by_one(fleet, [job for job in jobs if job.pool or job.demand.gpus > 1], policy, Search())
    slices = _one_by_one(fleet, [job for job in jobs if not job.pool and job.demand.gpus == 1], policy, Search(opens=False))
    return pooled + fill_ahead(fleet, slices, prices)


def _one_by_one(fleet: Fleet, jobs: Sequence[Job], policy: Policy, search: Search) -> list[Job]:
    left = []
    for job in sorted(jobs, key=lambda job: _order(job, policy)):
        if spot := find(fleet, job, search):
            fleet.put(spot)
        else:
            left.append(job)
    return left


def tighten(fleet: Fleet, jobs: Sequence[Job]) -> None:
    """Use fewer and smaller devices by moving `jobs`, and nothing else, about."""
    movable = {job.key: job for job in jobs if job.key in fleet.spots and job.demand.gpus == 1}
    for _ in range(_SWEEPS):
        if not sum(_empty(fleet, number, movable) for number in _candidates(fleet, movable)):
            break
    for number in _candidates(fleet, movable):
        _exchange(fleet, number, movable)


def relocate(fleet: Fleet, jobs: Iterable[Job], search: Search) -> bool:
    """Place all of `jobs`, the largest first; False, with some of them placed, when one finds no place."""
    for job in sorted(jobs, key=lambda job: (-job.bytes, job.key)):
        spot = find(fleet, job, search)
        if spot is None:
            return False
        fleet.put(spot)
    return True


def _order(job: Job, policy: Policy) -> tuple[object, ...]:
    """Several devices together first, then processes and pools, their members in turn, then the rest; large before small."""
    share = job.shares[0] if job.shares else "exclusive"
    phase = ("exclusive", "mig", "process", "swap", "time-slice").index(share)
    scarce = job.eligible if policy.scarce or share == "exclusive" else 0
    size = job.bytes if policy.small_first else -job.bytes
    return (job.demand.gpus == 1, -job.demand.gpus, phase, job.pool, scarce, size, job.key)


def _candidates(fleet: Fleet, movable: dict[Key, Job]) -> list[int]:
    """Devices in use whose replicas may all be moved, and may share, the emptiest first."""
    numbers = [n for n in fleet.used if fleet.uses[n].mode != "exclusive" and fleet.uses[n].pieces.keys() <= movable.keys()]
    return sorted(numbers, key=lambda n: (fleet.uses[n].device.free_bytes - fleet.uses[n].room_bytes, n))


def _empty(fleet: Fleet, number: int, movable: dict[Key, Job]) -> bool:
    """Move everything on one device to others in use, or nothing."""
    keys = list(fleet.uses[number].pieces)
    mark = fleet.mark()
    for key in keys:
        fleet.remove(key)
    if keys and relocate(fleet, [movable[key] for key in keys], Search(opens=False, avoid=number)):
        return True
    fleet.back(mark)
    return False


def _exchange(fleet: Fleet, number: int, movable: dict[Key, Job]) -> None:
    """Move everything on one device to the smallest one that holds nothing and has room for it, if it is smaller."""
    use = fleet.uses[number]
    if use.mode != "shared":
        return
    taken = use.device.free_bytes - use.room_bytes
    smaller = sorted(cls for cls, empty in fleet.empty.items() if empty and taken <= cls[1] < use.device.free_bytes)
    for cls in sorted(smaller, key=lambda cls: cls[1]):
        if _move_all(fleet, number, fleet.empty[cls][0], movable):
            return


def _move_all(fleet: Fleet, number: int, to: int, movable: dict[Key, Job]) -> bool:
    mark = fleet.mark()
    for key in sorted(fleet.uses[number].pieces):
        fleet.remove(key)
        spot = spot_at(fleet, movable[key], to)
        if spot is None or spot.piece.mode != "shared":
            fleet.back(mark)
            return False
        fleet.put(spot)
    return True
