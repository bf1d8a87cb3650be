"""What could be had by who knows the trace: replicas on before their load comes, off as soon as it pays.

The work of each short span is known beforehand, so that replicas are started one cold start early, and kept through a lull
only where stopping would cost more than staying: a start takes a cold start's replica-time. For each number of replicas this
is the cheapest choice (each is needed in given spans of time; a gap is bridged when it is shorter than a start). How full
replicas may be and over how long work is levelled is tried in a grid, of which the cheapest within the wanted wait is taken.
`floor_hours` is what nothing can go below: all the work at full batches, without a single start.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

from headrace.scaling.base import Decision, Policy, Sample
from headrace.scaling.names import Scaler
from headrace.simulate.outcome import Outcome
from headrace.simulate.replica import Rates
from headrace.simulate.run import Setting, run
from headrace.simulate.traces import Trace

_FULL = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_LEVELLED_SECONDS = (5.0, 20.0, 60.0)
Step = tuple[float, int]


def clairvoyant(trace: Trace, setting: Setting, policy: Policy, wait_p99: float) -> Outcome:
    """The cheapest clairvoyant run that waits at most `wait_p99` (99th percentile); the one that waits least if none does."""
    return cheapest(frontier(trace, setting, policy), wait_p99)


def frontier(trace: Trace, setting: Setting, policy: Policy) -> list[Outcome]:
    """All clairvoyant runs of the grid."""
    runs = []
    for seconds in _LEVELLED_SECONDS:
        for full in _FULL:
            steps = schedule(trace, setting, policy, full, seconds)
            runs.append(run(trace, setting, following(steps)))
    return runs


def cheapest(runs: Sequence[Outcome], wait_p99: float) -> Outcome:
    """Of runs that wait no longer the one with the least replica-time (a CPU has no GPU-hours); else the one that waits least."""
    good = [outcome for outcome in runs if outcome.wait.p99 <= wait_p99 and not outcome.full + outcome.expired]
    return min(good or runs, key=lambda outcome: outcome.replica_seconds if good else outcome.wait.p99)


def floor_hours(trace: Trace, rates: Rates) -> float:
    """GPU-hours that the work takes when every replica is always full."""
    work = sum(rates.work(prompt, output) for prompt, output in zip(trace.prompt, trace.output, strict=True))
    return work * rates.gpus / 3600


def following(steps: Sequence[Step]) -> Scaler:
    """A policy that follows a schedule."""
    times = [at for at, _ in steps]

    def follow(sample: Sample, state: Any) -> tuple[Decision, Any]:
        replicas = steps[max(0, bisect_right(times, sample.now) - 1)][1]
        if sample.waiting and not (sample.ready or sample.starting):
            replicas = max(1, replicas)  # the schedule is by spans: what is left of one must not wait for ever
        return Decision(replicas, "hold", "as the trace needs it"), state

    return Scaler("clairvoyant", 5.0, follow)


def schedule(trace: Trace, setting: Setting, policy: Policy, full: float, seconds: float) -> list[Step]:
    """(from when, replicas): what the work of spans of `seconds` needs when replicas are `full`, by levels, starts ahead."""
    needs = _needs(trace, setting.rates, policy, full, seconds)
    cold = setting.cold_start_seconds
    changes: dict[float, int] = {}
    for level in range(1, max(needs, default=0) + 1):
        for start, end in _bridged(_spans(needs, level, seconds), cold):
            changes[max(0.0, start - cold)] = changes.get(max(0.0, start - cold), 0) + 1
            changes[end] = changes.get(end, 0) - 1
    steps, replicas = [(0.0, policy.least)], 0
    for at in sorted(changes):
        replicas += changes[at]
        steps.append((at, min(policy.most, max(policy.least, replicas))))
    return steps


def _needs(trace: Trace, rates: Rates, policy: Policy, full: float, seconds: float) -> list[int]:
    work = [0.0] * (int(trace.seconds / seconds) + 2)
    batch = rates.slots * full
    for at, prompt, output in zip(trace.at, trace.prompt, trace.output, strict=True):
        work[int(at / seconds)] += rates.work(prompt, output, batch)
    # An answer outlives its span: what a span began is still running in the next one.
    kept = [max(here, before) for here, before in zip(work, [0.0, *work], strict=False)]
    return [min(policy.most, max(policy.least, ceil(each / seconds - 1e-9))) for each in kept]


def _spans(needs: Sequence[int], level: int, seconds: float) -> Iterable[tuple[float, float]]:
    start: float | None = None
    for place, need in enumerate([*needs, 0]):
        if need >= level and start is None:
            start = place * seconds
        elif need < level and start is not None:
            yield start, place * seconds
            start = None


def _bridged(spans: Iterable[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
