"""MIG filled device by device: the layout that is worth most of those the waiting jobs can fill, again and again.

One job at a time would put four of the slices with double memory on one GPU, where three of seven compute slices are lost; one of
them beside six single ones loses nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from headrace.facts.hardware import Gpu, MigProfile
from headrace.plan.packing.base import Key
from headrace.plan.packing.fleet import Fleet, Spot
from headrace.plan.packing.job import DeviceClass, Job
from headrace.plan.packing.mig import memory_slices, place

Pattern = tuple[MigProfile, ...]
Waiting = dict[str, list[Job]]
"""Jobs by the name of the smallest profile that will do."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """A layout for the next device of a class."""

    worth: float
    cls: DeviceClass
    pattern: Pattern


def fill_slices(fleet: Fleet, jobs: Sequence[Job]) -> list[Job]:
    """Place jobs that want MIG on devices that hold nothing; returns those left when none will take more."""
    waiting = _waiting(jobs)
    done: set[Key] = set()
    while choices := list(_choices(fleet, waiting)):
        best = max(choices, key=lambda choice: (choice.worth, -choice.cls[1], choice.cls))
        done |= _cut(fleet, best, waiting[best.cls])
        for queues in waiting.values():
            for name, queue in queues.items():
                queues[name] = [job for job in queue if job.key not in done]
    return [job for job in jobs if job.key not in done]


def _waiting(jobs: Sequence[Job]) -> dict[DeviceClass, Waiting]:
    """By class and the smallest profile that will do: the jobs, the largest first."""
    waiting: dict[DeviceClass, Waiting] = defaultdict(lambda: defaultdict(list))
    for job in sorted(jobs, key=lambda job: (-job.bytes, job.key)):
        for cls, pieces in job.slices.items():
            if profile := pieces[0].profile:
                waiting[cls][profile.name].append(job)
    return waiting


def _choices(fleet: Fleet, waiting: Mapping[DeviceClass, Waiting]) -> Iterator[_Choice]:
    """The best layout of every class that has a device and jobs for it."""
    for cls, queues in sorted(waiting.items()):
        if fleet.empty[cls] and any(queues.values()):
            gpu = fleet.uses[fleet.empty[cls][0]].device.gpu
            counts = {name: len(queue) for name, queue in queues.items()}
            able = (
                p for p in _patterns(gpu.mig, gpu.mig_compute_slices) if all(counts.get(n, 0) >= many for n, many in p.counts)
            )
            if best := max(able, key=lambda pattern: pattern.worth, default=None):
                yield _Choice(best.worth, cls, best.profiles)


def _cut(fleet: Fleet, choice: _Choice, queues: Waiting) -> set[Key]:
    """Cut the first empty device of the class as chosen; returns the replicas that are now on it."""
    number = fleet.empty[choice.cls][0]
    layout = place(choice.pattern, fleet.uses[number].device.gpu) or ()
    taken: set[Key] = set()
    for profile, start in layout:
        job = next((job for job in queues[profile.name] if job.key not in taken), None)
        piece = replace(job.slices[choice.cls][0], start=start) if job else None
        if job and piece and fleet.uses[number].room_bytes >= piece.total_bytes:
            fleet.put(Spot(piece, (number,)))
            taken.add(job.key)
    return taken


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Profiles that have a layout together, how many of each, and the parts of memory and compute they use, summed."""

    profiles: Pattern
    counts: tuple[tuple[str, int], ...]
    worth: float


@lru_cache(maxsize=64)
def _patterns(profiles: tuple[MigProfile, ...], compute: int) -> tuple[_Pattern, ...]:
    """Every combination of profiles that has a layout, but for those with media engines."""
    gpu = Gpu("", 0, 0.0, {}, "", 0.0, None, profiles, compute)
    plain = tuple(profile for profile in profiles if "+me" not in profile.name)
    return tuple(
        _Pattern(pattern, tuple(Counter(p.name for p in pattern).items()), sum(_used(pattern, gpu)))
        for pattern in _extended((), plain, gpu)
    )


def _extended(pattern: Pattern, profiles: tuple[MigProfile, ...], gpu: Gpu) -> Iterator[Pattern]:
    for i, profile in enumerate(profiles):
        more = (*pattern, profile)
        if max(_used(more, gpu)) <= 1 and place(more, gpu):
            yield more
            yield from _extended(more, profiles[i:], gpu)


def _used(pattern: Pattern, gpu: Gpu) -> tuple[float, float]:
    """The parts of memory and compute slices."""
    sizes, slices = sum(p.size for p in pattern), sum(p.compute_slices for p in pattern)
    return sizes / memory_slices(gpu), slices / gpu.mig_compute_slices
