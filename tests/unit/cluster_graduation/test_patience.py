"""How long a side that gets nothing new is waited for, and how long a new one that is no good."""

import pytest

from headrace.cluster_graduation.patience import (
    FAILING_SECONDS,
    RESTS_SECONDS,
    SILENT_SECONDS,
    TAKEN_SECONDS,
    Leaving,
    Patience,
)
from headrace.control.graduation import Phase, Rules
from headrace.control.graduation import Standing as Stage
from headrace.targets.kubernetes.gateways import News, Told
from headrace.targets.kubernetes.standing import ReplicaStanding, Standing, State

DRAIN = 30.0
RULES = Rules(start_seconds=600)


def told(share: float, *, old: int = 0, new: int = 0) -> Told:
    return Told("gateway-1", "id", "chat", "chat-b", share, (1, 1), (old, new))


ALL_TO_NEW, IDLE = News([told(1.0, old=2)]), News([told(1.0)])
HALF = News([told(0.5)])
AWAY = News(silent="no gateway is ready")


@pytest.mark.parametrize(
    ("seen", "until"),
    [
        ([(IDLE, 600)], RESTS_SECONDS),
        ([(ALL_TO_NEW, 10), (IDLE, 600)], 10 + RESTS_SECONDS),
        ([(IDLE, 1), (ALL_TO_NEW, 5), (IDLE, 600)], 6 + RESTS_SECONDS),  # a request came back to it: another try of one
        ([(ALL_TO_NEW, 600)], DRAIN),  # what takes longer is cut off, as everywhere
        ([(HALF, 100), (ALL_TO_NEW, 600)], 100 + DRAIN),
        ([(AWAY, 600)], TAKEN_SECONDS),  # nobody can say
        ([(HALF, 600)], TAKEN_SECONDS),  # a gateway that never takes what it is told
    ],
)
def test_a_side_goes_when_it_has_answered_what_it_had(seen: list[tuple[News, int]], until: float) -> None:
    leaving, now = Leaving(DRAIN), 0.0
    for news, seconds in seen:
        for _ in range(seconds):
            over = leaving.over("chat", news, now)
            if over:
                assert now == until
                return
            now += 1
    pytest.fail("it never went")


def standing(state: State = "ready", restarts: int = 0) -> Standing:
    replica = ReplicaStanding("chat-b-1", "ready", "node-1", restarts, "")
    return Standing("chat", state, 1, 1, (replica,), None)


GOOD = News([told(0.5)])


@pytest.mark.parametrize(
    ("phase", "new", "news", "taken", "seconds"),
    [
        ("starting", standing("failing"), GOOD, True, FAILING_SECONDS),  # it may just be mended
        ("shifting", standing("failing"), GOOD, True, 2),  # clients are on it
        ("shifting", standing("absent"), GOOD, True, 2),  # somebody deleted it
        ("shifting", standing(), AWAY, True, SILENT_SECONDS),
        ("comparing", standing(), GOOD, False, TAKEN_SECONDS),
    ],
)
def test_a_new_side_is_no_good_after_a_while(phase: Phase, new: Standing, news: News, taken: bool, seconds: float) -> None:
    patience, stage = Patience(), Stage(phase, 0.0)
    for now in range(1000):
        if patience.over(stage, RULES, new, news, float(now), taken=taken, short=False):
            assert now == seconds
            return
    pytest.fail("it was never too long")


def test_a_pod_that_is_started_again_is_no_good_at_once() -> None:
    patience, stage = Patience(), Stage("shifting", 0.0)
    assert not patience.over(stage, RULES, standing(restarts=2), GOOD, 1.0, taken=True, short=False)  # those of its start
    assert "restarted" in patience.over(stage, RULES, standing(restarts=3), GOOD, 2.0, taken=True, short=False)


@pytest.mark.parametrize("phase", ["draining", "rolling back"])
def test_what_is_decided_is_judged_no_more(phase: Phase) -> None:
    patience = Patience()
    for now in (0.0, 1000.0):
        assert not patience.over(Stage(phase, 0.0), RULES, standing("failing"), AWAY, now, taken=False, short=True)
