"""What no other trial beats in everything: tokens a second of all against what one user waits."""

from collections.abc import Sequence

from headrace.tune.base import Score, Trial


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Whole trials that none dominates, the most tokens a second first; of several runs of a candidate the first counts."""
    whole: dict[tuple[str, object], Trial] = {}
    for trial in trials:
        if trial.end == "whole" and trial.score is not None:
            whole.setdefault((trial.name, trial.candidate), trial)
    kept = [trial for trial in whole.values() if not any(_beats(other, trial) for other in whole.values())]
    return sorted(kept, key=lambda trial: -_score(trial).rate)


def _beats(one: Trial, other: Trial) -> bool:
    mine, theirs = _ends(_score(one)), _ends(_score(other))
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def _ends(score: Score) -> tuple[float, float, float]:
    """More is better in each; an unknown wait is the longest."""
    return score.rate, -(score.ttft or float("inf")), -(score.tpot or float("inf"))


def _score(trial: Trial) -> Score:
    assert trial.score is not None
    return trial.score
