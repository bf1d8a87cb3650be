"""Both sides of a graduation in a cluster as objects, and the record of where it stands."""

import json
from typing import Any

import pytest

from headrace.control.cluster_record import Record, kept, read, records, refuse
from headrace.control.graduation import Aim
from headrace.errors import UsageError
from headrace.spec.gateway_file import read as read_gateway_file
from headrace.targets.kubernetes import sides
from headrace.targets.kubernetes.order import Ref
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.kubernetes.snapshot import Snapshot, View

BEFORE = {"service": "chat", "slots": 4, "replicas": [1, 3], "task": "generate"}
AFTER = {"service": "chat-b", "slots": 32, "replicas": [1, 3], "task": "generate"}
RECORD = Record(Aim("chat", "vllm"), "shifting", "chat", "chat-b", BEFORE, AFTER)


def labelled(kind: str, name: str, instance: str, **more: Any) -> dict[str, Any]:
    about = {"name": name, "namespace": "ai", "labels": {"app.kubernetes.io/instance": instance}}
    return {"apiVersion": "v1", "kind": kind, "metadata": about, **more}


def gateway(**models: Any) -> dict[str, Any]:
    text = json.dumps({"namespace": "ai", "models": models, "gateway": {"drain": 30}})
    made = labelled("ConfigMap", "gateway", "gateway", data={"gateway.json": text})
    made["metadata"] |= {"resourceVersion": "7", "uid": "x", "managedFields": [{}]}
    return made


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        ({"chat"}, "chat-b"),
        ({"chat-b"}, "chat"),  # back to its own name
        ({"chat", "chat-b"}, "chat-c"),  # another model is called chat-b
    ],
)
def test_the_new_side_gets_a_name_that_is_free(taken: set[str], name: str) -> None:
    assert sides.next_name("chat", taken) == name


def test_a_name_stays_within_what_suffixes_leave() -> None:
    assert len(sides.next_name("c" * 40, {"c" * 40})) == 40
    with pytest.raises(UsageError, match="all there already"):
        sides.next_name("a", {"a", *(f"a-{letter}" for letter in "bcdefgh")})


@pytest.mark.parametrize(
    ("share", "count", "replicas"), [(0.01, 1, 1), (0.01, 10, 1), (0.5, 3, 2), (1.0, 3, 3), (0.1, 10, 1), (0.7, 10, 7)]
)
def test_the_new_side_has_replicas_for_its_share(share: float, count: int, replicas: int) -> None:
    assert sides.needed(share, count) == replicas


def test_gateways_are_told_of_both_and_nothing_else_of_their_file_changes() -> None:
    told = sides.telling(gateway(chat=BEFORE, other={"service": "other", "slots": 1}), "chat", sides.split(BEFORE, AFTER, 0.1))
    assert told["metadata"].keys() == {"name", "namespace", "labels", "resourceVersion"}
    settings = json.loads(told["data"]["gateway.json"])
    assert settings["models"]["other"] == {"service": "other", "slots": 1}
    assert settings["gateway"] == {"drain": 30}
    file = read_gateway_file(told["data"]["gateway.json"], "gateway.json")
    trial = file.models["chat"].trial
    assert trial is not None
    assert (trial.service, trial.slots, trial.share, file.models["chat"].service) == ("chat-b", 32, 0.1, "chat")


def test_a_configmap_without_models_is_told() -> None:
    with pytest.raises(ClusterError, match="with models"):
        sides.told(labelled("ConfigMap", "gateway", "gateway", data={"gateway.json": "[]"}))


def test_on_trial_a_side_has_a_fixed_number_and_no_scaler() -> None:
    made = [
        labelled("Deployment", "chat-b", "chat-b", spec={"template": 1}),
        labelled("ScaledObject", "chat-b", "chat-b", spec={}),
    ]
    assert [(each["kind"], each["spec"]) for each in sides.counted(made, 2)] == [
        ("Deployment", {"template": 1, "replicas": 2}),
    ]
    assert "replicas" not in made[0]["spec"]


def test_whoever_goes_on_with_it_does_not_make_it_smaller() -> None:
    there = [labelled("Deployment", "chat-b", "chat-b", spec={"replicas": 3}), labelled("Service", "chat-b", "chat-b", spec={})]
    assert sides.running(there, "chat-b") == 3
    assert sides.running(there, "chat") == 0


def test_kaito_s_scaler_is_not_told_of_a_side_on_trial() -> None:
    made = labelled("InferenceSet", "chat-b", "chat-b", spec={})
    made["metadata"]["annotations"] = {"scaledobject.kaito.sh/auto-provision": "true", "mine": "kept"}
    (counted,) = sides.counted([made], 1)
    assert counted["metadata"]["annotations"] == {"mine": "kept"}
    assert counted["spec"] == {"replicas": 1}


def test_a_workspace_is_one_replica_and_no_more() -> None:
    workspace = labelled("Workspace", "chat-b-workspace", "chat-b", inference={})
    assert sides.counted([workspace], 3) == [workspace]
    assert not sides.countable([workspace, labelled("Service", "chat-b", "chat-b", spec={})])
    assert sides.countable([labelled("InferenceSet", "chat-b", "chat-b", spec={})])


@pytest.mark.parametrize(
    ("labels", "whose"),
    [
        ({"inferenceset.kaito.sh/created-by": "chat", "kaito.sh/workspace": "chat-0"}, "chat"),
        ({"kaito.sh/workspace": "chat-workspace"}, "chat"),
        ({"inferenceset.kaito.sh/created-by": "chat-b", "kaito.sh/workspace": "chat-b-0"}, "chat-b"),
        ({"kaito.sh/workspace": "chat-b-workspace"}, "chat-b"),
        ({"kaito.sh/workspace": "other"}, ""),
    ],
)
def test_kaito_s_pods_are_known_when_what_made_them_is_gone(labels: dict[str, str], whose: str) -> None:
    """It waits for none of them, and what is reached through the rest of a side is not to go before they have."""
    pod = {"kind": "Pod", "metadata": {"name": "x", "labels": labels}}
    found = [name for name in ("chat", "chat-b") if View(name, Snapshot(pods=(pod,))).mine(pod)]
    assert found == ([whose] if whose else [])


def test_what_runs_goes_first_weights_stay_and_others_are_not_touched() -> None:
    kinds = ("ScaledObject", "Deployment", "Job", "Service", "ServiceAccount", "PersistentVolumeClaim")
    live = {Ref(kind, "chat"): labelled(kind, "chat", "chat") for kind in kinds}
    live[Ref("Deployment", "chat-b")] = labelled("Deployment", "chat-b", "chat-b")
    live[Ref("ConfigMap", "graduation-chat")] = kept(RECORD, "graduation-chat", "ai")
    first, rest, volumes = sides.leaving(live, "chat")
    assert {one.kind for one in first} == {"ScaledObject", "Deployment", "Job"}
    assert {one.kind for one in rest} == {"Service", "ServiceAccount"}
    assert [one.kind for one in volumes] == ["PersistentVolumeClaim"]
    first, rest, _ = sides.leaving(live, "chat-b")  # the record carries its name, and stays
    assert [one.kind for one in (*first, *rest)] == ["Deployment"]


def test_a_record_survives_the_cluster_and_what_is_none_is_none() -> None:
    manifest = kept(RECORD, "graduation-chat", "ai")
    assert read(manifest) == RECORD
    assert read({**manifest, "data": {"graduation.json": "{"}}) is None
    assert read(gateway(chat=BEFORE)) is None


def test_applying_is_refused_while_a_model_is_on_its_way() -> None:
    live = {Ref("ConfigMap", "graduation-chat"): kept(RECORD, "graduation-chat", "ai")}
    with pytest.raises(ClusterError, match=r"chat is on its way from chat to chat-b \(shifting\)"):
        refuse(records(live))
    over = RECORD.at("done", "it is over", 1.0)
    refuse([over])
    assert over.story == ((1.0, "done: it is over"),)


def test_what_it_takes_of_nodes_is_said() -> None:
    def deployment(**resources: Any) -> dict[str, Any]:
        return labelled("Deployment", "c", "c", spec={"template": {"spec": {"containers": [{"resources": resources}]}}})

    assert sides.devices([deployment(limits={"nvidia.com/gpu": "2", "memory": "1Gi"})], 3) == "3 x 2 nvidia.com/gpu"
    assert sides.devices([deployment(requests={"cpu": "4", "memory": "8Gi"})], 1) == "1 x 4 cores and 8Gi of memory"
