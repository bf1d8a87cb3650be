"""The real HPA on our Deployment, by what our gateway's external scaler says: asleep, woken by a request, more, asleep again.

KEDA's part (the HPA that it makes, 0 ↔ N) is played by the tool beside the checkout, which is told over gRPC, as KEDA would be.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from control_plane import free_ports
from test_gateway_endpoints import account
from user import User

from headrace import cluster_gateway
from headrace.cluster_gateway import InCluster, Options
from headrace.keda import messages
from headrace.reload import Reloaded
from headrace.targets.http import ask

pytestmark = pytest.mark.controlplane
WAITING = 70


class Gateway(threading.Thread):
    """The gateway as its pods run it, on a loop of its own, and clients of it."""

    def __init__(self, file: Path, pod: str, scaler: int) -> None:
        super().__init__(daemon=True)
        self.scaler = scaler
        self._file, self._pod, self._clients = file, pod, set[asyncio.Task[Any]]()
        self.loop = asyncio.new_event_loop()
        self.address = ""

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._task = self.loop.create_task(self._serve())
        self.loop.run_until_complete(asyncio.gather(self._task, return_exceptions=True))
        self.loop.close()

    async def _serve(self) -> None:
        reloaded = Reloaded(self._file, {})
        file = reloaded.first()
        parts = InCluster(Options(self._file), reloaded, file, self._pod)
        work = asyncio.create_task(parts.run())
        try:
            await parts.heard()
            self.address = "http://{}:{}".format(*await parts.listen("127.0.0.1", 0))
            await work
        finally:
            work.cancel()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(work, *self._clients, return_exceptions=True)
            await parts.close()

    def asks(self, count: int) -> None:
        """So many clients ask, and wait."""
        self.loop.call_soon_threadsafe(self._ask, count)

    def _ask(self, count: int) -> None:
        for _ in range(count):
            self._clients.add(
                asyncio.ensure_future(ask(self.address, "POST", "/v1/models/own:predict", b'{"instances": [1]}', 600))
            )

    def leave(self) -> None:
        """All clients leave."""
        self.loop.call_soon_threadsafe(lambda: [client.cancel() for client in self._clients])

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self._task.cancel)
        self.join(20)


class Keda(threading.Thread):
    """Asks the scaler as KEDA does, and writes down what it hears where the stand-in reads it."""

    def __init__(self, trigger: dict[str, Any], metric: Path) -> None:
        super().__init__(daemon=True)
        self._metadata, self._metric, self._over = trigger["metadata"], metric, threading.Event()
        self.heard: list[str] = []

    def target(self) -> float:
        with self._channel() as channel:
            told = channel.unary_unary(f"/{messages.SERVICE}/GetMetricSpec")(self._ref().SerializeToString())
        return float(messages.GetMetricSpecResponse.FromString(told).metricSpecs[0].targetSizeFloat)

    def run(self) -> None:
        while not self._over.wait(0.2):
            self.heard.append(self._load())
            self._metric.write_text(self.heard[-1])

    def _load(self) -> str:
        request = messages.GetMetricsRequest(scaledObjectRef=self._ref(), metricName="headrace-requests")
        try:
            with self._channel() as channel:
                told = channel.unary_unary(f"/{messages.SERVICE}/GetMetrics")(request.SerializeToString(), timeout=5)
        except grpc.RpcError:
            return "error"
        return str(messages.GetMetricsResponse.FromString(told).metricValues[0].metricValue)

    def _channel(self) -> Any:
        # In a cluster the Service leads there.
        return grpc.insecure_channel(f"127.0.0.1:{self._metadata['scalerAddress'].rpartition(':')[2]}")

    def _ref(self) -> Any:
        return messages.ScaledObjectRef(name="own", namespace="inference", scalerMetadata=self._metadata)

    def end(self) -> None:
        self._over.set()
        self.join(20)


@pytest.fixture
def gateway(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]) -> Iterator[Gateway]:
    """Of the file that is applied, in place of the one pod that nobody runs here; its scaler's port is one that is free."""
    user.write({"own": {"source": "file:./own.py", "replicas": "0..4"}}, storage={}, prometheus=None)
    user.applies()
    config = user.get("v1", "ConfigMap", "gateway")
    assert config
    file = tmp_path / "gateway.json"
    content = json.loads(config["data"]["gateway.json"])
    content["scaler"]["port"] = free_ports(1)[0]
    # Nobody runs the pods, and whoever has their addresses outside of the cluster might answer: requests shall be held.
    content["models"]["own"]["service"] = "nowhere"
    file.write_text(json.dumps(content))
    folder = tmp_path / "account"
    folder.mkdir()
    api = account(user, folder)
    monkeypatch.setattr(cluster_gateway, "from_environment", lambda url: api)
    (pod,) = until(lambda: user.pods("gateway"))
    running = Gateway(file, pod["metadata"]["name"], content["scaler"]["port"])
    running.start()
    end = time.monotonic() + 30
    while not running.address:
        assert time.monotonic() < end, "it never listened"
        time.sleep(0.05)
    yield running
    running.end()


def test_the_hpa_scales_by_what_the_gateway_says(user: User, gateway: Gateway, tmp_path: Path, until: Callable[..., Any]) -> None:
    scaled = user.get("keda.sh/v1alpha1", "ScaledObject", "own")
    assert scaled
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "external-push"
    trigger["metadata"]["scalerAddress"] = f"127.0.0.1:{gateway.scaler}"
    metric, file = tmp_path / "metric", tmp_path / "scaledobject.yaml"
    keda = Keda(trigger, metric)
    trigger["metadata"]["threshold"] = str(keda.target())  # KEDA makes the HPA of GetMetricSpec's answer
    metric.write_text("0")
    file.write_text(yaml.safe_dump(scaled))
    arguments = ("--metric", str(metric), "--poll", "0.5", "--cooldown", "1", "--port", str(free_ports(1)[0]), str(file))

    def replicas() -> int:
        return int(user.deployment("own")["spec"].get("replicas", 1))

    try:
        with user.plane.program("keda_adapter.py", *arguments, log=tmp_path / "keda.log"):
            keda.start()
            until(lambda: replicas() == 0)
            gateway.asks(1)
            until(lambda: replicas() == 1)
            gateway.asks(WAITING - 1)
            most = -(-WAITING // int(keda.target()))
            until(lambda: replicas() == most, 60)
            gateway.leave()
            until(lambda: replicas() == 0, 90)
    finally:
        keda.end()
        for path in (
            "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/keda-external-metrics-reader",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/keda-hpa-controller-external-metrics",
            "/api/v1/namespaces/keda",
        ):
            user.api.request("DELETE", path, "clean up")
    assert {str(WAITING), "1", "0"} <= set(keda.heard)
