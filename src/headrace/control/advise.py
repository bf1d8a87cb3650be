"""When to move on, and when to stay: signals over what was recorded of a model, each with numbers, a window and a command.

A signal is judged slice by slice of its window and has two thresholds: it begins to hold at `enter` and ceases at `leave`, so
that a value between them changes nothing. Slices without enough data say nothing; with too few of the others it is unknown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from headrace.units import show_duration

Number = TypeVar("Number", int, float)
Row = TypeVar("Row", "Request", "Sample")
Holds = Literal["holds", "holds not", "unknown"]
SLICES = 12
LEAST_SLICES = 3
"""Slices with data that a verdict takes."""
LEAST_SURE = 0.25
"""The part of the slices with data that must agree before a signal holds: what began a moment ago may pass."""
LEAST_REQUESTS, LEAST_SAMPLES = 10, 5
"""What makes up a slice's data."""
LEAST_OF_ALL = 100
"""Requests in the window that a verdict on lengths takes."""
MANY_MODELS = 5


@dataclass(frozen=True, slots=True)
class Request:
    """One that is over; `at` in seconds since 1970."""

    at: float
    status: int
    tokens_in: int | None
    tokens_out: int | None
    waited: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a model."""

    at: float
    waiting: float
    running: float
    ready: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of one model from `since` until `until` (seconds since 1970)."""

    model: str
    engine: str
    since: float
    until: float
    slots: int
    """Of one replica."""
    most: int
    """The most replicas that there may be."""
    context: int | None = None
    sleeps: bool = False
    models: int = 1
    """Served beside each other, itself included."""
    requests: Sequence[Request] = ()
    samples: Sequence[Sample] = ()
    short_of_memory: Sequence[float] = ()
    """When it got fewer replicas than it wanted."""
    rates: dict[str, Callable[[int], float | None]] = field(default_factory=dict)
    """Tokens per second by engine that is here, at so many requests at once, as measured."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal: whether it holds, how sure (0 to 1: the part of the slices that say so), and what to do about it."""

    name: str
    holds: Holds
    numbers: str
    confidence: float = 0.0
    change: str = ""
    gain: str = ""
    command: str = ""


def signals(seen: Observed) -> tuple[Signal, ...]:
    """Every signal on one model."""
    return tuple(judge(seen) for judge in (_throughput, _engine, _memory, _cold, _context, _spare, _crowd))


def steadied(values: Sequence[float | None], enter: float, leave: float) -> tuple[Holds, float]:
    """What a value by slices comes to, and how sure that is. It holds from `enter` on until it is below `leave`."""
    holds, said = False, []
    for value in values:
        if value is not None:
            holds = value >= (leave if holds else enter)
            said.append(holds)
    if len(said) < LEAST_SLICES:
        return "unknown", 0.0
    sure = sum(one is holds for one in said) / len(said)
    return ("holds not" if not holds else "holds" if sure >= LEAST_SURE else "unknown"), sure


def _throughput(seen: Observed) -> Signal:
    def waits(samples: Sequence[Sample]) -> float:
        return sum(one.waiting > 0 and one.ready >= seen.most for one in samples) / len(samples)

    holds, sure = steadied(_by_samples(seen, waits), 0.3, 0.1)
    share = _share(waits(seen.samples) if seen.samples else None)
    numbers = f"requests waited with {_all(seen.most)} serving: {share} of the time (from 30 % on, until 10 %)"
    change = "more replicas if memory allows, an engine that batches more, or a larger machine"
    command = f"headrace plan --for users={max(2, round(_peak(seen)))} --machine …" if holds == "holds" else ""
    return Signal("throughput insufficient", holds, numbers, sure, change, "", command)


def _engine(seen: Observed) -> Signal:
    """Whether an engine that is here was measured faster at the number of requests at once that there is."""
    name = "another engine is faster here"
    if len(seen.samples) < LEAST_SAMPLES:
        return Signal(name, "unknown", "not enough data: it was hardly used")
    users = max(1, min(seen.slots * seen.most, round(_peak(seen))))
    now = seen.rates[seen.engine](users) if seen.engine in seen.rates else None
    others = {one: rate for one, at in seen.rates.items() if one != seen.engine and (rate := at(users))}
    if not now or not others:
        return Signal(name, "unknown", f"not enough data: no rates of {seen.engine} and another engine that is here")
    best = max(others, key=lambda one: others[one])

    def better(samples: Sequence[Sample]) -> float:
        at = max(1, round(_ninth(samples)))
        mine, its = seen.rates[seen.engine](at), seen.rates[best](at)
        return its / mine if mine and its else 1.0

    holds, sure = steadied(_by_samples(seen, better), 1.25, 1.1)
    ratio = others[best] / now
    numbers = (
        f"{users} at once in 9 of 10 looks: {best} {others[best]:.0f} tokens/s against {now:.0f}, measured with 135M parameters"
    )
    gain = f"{ratio / 1.5:.1f} to {ratio * 1.2:.1f} times the throughput" if holds == "holds" else ""
    return Signal(name, holds, numbers, sure, f"move to {best}", gain, f"headrace graduate {seen.model} --to {best}")


def _memory(seen: Observed) -> Signal:
    if not seen.samples:
        return Signal("memory binds", "unknown", "not enough data: nothing was recorded")
    step = (seen.until - seen.since) / SLICES
    slices: list[float | None] = [0.0] * SLICES
    for at in seen.short_of_memory:
        place = min(SLICES - 1, max(0, int((at - seen.since) / step)))
        slices[place] = (slices[place] or 0.0) + 1
    holds, sure = steadied(slices, 2, 1)
    numbers = f"{len(seen.short_of_memory)} times it got fewer replicas than its load wanted, for want of memory"
    change = "weights in fewer bits (source: hf:org/name:Q4_K_M), a shorter context, or fewer models beside it"
    command = f"headrace graduate {seen.model} --to {seen.engine} --quantization …"
    return Signal("memory binds", holds, numbers, sure, change, "", command)


def _cold(seen: Observed) -> Signal:
    """Of a model that may sleep: the requests that waited for a start."""
    if not seen.sleeps:
        return Signal("cold starts dominate", "holds not", "it never sleeps", 1.0)
    looks = sorted(seen.samples, key=lambda one: one.at)

    def cold(requests: Sequence[Request]) -> float:
        return sum(one.waited > 0.5 and _asleep(looks, one.at) for one in requests) / len(requests)

    holds, sure = steadied(_by_requests(seen, cold, 1), 0.2, 0.1)
    waits = sorted(one.waited for one in seen.requests if one.waited > 0.5)
    middle = show_duration(waits[len(waits) // 2]) if waits else "0s"
    share = _share(cold(seen.requests) if seen.requests else None)
    numbers = f"{share} of {len(seen.requests)} requests woke it, waiting {middle} in the middle"
    change = f"replicas: 1..{seen.most}, or a longer scale.idle"
    return Signal("cold starts dominate", holds, numbers, sure, change, f"{middle} less for those")


def _context(seen: Observed) -> Signal:
    lengths = sorted((one.tokens_in or 0) + (one.tokens_out or 0) for one in seen.requests if one.tokens_in)
    if seen.context is None or len(lengths) < LEAST_OF_ALL:
        return Signal(
            "context wasted", "unknown", f"not enough data: {len(lengths)} of {LEAST_OF_ALL} requests with known lengths"
        )

    def unused(requests: Sequence[Request]) -> float:
        found = sorted((one.tokens_in or 0) + (one.tokens_out or 0) for one in requests)
        return 1 - _ranked(found, 0.99) / (seen.context or 1)

    holds, sure = steadied(_by_requests(seen, unused), 0.75, 0.6)
    p99 = _ranked(lengths, 0.99)
    fit = max(256, 1 << (2 * max(1, p99) - 1).bit_length())
    numbers = f"99 of 100 requests have at most {p99} tokens, prompt and answer; each slot has {seen.context}"
    gain = f"{seen.context / fit:.1f} times the slots in the same cache, longest requests refused" if fit < seen.context else ""
    command = f"headrace graduate {seen.model} --to {seen.engine} --context {fit}" if fit < seen.context else ""
    return Signal("context wasted", holds if command else "holds not", numbers, sure, f"context: {fit}", gain, command)


def _spare(seen: Observed) -> Signal:
    if seen.most < 2:
        return Signal("over-provisioned", "holds not", "it has one replica", 1.0)

    def idle(samples: Sequence[Sample]) -> float:
        ready = max(one.ready for one in samples)
        busiest = max(one.running + one.waiting for one in samples)
        return 1 - busiest / max(1.0, seen.slots * (ready - 1)) if ready >= 2 else 0.0

    holds, sure = steadied(_by_samples(seen, idle), 0.5, 0.3)
    busiest = max((one.running + one.waiting for one in seen.samples), default=0)
    numbers = f"never more than {busiest:.0f} at once; one replica has {seen.slots} slots, and there are up to {seen.most}"
    return Signal("over-provisioned", holds, numbers, sure, f"replicas: 1..{seen.most}", "the memory of the others", "")


def _crowd(seen: Observed) -> Signal:
    holds: Holds = "holds" if seen.models >= MANY_MODELS else "holds not"
    count = "one model" if seen.models == 1 else f"{seen.models} models"
    numbers = f"{count} on this machine, from {MANY_MODELS} on they are worth packing"
    change = "let those that are seldom asked sleep (replicas: 0..1), or pack them onto GPUs"
    command = "headrace plan --machine …" if holds == "holds" else ""
    return Signal("many models on one machine", holds, numbers, 1.0, change, "", command)


def _by_samples(seen: Observed, value: Callable[[Sequence[Sample]], float]) -> list[float | None]:
    """A value of each slice, of the looks in which the model was used or waited for."""
    used = [one for one in seen.samples if one.running or one.waiting or one.ready >= 2]
    return [value(one) if len(one) >= LEAST_SAMPLES else None for one in _slices(used, seen)]


def _by_requests(seen: Observed, value: Callable[[Sequence[Request]], float], least: int = LEAST_REQUESTS) -> list[float | None]:
    return [value(one) if len(one) >= least else None for one in _slices(seen.requests, seen)]


def _slices(rows: Sequence[Row], seen: Observed) -> list[list[Row]]:
    found: list[list[Row]] = [[] for _ in range(SLICES)]
    step = max(1e-9, (seen.until - seen.since) / SLICES)
    for row in rows:
        if seen.since <= row.at <= seen.until:
            found[min(SLICES - 1, int((row.at - seen.since) / step))].append(row)
    return found


def _asleep(looks: Sequence[Sample], at: float) -> bool:
    before = [one for one in looks if one.at <= at]
    return bool(before) and before[-1].ready == 0


def _peak(seen: Observed) -> float:
    used = [one for one in seen.samples if one.running or one.waiting]
    return _ninth(used) if used else 0.0


def _ninth(samples: Sequence[Sample]) -> float:
    """Requests at once in 9 of 10 looks."""
    return _ranked(sorted(one.running + one.waiting for one in samples), 0.9)


def _ranked(ordered: Sequence[Number], share: float) -> Number:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _all(most: int) -> str:
    return "its one replica" if most == 1 else f"all {most} replicas"


def _share(value: float | None) -> str:
    return "an unknown part" if value is None else f"{100 * value:.0f} %"
