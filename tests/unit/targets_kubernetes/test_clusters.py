"""The commands about clusters, as they are typed: against something that keeps objects, and against nothing."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kube_objects import crashed, deployment, pod
from kube_server import KubeServer, kube_server
from kube_store import KubeStore

from headrace.cli import main

FILE = {
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
