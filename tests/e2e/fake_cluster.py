"""A cluster of fakes around real gateways: an API server that keeps objects, Deployments whose pods are fake engines on loopback.

It knows of server-side apply what graduations need: versions that must be the newest, `replicas` that stay where left out.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.targets.kubernetes.order import KINDS
from headrace.testing.api_server import FakeApiServer, endpoint_slice
from headrace.testing.fake import FakeEngine
from tests.unit.targets_kubernetes.kube_server import Asked, kube_server

NAMESPACE = "inference"
_OTHERS = (("v1", "Pod"), ("v1", "Event"), ("v1", "Node"), ("v1", "Secret"), ("storage.k8s.io/v1", "StorageClass"))
_GLOBAL = ("Namespace", "Node", "StorageClass", "ClusterRole", "ClusterRoleBinding")
_INSTANCE = "app.kubernetes.io/instance"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Cluster:
    """`engines` are the settings of fake engines by the name of their Deployment; pods of those in `crashes` do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[str, dict[str, Any]] = {}
        self.engines: dict[str, dict[str, Any]] = {}
        self.crashes: set[str] = set()
        self.gateways: list[Gateway] = []
        self.running: dict[str, FakeEngine] = {}
        self._kinds = (*KINDS, *_OTHERS)
        self._version = 0
        self._serial = 0
        self._lock = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    @contextlib.contextmanager
    def open(self) -> Iterator["Cluster"]:
        self._thread.start()
        self.slices = FakeApiServer()
        self._do(self.slices.open())
        try:
            with kube_server(self._answer) as server:
                self.kubeconfig = server.kubeconfig(self.folder)
                yield self
        finally:
            for gateway in self.gateways:
                gateway.close()
            with self._lock:
                for engine in self.running.values():
                    self._do(engine.__aexit__(None, None, None))
            self._do(self.slices.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """A `headrace` command in the user's folder."""
        program = str(Path(sys.executable).with_name("headrace"))
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HEADRACE_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(
            [program, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.command(*arguments)
        said, _ = process.communicate(timeout=110)
        assert process.returncode == code, said
        return said

    def gateway(self) -> "Gateway":
        """One more pod of the gateway, a process."""
        made = Gateway(self, f"gateway-{len(self.gateways) + 1}")
        self.gateways.append(made)
        labels = {_INSTANCE: "gateway", "app.kubernetes.io/component": "gateway"}
        ports = [{"name": "http", "containerPort": made.port}]
        self.objects[f"{_PODS}/{made.name}"] = _pod(made.name, labels, ready=True, ports=ports)
        self._do(self._set(endpoint_slice(made.name, "gateway", [(made.name, "127.0.0.1", {"ready": True})], port=made.port)))
        return made

    def record(self, model: str = "chat") -> dict[str, Any]:
        """The graduation's record; empty where there is none."""
        found = self.objects.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/graduation-{model}")
        return json.loads(found["data"]["graduation.json"]) if found else {}

    def deployments(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.objects if "/deployments/" in path} - {"gateway"}

    def settings(self) -> dict[str, Any]:
        """What the gateways' ConfigMap says, made to run here."""
        said = json.loads(self.objects[f"/api/v1/namespaces/{NAMESPACE}/configmaps/gateway"]["data"]["gateway.json"])
        said.pop("scaler", None)
        return said

    # ---- requests

    def _answer(self, asked: Asked) -> tuple[int, Any]:
        if "/proxy/" in asked.path:
            return self._proxied(asked)
        with self._lock:
            return self._kept(asked)

    def _kept(self, asked: Asked) -> tuple[int, Any]:
        if asked.path == "/version":
            return 200, {"gitVersion": "v1.31.0"}
        if asked.path.endswith("selfsubjectaccessreviews"):
            return 201, {"status": {"allowed": True}}
        if listing := self._discovery(asked.path):
            return 200, listing
        if asked.method == "POST":
            path = f"{asked.path}/{asked.body['metadata']['name']}"
            return (409, {"message": "already exists"}) if path in self.objects else (201, self._keep(path, asked.body))
        if asked.method == "PATCH":
            return self._applied(asked)
        if asked.method == "DELETE":
            return self._deleted(asked.path)
        if asked.path in self.objects:
            return 200, self.objects[asked.path]
        if asked.path.rpartition("/")[2] in {_plural(kind) for _, kind in self._kinds}:
            found = [each for path, each in self.objects.items() if path.rpartition("/")[0] == asked.path]
            wanted = dict(pair.split("=") for pair in asked.query.get("labelSelector", "").split(",") if pair)
            return 200, {"items": [each for each in found if wanted.items() <= (each["metadata"].get("labels") or {}).items()]}
        return 404, {"message": "not found"}

    def _discovery(self, path: str) -> dict[str, Any] | None:
        version = path.removeprefix("/apis/").removeprefix("/api/")
        kinds = sorted({kind for api_version, kind in self._kinds if api_version == version})
        resources = [{"name": _plural(kind), "kind": kind, "namespaced": kind not in _GLOBAL} for kind in kinds]
        return {"resources": resources} if resources else None

    def _applied(self, asked: Asked) -> tuple[int, Any]:
        before = self.objects.get(asked.path)
        version = asked.body["metadata"].get("resourceVersion")
        if version and (before is None or before["metadata"]["resourceVersion"] != version):
            return 409, {"message": "the object has been modified"}
        if "dryRun" in asked.query:
            return 200, asked.body
        body = json.loads(json.dumps(asked.body))
        if before and "replicas" in before.get("spec", {}):
            body["spec"].setdefault("replicas", before["spec"]["replicas"])
        return 200 if before else 201, self._keep(asked.path, body)

    def _keep(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        body["metadata"] = {**body["metadata"], "resourceVersion": str(self._version)}
        self.objects[path] = body
        if body["kind"] == "Deployment" and path.rpartition("/")[2] != "gateway":
            self._reconcile(path)
        if body["kind"] == "ConfigMap" and body["metadata"]["name"] == "gateway":
            for gateway in self.gateways:
                gateway.write()
        return body

    def _deleted(self, path: str) -> tuple[int, Any]:
        gone = self.objects.pop(path, None)
        if gone is None:
            return 404, {"message": "not found"}
        if gone["kind"] == "Deployment":
            for name in self.pods(gone["metadata"]["name"]):
                self._end(name)
        return 200, {}

    def _proxied(self, asked: Asked) -> tuple[int, Any]:
        named, _, path = asked.path.removeprefix(f"{_PODS}/").partition("/proxy")
        query = "&".join(f"{key}={value}" for key, value in asked.query.items())
        body = None if asked.method == "GET" else json.dumps(asked.body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{named.partition(':')[2]}{path}?{query}", body, method=asked.method)
        if key := asked.headers.get("X-Api-Key"):  # Authorization ends at the API server
            request.add_header("X-Api-Key", key)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            return 503, {"message": str(error)}

    # ---- controllers

    def pods(self, called: str) -> list[str]:
        """Pods of a Deployment that are not ending."""
        return [
            path.rpartition("/")[2]
            for path, each in self.objects.items()
            if path.startswith(f"{_PODS}/{called}-pod-") and "deletionTimestamp" not in each["metadata"]
        ]

    def _reconcile(self, path: str) -> None:
        deployment = self.objects[path]
        called, wanted = deployment["metadata"]["name"], deployment["spec"].get("replicas", 1)
        there = self.pods(called)
        for _ in range(wanted - len(there)):
            self._start(called, deployment)
        for name in there[wanted:]:
            self._end(name)
        ready = 0 if called in self.crashes else wanted
        deployment["metadata"]["generation"] = 1
        deployment["status"] = {"observedGeneration": 1, "updatedReplicas": wanted, "readyReplicas": ready}

    def _start(self, called: str, deployment: dict[str, Any]) -> None:
        self._serial += 1
        name = f"{called}-pod-{self._serial}"
        labels = dict(deployment["spec"]["template"]["metadata"]["labels"])
        if called in self.crashes:
            self.objects[f"{_PODS}/{name}"] = _pod(name, labels, ready=False)
            return
        engine = FakeEngine(
            "http://127.0.0.1:0", model="chat", slots=4, **{"token_seconds": 0.005, **self.engines.get(called, {})}
        )
        self._do(engine.__aenter__())
        self.running[name] = engine
        self.objects[f"{_PODS}/{name}"] = _pod(name, labels, ready=True)
        self._tell(name, ready=True)

    def _tell(self, name: str, **conditions: bool) -> None:
        port, called = int(self.running[name].address.rpartition(":")[2]), name.rpartition("-pod-")[0]
        self._do(self._set(endpoint_slice(name, called, [(name, "127.0.0.1", conditions)], port=port)))

    async def _set(self, made: dict[str, Any]) -> None:
        self.slices.set(made)

    def _end(self, name: str) -> None:
        """As the kubelet does: out of its Service at once, gone when it has answered what it has."""
        pod = self.objects[f"{_PODS}/{name}"]
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        if name not in self.running:
            del self.objects[f"{_PODS}/{name}"]
            return
        self._tell(name, ready=False, serving=True, terminating=True)
        asyncio.run_coroutine_threadsafe(self._drained(name), self._loop)

    async def _drained(self, name: str) -> None:
        engine, quiet = self.running[name], 0
        while quiet < 10:  # preStop: requests that were on their way when its endpoint went
            await asyncio.sleep(0.05)
            quiet = 0 if engine.running or engine.waiting else quiet + 1
        await engine.__aexit__(None, None, None)
        del self.running[name]
        self.slices.remove(name)
        self.objects.pop(f"{_PODS}/{name}", None)


class Gateway:
    """A `headrace gateway` process whose file follows the ConfigMap."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name, self._cluster = name, cluster
        self._file = cluster.folder / f"{name}.json"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.write()
        program = str(Path(sys.executable).with_name("headrace"))
        environment = {**os.environ, "POD_NAME": name, "TMPDIR": str(cluster.folder)}
        with (cluster.folder / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [program, "gateway", str(self._file), "--api", cluster.slices.url], env=environment, stdout=log, stderr=log
            )

    def write(self) -> None:
        settings = self._cluster.settings()
        settings["gateway"]["listen"] = f"127.0.0.1:{self.port}"
        if "keys" in settings["gateway"]:
            settings["gateway"]["keys"] = f"file:{self._cluster.folder}/keys.json"
        draft = self._file.with_suffix(".new")
        draft.write_text(json.dumps(settings))
        os.replace(draft, self._file)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def _pod(name: str, labels: dict[str, str], *, ready: bool, ports: Any = ()) -> dict[str, Any]:
    state: dict[str, Any] = {"name": "engine", "restartCount": 0 if ready else 5, "ready": ready}
    if not ready:
        state["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
        state["lastState"] = {"terminated": {"exitCode": 1, "reason": "Error"}}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"nodeName": "node-1", "containers": [{"name": "engine", "ports": list(ports)}]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}], "containerStatuses": [state]},
    }


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _plural(kind: str) -> str:
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("cy") else f"{lower}es" if lower.endswith(("ss", "x")) else f"{lower}s"
