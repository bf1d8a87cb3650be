"""The highest rate that keeps the limits: doubles or halves until it is bracketed, then bisects; says when it is not sure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from headrace.measure.statistics import Estimate

MOST_TRIALS = 14
NEAR = 1.1
"""The bracket is narrow enough when its ends differ by no more than this factor."""
LEAST_RATE, HIGHEST_RATE = 0.01, 100_000.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate, tried: the share of requests that kept the limits, and whether the server kept pace."""

    rate: float
    share: Estimate
    steady: bool
    wanted: float

    @property
    def good(self) -> bool:
        """Whether the rate is one that keeps the limits, by the best guess."""
        return self.steady and self.share.value >= self.wanted

    @property
    def sure(self) -> bool:
        """Whether the interval is all on one side of what is wanted."""
        return not self.steady or self.share.low >= self.wanted or self.share.high < self.wanted


def next_rate(start: float, trials: Sequence[Trial]) -> float | None:
    """What to try next, beginning with `start`; None when it is found, or cannot be."""
    if len(trials) >= MOST_TRIALS:
        return None
    if not trials:
        return _short(start)
    low, high = bracket(trials)
    if low is None and high is not None:
        return _short(high / 2) if high / 2 >= LEAST_RATE else None
    if high is None and low is not None:
        return _short(low * 2) if low * 2 <= HIGHEST_RATE else None
    assert low is not None
    assert high is not None
    return None if high / low <= NEAR else _short(sqrt(low * high))


def bracket(trials: Sequence[Trial]) -> tuple[float | None, float | None]:
    """(the highest good rate below every bad one, the lowest bad rate)."""
    high = min((trial.rate for trial in trials if not trial.good), default=None)
    good = [trial.rate for trial in trials if trial.good and (high is None or trial.rate < high)]
    return max(good, default=None), high


def _short(rate: float) -> float:
    """Three digits, as rates are shown: far finer than the search."""
    return float(f"{rate:.3g}")


def verdict(trials: Sequence[Trial]) -> str:
    """What was found, in a sentence, with how many trials it rests on."""
    low, high = bracket(trials)
    count = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
    unsure = sum(not trial.sure for trial in trials if trial.rate in (low, high))
    if low is None:
        least = f"{high:.3g}" if high is not None else "any"
        return f"No rate that was tried keeps the limits, down to {least} requests/s ({count})."
    doubt = "; an end of it is within noise: longer trials (--duration) would tell" if unsure else ""
    above = f"{high:.3g}/s does not{doubt}" if high is not None else f"no rate that fails was reached{doubt}"
    return f"The highest rate that keeps the limits: {low:.3g} requests/s; {above} ({count})."
