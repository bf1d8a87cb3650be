"""Knative's autoscaler (KPA): two means of the requests in flight, and a panic in which it only goes up.

Rules of Knative serving @98e5ef90, in facts/planning.md, section 7: every 2 s; stable window 60 s, panic window a tenth of it;
panic from twice the ready replicas on, until 60 s after that last held; the target is 70 % of what a container takes; zero after
a grace of 30 s. The container's concurrency is the policy's `slots`.
"""

from dataclasses import dataclass, replace
from math import ceil, floor

from headrace.scaling.base import Decision, Policy, Sample, moved

EVERY_SECONDS = 2.0
_STABLE_SECONDS, _PANIC_SECONDS = 60.0, 6.0
_TARGET_SHARE = 0.7
_PANIC_FROM = 2.0
_UP_RATE, _DOWN_RATE = 1000.0, 2.0
_GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class KpaState:
    """`seen` are (time, requests in flight) of the stable window; `panic_until` is None outside a panic."""

    replicas: int
    seen: tuple[tuple[float, float], ...] = ()
    panic_until: float | None = None
    panic_most: int = 0
    zero_since: float | None = None


def kpa(policy: Policy, sample: Sample, state: KpaState | None) -> tuple[Decision, KpaState]:
    """The replicas that KPA would have. Without numbers it keeps those it had."""
    state = state or KpaState(min(policy.most, max(policy.least, (sample.ready or 0) + (sample.starting or 0))))
    if sample.waiting is None or sample.running is None:
        return Decision(state.replicas, "hold", "no metrics"), state
    now, ready = sample.now, max(1, sample.ready or 0)
    kept = tuple((when, what) for when, what in state.seen if when > now - _STABLE_SECONDS)
    state = replace(state, seen=(*kept, (now, float(sample.waiting + sample.running))))
    target = policy.slots * _TARGET_SHARE
    stable, panic = (_mean(state, now, window) / target for window in (_STABLE_SECONDS, _PANIC_SECONDS))
    state = _panicking(state, now, ceil(panic) / ready)
    wanted = _clamped(ceil(stable), ready)
    if state.panic_until is not None:
        most = max(state.panic_most, wanted, _clamped(ceil(panic), ready))
        wanted, state = most, replace(state, panic_most=most)
    return _decided(policy, state, now, wanted, stable, panic)


def _mean(state: KpaState, now: float, seconds: float) -> float:
    within = [what for when, what in state.seen if when > now - seconds]
    return sum(within) / len(within)


def _panicking(state: KpaState, now: float, ratio: float) -> KpaState:
    if ratio >= _PANIC_FROM:
        return replace(state, panic_until=now + _STABLE_SECONDS)
    if state.panic_until is not None and now >= state.panic_until:
        return replace(state, panic_until=None, panic_most=0)
    return state


def _clamped(wanted: int, ready: int) -> int:
    return min(ceil(_UP_RATE * ready), max(floor(ready / _DOWN_RATE), wanted))


def _decided(policy: Policy, state: KpaState, now: float, wanted: int, stable: float, panic: float) -> tuple[Decision, KpaState]:
    zero_since = None if wanted else state.zero_since if state.zero_since is not None else now
    if zero_since is not None and now - zero_since < _GRACE_SECONDS and state.replicas:
        wanted = 1
    replicas = min(policy.most, max(policy.least, wanted))
    mode = "panic" if state.panic_until is not None else "stable"
    reason = f"{mode}: {stable:.3g} replicas by the mean of 60 s, {panic:.3g} of 6 s"
    return Decision(replicas, moved(state.replicas, replicas), reason), replace(state, replicas=replicas, zero_since=zero_since)
