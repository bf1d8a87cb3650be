"""How models are set up, read from a cluster's objects: engine, slots, most replicas, KAITO's version, how many addresses."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_server import kube_server
from kube_store import KubeStore

from headrace.advice.known import Setup, of_cluster
from headrace.cli import main
from headrace.targets.kubernetes.client import connect


def deployment(name: str, *command: str, image: str = "vllm/vllm-openai:v0.10.0", namespace: str = "ai") -> dict[str, Any]:
    container = {"name": name, "image": image, "args": list(command), "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def scaled(name: str, least: int, most: int) -> dict[str, Any]:
    target = {"scaleTargetRef": {"name": name}, "minReplicaCount": least, "maxReplicaCount": most, "triggers": []}
    return {"metadata": {"name": f"{name}-scaler", "namespace": "ai"}, "spec": target}


def workspace(name: str, preset: str) -> dict[str, Any]:
    resource = {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": name}}}
    return {"metadata": {"name": name, "namespace": "ai"}, "resource": resource, "inference": {"preset": {"name": preset}}}


@pytest.fixture
def store() -> KubeStore:
    store = KubeStore()
    apps = "/apis/apps/v1/namespaces/{}/deployments/{}"
    command = ("--model", "org/chat", "--max-num-seqs", "16", "--max-model-len", "8192", "--served-model-name", "chat")
    store.put(apps.format("ai", "vllm-chat"), deployment("vllm-chat", *command))
    store.put(apps.format("ai", "web"), deployment("web", image="nginx:1.27"))
    controller = deployment("kaito-workspace", image="mcr.microsoft.com/aks/kaito/workspace:0.9.0", namespace="kaito-workspace")
    store.put(apps.format("kaito-workspace", "kaito-workspace"), controller)
    store.put("/apis/keda.sh/v1alpha1/namespaces/ai/scaledobjects/vllm-chat-scaler", scaled("vllm-chat", 0, 4))
    store.put("/apis/kaito.sh/v1beta1/namespaces/ai/workspaces/phi", workspace("phi", "phi-4"))
    store.put("/apis/kaito.sh/v1beta1/namespaces/ai/workspaces/own", workspace("own", "org/own-7b"))
    return store


@pytest.fixture
def setup(store: KubeStore, tmp_path: Path) -> Iterator[Setup]:
    with kube_server(store) as server, connect(str(server.kubeconfig(tmp_path))) as api:
        yield of_cluster(api, "ai")


def test_what_runs_is_known_from_its_objects(setup: Setup) -> None:
    found = {one.workload: one for one in setup.models}
    assert set(found) == {"vllm-chat", "phi", "own"}, "the web server is no model"
    chat = found["vllm-chat"]
    assert (chat.engine, chat.slots, chat.most, chat.sleeps, chat.about.context_asked) == ("vllm", 16, 4, True, 8192)
    assert {"org/chat", "vllm-chat"} <= set(chat.served)


def test_two_workloads_of_one_model_are_one(store: KubeStore, tmp_path: Path) -> None:
    canary = deployment("chat-canary", "--model", "org/chat", "--served-model-name", "chat")
    store.put("/apis/apps/v1/namespaces/ai/deployments/chat-canary", canary)
    with kube_server(store) as server, connect(str(server.kubeconfig(tmp_path))) as api:
        found = of_cluster(api, "ai").models
    assert len(found) == 3
    assert next(one for one in found if one.model == "chat").most == 5


def test_kaitos_models_are_looked_up_in_its_list(setup: Setup) -> None:
    found = {one.workload: one for one in setup.models}
    assert (found["phi"].kaito, found["phi"].preset) == (True, "phi-4")
    assert (found["own"].kaito, found["own"].preset) == (True, None)
    assert setup.kaito_version == "0.9.0"


def test_without_a_gateway_each_model_has_its_own_address(setup: Setup) -> None:
    assert setup.addresses == 3


def test_behind_a_gateway_there_is_one(store: KubeStore, tmp_path: Path) -> None:
    route = {"metadata": {"name": "models", "namespace": "ai"}, "spec": {}}
    store.put("/apis/gateway.networking.k8s.io/v1/namespaces/ai/httproutes/models", route)
    with kube_server(store) as server, connect(str(server.kubeconfig(tmp_path))) as api:
        assert of_cluster(api, "ai").addresses == 1


class Silent(http.server.BaseHTTPRequestHandler):
    """A Prometheus that scrapes none of them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        said = b'{"status": "success", "data": {"resultType": "matrix", "result": []}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


def test_as_it_is_typed(
    store: KubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one series the set-up alone speaks: KAITO's list, addresses; all else is unknown."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with kube_server(store) as cluster:
            monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
            url = f"http://127.0.0.1:{server.server_port}"
            assert not main(["advise", "--prometheus", url, "--cluster", "--namespace", "ai", "--json"])
    finally:
        server.shutdown()
        server.server_close()
    found = {one["model"]: one["signals"] for one in json.loads(capsys.readouterr().out)["models"]}
    holding = {model: [one["name"] for one in rows if one["holds"] == "holds"] for model, rows in found.items()}
    separate = "models behind separate addresses"
    assert sorted(holding.values()) == [[separate], [separate], [separate, "not in KAITO's list"]]
    load = [one["holds"] for rows in found.values() for one in rows if one["name"] == "throughput insufficient"]
    assert load == ["unknown"] * 3
