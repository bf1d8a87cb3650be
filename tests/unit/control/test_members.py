"""Pods → replicas, slots and what stands in a model's way."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control.members import Member, replicas, share, status
from headrace.spec.gateway_file import ServiceModel
from headrace.targets.base import Replica, State
from headrace.targets.pods.slices import Pod, Standing

READY, STARTING, DRAINING = Standing.READY, Standing.STARTING, Standing.DRAINING


def member(*standings: Standing, **about: Any) -> Member:
    found = {f"chat-{number}": Pod(f"chat-{number}", f"10.0.0.{number}", 8000, each) for number, each in enumerate(standings)}
    return Member("chat", ServiceModel(service="chat", slots=about.pop("slots", 8), **about), found)


def made(of: Member, gateways: int = 1, refusing: frozenset[str] = frozenset(), now: float = 0.0) -> tuple[Replica, ...]:
    return replicas(of, gateways, refusing, {}, now)


def test_ready_pods_get_requests_ending_ones_keep_theirs_and_starting_ones_have_none() -> None:
    ready, starting, draining = made(member(READY, STARTING, DRAINING, speaks="v2", folds=True, caches="slots"))
    assert ready.endpoint is not None
    assert (ready.endpoint.address, ready.endpoint.slots) == ("http://10.0.0.0:8000", 8)
    assert (ready.endpoint.speaks, ready.endpoint.folds, ready.endpoint.model_there) == ("v2", True, "chat")
    assert ready.endpoint.caches == "slots"
    assert starting.endpoint is None
    assert draining.endpoint is not None
    assert draining.endpoint.slots == 0


def test_a_pod_that_takes_no_connections_gets_no_requests_and_is_still_ready() -> None:
    (replica,) = made(member(READY), refusing=frozenset({"chat-0"}))
    assert replica.endpoint is not None
    assert (replica.state, replica.endpoint.slots) == (State.READY, 0)
    assert "takes no connections" in replica.reason


def test_a_state_is_as_old_as_it_was_seen_first() -> None:
    first = replicas(member(STARTING), 1, frozenset(), {}, 10.0)
    same = replicas(member(STARTING), 1, frozenset(), {each.name: each for each in first}, 20.0)
    other = replicas(member(READY), 1, frozenset(), {each.name: each for each in same}, 30.0)
    assert [each.since for each in (*first, *same, *other)] == [10.0, 10.0, 30.0]


@given(st.integers(1, 65536), st.integers(0, 200))
def test_shares_are_enough_for_all_slots_and_never_nothing(slots: int, gateways: int) -> None:
    one, all_of_them = share(slots, gateways), max(1, gateways)
    assert one >= 1
    assert slots <= one * all_of_them < slots + all_of_them


@pytest.mark.parametrize(
    ("of", "phase", "reason"),
    [
        (member(READY, STARTING, replicas=(0, 4)), "ready", "1 of 0..4 replicas ready"),
        (member(READY, replicas=(1, 1)), "ready", "1 of 1 replicas ready"),
        (member(STARTING, replicas=(0, 4)), "loading", "1 of 0..4 replicas starting"),
        (member(replicas=(0, 4), start=90), "asleep", "no pod runs: a request wakes it, which takes about 1m30s"),
        (member(DRAINING, replicas=(0, 4)), "asleep", "no pod runs: a request wakes it"),  # its last one is on its way out
        (member(replicas=(1, 4)), "loading", "no pod of chat is there"),  # nobody wakes it: somebody removed it
    ],
)
def test_what_stands_in_a_models_way(of: Member, phase: str, reason: str) -> None:
    told = status(of, made(of), 0.0, heard=True)
    assert (told.phase, told.reason) == (phase, reason)


def test_while_nothing_is_known_nothing_is_said_to_sleep() -> None:
    told = status(member(replicas=(0, 4)), (), 0.0, heard=False)
    assert (told.phase, told.reason) == ("loading", "the cluster has not told yet which pods there are")


def test_how_long_it_takes_yet_is_told_by_the_pod_that_was_there_first() -> None:
    of = member(STARTING, STARTING, start=60)
    early, late = made(of, now=10.0)[0], made(of, now=40.0)[1]
    assert status(of, (early, late), 50.0, heard=True).ready_in == 20.0
    assert status(of, (early, late), 500.0, heard=True).ready_in == 0.0
    assert status(member(start=60), (), 500.0, heard=True).ready_in == 60.0
    assert status(member(), (), 500.0, heard=True).ready_in is None
