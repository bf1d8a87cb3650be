"""When a run is stopped, who wins, and when a machine is too noisy to tell."""

import random
from dataclasses import replace

import pytest

from headrace.tune.base import OWN_DEFAULTS, PRESENT, Candidate, Finalist, Goal, Limits, Score, Trial
from headrace.tune.frontier import frontier
from headrace.tune.stopping import Quiet, clearly_worse, finalists, leaders, value, verdict

BEST = Score(rate=100, low=95, high=105, ttft=1.0, ttft_p90=2.0, tpot=0.05, answered=50)
FAST, SLOW, OTHER = (Candidate.of({"engine": "llamacpp", "slots": str(slots)}) for slots in (8, 4, 2))


def run(candidate: Candidate, rate: float, turn: int = 0, name: str = "", **more: object) -> Trial:
    return Trial(candidate, "whole", replace(BEST, rate=rate, low=rate * 0.95, high=rate * 1.05, **more), name=name, turn=turn)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slices", "ttft", "share", "stopped"),
    [
        ([50.0, 52, 49, 51, 50, 48], 3.0, 0.6, True),  # half as fast, and later
        ([50.0, 52, 49, 51], 3.0, 0.6, False),  # too few seconds to tell
        ([50.0, 52, 49, 51, 50, 48], 3.0, 0.2, False),  # too early: the burst at the start may be all there was
        ([50.0, 52, 49, 51, 50, 48], 0.5, 0.6, False),  # slow, but the first token comes sooner: a point of the frontier
        ([93.0, 99, 90, 101, 94, 97], 3.0, 0.6, False),  # within noise
        ([0.0, 200, 0, 180, 10, 90], 3.0, 0.6, False),  # too uneven to tell
        ([0.0] * 6, None, 0.6, True),  # nothing at all comes
    ],
)
def test_a_run_is_stopped_only_when_it_is_clearly_worse_on_both_ends(
    slices: list[float], ttft: float | None, share: float, stopped: bool
) -> None:
    why = clearly_worse(slices, ttft, share, BEST)
    assert bool(why) is stopped
    assert not stopped or "100" in why  # against what


def test_a_run_as_good_as_the_best_is_nearly_never_stopped() -> None:
    dice = random.Random(7)
    stopped = sum(bool(clearly_worse([dice.gauss(100, 20) for _ in range(8)], 3.0, 0.8, BEST)) for _ in range(2000))
    assert stopped < 40


def test_leaders_are_the_best_whole_runs_of_the_search_limits_first() -> None:
    late = run(OTHER, 300, ttft_p90=9.0)
    trials = [run(SLOW, 80), run(FAST, 120), late, run(FAST, 500, name=PRESENT), replace(run(SLOW, 900), end="stopped")]
    assert leaders(trials, "throughput", Limits(), 2) == [OTHER, FAST]
    assert leaders(trials, "throughput", Limits(ttft=3.0), 3) == [FAST, SLOW, OTHER]


def test_a_missed_limit_weighs_more_than_any_speed() -> None:
    assert value(BEST, "throughput", Limits()) > value(replace(BEST, rate=9e5), "throughput", Limits(ttft=1.5))


def turned(*rates: tuple[str, Candidate, list[float]]) -> list[Finalist]:
    return finalists([run(candidate, rate, n, name) for name, candidate, several in rates for n, rate in enumerate(several, 1)])


@pytest.mark.parametrize(
    ("now", "new", "wins"),
    [
        ([100, 104, 98], [150, 155, 149], True),
        ([100, 104, 98], [103, 110, 102], False),  # one of its turns is below one of the present's: noise
        ([100, 100, 100], [102, 102, 102], False),  # always better, by less than is worth a change
        ([100, 104], [150], False),  # too few turns
    ],
)
def test_noise_does_not_choose(now: list[float], new: list[float], wins: bool) -> None:
    found = verdict(turned((PRESENT, SLOW, now), ("", FAST, new)), PRESENT, "throughput", Limits(), "8 users")
    assert (found.winner is not None) is wins
    assert not wins or "150 tokens/s (149–155" in found.evidence
    assert not wins or "against 100 tokens/s (98–104" in found.evidence


def test_the_evidence_names_llama_cpp_as_it_comes() -> None:
    found = verdict(
        turned((PRESENT, SLOW, [50, 51]), ("", FAST, [99, 98]), (OWN_DEFAULTS, OTHER, [40, 42])),
        PRESENT,
        "throughput",
        Limits(),
        "x",
    )
    assert "41 tokens/s (40–42, first token after 1s) of llama.cpp as it comes" in found.evidence


def test_a_slower_one_wins_when_it_keeps_the_limit_that_the_present_misses() -> None:
    trials = [run(SLOW, 100, n, PRESENT, ttft_p90=5.0) for n in (1, 2)] + [run(FAST, 70, n) for n in (1, 2)]
    assert verdict(finalists(trials), PRESENT, "throughput", Limits(ttft=3.0), "x").winner is not None
    assert verdict(finalists(trials), PRESENT, "throughput", Limits(), "x").winner is None


@pytest.mark.parametrize(
    ("now", "new", "wins"),
    [
        ([0.51, 0.52], [0.48, 0.49], True),
        ([0.499, 0.503], [0.498, 0.499], False),  # the present kept it once
        ([0.501, 0.502], [0.497, 0.5005], False),  # and this one missed it once; the medians are 2 ms apart
    ],
)
def test_noise_around_a_limit_does_not_choose(now: list[float], new: list[float], wins: bool) -> None:
    limits = Limits(ttft=0.5)
    trials = [run(SLOW, 100, n, PRESENT, ttft_p90=wait) for n, wait in enumerate(now, 1)]
    slow = [run(FAST, 40, n, ttft_p90=wait) for n, wait in enumerate(new, 1)]
    found = verdict(finalists(trials + slow), PRESENT, "throughput", limits, "x")
    assert (found.winner is not None) is wins
    assert ("the limit for ttft kept in every turn, and with what is planned in none" in found.evidence) is wins
    fast = [run(OTHER, 150, n, ttft_p90=0.505) for n in (1, 2)]  # misses it by as little
    found = verdict(finalists(trials + slow + fast), PRESENT, "throughput", limits, "x")
    assert found.winner is not None
    assert found.winner.candidate == (FAST if wins else OTHER)


@pytest.mark.parametrize(
    ("now", "new", "wins"),
    [
        ([0.50, 0.52], [0.30, 0.31], True),
        ([0.50, 0.52], [0.25, 0.51], False),  # one of its turns is above one of the present's: noise
        ([0.50, 0.50], [0.47, 0.47], False),  # always better, by less than is worth a change
        ([0.50, 0.50], [0.30, None], False),  # nothing came in one turn
        ([None, None], [0.30, 0.31], True),
    ],
)
@pytest.mark.parametrize("goal", ["ttft", "tpot"])
def test_noise_does_not_choose_by_waits(goal: Goal, now: list[float | None], new: list[float | None], wins: bool) -> None:
    trials = [run(SLOW, 100, n, PRESENT, **{goal: wait}) for n, wait in enumerate(now, 1)]
    trials += [run(FAST, 30, n, **{goal: wait}) for n, wait in enumerate(new, 1)]
    found = verdict(finalists(trials), PRESENT, goal, Limits(), "x")
    assert (found.winner is not None) is wins
    assert ("by more than noise and 10 %" in found.evidence) is not wins


def test_the_frontier_is_what_none_beats_in_everything() -> None:
    trials = [run(FAST, 120), run(SLOW, 80, ttft=0.2), run(OTHER, 70, ttft=0.9), Trial(OTHER, "failed", why="it died")]
    assert [trial.candidate for trial in frontier(trials)] == [FAST, SLOW]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Quiet(2, 0.05, 0.0, 0, 0.02), []),
        (Quiet(2, 1.4, 0.0, 0, 0.02), ["others use 1.40 of 2 cores"]),
        (Quiet(2, 0.0, 0.12, 0, 0.02), ["12.0 % of the time is stolen"]),
        (Quiet(2, 0.0, 0.0, 7, 0.02), ["7 tasks wait"]),
        (Quiet(2, None, None, None, 0.44), ["varied by 44 %"]),  # a machine that tells nothing of itself
        (Quiet(2, 1.4, 0.12, 7, 0.44), ["others", "stolen", "wait", "varied"]),
    ],
)
def test_what_makes_a_machine_too_noisy_is_said_with_its_numbers(state: Quiet, words: list[str]) -> None:
    assert len(state.noise) == len(words)
    assert all(word in said for word, said in zip(words, state.noise, strict=True))
