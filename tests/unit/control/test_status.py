"""What stands in a model's way, in the gateway's words."""

from dataclasses import replace

import pytest

from headrace.control.status import endpoints, status
from headrace.engines.base import Placement
from headrace.plan.base import PlannedModel, Scale
from headrace.targets.base import Replica, State
from headrace.traffic import Endpoint

PLACEMENT = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 1)
SERVER = "http://127.0.0.1:9001"


def planned(*runs: Placement | str) -> PlannedModel:
    return PlannedModel("chat", "generate", None, runs, 2, (), context=512)


def replica(state: State, number: int = 1, runs: Placement | str = PLACEMENT, **facts: object) -> Replica:
    endpoint = Endpoint(f"chat-{number}", "chat", "unix:/s", 2, "chat") if state in (State.READY, State.DRAINING) else None
    return Replica(f"chat-{number}", "chat", runs, state, endpoint=endpoint, **facts)  # type: ignore[arg-type]


CASES = [
    # nothing was started yet
    ([], "loading", "no replica was started"),
    ([replica(State.STARTING)], "loading", "starting"),
    ([replica(State.LOADING)], "loading", "loading"),
    ([replica(State.READY)], "ready", "1 of 2"),
    # one of two is enough, and the other is said
    ([replica(State.READY), replica(State.FAILED, 2, reason="exited with code 3")], "ready", "chat-2 failed: exited with code 3"),
    # it will be started again: requests wait
    ([replica(State.FAILED, reason="exited", retry_at=5.0)], "loading", "exited"),
    # a crash loop was given up
    ([replica(State.FAILED, reason="exited five times")], "failed", "exited five times"),
    # one was given up, another is on its way
    ([replica(State.FAILED), replica(State.LOADING, 2)], "loading", ""),
    # a server elsewhere may answer again at any time
    ([replica(State.FAILED, runs=SERVER, reason="not usable")], "loading", "not usable"),
    # draining replicas answer what they have, and nothing new
    ([replica(State.DRAINING)], "loading", "draining"),
]


@pytest.mark.parametrize(("replicas", "phase", "words"), CASES)
def test_a_model_is_what_its_replicas_are(replicas: list[Replica], phase: str, words: str) -> None:
    found = status(planned(PLACEMENT, PLACEMENT), replicas)
    assert found.phase == phase
    assert words in found.reason
    assert (found.model, found.task, found.context) == ("chat", "generate", 512)


def test_only_replicas_that_answer_are_endpoints() -> None:
    states = [replica(state, number) for number, state in enumerate(State)]
    assert {endpoint.replica for endpoint in endpoints(states)} == {
        one.name for one in states if one.state in (State.READY, State.DRAINING)
    }


SLEEPER = replace(planned(PLACEMENT, PLACEMENT), scale=Scale(0))
SLEEPS = [
    # nobody asked yet
    ([], "", "asleep", "it starts when somebody asks, which takes about 4s", 4.0),
    # it waits for memory, or lost its place
    ([], "it waits for 3 GiB of memory", "asleep", "it waits for 3 GiB of memory", 4.0),
    # it goes to sleep: whoever asks now wakes it
    ([replica(State.DRAINING)], "", "asleep", "it starts when somebody asks", 4.0),
    ([replica(State.STOPPED)], "", "asleep", "it starts when somebody asks", 4.0),
    # it comes: a second of its four has passed
    ([replica(State.STARTING, begun=99.0)], "", "loading", "chat-1 is starting", 3.0),
    # it takes longer than it did
    ([replica(State.LOADING, begun=90.0)], "", "loading", "chat-1 is loading", 0.0),
    ([replica(State.READY)], "", "ready", "1 of 0..2 replicas ready", None),
    ([replica(State.FAILED, reason="exited five times")], "", "failed", "exited five times", None),
]


@pytest.mark.parametrize(("replicas", "blocked", "phase", "words", "ready_in"), SLEEPS)
def test_a_model_that_may_sleep(replicas: list[Replica], blocked: str, phase: str, words: str, ready_in: float | None) -> None:
    found = status(SLEEPER, replicas, 4.0, blocked, now=100.0)
    assert (found.phase, found.ready_in) == (phase, ready_in)
    assert words in found.reason


def test_a_model_that_can_never_be_there_has_failed_with_the_reason() -> None:
    found = status(replace(SLEEPER, replicas=(), refused="one replica takes 9 GiB"), [])
    assert (found.phase, found.reason) == ("failed", "one replica takes 9 GiB")


def test_an_adapter_that_no_replica_has_loaded_yet_is_no_name() -> None:
    """Else the engine would be asked for what it does not know. While no replica serves, requests for it may wait."""
    model = replace(planned(PLACEMENT), also=("poet", "cook"))
    serving = replica(State.READY)
    assert serving.endpoint
    knows = replace(serving, endpoint=replace(serving.endpoint, also=frozenset({"poet", "gone"})))
    assert status(model, [knows]).also == {"poet"}
    assert status(model, []).also == status(model, [replica(State.LOADING)]).also == {"poet", "cook"}
