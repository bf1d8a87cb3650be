"""Several models onto given devices: whole, in MIG slices, in time slices, in one process, or swapped; and why so.

Fewest devices first, then least memory left over on them, then nothing that runs is moved. Never invalid, and the same bytes for
the same input in any order. A model is placed before another is left alone: what runs moves when that gives a place to one that
has none, and when `prefer` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from headrace.plan.packing.base import Assignment, Demand, Device, Key, Packing
from headrace.plan.packing.bound import device_prices, least_devices
from headrace.plan.packing.exact import improve
from headrace.plan.packing.fill import LAST_RESORTS, POLICIES, Policy, fill, tighten
from headrace.plan.packing.fleet import Fleet, Spot
from headrace.plan.packing.job import Job, PriceList, jobs
from headrace.plan.packing.keep import keep, make_way
from headrace.plan.packing.reason import reason, shortage, warnings

Prefer = Literal["staying", "fewest"]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A fleet as packed, the jobs without a place, and those that were not kept where they were."""

    fleet: Fleet
    left: list[Job]
    fresh: list[Job]

    @property
    def missing(self) -> set[Key]:
        """The replicas without a place."""
        return {job.key for job in self.left}

    def places_more(self, other: "_Attempt") -> bool:
        """Whether it leaves out fewer, and none that has a place in `other`."""
        return self.missing < other.missing

    def uses_fewer(self, other: "_Attempt") -> bool:
        """Whether it uses fewer devices, and leaves out none that has a place in `other`."""
        return self.missing <= other.missing and len(self.fleet.used) < len(other.fleet.used)


def pack(
    demands: Sequence[Demand],
    devices: Sequence[Device],
    previous: Packing | None = None,
    prefer: Prefer = "staying",
    effort: float = 0.0,
) -> Packing:
    """Where every demand goes.

    `previous` is what runs. With `prefer` staying it is left where it is unless another can be placed only so; with fewest all is
    packed anew, and that is taken when it needs fewer devices. `effort` above 0 lets OR-tools look for better, for so many of its
    deterministic seconds (extra `pack`). Raises ValueError when a replica is demanded twice, or a device is there twice.
    """
    if len({device.where for device in devices}) < len(devices):
        raise ValueError("a device is listed more than once")
    work = jobs(demands, devices)
    before = {each.key: each for each in previous.assignments} if previous else {}
    best = _best(work, devices, before)
    if before and (best.left or prefer == "fewest"):
        anew = _best(work, devices, {})
        if anew.places_more(best) or (prefer == "fewest" and anew.uses_fewer(best)):
            best = anew
    notes: tuple[str, ...] = ()
    if effort > 0:
        notes = improve(best.fleet, best.fresh, effort)
        best = replace(best, left=make_way(best.fleet, best.left, work))
    return _packing(best, work, before, devices, notes)


def _best(work: Sequence[Job], devices: Sequence[Device], before: Mapping[Key, Assignment]) -> _Attempt:
    """The attempt of the policy that does best; what runs before stays."""
    prices = device_prices(work, devices)
    sliced = any(job.shares[:1] == ("mig",) for job in work)
    tried = [_attempt(policy, prices, work, devices, before) for policy in POLICIES if sliced or not policy.patterns]
    if all(each.left for each in tried):
        tried += [_attempt(policy, prices, work, devices, before) for policy in LAST_RESORTS]
        tried = [replace(each, left=make_way(each.fleet, each.left, work)) for each in tried]
    return min(tried, key=_score)


def _attempt(
    policy: Policy, prices: PriceList, work: Sequence[Job], devices: Sequence[Device], before: Mapping[Key, Assignment]
) -> _Attempt:
    fleet = Fleet(devices)
    fresh = keep(fleet, work, before)
    left = fill(fleet, fresh, policy, prices)
    tighten(fleet, fresh)
    return _Attempt(fleet, left, fresh)


def _score(attempt: _Attempt) -> tuple[int, int, int]:
    return (len(attempt.left), len(attempt.fleet.used), attempt.fleet.waste_bytes)


def _packing(
    attempt: _Attempt,
    work: Sequence[Job],
    before: Mapping[Key, Assignment],
    devices: Sequence[Device],
    notes: Sequence[str],
) -> Packing:
    fleet = attempt.fleet
    placed = [job for job in work if job.key in fleet.spots]
    assignments = tuple(_assignment(fleet, job, fleet.spots[job.key]) for job in placed)
    return Packing(
        assignments,
        tuple(shortage(fleet, job) for job in sorted(attempt.left, key=lambda job: job.key)),
        tuple(each.key for each in assignments if each.key in before and each.place != before[each.key].place),
        len(fleet.used),
        least_devices(placed, devices, len(fleet.used)),
        fleet.waste_bytes,
        (*warnings(fleet), *notes),
    )


def _assignment(fleet: Fleet, job: Job, spot: Spot) -> Assignment:
    uses, piece = [fleet.uses[number] for number in spot.numbers], spot.piece
    alone = piece.share == "time-slice" and job.demand.share == "auto" and all(len(use.pieces) == 1 for use in uses)
    return Assignment(
        *job.key,
        devices=tuple(use.device.where for use in uses),
        gpu=uses[0].device.gpu.name,
        share="exclusive" if alone else piece.share,
        memory_bytes=piece.memory_bytes,
        process_bytes=piece.process_bytes,
        reason=reason(fleet, job, spot),
        cache_bytes=job.demand.cache_bytes,
        group=job.demand.group,
        profile=piece.profile.name if piece.profile else None,
        start=piece.start if piece.profile else None,
    )
