"""A cluster that moves a model in no time: objects, pods of two Deployments, gateways that take their file late; its own clock.

It stands where the HTTP client would, so that what is tried goes through the real one. A request is dropped when a gateway sends
it where no pod is ready, and none is on the other side either.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from headrace.targets.kubernetes.order import KINDS

NAMESPACE = "ai"
BEFORE = {"service": "chat", "slots": 4, "replicas": [1, 1], "task": "generate"}
AFTER = {"service": "chat-b", "slots": 8, "replicas": [1, 1], "task": "generate"}
LABELS = {"app.kubernetes.io/managed-by": "headrace", "app.kubernetes.io/name": "headrace"}
_INSTANCE, _COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
_KINDS = (*KINDS, ("v1", "Pod"), ("v1", "Event"))
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
READY_SECONDS, TAKEN_SECONDS = 1.0, 2.0


class Clock:
    """`time`, for modules whose time the world makes."""

    strftime, localtime = staticmethod(time.strftime), staticmethod(time.localtime)

    def __init__(self) -> None:
        self.now = 100.0
        self.passes: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.passes()


@dataclass
class Gateway:
    """What it was told, and when somebody watched last."""

    id: str
    told: dict[str, Any]
    coming: tuple[float, dict[str, Any]] | None = None
    watched: float = float("-inf")
    rows: list[list[Any]] = field(default_factory=list)
    compared: dict[str, str] | None = None


class Answer:
    def __init__(self, status: int, body: Any) -> None:
        self.status_code, self._body = status, body
        self.text = json.dumps(body)

    def json(self) -> Any:
        return json.loads(self.text)


class World:
    """`bad`: the new side answers with errors. `fault` is asked before each request, and may raise or answer in its place."""

    def __init__(self, clock: Clock, *, bad: bool = False) -> None:
        self.clock, self.bad = clock, bad
        self.fault: Callable[[str, str, Callable[[], Answer]], Answer] = lambda method, path, answer: answer()
        self.objects: dict[str, dict[str, Any]] = {}
        self.began: dict[str, float] = {}
        self.dropped = 0
        self.text = "old"
        self._version = 0
        clock.passes = self.pass_by
        settings = {"namespace": NAMESPACE, "models": {"chat": BEFORE}, "gateway": {}}
        self._keep(f"{_MAPS}/gateway", made("ConfigMap", "gateway", "gateway", data={"gateway.json": json.dumps(settings)}))
        self._deployment("chat", 1)
        self.gateways = [Gateway(f"id-{number}", BEFORE) for number in range(2)]
        for number in range(2):
            pod = made("Pod", f"gateway-{number}", "gateway", spec={}, status=_READY)
            self._keep(f"{_PODS}/gateway-{number}", pod)
        clock.sleep(READY_SECONDS)

    # ---- as the HTTP client

    def request(self, method: str, path: str, *, params: dict[str, Any], json: Any, headers: dict[str, str]) -> Answer:
        return self.fault(method, path, lambda: self._answer(method, path, params, json))

    def close(self) -> None:
        pass

    def _answer(self, method: str, path: str, params: dict[str, Any], body: Any) -> Answer:
        if "/proxy/" in path:
            return self._proxied(method, int(path.removeprefix(f"{_PODS}/gateway-")[0]), params)
        if method == "GET" and (listing := _discovery(path)):
            return Answer(200, listing)
        if method == "PATCH":
            return self._applied(path, body)
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            return Answer(409, {"message": "it is there"}) if path in self.objects else Answer(201, self._keep(path, body))
        if method == "DELETE":
            return Answer(200 if self._delete(path) else 404, {})
        if path in self.objects:
            return Answer(200, self.objects[path])
        if path.rpartition("/")[2] not in _PLURALS:
            return Answer(404, {"message": "not found"})
        found = [each for at, each in self.objects.items() if at.rpartition("/")[0] == path]
        wanted = dict(pair.split("=") for pair in params.get("labelSelector", "").split(",") if pair)
        return Answer(200, {"items": [each for each in found if wanted.items() <= each["metadata"]["labels"].items()]})

    def _applied(self, path: str, body: Any) -> Answer:
        before = self.objects.get(path)
        version = body["metadata"].get("resourceVersion")
        if version and (before is None or before["metadata"]["resourceVersion"] != version):
            return Answer(409, {"message": "the object has been modified"})
        return Answer(200 if before else 201, self._keep(path, body))

    def _keep(self, path: str, body: Any) -> dict[str, Any]:
        self._version += 1
        kept: dict[str, Any] = json.loads(json.dumps(body))
        kept["metadata"] = {**kept["metadata"], "resourceVersion": str(self._version)}
        self.objects[path] = kept
        if kept["kind"] == "Deployment":
            self._deployment(kept["metadata"]["name"], kept["spec"].get("replicas", 1))
        return kept

    def _delete(self, path: str) -> bool:
        gone = self.objects.pop(path, None)
        if gone is not None and gone["kind"] == "Deployment":
            self.objects.pop(f"{_PODS}/{gone['metadata']['name']}-0", None)
        return gone is not None

    def _deployment(self, name: str, replicas: int) -> None:
        status = {"observedGeneration": 1, "updatedReplicas": replicas, "readyReplicas": replicas}
        spec = {"replicas": replicas, "template": {}}
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"
        self._version += 1
        self.objects[path] = made("Deployment", name, name, spec=spec, status=status)
        self.objects[path]["metadata"] |= {"generation": 1, "resourceVersion": str(self._version)}
        if f"{_PODS}/{name}-0" not in self.objects:
            self.began[name] = self.clock.now
            self._keep(f"{_PODS}/{name}-0", made("Pod", f"{name}-0", name, spec={}, status={}))

    # ---- what goes on

    def ready(self, name: str) -> bool:
        pod = self.objects.get(f"{_PODS}/{name}-0")
        return pod is not None and bool(pod["status"])

    def pass_by(self) -> None:
        """Pods become ready, gateways take their file, clients ask."""
        for name, began in self.began.items():
            pod = self.objects.get(f"{_PODS}/{name}-0")
            if pod is not None and self.clock.now - began >= READY_SECONDS:
                pod["status"] = _READY
        said = json.loads(self.objects[f"{_MAPS}/gateway"]["data"]["gateway.json"])["models"]["chat"]
        for gateway in self.gateways:
            if gateway.coming is None and said != gateway.told:
                gateway.coming = self.clock.now + TAKEN_SECONDS, said
            if gateway.coming and self.clock.now >= gateway.coming[0]:
                gateway.told, gateway.coming = gateway.coming[1], None
            self._ask(gateway)

    def share(self, gateway: Gateway) -> float:
        trial = gateway.told.get("trial")
        return float(trial["share"]) if trial and self.clock.now - gateway.watched < 60 else 0.0

    def _ask(self, gateway: Gateway) -> None:
        trial, share = gateway.told.get("trial"), self.share(gateway)
        old, new = gateway.told["service"], trial["service"] if trial else ""
        for place in range(20):
            wanted = new if place < 20 * share else old
            there = next((name for name in (wanted, old, new) if name and self.ready(name)), None)
            if there is None:
                self.dropped += 1
                continue
            status = 500 if self.bad and there == "chat-b" else 200
            gateway.rows.append([f"{there}-0", status, 3, 8, 0.0, 0.1, 0.5, there == new])

    def _proxied(self, method: str, number: int, params: dict[str, Any]) -> Answer:
        gateway = self.gateways[number]
        if method == "POST":
            gateway.compared = {"trouble": "", "remark": "alike"}
            return Answer(202, {})
        gateway.watched = float("-inf") if params.get("watch") == "no" else self.clock.now
        trial = gateway.told.get("trial")
        rows, gateway.rows = gateway.rows[-200:], []
        ready = [int(self.ready(gateway.told["service"])), int(bool(trial) and self.ready(trial["service"]))]
        said = {"id": gateway.id, "next": 0, "finished": rows, "lost": 0, "running": [0, 0], "ready": ready}
        told = {"service": gateway.told["service"], "trial": trial["service"] if trial else "", "share": self.share(gateway)}
        return Answer(200, {**said, **told, "compared": gateway.compared})


_READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def made(kind: str, name: str, instance: str, **more: Any) -> dict[str, Any]:
    version = "apps/v1" if kind == "Deployment" else "v1"
    labels = {**LABELS, _INSTANCE: instance, _COMPONENT: "engine"}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, **more}


def timeout() -> httpx2.ReadTimeout:
    return httpx2.ReadTimeout("nothing came")


def _discovery(path: str) -> dict[str, Any] | None:
    version = path.removeprefix("/apis/").removeprefix("/api/")
    kinds = sorted({kind for api_version, kind in _KINDS if api_version == version})
    return {"resources": [{"name": _plural(kind), "kind": kind, "namespaced": True} for kind in kinds]} if kinds else None


def _plural(kind: str) -> str:
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("cy") else f"{lower}es" if lower.endswith(("ss", "x")) else f"{lower}s"


_PLURALS = {_plural(kind) for _, kind in _KINDS}
