"""A namespace whose pods run: real gateways, fake engines at the addresses of their pods, commands as processes of their own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubelet import Pod
from test_gateway_endpoints import account
from user import User

from headrace.targets.kubernetes.order import COMPONENT, INSTANCE
from headrace.testing.fake import FakeEngine

HERE = Path(__file__).parent
PRESET_PORT = 5000
_KAITO = ("inferenceset.kaito.sh/created-by", "kaito.sh/workspace")
_SECONDS = 280
"""Of one command: a graduation takes about 30 on an idle machine."""


def without_network() -> str:
    """Why pods' addresses are nowhere here; empty where they are this machine's own."""
    try:
        socket.create_server(("10.1.0.1", 0)).close()
    except OSError as error:
        return f"pods have no addresses here ({error}): make test-cluster gives them a network of their own"
    return ""


def side(pod: Pod) -> str:
    """The name of the objects that a pod of a model belongs to; empty for others'."""
    labels = pod["metadata"].get("labels") or {}
    kaito = next((labels[key].removesuffix("-workspace") for key in _KAITO if key in labels), "")
    return kaito or (labels.get(INSTANCE, "") if labels.get(COMPONENT) == "engine" else "")


class Site:
    """`engines` are the settings of fake engines by their side; those of `broken` sides are never ready."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.engines: dict[str, dict[str, Any]] = {}
        self.broken: set[str] = set()
        self.gateways: list[GatewayPod] = []
        self.running: dict[str, EnginePod] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engines", daemon=True)
        self._account = user.folder / "account"

    @contextmanager
    def open(self) -> Iterator["Site"]:
        self._thread.start()
        kubelet = self.user.plane.kubelet
        kubelet.runs[self.user.namespace] = self._run
        try:
            yield self
        finally:
            kubelet.forget(self.user.namespace)
            for gateway in self.gateways:
                gateway.kill()
            for engine in list(self.running.values()):
                engine.kill()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(20)
            self._loop.close()

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _run(self, pod: Pod, address: str) -> "GatewayPod | EnginePod | None":
        about = pod["metadata"]
        if about["labels"].get(COMPONENT) == "gateway":
            self.gateways.append(GatewayPod(self, about["name"], address))
            return self.gateways[-1]
        if called := side(pod):
            port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
            made = self.running[about["name"]] = EnginePod(self, called, about["name"], f"http://{address}:{port}")
            return made
        return None

    def account(self) -> tuple[str, str, str]:
        """The gateway's account as files, and where the API server is."""
        self._account.mkdir(exist_ok=True)
        api = account(self.user, self._account)
        return str(self._account), api.host, str(api.port)

    # ---- looks

    def record(self) -> dict[str, Any]:
        """The graduation's record; empty where there is none."""
        found = self.user.get("v1", "ConfigMap", "graduation-chat")
        return json.loads(found["data"]["graduation.json"]) if found else {}

    def told(self) -> dict[str, Any]:
        """What the gateways' ConfigMap says of the model."""
        found = self.user.get("v1", "ConfigMap", "gateway")
        assert found
        said: dict[str, Any] = json.loads(found["data"]["gateway.json"])["models"]["chat"]
        return said

    def deployments(self) -> set[str]:
        return {each["metadata"]["name"] for each in self.user.all("apps/v1", "Deployment")} - {"gateway"}

    def sides(self) -> set[str]:
        """Of the pods that are there, those that are ending too."""
        resource = self.user.api.resource("v1", "Pod")
        assert resource
        return {side(pod) for pod in self.user.api.all(resource, self.user.namespace)} - {""}

    # ---- commands

    def command(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
        return subprocess.Popen(
            [sys.executable, str(HERE / "older.py"), *arguments],
            cwd=self.user.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, **variables: str) -> str:
        process = self.command(*arguments, **variables)
        try:
            said, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            said += f"\nkilled after {_SECONDS} s"
        assert process.returncode == code, said
        return said

    def killed(self, when: Callable[[], bool], until: Callable[..., Any], *arguments: str) -> None:
        """A command that is killed once something is so."""
        process = self.command(*arguments)
        until(lambda: when() or process.poll() is not None, 240)
        process.send_signal(signal.SIGKILL)
        process.communicate()


class EnginePod:
    """A fake engine where its pod is."""

    def __init__(self, site: Site, called: str, name: str, address: str) -> None:
        self.called, self.restarts = called, 0
        self._site, self._name = site, name
        settings = {"model": "chat", "slots": 8, "token_seconds": 0.005, **site.engines.get(called, {})}
        self.engine = FakeEngine(address, **settings)
        self._quiet = 0
        self._gone = False
        site.do(self.engine.__aenter__())

    def look(self) -> bool:
        return self.called not in self._site.broken

    def end(self) -> bool:
        """As preStop and a drain do: requests may be on their way when its endpoint goes."""
        self._quiet = 0 if self.engine.running or self.engine.waiting else self._quiet + 1
        if self._quiet >= 4:
            self.kill()
        return self._gone

    def kill(self) -> None:
        """With its node: whatever it was answering is lost."""
        if not self._gone:
            self._gone = True
            self._site.do(self.engine.__aexit__(None, None, None))
            self._site.running.pop(self._name, None)


class GatewayPod:
    """A `headrace gateway` process whose file follows the ConfigMap, started again when it has died."""

    def __init__(self, site: Site, name: str, address: str) -> None:
        self.name, self.url, self.restarts = name, f"http://{address}:8000", 0
        self._site, self._listen = site, f"{address}:8000"
        self._file = site.user.folder / f"{name}.json"
        self._ending = False
        self._write()
        self._start()

    def _start(self) -> None:
        command = [sys.executable, str(HERE / "gateway_pod.py"), str(self._file), *self._site.account(), self._listen]
        environment = {**os.environ, "POD_NAME": self.name, "TMPDIR": str(self._site.user.folder)}
        with self._file.with_suffix(".log").open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def look(self) -> bool:
        self._write()
        if self.process.poll() is not None:
            self.restarts += 1
            self._start()
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _write(self) -> None:
        found = self._site.user.get("v1", "ConfigMap", "gateway")
        text = found["data"]["gateway.json"] if found else ""
        if text and not (self._file.exists() and self._file.read_text() == text):
            draft = self._file.with_suffix(".new")
            draft.write_text(text)
            os.replace(draft, self._file)

    def end(self) -> bool:
        if not self._ending:
            self._ending = True
            self.process.terminate()
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
