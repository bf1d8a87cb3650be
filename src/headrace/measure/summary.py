"""Outcomes of one load → its numbers. Only what was sent in the measured time counts; failures are counted, never averaged in."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum

from headrace.measure.base import Goodput, Load, Outcome, Row, Slice, Slo, Stage
from headrace.measure.remarks import growth, remarks
from headrace.measure.statistics import Uniform, mean, neighbours, share, spread

LATE_SECONDS = 0.01
"""A send that comes later than this after its time is called late: the client did not keep pace."""
_SLICES = 20
_MOST_GAPS = 50_000
"""Pauses between tokens that are looked at; of more, every k-th."""


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds on the clock of the outcomes: when the load began, and from when to when it is measured."""

    began: float
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long is measured."""
        return max(self.end - self.start, 1e-9)


def summary(load: Load, outcomes: Sequence[Outcome], window: Window, slo: Slo | None, cpu: float, uniform: Uniform) -> Stage:
    """The stage's numbers. `cpu` is the client's own, as a share of one core."""
    measured = sorted((one for one in outcomes if window.start <= one.intended < window.end), key=lambda one: one.intended)
    good = [one for one in measured if one.kind == "ok"]
    slices = tuple(_slices(outcomes, window))
    late = [one.sent - one.intended for one in measured if one.sent - one.intended > LATE_SECONDS]
    known = [one.output_tokens for one in good if one.output_tokens is not None]
    steady = not growth(load, good, slices)
    prompts = [one.prompt_tokens for one in good if one.prompt_tokens is not None]
    return Stage(
        label=load.label,
        kind=load.kind,
        level=load.level,
        started=window.start - window.began,
        seconds=window.seconds,
        requests=len(measured),
        errors=dict(Counter(one.kind for one in measured if one.kind != "ok")),
        examples={one.kind: one.detail for one in reversed(measured) if one.kind != "ok"},
        ttft=spread([one.ttft for one in good if one.ttft is not None], uniform),
        tpot=spread([one.tpot for one in good if one.tpot is not None], uniform),
        itl=spread(*_gaps(good, uniform)),
        e2e=spread([one.e2e for one in good], uniform),
        output_rate=mean([one.tokens for one in slices], uniform),
        request_rate=mean([one.requests for one in slices], uniform),
        prompt_rate=_prompt_rate(outcomes, window),
        in_flight=fsum(one.in_flight for one in slices) / len(slices),
        goodput=_goodput(measured, window, slo, steady=steady) if slo else None,
        prompt_tokens=fsum(prompts) / max(1, len(prompts)),
        output_tokens=fsum(one.tokens for one in good) / max(1, len(good)),
        events=sum(len(one.stamps) for one in good),
        tokens=sum(known) if known else None,
        cached=sum(one.cached_tokens for one in good) / max(1, sum(prompts)),
        late=len(late),
        late_most=max(late, default=0.0),
        cpu=cpu,
        steady=steady,
        remarks=tuple(remarks(load, measured, slices, len(late), max(late, default=0.0), cpu)),
        slices=slices,
        rows=tuple(_row(one, window.began) for one in measured),
    )


def meets(one: Outcome, slo: Slo) -> bool:
    """Whether a request was answered within the limits. What was not measured keeps no limit; one token has no time per token,
    and keeps that one.
    """
    if one.kind != "ok" or (slo.ttft is not None and (one.ttft is None or one.ttft > slo.ttft)):
        return False
    return (slo.tpot is None or _keeps_tpot(one, slo.tpot)) and (slo.e2e is None or one.e2e <= slo.e2e)


def _keeps_tpot(one: Outcome, limit: float) -> bool:
    if one.tpot is not None:
        return one.tpot <= limit
    return one.tokens < 2 and (one.streamed or one.output_tokens is not None)  # not streamed, only usage counts tokens


def _goodput(measured: Sequence[Outcome], window: Window, slo: Slo, *, steady: bool) -> Goodput:
    hits = sum(meets(one, slo) for one in measured)
    estimate = share(hits, len(measured))
    return Goodput(estimate, hits / window.seconds, met=steady and bool(measured) and estimate.value >= slo.share)


def _gaps(good: Sequence[Outcome], uniform: Uniform) -> tuple[list[float], Uniform, list[int]]:
    """Pauses between events with content, and the block of each: those of a request stay together."""
    gaps, owners = [], []
    for one, block in zip(good, neighbours(len(good)), strict=True):
        if one.streamed:
            gaps += [after - before for before, after in zip(one.stamps, one.stamps[1:], strict=False)]
            owners += [block] * max(0, len(one.stamps) - 1)
    step = -(-len(gaps) // _MOST_GAPS) or 1
    return gaps[::step], uniform, owners[::step]


def _prompt_rate(outcomes: Sequence[Outcome], window: Window) -> float:
    """Prompt tokens a second: of requests whose first content came in the measured time."""
    begun = [one for one in outcomes if one.stamps and window.start <= one.stamps[0] < window.end]
    return sum(one.prompt_tokens or 0 for one in begun) / window.seconds


def _slices(outcomes: Sequence[Outcome], window: Window) -> Iterator[Slice]:
    """The measured time in equal pieces; tokens count where they arrived, an event for its share of the request's tokens."""
    width = window.seconds / _SLICES
    tokens, requests, busy = [0.0] * _SLICES, [0] * _SLICES, [0.0] * _SLICES
    for one in outcomes:
        each = one.tokens / len(one.stamps) if one.stamps else 0.0
        for stamp in one.stamps:
            if window.start <= stamp < window.end:
                tokens[min(_SLICES - 1, int((stamp - window.start) / width))] += each
        if one.kind == "ok" and window.start <= one.ended < window.end:
            requests[min(_SLICES - 1, int((one.ended - window.start) / width))] += 1
        for place in range(_SLICES):
            start = window.start + place * width
            busy[place] += max(0.0, min(one.ended, start + width) - max(one.sent, start))
    for place in range(_SLICES):
        at = window.start - window.began + place * width
        yield Slice(at, tokens[place] / width, requests[place] / width, busy[place] / width)


def _row(one: Outcome, began: float) -> Row:
    first, last = (one.stamps[0] - began, one.stamps[-1] - began) if one.stamps else (None, None)
    return Row(
        intended=round(one.intended - began, 6),
        sent=round(one.sent - began, 6),
        first=None if first is None else round(first, 6),
        last=None if last is None else round(last, 6),
        ended=round(one.ended - began, 6),
        prompt=one.prompt_tokens,
        output=one.output_tokens,
        events=len(one.stamps),
        kind=one.kind,
    )
