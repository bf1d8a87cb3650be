"""The requests of one run → its score. First tokens count from the first request on: with few users the burst at the start is
what they wait for, and it is the same for every candidate.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from headrace.measure.base import Outcome
from headrace.measure.statistics import mean, percentile
from headrace.tune.base import Score


def score(outcomes: Sequence[Outcome], start: float, end: float, uniform: Callable[[], float]) -> Score:
    """Of requests in a run that counts tokens from `start` to `end`, seconds on the clock of the outcomes. Who had no first token
    by then has waited at least so long.
    """
    begun = [one for one in outcomes if one.intended < end]
    waits = sorted(one.stamps[0] - one.intended if one.stamps else end - one.intended for one in begun if not _failed(one))
    writing = [one for one in begun if len(one.stamps) > 1]
    tpots = [(one.stamps[-1] - one.stamps[0]) / (len(one.stamps) - 1) for one in writing]
    rates = mean(seconds(outcomes, start, end), uniform)
    return Score(
        rate=rates.value,
        low=rates.low,
        high=rates.high,
        ttft=percentile(waits, 0.5) if waits else None,
        ttft_p90=percentile(waits, 0.9) if waits else None,
        tpot=fmean(tpots) if tpots else None,
        answered=sum(one.kind == "ok" for one in begun),
        failed=sum(_failed(one) for one in begun),
        seconds=max(0.0, end - start),
    )


def seconds(outcomes: Sequence[Outcome], start: float, end: float) -> list[float]:
    """Output tokens a second in each whole second from `start` to `end`; in one piece where there is no whole one."""
    count = max(1, int(end - start))
    width = max(1e-9, min(1.0, end - start))
    found = [0.0] * count
    for one in outcomes:
        each = one.tokens / len(one.stamps) if one.stamps else 0.0
        for stamp in one.stamps:
            if start <= stamp < start + count * width:
                found[min(count - 1, int((stamp - start) / width))] += each
    return [tokens / width for tokens in found]


def first_tokens(outcomes: Sequence[Outcome], now: float) -> float | None:
    """The median wait for a first token so far; who still waits counts with what it has waited."""
    waits = sorted((one.stamps[0] if one.stamps else now) - one.intended for one in outcomes)
    return percentile(waits, 0.5) if waits else None


def _failed(one: Outcome) -> bool:
    """A request that the server failed; those that were given up at the end are not."""
    return one.kind not in ("ok", "unfinished")
