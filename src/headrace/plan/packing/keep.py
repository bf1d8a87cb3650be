"""Stability: what runs stays where it is, and makes way for another only when it finds a new place itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from headrace.plan.packing.base import Assignment, Key
from headrace.plan.packing.fill import relocate
from headrace.plan.packing.fleet import Fleet, Spot, at
from headrace.plan.packing.job import Job
from headrace.plan.packing.mig import valid
from headrace.plan.packing.search import Search, find, spot_at

_HOPELESS = 20
"""Kinds of job that found no place in one pass, after which others are not worth the search: they are larger."""

_TRIES = 48
"""Sets of replicas to move that are tried for one that has no place, the least to move first."""


def keep(fleet: Fleet, jobs: Sequence[Job], previous: Mapping[Key, Assignment]) -> list[Job]:
    """Put every job where it was, if it may still be there; returns the others. What did not change goes before what did."""
    known = [job for job in jobs if job.key in previous]
    for job in sorted(known, key=lambda job: (_changed(job, previous[job.key]), job.key)):
        if spot := _same(fleet, job, previous[job.key]):
            fleet.put(spot)
    return [job for job in jobs if job.key not in fleet.spots]


def make_way(fleet: Fleet, left: Sequence[Job], jobs: Sequence[Job]) -> list[Job]:
    """Place jobs of `left`, small ones first, by moving others, which keep a place; returns those that still have none.

    Repeated until a whole pass over `left` places none, so that doing it again would change nothing.
    """
    movable = {job.key: job for job in jobs if job.demand.gpus == 1}
    left, before = sorted(left, key=lambda job: (job.bytes * job.demand.gpus, job.key)), -1
    while left and len(left) != before:
        before = len(left)
        left = _pass(fleet, left, movable)
    return left


def _pass(fleet: Fleet, left: Sequence[Job], movable: Mapping[Key, Job]) -> list[Job]:
    still: list[Job] = []
    hopeless: set[tuple[object, ...]] = set()
    for job in left:
        if job.likeness in hopeless or (len(hopeless) == _HOPELESS and not find(fleet, job, Search(large=False))):
            still.append(job)
        elif _make_way(fleet, job, movable):
            hopeless.clear()
        else:
            hopeless.add(job.likeness)
            still.append(job)
    return still


def _changed(job: Job, was: Assignment) -> bool:
    return was.memory_bytes not in {piece.memory_bytes for piece in job.pieces.values()}


def _same(fleet: Fleet, job: Job, was: Assignment) -> Spot | None:
    """The spot of `was`, when the devices are still there and `job` may be on them."""
    numbers = tuple(fleet.numbers.get(where, -1) for where in was.devices)
    if -1 in numbers or len(numbers) != job.demand.gpus or any(fleet.classes[n][0] != was.gpu for n in numbers):
        return None
    if was.profile is not None:
        return _same_slice(fleet, job, was, numbers[0])
    piece = job.pieces.get(fleet.classes[numbers[0]])
    return spot if piece and fleet.fits(spot := at(piece, numbers)) else None


def _same_slice(fleet: Fleet, job: Job, was: Assignment, number: int) -> Spot | None:
    if was.start is None:
        return None
    use = fleet.uses[number]
    for piece in job.slices.get(fleet.classes[number], ()):
        profile = piece.profile
        if profile and profile.name == was.profile and use.fits(piece):
            beside = (*use.layout, (profile, was.start))
            return Spot(replace(piece, start=was.start), (number,)) if valid(beside, use.device.gpu) else None
    return None


def _make_way(fleet: Fleet, job: Job, movable: Mapping[Key, Job]) -> bool:
    if spot := find(fleet, job, Search(large=False)):
        fleet.put(spot)
        return True
    for tries, (number, keys) in enumerate(_ways(fleet, job, movable)):
        if tries == _TRIES:
            break
        if _swap_in(fleet, job, number, keys, movable):
            return True
    return False


def _swap_in(fleet: Fleet, job: Job, number: int, keys: Sequence[Key], movable: Mapping[Key, Job]) -> bool:
    """Put `job` on the device, or over several there, where `keys` are now, and those elsewhere; or change nothing."""
    mark = fleet.mark()
    for key in keys:
        fleet.remove(key)
    spot = spot_at(fleet, job, number) if job.demand.gpus == 1 else find(fleet, job, Search(large=False))
    if spot:
        fleet.put(spot)
        if relocate(fleet, [movable[key] for key in keys], Search(large=False)):
            return True
    fleet.back(mark)
    return False


def _ways(fleet: Fleet, job: Job, movable: Mapping[Key, Job]) -> Iterator[tuple[int, list[Key]]]:
    """(device, replicas to move from it), the fewest bytes to move first; one replica each before all of a device."""
    if job.demand.gpus > 1:
        yield from _ways_together(fleet, job, movable)
        return
    numbers = [n for n in fleet.used if fleet.classes[n] in job.pieces or fleet.classes[n] in job.slices]
    single = [(fleet.uses[n].pieces[key].total_bytes, n, key) for n in numbers for key in fleet.uses[n].pieces if key in movable]
    sharing = [s for s in single if fleet.uses[s[1]].mode in _modes(job)]
    enough = [s for s in sorted(sharing) if s[0] + fleet.uses[s[1]].room_bytes >= job.bytes]
    yield from ((number, [key]) for _, number, key in enough[: _TRIES // 2])
    whole = [n for n in numbers if fleet.uses[n].pieces.keys() <= movable.keys()]
    yield from ((n, sorted(fleet.uses[n].pieces)) for n in sorted(whole, key=lambda n: (_taken(fleet, n), n)))


def _ways_together(fleet: Fleet, job: Job, movable: Mapping[Key, Job]) -> Iterator[tuple[int, list[Key]]]:
    for domain in fleet.domains:
        fitting = [n for n in domain.numbers if fleet.classes[n] in job.pieces and fleet.uses[n].pieces.keys() <= movable.keys()]
        chosen = sorted(fitting, key=lambda n: (_taken(fleet, n), n))[: job.demand.gpus]
        if len(chosen) == job.demand.gpus:
            yield chosen[0], sorted({key for n in chosen for key in fleet.uses[n].pieces})


def _modes(job: Job) -> set[str]:
    return {"mig" if share == "mig" else "exclusive" if share == "exclusive" else "shared" for share in job.shares}


def _taken(fleet: Fleet, number: int) -> int:
    return fleet.uses[number].device.free_bytes - fleet.uses[number].room_bytes
