"""The states of a replica and its restarts: tables."""

import itertools

import pytest

from headrace.targets.base import TRANSITIONS, Replica, State
from headrace.targets.restarts import RestartPolicy


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_the_transitions_of_the_table_are_legal(before, after):
    replica = Replica("chat-1", "chat", "http://127.0.0.1:1", before)
    if after in TRANSITIONS[before]:
        entered = replica.entered(after, 5.0, "why", pid=7)
        assert (entered.state, entered.since, entered.reason, entered.pid) == (after, 5.0, "why", 7)
    else:
        with pytest.raises(AssertionError, match="not a legal transition"):
            replica.entered(after, 5.0, "why")


def test_backoff_grows_to_its_limit_and_ends():
    policy = RestartPolicy(most_failures=9)
    waits = [policy.retry_at(failures, now=100.0) for failures in range(1, 10)]
    assert waits == [101.0, 102.0, 104.0, 108.0, 116.0, 130.0, 130.0, 130.0, None]


@pytest.mark.parametrize(
    ("before", "ready_seconds", "failures"),
    [
        (0, 0.0, 1),
        (3, 59.9, 4),  # up, but not for long enough
        (3, 60.0, 1),  # was stable: this failure is a new story
    ],
)
def test_a_stable_replica_starts_from_the_beginning(before, ready_seconds, failures):
    assert RestartPolicy().failures(before, ready_seconds) == failures
