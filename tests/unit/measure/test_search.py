"""The search for a rate: against servers that are known, it ends near the truth within its trials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.measure.search import MOST_TRIALS, NEAR, Trial, bracket, next_rate, verdict
from headrace.measure.statistics import share


def tried(rate: float, best: float, *, steady: bool = True) -> Trial:
    return Trial(rate, share(100 if rate <= best else 10, 100), steady, 0.95)


def search(start: float, best: float) -> list[Trial]:
    trials: list[Trial] = []
    while (rate := next_rate(start, trials)) is not None:
        trials.append(tried(rate, best))
    return trials


@given(st.floats(0.1, 50), st.floats(0.1, 50))
def test_it_ends_near_the_highest_rate(start: float, best: float) -> None:
    trials = search(start, best)
    low, high = bracket(trials)
    assert low
    assert high
    assert len(trials) <= MOST_TRIALS
    assert low <= best < high
    assert len(trials) == MOST_TRIALS or high / low <= NEAR


def test_a_server_that_fails_at_any_rate_ends_the_search() -> None:
    trials = [Trial(rate, share(0, 50), True, 0.95) for rate in (0.04, 0.02, 0.01)]
    assert next_rate(0.04, trials) is None
    assert "No rate that was tried keeps the limits" in verdict(trials)


def test_a_queue_that_grows_is_never_good() -> None:
    trial = Trial(4.0, share(100, 100), steady=False, wanted=0.95)
    assert not trial.good
    assert trial.sure


@pytest.mark.parametrize(
    ("hits", "count", "sure"),
    [(100, 100, True), (96, 100, False), (93, 100, False), (50, 100, True), (9, 10, False)],
)
def test_what_is_within_noise_is_not_sure(hits: int, count: int, sure: bool) -> None:
    assert Trial(1.0, share(hits, count), True, 0.95).sure is sure


def test_the_verdict_counts_trials_and_says_its_doubt() -> None:
    sure = [tried(1.0, 1.5), tried(2.0, 1.5)]
    assert verdict(sure) == "The highest rate that keeps the limits: 1 requests/s; 2/s does not (2 trials)."
    assert "within noise" in verdict([sure[0], Trial(2.0, share(93, 100), True, 0.95)])
