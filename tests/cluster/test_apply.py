"""`headrace apply`, `diff` and `delete` against a real API server: what they change, what they leave, what they say."""

from collections.abc import Callable
from typing import Any

import pytest
from user import LLAMA, User

from headrace.targets.kubernetes.order import KINDS

pytestmark = pytest.mark.controlplane
Until = Callable[..., Any]


def state(user: User) -> dict[tuple[str, str], str]:
    """The version of everything of ours that is there, of a Job all but what its controller writes: in 1.20 it has no generation,
    and its version counts its status.
    """
    found = {}
    for api_version, kind in KINDS:
        resource = user.api.resource(api_version.replace("policy/v1", "policy/v1beta1"), kind)
        if resource and resource.namespaced:
            for each in user.api.all(resource, user.namespace, {"app.kubernetes.io/managed-by": "headrace"}):
                about = each["metadata"]
                version = about.get("generation") or about["resourceVersion"]
                content = [about["uid"], about.get("labels"), about.get("annotations"), each.get("spec")]
                found[kind, about["name"]] = str(content if kind == "Job" else version)
    return found


def test_applied_twice_nothing_changes(user: User) -> None:
    user.storage()
    user.write(storage={"class": f"files-{user.namespace}"})
    first = user.applies("--wait=100s")  # until then controllers have their hands on it
    before = state(user)
    again = user.applies()
    assert "created" in first.out
    assert state(user) == before
    assert len(before) > 15
    assert "created" not in again.out
    assert "changed" not in again.out.replace("unchanged", "")
    assert user.types("diff").code == 0


def test_a_number_of_replicas_that_a_scaler_has_set_stays(user: User) -> None:
    user.write(storage={})
    user.applies()
    user.scales("chat", 5)
    user.applies()
    assert user.deployment("chat")["spec"]["replicas"] == 5
    assert "1 created" not in user.applies().out


def test_a_scaler_takes_over_without_a_reset(user: User) -> None:
    """Left out of what is applied while it is ours, it would fall back to 1."""
    user.write({"chat": {"source": LLAMA, "replicas": 3}}, storage={})
    user.applies()
    user.write({"chat": {"source": LLAMA, "replicas": "0..8"}}, storage={})
    assert "spec.replicas" not in user.types("diff").out
    user.applies()
    assert user.deployment("chat")["spec"]["replicas"] == 3
    user.scales("chat", 6)
    user.applies()
    assert user.deployment("chat")["spec"]["replicas"] == 6


def test_pods_go_to_the_gpus_and_nothing_else_does(user: User, until: Until) -> None:
    user.storage()
    user.write(storage={"class": f"files-{user.namespace}"})
    user.applies()
    models = ("chat", "own", "gateway")
    until(lambda: all(user.pods(model) for model in models))
    until(lambda: all(each["spec"].get("nodeName") for model in models for each in user.pods(model)))
    chat = user.pods("chat")
    engines = [each for each in chat if each["metadata"]["labels"]["app.kubernetes.io/component"] == "engine"]
    assert {each["spec"]["nodeName"] for each in engines} <= {"gpu-0", "gpu-1"}
    assert engines
    others = [*user.pods("own"), *user.pods("gateway"), *(each for each in chat if each not in engines)]
    assert {each["spec"]["nodeName"] for each in others} == {"cpu-0"}


def test_weights_come_before_what_reads_them(user: User, until: Until) -> None:
    """Without a volume the pods wait, and that is what is said; with one the Job fills it and the model is ready."""
    user.create(
        "/apis/storage.k8s.io/v1/storageclasses",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": f"none-{user.namespace}"},
            "provisioner": "none",
            "volumeBindingMode": "Immediate",
        },
    )
    user.write({"chat": {"source": LLAMA, "replicas": 1}}, storage={"class": f"none-{user.namespace}"})
    user.applies()
    (claim,) = user.all("v1", "PersistentVolumeClaim")
    (job,) = user.all("batch/v1", "Job")
    made = [each["metadata"]["creationTimestamp"] for each in (claim, job, user.deployment("chat"))]
    assert made == sorted(made)
    said = until(lambda: "volume" in (told := user.types("why", "chat", "--cluster").out) and told)
    assert claim["metadata"]["name"] in said
    spec = {
        "storageClassName": f"none-{user.namespace}",
        "capacity": {"storage": "1Ti"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": "/nowhere"},
    }
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"v-{user.namespace}"}, "spec": spec}
    user.create("/api/v1/persistentvolumes", volume)
    waited = user.applies("--wait=100s")
    assert "chat: 1 of 1 ready" in waited.err
    assert "port-forward" in waited.out
    until(lambda: [job["status"].get("succeeded") for job in user.all("batch/v1", "Job")] == [1])
    assert "chat: 1 of 1 ready" in user.types("why", "chat", "--cluster").out
    status = user.types("status", "--cluster").out
    assert [line.split()[:3] for line in status.splitlines() if line.startswith("chat")] == [["chat", "ready", "1/1"]]


def test_what_the_file_names_no_more_goes_when_that_is_said(user: User) -> None:
    user.write(storage={})
    user.applies()
    user.write({"own": "file:./own.py"}, storage={})
    said = user.applies()
    assert "(--prune removes them)" in said.err
    assert user.get("apps/v1", "Deployment", "chat")
    diff = user.types("diff")
    assert diff.code == 1
    assert "- Deployment chat (the file names it no more)" in diff.out
    assert "removed" in user.applies("--prune").out
    assert user.get("apps/v1", "Deployment", "chat") is None
    assert user.get("policy/v1beta1", "PodDisruptionBudget", "chat") is None
    assert len(user.all("v1", "PersistentVolumeClaim")) == 1, "weights were removed"
    assert user.get("apps/v1", "Deployment", "own")
    user.applies("--prune", "--weights")
    assert not [each for each in user.all("v1", "PersistentVolumeClaim") if not each["metadata"].get("deletionTimestamp")]


def test_others_in_the_namespace_are_left_alone(user: User) -> None:
    user.write(storage={})
    user.applies()
    theirs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "theirs", "labels": {"app.kubernetes.io/managed-by": "helm"}},
    }
    user.create(f"/api/v1/namespaces/{user.namespace}/configmaps", theirs)
    user.applies("--prune")
    assert user.types("delete", "--yes", "--weights").code == 0
    assert user.get("v1", "ConfigMap", "theirs")


def test_a_dry_run_says_it_all_and_writes_nothing(user: User) -> None:
    user.write(storage={})
    said = user.applies("--dry-run")
    assert "+ Deployment chat" in said.out
    assert "Nothing was written." in said.out
    assert state(user) == {}
    user.applies()
    user.write({"own": "file:./own.py"}, storage={})
    said = user.applies("--dry-run")
    assert "- Deployment chat (with --prune)" in said.out
    assert user.get("apps/v1", "Deployment", "chat")


def test_the_difference_is_told_field_by_field(user: User) -> None:
    user.write(storage={})
    user.applies()
    user.write(storage={}, image="registry.example.com/headrace:2")
    said = user.types("diff")
    assert said.code == 1
    assert "~ Deployment own" in said.out
    assert (
        "spec.template.spec.containers[engine].image: registry.example.com/headrace:1 → registry.example.com/headrace:2"
        in said.out
    )
    for server_sets in ("managedFields", "resourceVersion", "generation", "status."):
        assert server_sets not in said.out


def test_weights_and_the_namespace_stay_when_all_else_is_deleted(user: User, until: Until) -> None:
    user.write(storage={})
    user.applies()
    refused = user.types("delete")
    assert refused.code == 64
    assert "Nothing was deleted. --yes" in refused.err
    assert user.get("apps/v1", "Deployment", "chat")
    said = user.types("delete", "--yes")
    assert said.code == 0
    assert "Weights are kept in chat-" in said.out
    until(lambda: {kind for kind, _ in state(user)} <= {"PersistentVolumeClaim"})
    again = user.types("delete", "--yes")
    assert again.code == 0
    assert "Nothing of Headrace is in the namespace" in again.out
    assert "--weights removes them" in again.out
    assert user.types("delete", "--yes", "--weights").code == 0
    user.applies()  # and all of it can be made anew
