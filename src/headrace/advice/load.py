"""Signals of load: throughput, engine, memory, and what stands idle."""

from collections.abc import Sequence

from headrace.advice.base import (
    LEAST_SAMPLES,
    Gain,
    Observed,
    Sample,
    Signal,
    by_samples,
    ninth,
    peak,
    percent,
    steadied,
)
from headrace.advice.ceiling import ceiling
from headrace.advice.commands import in_force, moved, planned

_NO_GAIN = Gain("")
_STILL_SPARE = 0.3
"""The part of one replica fewer that the busiest moment has to leave unused, once it was more."""


def throughput(seen: Observed) -> Signal:
    """Whether requests wait although every replica that there may be serves."""
    name = "throughput insufficient"
    if seen.most is None:
        return Signal(
            name, "unknown", "not enough data: how many replicas there may be is not known; name the file, or --cluster"
        )
    most = seen.most

    def waits(samples: Sequence[Sample]) -> float:
        return sum((one.waiting or 0) > 0 and (one.ready or 0) >= most for one in samples) / len(samples)

    known = [one for one in seen.samples if one.waiting is not None and one.ready is not None]
    holds, sure = steadied(by_samples(seen, waits), 0.3, 0.1)
    share = percent(waits(known) if known else None)
    numbers = f"requests waited with {_all(most)} serving: {share} of the time (from 30 % on, until 10 %)"
    near = ceiling(seen)
    numbers += f"; {near.said}"
    change = "more replicas if memory allows, an engine that batches more, or a larger machine"
    gain = seen.gains.get(name, _NO_GAIN)
    command = gain.command or planned(seen, f"--machine azure --for users={max(2, round(peak(seen)))}")
    if holds == "holds" and near.near == "holds":
        sure = min(sure, near.sure)
    elif holds == "holds" and near.near == "holds not":
        change = "see first what keeps it below: other models or programs, longer prompts; only then more replicas"
        command = f"headrace top --once{seen.at}" if seen.here else command
    return Signal(name, holds, numbers, sure, change, gain.said, command if holds == "holds" else "")


def engine(seen: Observed) -> Signal:
    """Whether an engine that is here was measured faster at the number of requests at once that there is."""
    name = "another engine is faster here"
    if not seen.here:
        return Signal(name, "holds not", "on GPUs the planner compares engines: headrace plan --machine … --explain", 1.0)
    if len(seen.samples) < LEAST_SAMPLES or seen.slots is None or seen.most is None:
        return Signal(name, "unknown", "not enough data: it was hardly used")
    users = max(1, min(seen.slots * seen.most, round(peak(seen))))
    now = seen.rates[seen.engine](users) if seen.engine in seen.rates else None
    others = {one: rate for one, at in seen.rates.items() if one != seen.engine and (rate := at(users))}
    if not now or not others:
        return Signal(name, "unknown", f"not enough data: no rates of {seen.engine} and another engine that is here")
    best = max(others, key=lambda one: others[one])

    def better(samples: Sequence[Sample]) -> float:
        at = max(1, round(ninth(samples)))
        mine, its = seen.rates[seen.engine](at), seen.rates[best](at)
        return its / mine if mine and its else 1.0

    holds, sure = steadied(by_samples(seen, better), 1.25, 1.1)
    numbers = (
        f"{users} at once in 9 of 10 looks: {best} {others[best]:.0f} tokens/s against {now:.0f}, measured with 135M parameters"
    )
    gain = seen.gains.get(best, _NO_GAIN).said if holds == "holds" else ""
    first, command = moved(seen, best)
    return Signal(name, holds, numbers, sure, f"move to {best}{first}", gain, command)


def memory(seen: Observed) -> Signal:
    """Whether memory is what binds: weights in fewer bits leave more of it."""
    name = "memory binds"
    if not seen.samples:
        return Signal(name, "unknown", "not enough data: nothing was recorded")
    if seen.short_of_memory is None:
        return Signal(name, "unknown", "not enough data: no engine tells how full its cache is")
    short = frozenset(seen.short_of_memory)

    def lacks(samples: Sequence[Sample]) -> float:
        return sum(one.at in short for one in samples) / len(samples)

    holds, sure = steadied(by_samples(seen, lacks), 0.1, 0.05)
    share, gain = percent(lacks(seen.used) if seen.used else None), seen.gains.get(name, _NO_GAIN)
    if seen.here:
        numbers = f"{share} of the time it got fewer replicas than its load wanted, for want of memory (from 10 % on, until 5 %)"
        change = "weights in fewer bits (source: hf:org/name:Q4_K_M), a shorter context, or fewer models beside it"
        command = planned(seen, "--explain")
    else:
        numbers = f"{share} of the time its cache was full (95 %) while requests waited, or requests were put out of it"
        change = "weights in fewer bits (quantization: awq or fp8; your own where there are none), or more memory"
        command = gain.command or planned(seen, "--machine azure")
    return Signal(name, holds, numbers, sure, change, gain.said, command)


def spare(seen: Observed) -> Signal:
    """Whether its busiest moment would have fitted in fewer replicas."""
    name = "over-provisioned"
    if seen.most is None or seen.slots is None:
        return Signal(name, "unknown", "not enough data: how many slots and replicas there may be is not known")
    slots = seen.slots
    if seen.most < 2:
        return Signal(name, "holds not", "it has one replica", 1.0)

    def idle(samples: Sequence[Sample]) -> float:
        ready = max(one.ready or 0 for one in samples)
        busiest = max((one.running or 0) + (one.waiting or 0) for one in samples)
        return 1 - busiest / max(1.0, slots * (ready - 1)) if ready >= 2 else 0.0

    holds, sure = steadied(by_samples(seen, idle), 0.5, _STILL_SPARE)
    busiest = max(((one.running or 0) + (one.waiting or 0) for one in seen.samples), default=0)
    ready = max((one.ready or 0 for one in seen.samples), default=0)
    fewer = max(1, -(-round(busiest * 1.5) // slots))
    if holds == "holds" and (idle(seen.samples) < _STILL_SPARE or fewer >= ready):
        holds, sure = "holds not", 1.0  # some slices would fit in fewer, and the busiest does not
    numbers = f"never more than {busiest:.0f} at once; one replica has {slots} slots, and up to {ready:.0f} were there"
    gain = seen.gains.get(name, _NO_GAIN)
    said = gain.said or f"the memory of {ready - fewer:.0f} of {ready:.0f} replicas while nothing more comes"
    follows = f"1..{max(seen.most, fewer + 1)}, which follows the load"
    change = f"write replicas: {follows}, or {fewer}, which takes {fewer * slots} at once, into the file"
    return Signal(name, holds, numbers, sure, change, said, in_force(seen))


def _all(most: int) -> str:
    return "its one replica" if most == 1 else f"all {most} replicas"
