"""How a tune's time is spent: how long one run is, when the search ends, how many final turns there are; all in seconds."""

from collections.abc import Sequence

from headrace.tune.base import Mix, Trial

LEAST_RUN = 6.0
MOST_SHARE = 0.03
"""Of the budget, for one run."""
_WARMUP = 0.4
"""Of a run: before it, not counted. The burst at the start is over by then in most, and is the same for all."""
LEAST_TURNS, MOST_TURNS = 2, 3
_TURNS_SHARE = 0.5
OVERTIME = 1.25
"""Past so many times its budget a tune ends between two trials, whatever is missing."""


def run_seconds(mix: Mix, best: float, budget: float, least: float = LEAST_RUN) -> float:
    """The measured time of a run: what an answer takes at `best` tokens a second of all, within MOST_SHARE of the budget."""
    answer = mix.output * mix.users / best if best > 0 else budget
    return max(least, min(MOST_SHARE * budget, answer))


def warmup_seconds(run: float) -> float:
    """Before the measured time."""
    return _WARMUP * run


def trial_seconds(trials: Sequence[Trial], run: float) -> float:
    """What a whole trial takes, its start included: as the whole ones so far did."""
    took = [trial.seconds for trial in trials if trial.end == "whole"]
    return sum(took) / len(took) if took else run + warmup_seconds(run) + 4.0


def leaders(each: float, budget: float) -> int:
    """How many of the best come into the final turns, beside what is planned and llama.cpp as it comes."""
    return 2 if LEAST_TURNS * 4 * each <= _TURNS_SHARE * budget else 1


def turns(entries: int, each: float, budget: float) -> int:
    """How often each of the last `entries` is measured, when one trial takes `each` seconds."""
    return max(LEAST_TURNS, min(MOST_TURNS, int(_TURNS_SHARE * budget / max(0.1, entries * each))))
