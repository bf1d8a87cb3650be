"""The commands about clusters, as they are typed: against something that keeps objects, and against nothing."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_objects import crashed, deployment, pod
from kube_server import Asked, KubeServer, kube_server
from kube_store import KubeStore

from headrace.cli import main

FILE: dict[str, Any] = {
    "models": {"own": "file:./own.py", "remote": {"url": "http://there:9000"}},
    "aliases": {"mine": "own"},
    "kubernetes": {"namespace": "ai", "image": "registry.example.com/headrace:1"},
}
OWN = "/apis/apps/v1/namespaces/ai/deployments/own"


@pytest.fixture
def store() -> KubeStore:
    return KubeStore()


@pytest.fixture(autouse=True)
def cluster(store: KubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeServer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text("class Own:\n    def predict(self, batch):\n        return batch\n")
    write(FILE)
    with kube_server(store) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield server


def write(spec: object) -> None:
    Path("headrace.yaml").write_text(yaml.safe_dump(spec))


def test_applied_twice_the_second_time_finds_nothing_to_do(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply"]) == 0
    made = len(store.objects)
    said = capsys.readouterr()
    assert f"{made} created in the cluster of context here" in said.out
    assert "+ Deployment own" in said.err
    assert store.objects[OWN]["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "headrace"
    assert main(["apply"]) == 0
    assert f"{made} unchanged" in capsys.readouterr().out
    assert main(["diff"]) == 0
    assert capsys.readouterr().out == ""


def test_the_namespace_comes_first_and_the_workloads_after_what_they_need(store: KubeStore) -> None:
    main(["apply"])
    plurals = [each.rsplit("/", 2)[1] for each in store.writes]
    assert plurals[0] == "namespaces"
    assert plurals.index("serviceaccounts") < plurals.index("configmaps") < plurals.index("deployments")


def test_a_file_that_stands_behind_wait_is_the_file(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    """argparse takes it for the duration."""
    Path("other.yaml").write_text(yaml.safe_dump(FILE))
    Path("headrace.yaml").unlink()
    assert main(["apply", "--dry-run", "--wait", "other.yaml"]) == 0
    assert main(["apply", "other.yaml", "--wait=soon"]) == 64
    assert '"soon" is not a duration' in capsys.readouterr().err
    assert store.writes == []


def test_waiting_ends_when_it_is_over_and_says_why(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "--wait=1ms"]) == 69
    said = capsys.readouterr().err
    assert "Not ready, after 0 s:" in said
    assert "own: 0 of 1 ready" in said


def test_what_is_missing_is_said_before_anything_is_written(cluster: KubeServer, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.answer = store = KubeStore(absent=("policy",), denied=("deployments",))
    assert main(["apply"]) == 69
    said = capsys.readouterr().err
    assert "1. The cluster knows no PodDisruptionBudget (policy/v1)." in said
    assert "You may not, in the namespace ai: create deployments.apps; patch deployments.apps." in said
    assert store.writes == []


def test_leftovers_stay_until_they_may_go_and_weights_stay_then(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    main(["apply"])
    claim = "/api/v1/namespaces/ai/persistentvolumeclaims/own-1a2b"
    about = {**store.objects[OWN]["metadata"], "name": "own-1a2b"}
    store.put(claim, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about})
    write({**FILE, "models": {"remote": {"url": "http://there:9000"}}, "aliases": {}})
    capsys.readouterr()
    assert main(["apply"]) == 0
    said = capsys.readouterr().err
    assert "Left of an earlier apply: " in said
    assert "(--prune removes them)" in said
    assert OWN in store.objects
    assert main(["apply", "--yes"]) == 0
    assert OWN not in store.objects
    assert claim in store.objects
    assert main(["apply", "--prune", "--weights"]) == 0
    assert claim not in store.objects


def test_what_a_scaler_makes_of_ours_is_not_left_over(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    """KEDA copies the labels of a ScaledObject onto the HPA that it makes, and makes it anew."""
    main(["apply"])
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "own", "uid": "1", "controller": True}
    about = {**store.objects[OWN]["metadata"], "name": "keda-hpa-own", "ownerReferences": [owner]}
    path = "/apis/autoscaling/v2/namespaces/ai/horizontalpodautoscalers/keda-hpa-own"
    store.put(path, {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": about})
    assert main(["diff"]) == 0
    assert main(["apply", "--prune"]) == 0
    assert path in store.objects
    del about["ownerReferences"]
    assert main(["diff"]) == 1
    assert main(["apply", "--prune"]) == 0
    assert path not in store.objects


def may_not(store: KubeStore, *denied: str) -> Callable[[Asked], tuple[int, Any]]:
    """The same cluster for somebody who may not `verb plural`."""

    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.path.endswith("selfsubjectaccessreviews"):
            about = asked.body["spec"]["resourceAttributes"]
            return 201, {"status": {"allowed": f"{about['verb']} {about['resource']}" not in denied}}
        if asked.method == "GET" and f"list {asked.path.rpartition('/')[2]}" in denied:
            return 403, {"message": "forbidden"}
        return store(asked)

    return answer


def test_who_may_not_see_what_is_there_does_not_write(
    cluster: KubeServer, store: KubeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """A graduation's record would not be seen, nor that the replicas were ours until now."""
    cluster.answer = may_not(store, "list configmaps", "list deployments")
    assert main(["apply"]) == 69
    assert "You may not, in the namespace ai: list configmaps, deployments.apps." in capsys.readouterr().err
    assert store.writes == []


@pytest.mark.parametrize(
    ("denied", "said"),
    [
        (["watch endpointslices", "escalate roles"], "You may not, in the namespace ai: watch endpointslices.discovery.k8s.io."),
        (["watch endpointslices", "bind roles"], "You may not, in the namespace ai: watch endpointslices.discovery.k8s.io."),
        (["watch endpointslices"], ""),  # who may escalate and bind gives what they have not
        (["escalate roles", "bind roles"], ""),
    ],
)
def test_nobody_gives_rights_that_they_do_not_have(
    denied: list[str], said: str, cluster: KubeServer, store: KubeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API server refuses the gateway's Role to them: it is said before anything is written."""
    cluster.answer = may_not(store, *denied)
    assert main(["apply"]) == (69 if said else 0)
    assert said in capsys.readouterr().err
    assert bool(store.writes) is not bool(said)


def test_rights_that_are_given_already_are_not_given_anew(cluster: KubeServer, store: KubeStore) -> None:
    main(["apply"])
    cluster.answer = may_not(store, "list endpointslices", "watch endpointslices", "escalate roles", "bind roles")
    assert main(["apply"]) == 0
    role = store.objects["/apis/rbac.authorization.k8s.io/v1/namespaces/ai/roles/gateway"]
    role["rules"] = []
    assert main(["apply"]) == 69


def test_replicas_are_handed_over_where_what_is_there_could_not_be_listed(cluster: KubeServer, store: KubeStore) -> None:
    write({**FILE, "models": {"own": {"source": "file:./own.py", "replicas": 8}}, "aliases": {}})
    main(["apply"])
    managed = {"manager": "headrace", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    store.objects[OWN]["metadata"]["managedFields"] = [managed]
    denied = may_not(store, "list deployments")
    cluster.answer = lambda asked: store(asked) if asked.path.endswith("reviews") else denied(asked)  # a review may be wrong
    scaled = {**FILE["kubernetes"], "scaler": "keda"}
    write({"models": {"own": {"source": "file:./own.py", "replicas": "1..8"}}, "kubernetes": scaled})
    assert main(["apply"]) == 0
    writes = [each for each in cluster.asked if each.method == "PATCH" and each.path == OWN]
    assert [(each.query["fieldManager"], each.body["spec"].get("replicas")) for each in writes[1:]] == [
        ("headrace-replicas", 8),
        ("headrace", None),
    ]


def test_who_may_not_list_all_kinds_is_told_that_they_are_not_pruned(
    cluster: KubeServer, store: KubeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.answer = may_not(store, "list daemonsets")
    assert main(["apply"]) == 0
    assert "daemonsets" not in capsys.readouterr().err
    assert main(["apply", "--prune"]) == 0
    assert "Note: you may not list daemonsets.apps: what there is of them stays." in capsys.readouterr().err


def test_secrets_that_the_file_needs_and_nobody_made_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    outside = {"prometheus": "http://prometheus.monitoring.svc:9090", "scaler": "keda"}
    expose = {"host": "chat.example.com", "ingress": "nginx", "tls": "certificate"}
    write({**FILE, "gateway": {"keys": "file:keys.json"}, "kubernetes": {**FILE["kubernetes"], **outside, "expose": expose}})
    assert main(["apply"]) == 0
    said = capsys.readouterr().err
    assert "kubectl -n ai create secret generic client-keys --from-file=keys.json" in said
    assert "kubectl -n ai create secret generic metrics-key --from-literal=key=KEY" in said
    assert "kubectl -n ai create secret tls certificate --cert=FILE --key=FILE" in said


def test_nothing_is_deleted_without_a_yes(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    main(["apply"])
    made = dict(store.objects)
    assert main(["delete"]) == 64
    assert store.objects == made
    assert main(["delete", "--yes"]) == 0
    assert list(store.objects) == ["/api/v1/namespaces/ai"]
    assert main(["delete", "--yes"]) == 0
    assert "Nothing of Headrace is in the namespace ai" in capsys.readouterr().out


def test_status_and_why_tell_what_stands_in_the_way(store: KubeStore, capsys: pytest.CaptureFixture[str]) -> None:
    main(["apply"])
    store.put(OWN, {**deployment(name="own"), "apiVersion": "apps/v1"})
    broken = pod("own-5d4-x", containerStatuses=[crashed()])
    broken["metadata"]["labels"] = {**broken["metadata"]["labels"], "app.kubernetes.io/instance": "own"}
    store.put("/api/v1/namespaces/ai/pods/own-5d4-x", broken)
    capsys.readouterr()
    assert main(["why", "mine", "--cluster"]) == 0
    assert "own: 0 of 1 ready. The container engine of own-5d4-x ends with exit code 1" in capsys.readouterr().out
    assert main(["status", "--cluster"]) == 0
    assert "own-5d4-x  failed" in capsys.readouterr().out
    assert main(["status", "--cluster", "--json"]) == 0
    assert '"kind": "crash"' in capsys.readouterr().out
    assert main(["why", "remote", "--cluster"]) == 64
    assert 'no model "remote" that runs in a cluster. It has: own, gateway.' in capsys.readouterr().err


@pytest.mark.parametrize("command", ["apply", "diff", "delete"])
def test_no_command_about_a_cluster_falls_back_to_the_demo(
    command: str, store: KubeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("headrace.yaml").unlink()
    assert main([command]) == 64
    assert "There is no headrace.yaml here." in capsys.readouterr().err
    assert store.writes == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "headrace.yaml"], "A file is for a cluster. Add --cluster"),
        (["logs", "own", "--context", "x"], "--context is for a cluster."),
        (["why", "own", "--kubeconfig", "x"], "--kubeconfig is for a cluster."),
    ],
)
def test_what_belongs_to_a_cluster_is_not_ignored(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 64
    assert said in capsys.readouterr().err


def on_a_terminal(answer: bytes, *arguments: str) -> tuple[int, str]:
    """A command at a terminal of its own, whose questions are answered; its exit code and what the terminal showed."""
    ours, theirs = os.openpty()
    process = subprocess.Popen([sys.executable, "-m", "headrace.cli", *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, answer)
    shown = b""
    try:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 4096):
                shown += part
        return process.wait(60), shown.decode()
    finally:
        process.kill()
        process.wait(60)
        os.close(ours)


def test_at_a_terminal_it_is_asked_before_anything_goes(store: KubeStore) -> None:
    main(["apply"])
    write({**FILE, "models": {"remote": {"url": "http://there:9000"}}, "aliases": {}})
    code, shown = on_a_terminal(b"\n", "apply")
    assert code == 0
    assert "The file names no more, and the cluster has: " in shown
    assert "objects after applying? [y/N]" in shown
    assert OWN in store.objects, "no answer is a no"
    assert on_a_terminal(b"yes\n", "apply")[0] == 0
    assert OWN not in store.objects
    assert on_a_terminal(b"n\n", "delete")[0] == 64
    assert store.objects
    assert on_a_terminal(b"y\n", "delete")[0] == 0
    assert list(store.objects) == ["/api/v1/namespaces/ai"]
