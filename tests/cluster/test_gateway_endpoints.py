"""The gateway's endpoints follow pods, with the rights that its own account has and nothing more."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from user import User

from headrace.control.follow import Follow
from headrace.spec import gateway_file
from headrace.targets.base import Replica
from headrace.targets.pods.api import Api
from headrace.targets.pods.watch import SliceWatch
from headrace.traffic import Endpoint, ModelStatus

pytestmark = pytest.mark.controlplane
WITHIN_SECONDS = 2.0


class Elsewhere:
    replicas: tuple[Replica, ...] = ()


class Gateway(threading.Thread):
    """What a gateway does with pods, on a loop of its own: `seen` is when each endpoint came, `gone` when it went."""

    def __init__(self, api: Api, file: gateway_file.GatewayFile) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self.statuses: dict[str, ModelStatus] = {}
        self.loop = asyncio.new_event_loop()
        self.watch = SliceWatch(api, file.namespace, lambda: self.follow.changed())
        self.follow = Follow(file, self.watch, Elsewhere(), self, "gateway-1")

    def update(self, statuses: Sequence[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        now, names = time.monotonic(), {endpoint.replica for endpoint in endpoints if endpoint.slots}
        self.statuses = {status.model: status for status in statuses}
        for name in names - self.seen.keys():
            self.seen[name] = now
        for name in self.seen.keys() - names - self.gone.keys():
            self.gone[name] = now

    def suspects(self) -> Mapping[str, frozenset[str]]:
        return {}

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._task = self.loop.create_task(self._both())
        self.loop.run_until_complete(self._task)
        self.loop.close()

    async def _both(self) -> None:
        tasks = [asyncio.create_task(self.watch.run()), asyncio.create_task(self.follow.run())]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self._task.cancel)
        self.join(20)


def account(user: User, folder: Path) -> Api:
    """The API server as a pod with the gateway's account has it: address, token, CA."""
    config = yaml.safe_load(user.plane.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    path = f"/api/v1/namespaces/{user.namespace}/serviceaccounts/gateway/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    (folder / "token").write_text(user.api.create(path, asked, "make a token")["status"]["token"])
    ca = cluster.get("certificate-authority-data")
    (folder / "ca.crt").write_bytes(base64.b64decode(ca) if ca else Path(cluster["certificate-authority"]).read_bytes())
    server = urlsplit(cluster["server"])
    return Api(server.hostname or "", server.port or 443, folder)


@pytest.fixture
def gateway(user: User, tmp_path: Path) -> Iterator[Gateway]:
    """One that runs by the ConfigMap and the account that `headrace apply` made."""
    user.write({"own": {"source": "file:./own.py", "replicas": 1}}, storage={})
    user.applies()
    config = user.get("v1", "ConfigMap", "gateway")
    assert config
    file = gateway_file.read(config["data"]["gateway.json"], "gateway.json")
    folder = tmp_path / "account"
    folder.mkdir()
    running = Gateway(account(user, folder), file)
    running.start()
    yield running
    running.end()


def readiness(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def test_endpoints_follow_pods_within_two_seconds(user: User, gateway: Gateway, until: Callable[..., Any]) -> None:
    ready: dict[str, float] = {}
    gone: dict[str, float] = {}

    def look(wanted: int) -> bool:
        """Note when a pod was seen ready, or was no more; true once the gateway has as many."""
        pods = {pod["metadata"]["name"]: pod for pod in user.pods("own")}
        for name, pod in pods.items():
            if readiness(pod):
                ready.setdefault(name, time.monotonic())
        for name in ready.keys() - {name for name, pod in pods.items() if not pod["metadata"].get("deletionTimestamp")}:
            gone.setdefault(name, time.monotonic())
        has = gateway.seen.keys() - gateway.gone.keys()
        return len(has) == wanted and has == {name for name in ready if name not in gone}

    for wanted in (1, 4, 2, 0):
        user.scales("own", wanted)
        until(lambda wanted=wanted: look(wanted))
    assert len(ready) == len(gone) == 4
    assert gateway.watch.trouble == ""
    late = {name: gateway.seen[name] - at for name, at in ready.items()}
    later = {name: gateway.gone[name] - at for name, at in gone.items()}
    print(f"endpoints came {late} and went {later} seconds after their pods were seen so")
    assert max(*late.values(), *later.values()) < WITHIN_SECONDS


def test_without_its_rights_it_says_which_are_missing(user: User, gateway: Gateway, until: Callable[..., Any]) -> None:
    until(lambda: len(gateway.seen) == 1)
    user.api.request(
        "DELETE", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{user.namespace}/rolebindings/gateway", "take its rights away"
    )
    other = Gateway(gateway.watch._server, gateway.follow.file)
    other.start()
    try:
        until(lambda: "its Role must allow list and watch of endpointslices" in other.watch.trouble)
        assert other.watch.slices is None
        assert other.statuses["own"].reason == "the cluster has not told yet which pods there are"
        user.applies()  # puts the binding back
        until(lambda: other.watch.trouble == "" and len(other.seen) == 1)
    finally:
        other.end()
