"""How models stand, what is told while one waits, and when waiting ends."""

from typing import Any

import pytest
from kube_objects import claim, crashed, deployment, event, pod, scaler, snapshot, state

from headrace.errors import ReplicaError
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError
from headrace.targets.kubernetes.snapshot import Snapshot
from headrace.targets.kubernetes.standing import data, standings, table
from headrace.targets.kubernetes.waiting import PATIENCE_SECONDS, UNANSWERED_SECONDS, wait

NAMES = {"chat": "Chat"}
READY = snapshot(deployment(), pod(ready=True))
LOADING = snapshot(deployment(), pod(containerStatuses=[state(state={"running": {}})]))
BROKEN = snapshot(deployment(), pod(containerStatuses=[crashed()]))


def group(**status: Any) -> dict[str, Any]:
    """A LeaderWorkerSet that was changed, whose replica is ready; counts of 0 are left out, as its controller does."""
    counted = {"readyReplicas": 1, **{key: value for key, value in status.items() if value}}
    about = {"name": "chat", "generation": 2}
    return {"kind": "LeaderWorkerSet", "metadata": about, "spec": {"replicas": 1}, "status": counted}


@pytest.mark.parametrize(
    ("there", "state", "line"),
    [
        (READY, "ready", "Chat: 1 of 1 ready"),
        (LOADING, "starting", "Chat: 0 of 1 ready. chat-5d4-x is loading."),
        (BROKEN, "failing", "Chat: 0 of 1 ready. The container engine of chat-5d4-x ends"),
        (snapshot(deployment(0), scaler(Ready=("True", ""), Active=("False", "idle"))), "asleep", "Chat: asleep, woken"),
        (snapshot(deployment(0), scaler(Ready=("False", "no such trigger"))), "failing", "does not scale: no such trigger."),
        # a rollout: the old one answers still, the new one is not there yet
        (snapshot(deployment(updatedReplicas=0), pod(ready=True)), "starting", "Chat: 1 of 1 ready"),
        (snapshot({**deployment(), "metadata": {"name": "chat", "generation": 2}}, pod(ready=True)), "starting", "Chat: 1 of 1"),
        (snapshot(deployment(2), pod(ready=True)), "starting", "Chat: 1 of 2 ready"),
        (snapshot(), "absent", "Chat: 0 of 1 ready. chat is not in the cluster."),
        # a replica over two machines is one replica, and ready when its group is
        (
            snapshot({**deployment(readyReplicas=0), "kind": "InferenceSet"}, pod("a", ready=True), pod("b")),
            "starting",
            "Chat: 0 of 1 ready",
        ),
        # of several pods some are ready before the replica is, and a count of 0 is left out
        (snapshot({**deployment(), "kind": "LeaderWorkerSet"}, pod("a"), pod("a-1", ready=True)), "starting", "Chat: 0 of 1"),
        (snapshot({**deployment(), "kind": "InferenceSet"}, pod("a"), pod("b", ready=True)), "starting", "Chat: 0 of 1"),
        # a rollout of groups: the old ones answer still
        (snapshot(group(updatedReplicas=0), pod(ready=True)), "starting", "Chat: 1 of 1 ready"),
        (snapshot(group(), pod(ready=True)), "starting", "Chat: 1 of 1 ready"),
        (snapshot(group(updatedReplicas=1, observedGeneration=1), pod(ready=True)), "starting", "Chat: 1 of 1 ready"),
        (snapshot(group(updatedReplicas=1, observedGeneration=2), pod(ready=True)), "ready", "Chat: 1 of 1 ready"),
        (snapshot(group(updatedReplicas=1), pod(ready=True)), "ready", "Chat: 1 of 1 ready"),  # an older LeaderWorkerSet
        # KAITO counts no updated ones
        (snapshot({**group(), "kind": "InferenceSet"}, pod(ready=True)), "ready", "Chat: 1 of 1 ready"),
        # one that was told to end does not count
        (
            snapshot(
                deployment(), {**pod(ready=True), "metadata": {**pod()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
            ),
            "starting",
            "Chat: 0 of 1 ready",
        ),
    ],
)
def test_each_state_of_a_model(there: Snapshot, state: str, line: str) -> None:
    (found,) = standings(NAMES, there)
    assert found.state == state
    assert line in found.line


def test_the_table_has_the_pods_below_their_model() -> None:
    text = table(standings(NAMES, snapshot(deployment(), pod(containerStatuses=[crashed(restarts=3)]))))
    model, replica = text.splitlines()[1:]
    assert model.split()[:3] == ["Chat", "failing", "0/1"]
    assert replica.startswith("  chat-5d4-x")
    assert replica.split()[1:4] == ["failed", "3", "gpu-0"]


def test_a_scaler_that_does_not_work_is_told_of_a_model_that_is_ready() -> None:
    """It answers; it would not scale."""
    (found,) = standings(NAMES, snapshot(deployment(), pod(ready=True), scaler(Ready=("False", "no such trigger"))))
    assert found.state == "ready"
    assert found.done
    assert "no such trigger" in str(found.cause)


def test_the_same_for_machines() -> None:
    (found,) = data(standings(NAMES, BROKEN))
    assert found["state"] == "failing"
    assert found["cause"]["kind"] == "crash"
    assert found["replicas"][0]["node"] == "gpu-0"


class Cluster:
    """States one after the other, the last for ever; errors are raised. Time passes only where somebody waits."""

    def __init__(self, *states: Snapshot | ClusterError) -> None:
        self.states = list(states)
        self.now = 0.0
        self.said: list[str] = []

    def look(self) -> Snapshot:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, ClusterError):
            raise state
        return state

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, seconds: float = 1800.0) -> list[Any]:
        return wait(self.look, NAMES, self.said.append, seconds, clock=lambda: self.now, pause=self.sleep)


def test_what_changes_is_told_once() -> None:
    cluster = Cluster(LOADING, LOADING, LOADING, READY)
    (found,) = cluster.wait()
    assert found.state == "ready"
    assert cluster.said == ["Chat: 0 of 1 ready. chat-5d4-x is loading.", "Chat: 1 of 1 ready"]


def test_what_does_not_pass_by_itself_is_not_waited_for_to_the_end() -> None:
    cluster = Cluster(LOADING, BROKEN)
    with pytest.raises(ReplicaError, match=r"does not pass by itself:\n  Chat: 0 of 1 ready\. The container engine"):
        cluster.wait()
    assert PATIENCE_SECONDS <= cluster.now <= PATIENCE_SECONDS + 10


def test_what_was_mended_in_time_starts_anew() -> None:
    states = [*[BROKEN] * 40, LOADING, *[BROKEN] * 40, READY]  # 80 s each
    assert Cluster(*states).wait()[0].state == "ready"


def test_the_limit_is_kept_and_the_cause_is_told() -> None:
    cluster = Cluster(LOADING)
    with pytest.raises(ReplicaError, match=r"Not ready, after 30 s:\n  Chat: 0 of 1 ready\. chat-5d4-x is loading") as told:
        cluster.wait(30.0)
    assert cluster.now == 30.0
    assert told.value.exit_code == 69


AWAY = ClusterError("The cluster cannot be reached.")


def test_an_api_server_that_is_away_for_a_while_does_not_end_the_wait() -> None:
    cluster = Cluster(LOADING, AWAY, AWAY, LOADING, *[AWAY] * 100, READY)  # 200 s
    assert cluster.wait()[0].state == "ready"
    again = "Trying again: The cluster cannot be reached."
    assert cluster.said == ["Chat: 0 of 1 ready. chat-5d4-x is loading.", again, again, "Chat: 1 of 1 ready"]


def test_one_that_stays_away_is_not_waited_for_for_ever() -> None:
    cluster = Cluster(LOADING, AWAY)
    with pytest.raises(ClusterError, match="cannot be reached"):
        cluster.wait()
    assert UNANSWERED_SECONDS <= cluster.now <= UNANSWERED_SECONDS + 10
    cluster = Cluster(AWAY)
    with pytest.raises(ClusterError, match="cannot be reached"):
        cluster.wait(30.0)
    assert cluster.now == 30.0


def test_who_may_not_look_any_more_is_told_at_once() -> None:
    cluster = Cluster(LOADING, DeniedError("The token has expired."), READY)
    with pytest.raises(DeniedError):
        cluster.wait()


def test_a_model_that_sleeps_is_not_waited_for() -> None:
    assert Cluster(snapshot(deployment(0), scaler(Ready=("True", "")))).wait()[0].state == "asleep"


def test_a_volume_that_waits_for_its_pod_is_no_cause() -> None:
    waits = event("WaitForFirstConsumer", "waiting for first consumer", "chat-1a2b", "PersistentVolumeClaim")
    (found,) = standings(NAMES, snapshot(deployment(), claim(), waits, pod(containerStatuses=[state(state={"running": {}})])))
    assert found.cause is not None
    assert found.cause.kind == "loading"
