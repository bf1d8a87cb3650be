"""Pods on trial beside a model's own: what the gateway is told of both, and that a trial nobody watches gets nothing."""

from typing import Any

import pytest

from headrace.control.members import on_trial
from headrace.spec.gateway_file import GatewayFile, GatewayFileError, read
from headrace.targets.base import Replica, State
from headrace.traffic import ModelStatus, Split
from tests.unit.control.test_follow import World

TRIAL = {"service": "chat-b", "slots": 32, "task": "generate", "context": 2048, "share": 0.1}
FILE = GatewayFile.model_validate(
    {"namespace": "inference", "models": {"chat": {"service": "chat", "slots": 4, "context": 4096, "trial": TRIAL}}}
)


def shown(**conditions: Any) -> World:
    world = World(FILE)
    world.told.set("a", "chat", [("chat-1", "10.0.0.1", {"ready": True})])
    world.told.set("b", "chat-b", [("chat-b-1", "10.0.0.2", conditions or {"ready": True})])
    world.follow.look()
    return world


def test_both_sides_are_one_model_with_a_split() -> None:
    world = shown()
    assert {name: one.slots for name, one in world.front.endpoints.items()} == {"chat-1": 4, "chat-b-1": 32}
    status = world.front.statuses["chat"]
    assert status.split == Split(frozenset({"chat-b-1"}), 0.1)
    assert status.context == 2048  # what both hold
    assert (status.phase, status.reason) == ("ready", "1 of 1 replicas ready")


def test_a_trial_that_nobody_watches_gets_nothing() -> None:
    world = shown()
    world.follow.watched = lambda model: False
    world.follow.look()
    assert world.front.statuses["chat"].split == Split(frozenset({"chat-b-1"}), 0.0)
    assert world.follow.share("chat") == 0.0
    assert world.follow.share("none") == 0.0


def test_a_pod_on_trial_that_starts_is_known_before_it_is_used() -> None:
    world = shown(ready=False)
    assert "chat-b-1" not in world.front.endpoints
    assert world.front.statuses["chat"].split == Split(frozenset({"chat-b-1"}), 0.1)
    assert [one.state for one in world.follow.replicas if one.name == "chat-b-1"] == [State.STARTING]


def test_when_it_is_over_there_is_no_split_and_the_new_side_is_the_model() -> None:
    world = shown()
    world.follow.file = GatewayFile.model_validate(
        {"namespace": "inference", "models": {"chat": {"service": "chat-b", "slots": 32}}}
    )
    world.follow.look()
    assert set(world.front.endpoints) == {"chat-b-1"}
    assert world.front.statuses["chat"].split is None


READY, ASLEEP = ModelStatus("chat", "generate", "ready", context=8), ModelStatus("chat", "generate", "asleep")


@pytest.mark.parametrize(
    ("old", "new", "share", "phase"),
    [
        (READY, ASLEEP, 0.5, "ready"),
        (ASLEEP, READY, 0.5, "ready"),  # what is on trial answers for both
        (ASLEEP, READY, 0.0, "asleep"),  # it is not asked yet
        (ASLEEP, ASLEEP, 1.0, "asleep"),
    ],
)
def test_a_model_is_ready_where_a_side_that_gets_requests_is(
    old: ModelStatus, new: ModelStatus, share: float, phase: str
) -> None:
    replicas = [Replica("chat-b-1", "chat", "http://there", State.READY)]
    told = on_trial(old, new, replicas, share)
    assert (told.phase, told.split) == (phase, Split(frozenset({"chat-b-1"}), share))


@pytest.mark.parametrize(
    ("trial", "why"),
    [
        ({**TRIAL, "service": "chat"}, "is on trial against itself: both are the Service chat"),
        ({**TRIAL, "share": 1.5}, "less than or equal to 1"),
        ({**TRIAL, "trial": TRIAL}, "Extra inputs"),
    ],
)
def test_a_trial_that_is_none_is_refused(trial: dict[str, Any], why: str) -> None:
    import json

    file = {"namespace": "inference", "models": {"chat": {"service": "chat", "slots": 4, "trial": trial}}}
    with pytest.raises(GatewayFileError, match=why):
        read(json.dumps(file), "gateway.json")
