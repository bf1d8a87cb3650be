"""Percentiles with confidence intervals, shares, ratios of two measurements: numbers in, numbers out.

Percentiles are the nearest rank (no interpolation). Intervals of percentiles and means are block bootstraps (Künsch 1989):
latencies of neighbours are alike, because they stood in the same queue, so blocks of neighbours are drawn together. Shares
have Wilson's interval.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

LEVEL = 0.95
"""Confidence of every interval."""
_Z = 1.959964
"""Standard normal quantile of 0.975."""
QUANTILES = (0.5, 0.9, 0.95, 0.99)
_WORK = 2_000_000
"""Values looked at for one bootstrap, in all resamples together: about half a second."""
_MOST_RESAMPLES, _FEWEST_RESAMPLES = 1000, 100

Uniform = Callable[[], float]
"""The next random number, from 0 up to but not 1."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are distributed. `curve` has the 101 percentiles from the least value to the most."""

    count: int
    mean: Estimate
    p50: Estimate
    p90: Estimate
    p95: Estimate
    p99: Estimate
    most: float
    curve: tuple[float, ...]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: the least of `ordered` that at least `share` of them do not exceed. Of nothing: ValueError."""
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered) - 1e-9) - 1))]


def spread(values: Sequence[float], uniform: Uniform, blocks: Sequence[int] | None = None) -> Spread | None:
    """Of values in the order they came; None when there are none. `blocks` says which values are drawn together, counted from 0
    (default: neighbours, the cube root of their number at a time).
    """
    if not values:
        return None
    owners = list(blocks) if blocks is not None else neighbours(len(values))
    order = sorted(range(len(values)), key=values.__getitem__)
    ordered = [values[place] for place in order]
    drawn = _resampled(ordered, [owners[place] for place in order], uniform)
    middle, p50, p90, p95, p99 = (
        Estimate(value, *_interval(each, value))
        for value, each in zip(
            [math.fsum(ordered) / len(ordered), *(percentile(ordered, q) for q in QUANTILES)], drawn, strict=True
        )
    )
    return Spread(len(values), middle, p50, p90, p95, p99, ordered[-1], tuple(percentile(ordered, n / 100) for n in range(101)))


def neighbours(count: int) -> list[int]:
    """The block of each of `count` values in order: n ** (1/3) to a block, the rate that is best for variances."""
    size = max(1, round(count ** (1 / 3)))
    return [place // size for place in range(count)]


def mean(values: Sequence[float], uniform: Uniform) -> Estimate:
    """The mean of slices of time, or of trials, with its interval. Of nothing: 0 that means nothing."""
    if not values:
        return Estimate(0.0, 0.0, 0.0)
    count, resamples = len(values), _MOST_RESAMPLES
    drawn = [math.fsum(values[int(uniform() * count)] for _ in range(count)) / count for _ in range(resamples)]
    value = math.fsum(values) / count
    return Estimate(value, *_interval(drawn, value))


def share(hits: int, count: int) -> Estimate:
    """`hits` of `count` with Wilson's score interval; of none, nothing is known."""
    if not count:
        return Estimate(0.0, 0.0, 1.0)
    p, square = hits / count, _Z * _Z
    centre = (p + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(p * (1 - p) / count + square / (4 * count * count))
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def ratio(after: Estimate, before: Estimate) -> Estimate | None:
    """after ÷ before, its interval by the delta method on logarithms; None where one is not positive."""
    if after.value <= 0 or before.value <= 0:
        return None
    value = after.value / before.value
    half = _Z * math.hypot(_log_error(after), _log_error(before))
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def _log_error(one: Estimate) -> float:
    """The standard error of its logarithm, by the wider side of the interval."""
    above = math.log(one.high / one.value) if one.high > one.value else 0.0
    below = math.log(one.value / one.low) if 0 < one.low < one.value else above
    return max(above, below) / _Z


def _resampled(ordered: Sequence[float], owners: Sequence[int], uniform: Uniform) -> list[list[float]]:
    """The mean and each quantile in every resample. Weights on sorted values: no resample has to be sorted."""
    groups = max(owners) + 1
    found: list[list[float]] = [[] for _ in range(1 + len(QUANTILES))]
    for _ in range(max(_FEWEST_RESAMPLES, min(_MOST_RESAMPLES, _WORK // len(ordered)))):
        weights = [0] * groups
        for _ in range(groups):
            weights[int(uniform() * groups)] += 1
        each = list(map(weights.__getitem__, owners))
        ranks = list(accumulate(each))
        if not ranks[-1]:
            continue  # only blocks without values were drawn
        found[0].append(math.fsum(map(float.__mul__, map(float, each), map(float, ordered))) / ranks[-1])
        for place, quantile in enumerate(QUANTILES, 1):
            found[place].append(ordered[bisect_left(ranks, max(1, math.ceil(quantile * ranks[-1] - 1e-9)))])
    return found


def _interval(drawn: Sequence[float], value: float) -> tuple[float, float]:
    ordered = sorted(drawn)
    if not ordered:
        return value, value
    tail = (1 - LEVEL) / 2
    return min(value, percentile(ordered, tail)), max(value, percentile(ordered, 1 - tail))
