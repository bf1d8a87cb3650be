"""What stands in a model's way, in the gateway's words."""

import pytest

from headrace.control.status import endpoints, status
from headrace.engines.base import Placement
from headrace.plan.base import PlannedModel
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
