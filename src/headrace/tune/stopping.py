"""When to stop a run, who wins, and whether a machine is quiet enough to tell: statistics over rates, numbers in, words out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf, sqrt
from statistics import median

from headrace.tune.base import Candidate, Finalist, Goal, Limits, Score, Trial, Verdict
from headrace.units import show_duration

LEAST_SLICES = 5
"""Seconds of a run before it may be stopped."""
_LEAST_SHARE = 0.4
_ERRORS = 3.0
"""Standard errors: a run as good as the best is stopped about once in a thousand looks, were its seconds independent."""
_NEIGHBOURS = 1.5
"""Seconds that follow each other are alike (batches, prompts between them): by so much their mean is less certain."""
WORTH = 1.03
"""What a winner must gain over what is planned already."""
_LEAST_TURNS = 2
WORTH_WAITING = 1.1
"""The same for waits, which vary more."""

MOST_SHARE, MOST_STEAL, MOST_SPREAD = 0.15, 0.03, 0.10
"""Of the cores in use by others, of the time taken by other machines of the host, of the same small work's times (p90 above p10):
beyond any of them differences of a few percent are not to be seen.
"""


def clearly_worse(slices: Sequence[float], ttft: float | None, share: float, best: Score) -> str:
    """Why a run is to be stopped after `share` of its time, its `slices` being tokens of each second; empty when it goes on.

    It has to be worse on both ends of the frontier: fewer tokens than `best` by more than chance, and no sooner a first one.
    """
    if len(slices) < LEAST_SLICES or share < _LEAST_SHARE:
        return ""
    middle = fsum(slices) / len(slices)
    error = _NEIGHBOURS * sqrt(fsum((one - middle) ** 2 for one in slices) / (len(slices) - 1) / len(slices))
    if middle + _ERRORS * error >= best.low or (ttft is not None and best.ttft is not None and ttft < best.ttft):
        return ""
    return (
        f"stopped after {len(slices)} s: {middle:.0f} tokens/s, at best {middle + _ERRORS * error:.0f}, against {best.rate:.0f}"
    )


def value(score: Score, goal: Goal, limits: Limits) -> float:
    """What an optimizer is to make large: the goal, pushed below everything by each limit that is missed."""
    worth = {"throughput": score.rate, "ttft": -(score.ttft or 600.0), "tpot": -1000 * (score.tpot or 1.0)}[goal]
    return worth - 1e6 * len(score.misses(limits))


def _rank(score: Score, goal: Goal, limits: Limits) -> tuple[int, float]:
    return len(score.misses(limits)), -value(score, goal, Limits())


def leaders(trials: Sequence[Trial], goal: Goal, limits: Limits, count: int) -> list[Candidate]:
    """The best `count` candidates of the search, the best first; what stands for defaults is not among them."""
    found: dict[Candidate, Score] = {}
    for trial in trials:
        if trial.end == "whole" and trial.score and not trial.name and not trial.turn:
            found.setdefault(trial.candidate, trial.score)
    return sorted(found, key=lambda candidate: _rank(found[candidate], goal, limits))[:count]


def finalists(trials: Sequence[Trial]) -> list[Finalist]:
    """Every candidate of the final turns, over its turns."""
    groups: dict[tuple[str, Candidate], list[Trial]] = {}
    for trial in trials:
        if trial.turn and trial.score and trial.end == "whole":
            groups.setdefault((trial.name, trial.candidate), []).append(trial)
    return [_together(name, candidate, several) for (name, candidate), several in groups.items()]


def _together(name: str, candidate: Candidate, several: Sequence[Trial]) -> Finalist:
    scores = [trial.score for trial in several if trial.score]
    rates = tuple(score.rate for score in scores)
    ttft, p90, tpot = (_middle([getattr(score, part) for score in scores]) for part in ("ttft", "ttft_p90", "tpot"))
    return Finalist(candidate, name, rates, median(rates), ttft, p90, tpot, several[0].memory_bytes, tuple(scores))


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def verdict(found: Sequence[Finalist], present: str, goal: Goal, limits: Limits, load: str) -> Verdict:
    """The finalist that replaces what is named `present`: the best one that is better in each of the final turns, by its limits
    or else by so much that it is worth a change.
    """
    now = next((one for one in found if one.name == present), None)
    able = [one for one in found if not one.name and len(one.rates) >= _LEAST_TURNS]
    if now is None or len(now.rates) < _LEAST_TURNS or not able:
        return Verdict(None, "Too few turns were measured to compare, so nothing changes: a longer --budget has time for more")
    ranked = sorted(able, key=lambda one: _rank(_score(one), goal, limits))
    best = next((one for one in ranked if _gained(one, now, limits) or _clear(one, now, goal, limits)), None)
    if best is None:
        worth = 100 * ((WORTH if goal == "throughput" else WORTH_WAITING) - 1)
        said = f"No settings were better by more than noise and {worth:.0f} %"
        return Verdict(None, f"{said}: {_said(ranked[0])} against {_said(now)} of what is planned; {load}")
    against = f"{_said(best)} against {_said(now)} of what is planned"
    others = "".join(f", {_said(one)} of {one.name}" for one in found if one.name not in ("", present))
    still = "".join(f"; the limit for {name} is still missed" for name in _score(best).misses(limits))
    kept = "".join(
        f"; the limit for {name} kept in every turn, and with what is planned in none"
        for name in sorted(_gained(best, now, limits))
    )
    return Verdict(best, f"{against}{others}; {load}; by turns, {len(best.rates)} each{kept}{still}")


def _gained(one: Finalist, now: Finalist, limits: Limits) -> frozenset[str]:
    """The limits that it kept in every turn and what is planned in none, where they decide: it misses fewer than that."""
    if len(_score(one).misses(limits)) >= len(_score(now).misses(limits)):
        return frozenset()
    missed = frozenset.intersection(*(frozenset(turn.misses(limits)) for turn in now.turns))
    return missed.difference(*(turn.misses(limits) for turn in one.turns))


def _clear(one: Finalist, now: Finalist, goal: Goal, limits: Limits) -> bool:
    """Whether it misses no more limits, and is better by the goal in every turn and by what is worth a change in the median."""
    if len(_score(one).misses(limits)) > len(_score(now).misses(limits)):
        return False
    if goal == "throughput":
        return one.low > now.high and one.rate >= WORTH * now.rate
    mine, theirs = _waits(one, goal), _waits(now, goal)
    return max(mine) < min(theirs) and median(theirs) >= WORTH_WAITING * median(mine)


def _waits(one: Finalist, goal: Goal) -> list[float]:
    """By turns; without end where nothing came in the time."""
    return [inf if wait is None else wait for wait in (getattr(turn, goal) for turn in one.turns)]


def _score(one: Finalist) -> Score:
    return Score(one.rate, one.low, one.high, one.ttft, one.ttft_p90, one.tpot, 1)


def _said(one: Finalist) -> str:
    waits = f", first token after {show_duration(one.ttft)}" if one.ttft is not None else ""
    return f"{one.rate:.0f} tokens/s ({one.low:.0f}–{one.high:.0f}{waits})"


@dataclass(frozen=True, slots=True)
class Quiet:
    """How a machine is before anything is measured. `others`: cores in use by others; `steal`: share of the time that other
    machines of the host took; `waiting`: runnable tasks beyond the cores; `spread`: how much longer the same small work took at
    its slow (p90) than at its quick (p10).
    """

    cores: int
    others: float | None
    steal: float | None
    waiting: int | None
    spread: float

    @property
    def numbers(self) -> str:
        others = "unknown" if self.others is None else f"{self.others:.2f} of {self.cores} cores"
        steal = "unknown" if self.steal is None else f"{100 * self.steal:.1f} %"
        queue = "" if self.waiting is None else f", {self.waiting} tasks waiting for a core"
        return f"use by others {others}, steal {steal}{queue}, the same work varied by {100 * self.spread:.0f} %"

    @property
    def noise(self) -> tuple[str, ...]:
        """What makes it too noisy, each with its limit; nothing where it is not."""
        found = []
        if self.others is not None and self.others > MOST_SHARE * self.cores:
            found.append(f"others use {self.others:.2f} of {self.cores} cores (at most {MOST_SHARE * self.cores:.2f})")
        if self.steal is not None and self.steal > MOST_STEAL:
            found.append(f"{100 * self.steal:.1f} % of the time is stolen by other machines (at most {100 * MOST_STEAL:.0f} %)")
        if self.waiting is not None and self.waiting > self.cores:
            found.append(f"{self.waiting} tasks wait for a core (at most {self.cores})")
        if self.spread > MOST_SPREAD:
            found.append(f"the same work varied by {100 * self.spread:.0f} % (at most {100 * MOST_SPREAD:.0f} %)")
        return tuple(found)
