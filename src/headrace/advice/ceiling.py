"""The engine's own ceiling: the tokens per second that a replica can make, how near it is, and whether its slots keep it below.

The planner's curve of tokens per second over requests at once is corrected by what was made: by the factor that a quarter of
the slices reached, for one slice may be luck, and others take the machine meanwhile. Where no curve is known, what was made with
every slot busy is the ceiling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from headrace.advice.base import (
    LEAST_SAMPLES,
    LEAST_SLICES,
    Holds,
    Observed,
    Sample,
    Signal,
    by_samples,
    ninth,
    ranked,
    slices,
    steadied,
)
from headrace.advice.commands import in_force

NEAR, FAR = 0.85, 0.7
"""Parts of the ceiling from which on it is near, and until which it stays so."""
MORE, NO_MORE = 1.25, 1.1
"""How many times the tokens per second more slots must bring."""
_SUSTAINED = 0.75
_FULL = 0.9
"""Part of the slots in use from which on all are busy: a slot between two requests is empty for a moment."""
_LONGEST_GAP_SECONDS = 120.0
"""Between two looks; longer ones are where nobody looked."""
_MOST_SLOTS = 1024

Curve = Callable[[int], float | None]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Whether a replica is near its ceiling, how sure that is, and a sentence with its numbers."""

    near: Holds
    sure: float
    said: str


@dataclass(frozen=True, slots=True)
class _Span:
    """Between two looks, from one at which a request ran: output tokens of those that ended in it."""

    at: float
    seconds: float
    tokens: float
    running: float
    ready: float


@dataclass(frozen=True, slots=True)
class _Made:
    """What a replica made in a slice of the window, while it was used: tokens per second, with so many requests at once."""

    rate: float
    at_once: float


def ceiling(seen: Observed) -> Ceiling:
    """How near the replicas are to what their engine can make."""
    each = [_made(spans) for spans in slices(list(_spans(seen.samples)), seen)]
    known = [one for one in each if one is not None]
    if len(known) < LEAST_SLICES:
        return Ceiling("unknown", 0.0, "how near its engine is to its ceiling is not known: too few tokens were counted")
    most, why = _most(seen, known)
    if most is None:
        return Ceiling("unknown", 0.0, f"how near its engine is to its ceiling is not known: {why}")
    near, sure = steadied([one.rate / most if one else None for one in each], NEAR, FAR)
    rate = fmean(one.rate for one in known)
    verdict = {"holds": "near its ceiling", "holds not": "below its ceiling", "unknown": "now and then near its ceiling"}[near]
    return Ceiling(near, sure, f"a replica makes {_number(rate)} of {_number(most)} tokens/s, {verdict}: {why}")


def slots(seen: Observed) -> Signal:
    """Whether requests wait for slots although the engine would make more with more of them."""
    name = "too few slots"
    curve = seen.rates.get(seen.engine)
    if seen.slots is None or seen.most is None or curve is None or not curve(seen.slots):
        why = (
            "what the engine makes with more requests at once is not known"
            if seen.slots
            else "how many slots it has is not known"
        )
        return Signal(name, "unknown", f"not enough data: {why}")
    here, most = seen.slots, seen.most

    def more(samples: Sequence[Sample]) -> float:
        waiting = [one for one in samples if (one.waiting or 0) > 0 and (one.ready or 0) >= most]
        return _best(curve, _wanted(waiting, here))[1] / _best(curve, here)[1] if 2 * len(waiting) > len(samples) else 1.0

    holds, sure = steadied(by_samples(seen, more), MORE, NO_MORE)
    queued = [one for one in seen.used if one.waiting]
    wanted = _wanted(queued, here)
    count, rate = _best(curve, wanted)
    times = rate / _best(curve, here)[1]
    numbers = f"nobody waits for one of the {here} slots of each replica"
    if queued:
        numbers = f"{wanted} at once want one of the {here} slots of each replica: {count} make {times:.1f} times the tokens/s"
    change = f"write slots: {count} into the file, where memory has room for their context"
    gain = f"about {times:.1f} times the tokens/s, by the planner's rates ({MORE:g} are worth it), and less per request"
    return Signal(name, holds, numbers, sure, change, gain, in_force(seen))


def _most(seen: Observed, known: Sequence[_Made]) -> tuple[float | None, str]:
    """Tokens per second that a replica can make, None when unknown; and how that is known, or why not."""
    curve = seen.rates.get(seen.engine)
    if curve is not None and curve(1):
        factor = ranked([(one.rate / _at(curve, one.at_once), 1.0) for one in known], _SUSTAINED)
        return factor * _best(curve, seen.slots or _MOST_SLOTS)[1], "as planned, corrected by what it made"
    if seen.slots is None:
        return None, "how many slots it has is not said, and the planner knows no rates of it"
    full = [(one.rate, 1.0) for one in known if one.at_once >= _FULL * seen.slots]
    if len(full) < LEAST_SLICES:
        return None, "its slots were hardly ever all busy, and the planner knows no rates of it"
    return ranked(full, _SUSTAINED), "the most that it made with every slot busy"


def _spans(samples: Sequence[Sample]) -> Iterator[_Span]:
    for before, one in pairwise(sorted(samples, key=lambda one: one.at)):
        seconds = one.at - before.at
        if before.running and before.ready and one.tokens is not None and 0 < seconds <= _LONGEST_GAP_SECONDS:
            yield _Span(one.at, seconds, one.tokens, before.running, before.ready)


def _made(spans: Sequence[_Span]) -> _Made | None:
    seconds, tokens = sum(one.seconds for one in spans), sum(one.tokens for one in spans)
    if len(spans) < LEAST_SAMPLES or not tokens:
        return None
    replicas = sum(one.seconds * one.ready for one in spans)
    return _Made(tokens / replicas, max(1.0, sum(one.seconds * one.running for one in spans) / replicas)) if seconds else None


def _wanted(waiting: Sequence[Sample], slots: int) -> int:
    """Requests at once per replica that 9 of 10 looks do not exceed."""
    if not waiting:
        return slots
    replicas = max(1.0, fmean(one.ready or 1 for one in waiting))
    return max(slots, round(ninth(waiting) / replicas))


def _at(curve: Curve, at_once: float) -> float:
    return curve(max(1, round(at_once))) or 1.0


def _best(curve: Curve, slots: int) -> tuple[int, float]:
    """The fewest slots of at most so many that make about the most, and what they make."""
    counts = sorted({slots, *(1 << power for power in range(slots.bit_length()) if 1 << power <= slots)})
    rates = {count: curve(count) or 0.0 for count in counts}
    most = max(rates.values())
    return next((count, rate) for count, rate in rates.items() if rate >= 0.97 * most)


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
