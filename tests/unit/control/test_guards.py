"""Guards by simulation: what is bad is found soon, what is not is left alone, a spike is none."""

import random

import pytest

from headrace.control.guards import LEAST_PER_TOKEN, NORMAL_ERRORS, TOO_MANY_ERRORS, Evidence, Sequential, rank_z, slower_than
from headrace.traffic import Finished

NEW = frozenset({"chat-2"})


def answer(draw: random.Random, replica: str, *, fails: float = 0.0, empty: float = 0.0, slow: float = 1.0) -> Finished:
    """One streamed answer of about 20 tokens: log-normal times, a fifth of them three times as long."""
    if draw.random() < fails:
        return Finished(0.0, "chat", replica, 500, None, None, 0.0, None, 0.1)
    tokens = 0 if draw.random() < empty else 20
    stretch = slow * draw.lognormvariate(0, 0.4) * (3 if draw.random() < 0.2 else 1)
    return Finished(0.0, "chat", replica, 200, 30, tokens, 0.0, 0.1 * stretch, (0.1 + 0.02 * 20) * stretch)


def run(seed: int, count: int, **new: float) -> tuple[str, int]:
    """(the breach, after how many answers of the new one) of half the traffic each, four of each a look."""
    draw, evidence = random.Random(seed), Evidence()
    before = [answer(draw, "chat-1") for _ in range(100)]
    evidence.see(before, NEW, 0, 0.0, shifting=False)
    evidence.next_step(alone=False)
    for look in range(count // 4):
        both = [answer(draw, "chat-1") for _ in range(4)] + [answer(draw, "chat-2", **new) for _ in range(4)]
        evidence.see(both, NEW, 0, float(look), shifting=True)
        if evidence.breach:
            return evidence.breach, evidence.answers
    return "", count


@pytest.mark.parametrize(
    ("what", "within", "word"),
    [
        ({"fails": 0.1}, 120, "failed"),
        ({"fails": 1.0}, 12, "failed"),
        ({"empty": 0.5}, 60, "nothing"),
        ({"slow": 2.0}, 400, "times as long"),
        ({"slow": 10.0}, 40, "times as long"),
    ],
)
def test_what_is_bad_is_found(what: dict[str, float], within: int, word: str) -> None:
    found = [run(seed, 800, **what) for seed in range(60)]
    assert sum(word in why and after <= within for why, after in found) >= 54, found


def test_what_is_as_good_is_left_alone() -> None:
    alarms = [why for seed in range(200) if (why := run(seed, 400)[0])]
    assert len(alarms) <= 1, alarms


def test_what_is_a_little_slower_is_left_alone() -> None:
    alarms = [why for seed in range(100) if (why := run(seed, 400, slow=1.15)[0])]
    assert len(alarms) <= 2, alarms


def test_normal_errors_alarm_as_rarely_as_it_says() -> None:
    """Each test of Wald's breaches in at most 1 of 1,000 although errors are normal: about 12 of them in 800 requests."""
    alarms = 0
    for seed in range(500):
        draw, test = random.Random(seed), Sequential(NORMAL_ERRORS, TOO_MANY_ERRORS)
        for case in range(800):
            test.see(draw.random() < NORMAL_ERRORS, float(case))
        alarms += test.breached
    assert alarms <= 500 * 12 * 0.001 + 10


def test_a_spike_is_no_breach() -> None:
    test = Sequential(NORMAL_ERRORS, TOO_MANY_ERRORS)
    for _ in range(30):
        test.see(True, 1.0)
    assert not test.breached, "all in one moment"
    test.see(True, 2.0)
    test.see(True, 3.0)
    assert test.breached


def test_one_answer_that_takes_for_ever_makes_nothing_slow() -> None:
    old = [0.1 + 0.001 * n for n in range(40)]
    sure, _ = slower_than([*old[:-1], 500.0], old, 1.3, "time", 0.002)
    assert sure < 0


@pytest.mark.parametrize(
    ("old", "new", "slow"), [(0.0, 0.0025, False), (0.0, 0.0035, True), (0.002, 0.0035, True), (0.01, 0.012, False)]
)
def test_times_too_short_for_anyone_to_notice_are_as_good_as_each_other(old: float, new: float, slow: bool) -> None:
    """An old replica that writes an answer in one piece has no time per token: any other were infinitely slower."""
    sure, said = slower_than([new] * 80, [old] * 80, 1.3, "time per output token", LEAST_PER_TOKEN)
    assert (sure > 3.29) == slow, said


def test_what_goes_wrong_late_is_found_as_soon() -> None:
    test = Sequential(NORMAL_ERRORS, TOO_MANY_ERRORS)
    for case in range(5000):
        test.see(False, float(case))
    for case in range(5):
        test.see(True, 5000.0 + case)
    assert test.breached


def test_attempts_that_others_made_good_count() -> None:
    evidence = Evidence()
    for look in range(4):
        evidence.see([], NEW, 1, float(look), shifting=True)
    assert "failed" in evidence.breach


def test_what_the_old_ones_fail_at_too_is_normal() -> None:
    draw, evidence = random.Random(1), Evidence()
    evidence.see([answer(draw, "chat-1", fails=0.2) for _ in range(300)], NEW, 0, 0.0, shifting=False)
    for look in range(60):
        evidence.see([answer(draw, "chat-2", fails=0.2) for _ in range(2)], NEW, 0, float(look), shifting=True)
    assert not evidence.breach


def test_with_all_the_traffic_the_times_from_before_compare() -> None:
    draw, evidence = random.Random(2), Evidence()
    evidence.see([answer(draw, "chat-1") for _ in range(60)], NEW, 0, 0.0, shifting=False)
    evidence.next_step(alone=True)
    evidence.see([answer(draw, "chat-2", slow=4.0) for _ in range(60)], NEW, 0, 1.0, shifting=True)
    assert "times as long" in evidence.breach


@pytest.mark.parametrize("status", [499, 429])
def test_clients_that_left_and_full_queues_say_nothing(status: int) -> None:
    evidence = Evidence()
    for look in range(50):
        evidence.see([Finished(0.0, "chat", "chat-2", status, None, None, 0.0, None, 1.0)], NEW, 0, float(look), shifting=True)
    assert evidence.answers == 0
    assert not evidence.breach


RANKED: list[tuple[list[float], list[float], float]] = [
    ([], [1.0], 0.0),
    ([1.0, 2.0], [1.0, 2.0], 0.0),
    ([3.0, 4.0], [1.0, 2.0], 2 / (4 * 5 / 12) ** 0.5),  # U is 4 of 4
]


@pytest.mark.parametrize(("new", "old", "z"), RANKED)
def test_ranks(new: list[float], old: list[float], z: float) -> None:
    assert rank_z(new, old) == pytest.approx(z)
