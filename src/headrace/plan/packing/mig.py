"""MIG: which slices fit on one GPU together, where each may start, and what still fits beside them.

Rules, from NVIDIA's MIG user guide and what `nvidia-smi mig -lgipp` prints: every instance begins at one of its profile's starts,
no memory slices overlap, compute slices sum to at most the GPU's, a profile is used at most `at_most` times, and one instance of
a GPU at most has the media engines (`+me`).
"""

from collections.abc import Sequence
from functools import lru_cache

from headrace.facts.hardware import Gpu, MigProfile

Instance = tuple[MigProfile, int]
"""A profile and the memory slice at which it starts."""

Layout = tuple[Instance, ...]

_MEDIA = "+me"


def valid(layout: Sequence[Instance], gpu: Gpu) -> bool:
    """Whether these instances can stand on one `gpu` together."""
    return all(_may_stand(instance, tuple(layout[:i]), gpu.mig_compute_slices) for i, instance in enumerate(layout)) and all(
        profile in gpu.mig for profile, _ in layout
    )


def place(wanted: Sequence[MigProfile], gpu: Gpu) -> Layout | None:
    """A valid layout of `wanted`, in its order; None when there is none. Every layout is tried, so None is certain."""
    if any(profile not in gpu.mig for profile in wanted):
        return None
    order = sorted(range(len(wanted)), key=lambda i: (-wanted[i].size, -wanted[i].compute_slices, wanted[i].name))
    found = _complete((), tuple(wanted[i] for i in order), gpu.mig_compute_slices)
    if found is None:
        return None
    return tuple(instance for _, instance in sorted(zip(order, found, strict=True), key=lambda pair: pair[0]))


def beside(layout: Layout, gpu: Gpu) -> Layout:
    """Every single instance that could be added to `layout` as it stands, in the order of the GPU's profiles."""
    return _beside(layout, gpu.mig, gpu.mig_compute_slices)


def start_beside(profile: MigProfile, layout: Layout, gpu: Gpu) -> int | None:
    """Where to start `profile` beside `layout` so that most can still be added afterwards; None when it does not fit."""
    return _start_beside(profile, layout, gpu.mig, gpu.mig_compute_slices)


def memory_slices(gpu: Gpu) -> int:
    """The memory slices of `gpu`: 8 on an A100, 0 without MIG."""
    return max((start + profile.size for profile in gpu.mig for start in profile.starts), default=0)


@lru_cache(maxsize=4096)
def _start_beside(profile: MigProfile, layout: Layout, profiles: tuple[MigProfile, ...], compute: int) -> int | None:
    starts = [start for start in profile.starts if _may_stand((profile, start), layout, compute)]
    return max(starts, key=lambda start: (_freedom((*layout, (profile, start)), profiles, compute), -start), default=None)


def _freedom(layout: Layout, profiles: tuple[MigProfile, ...], compute: int) -> int:
    """How much could still be added, large instances counting more than small ones together."""
    return sum(4**added.size for added, _ in _beside(layout, profiles, compute))


@lru_cache(maxsize=4096)
def _beside(layout: Layout, profiles: tuple[MigProfile, ...], compute: int) -> Layout:
    every = ((profile, start) for profile in profiles for start in profile.starts)
    return tuple(instance for instance in every if _may_stand(instance, layout, compute))


def _complete(layout: Layout, wanted: tuple[MigProfile, ...], compute: int) -> Layout | None:
    """`layout` and then `wanted`, by backtracking over their starts."""
    if not wanted:
        return layout
    for start in wanted[0].starts:
        instance = (wanted[0], start)
        if _may_stand(instance, layout, compute) and (found := _complete((*layout, instance), wanted[1:], compute)):
            return found
    return None


def _may_stand(instance: Instance, layout: Layout, compute: int) -> bool:
    profile, start = instance
    return (
        start in profile.starts
        and all(start + profile.size <= other or other + p.size <= start for p, other in layout)
        and profile.compute_slices + sum(p.compute_slices for p, _ in layout) <= compute
        and sum(p == profile for p, _ in layout) < profile.at_most
        and not (_MEDIA in profile.name and any(_MEDIA in p.name for p, _ in layout))
    )
