"""What a move in a cluster comes to: the objects beside those that run, and the file that says so afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_server import KubeServer, kube_server
from kube_store import KubeStore

from headrace.cli import main
from headrace.cluster_graduation.prospect import File, Prospect, check, prospect
from headrace.control.graduation import Aim
from headrace.errors import UsageError
from headrace.rendering import Wish
from headrace.spec.load import load, loads
from headrace.targets.kubernetes.client import connect
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.terminal import Terminal
from headrace.weights.source import parse

LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct"  # its facts are in the catalogue: no network is needed
FILE: dict[str, Any] = {
    "models": {"chat": {"source": LLAMA, "context": 8192}, "other": {"source": LLAMA, "context": 4096}},
    "machine": {"azure": "Standard_NC24ads_A100_v4 x 4"},
    "kubernetes": {"namespace": "ai", "image": "registry.example.com/headrace:1", "target": "kaito", "secret": "hf"},
}


@pytest.fixture(autouse=True)
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeServer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    with kube_server(KubeStore()) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield server


def applied(**kubernetes: Any) -> File:
    path = Path("headrace.yaml")
    path.write_text(yaml.safe_dump({**FILE, "kubernetes": {**FILE["kubernetes"], **kubernetes}}))
    assert main(["apply", "--offline"]) == 0
    return File(path, load(path, parse))


def moved(file: File, aim: Aim) -> Prospect:
    with connect() as api:
        return prospect(api, file, aim, Wish(offline=True), Terminal())


def kinds(found: Prospect) -> dict[str, str]:
    return {each["kind"]: each["metadata"]["name"] for each in found.made}


def test_from_kaito_to_a_deployment_while_other_models_stay(cluster: KubeServer) -> None:
    found = moved(applied(), Aim("chat", "vllm"))
    assert (found.old, found.new, found.engine) == ("chat", "chat-b", "vllm")
    assert kinds(found)["Deployment"] == "chat-b"
    assert "InferenceSet" not in kinds(found)
    then = loads(found.text, "headrace.yaml", parse)
    assert then.kubernetes.targets == {"chat": "deployment"}
    assert then.kubernetes.names == {"chat": "chat-b"}
    assert then.models["other"] == found.file.spec.models["other"]
    assert not then.kubernetes.on_kaito("chat")
    assert then.kubernetes.on_kaito("other")


def test_and_from_a_deployment_to_kaito(cluster: KubeServer) -> None:
    found = moved(applied(target="deployment"), Aim("chat", "kaito"))
    assert kinds(found)["InferenceSet"] == "chat-b"
    assert loads(found.text, "headrace.yaml", parse).kubernetes.targets == {"chat": "kaito"}


def test_after_it_apply_renders_just_that(cluster: KubeServer) -> None:
    file = applied(target="deployment")
    found = moved(file, Aim("chat", "vllm", context=4096))
    found.commit()
    assert main(["apply", "--offline", "--dry-run"]) == 0
    then = load(file.path, parse)
    assert then.models["chat"].context == 4096
    again = moved(File(file.path, file.spec), Aim("chat", "vllm", context=4096))
    assert again.text == file.text  # written twice it is as written once


def test_a_preset_that_runs_so_already_is_no_move(cluster: KubeServer) -> None:
    with pytest.raises(UsageError, match="chat runs so already, as chat"):
        moved(applied(), Aim("chat", "kaito"))
    assert moved(applied(), Aim("chat", "kaito", context=4096)).new == "chat-b"


def test_whoever_may_not_take_the_old_side_away_is_told_before_anything_begins(cluster: KubeServer) -> None:
    """Its kinds are others than those of the new side: here KAITO's."""
    found = moved(applied(), Aim("chat", "vllm"))
    assert isinstance(cluster.answer, KubeStore)
    cluster.answer.denied = ("inferencesets",)
    with (
        connect() as api,
        pytest.raises(ClusterError, match=r"You may not, in the namespace ai: delete inferencesets\.kaito\.sh"),
    ):
        check(api, found, "ai", Terminal())


@pytest.mark.parametrize(
    ("aim", "why"),
    [
        (Aim("chat", "vlm"), r'"vlm" is not an engine. Did you mean vllm\?'),
        (Aim("chat", ""), "chat runs so already, as chat"),
    ],
)
def test_what_is_no_move_is_told(cluster: KubeServer, aim: Aim, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        moved(applied(target="deployment"), aim)
