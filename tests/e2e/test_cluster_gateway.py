"""`headrace gateway` as a process, between a fake API server, scripted engines and KEDA's questions."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.keda import messages
from headrace.key_store import Store, Stored
from headrace.keys import Uses, this_month
from headrace.targets.http import Answer, ask, get
from headrace.testing.api_server import FakeApiServer, endpoint_slice
from tests.unit.gateway.engines import Gate, Script, ScriptedEngine, answers, eventually

BODY = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}).encode()


class Cluster:
    """An API server with slices, engines behind them, and gateways that run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = tempfile.mkdtemp(prefix="hr-")  # of a short path: sockets are in it
        self.api = FakeApiServer()
        self.engines: list[ScriptedEngine] = []
        self.gateways: list[Gateway] = []

    async def pod(self, name: str, script: Script = answers, service: str = "chat", **conditions: Any) -> str:
        """A pod with a port of its own, hence in a slice of its own; returns its slice's name."""
        engine = ScriptedEngine(script)
        await engine.open(None)
        self.engines.append(engine)
        self.tell(name, service, engine.address, **conditions)
        return name

    def tell(self, name: str, service: str, address: str, **conditions: Any) -> None:
        port = int(address.rpartition(":")[2])
        self.api.set(endpoint_slice(name, service, [(name, "127.0.0.1", conditions or {"ready": True})], port=port))

    async def gateway(self, name: str = "gateway-1", **file: Any) -> "Gateway":
        made = Gateway(self, name, file)
        self.gateways.append(made)
        await made.start()
        return made

    async def close(self) -> None:
        for gateway in self.gateways:
            await gateway.end()
        for engine in self.engines:
            await engine.close()
        await self.api.close()
        shutil.rmtree(self.temporary)


class Gateway:
    """A `headrace gateway` process."""

    def __init__(self, cluster: Cluster, name: str, file: dict[str, Any]) -> None:
        self.name, self._cluster = name, cluster
        self.file = cluster.folder / f"{name}.json"
        self.scaler = free_port()
        self.content: dict[str, Any] = {
            "namespace": "inference",
            "models": {"chat": {"service": "chat", "slots": 4, "replicas": [0, 3], "start": 60}},
            "gateway": {"listen": "127.0.0.1:0", "drain": 10},
            "scaler": {"port": self.scaler},
        } | file
        self.output: list[str] = []
        self.address = ""
        self.write()

    def write(self, **changes: Any) -> None:
        self.content |= changes
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps(self.content))
        os.replace(draft, self.file)

    async def start(self, *arguments: str) -> None:
        self.process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("headrace")),
            "gateway",
            str(self.file),
            "--api",
            self._cluster.api.url,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "POD_NAME": self.name, "TMPDIR": self._cluster.temporary},
        )
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.output.append(line.decode().rstrip())
            if self.output[-1].startswith("Listening on "):
                self.address = "http://" + self.output[-1].split()[2].rstrip(":")

    async def listens(self) -> None:
        await eventually(lambda: self.address or self.process.returncode is not None, f"it listens: {self.output}", 30)
        assert self.address, self.output

    async def says(self, text: str) -> None:
        await eventually(lambda: any(text in line for line in self.output), f"{text}: {self.output}", 30)

    async def chat(self, model: str = "chat", seconds: float = 30.0) -> Answer:
        return await ask(self.address, "POST", "/v1/chat/completions", BODY.replace(b"chat", model.encode(), 1), seconds)

    async def model(self, name: str = "chat") -> dict[str, Any]:
        told = json.loads((await get(self.address, "/admin/status", 10)).body)
        return next(model for model in told["models"] if model["name"] == name)

    async def until(self, name: str = "chat", **wanted: Any) -> None:
        async with asyncio.timeout(30):
            while not wanted.items() <= (await self.model(name)).items():
                await asyncio.sleep(0.01)

    async def end(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        code = await self.process.wait()
        await self._reading
        return code


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.api.open()
    yield cluster
    await cluster.close()


async def test_a_sleeping_model_is_asked_for_keda_hears_of_it_and_the_request_is_answered(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    await gateway.listens()
    assert (await gateway.model())["phase"] == "asleep"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.scaler}") as channel:
        stream = channel.unary_stream(f"/{messages.SERVICE}/StreamIsActive")(
            messages.ScaledObjectRef(name="chat", namespace="inference", scalerMetadata={"model": "chat"}).SerializeToString()
        )
        reading = asyncio.create_task(stream.read())
        asking = asyncio.create_task(gateway.chat())
        while not messages.IsActiveResponse.FromString(await reading).result:
            reading = asyncio.create_task(stream.read())
        stream.cancel()
    assert not asking.done()
    name = await cluster.pod("chat-1", ready=False)
    await gateway.until(phase="loading")
    cluster.tell(name, "chat", cluster.engines[0].address, ready=True)
    assert (await asking).status == 200


async def test_it_listens_only_once_it_has_heard_of_pods(cluster: Cluster) -> None:
    cluster.api.refuses = (403, 'endpointslices is forbidden: User "system:serviceaccount:inference:gateway" cannot list')
    gateway = await cluster.gateway()
    await gateway.says("its Role must allow list and watch of endpointslices")
    assert not gateway.address
    cluster.api.refuses = None
    await gateway.listens()


async def test_a_lost_api_server_takes_no_replica_away(cluster: Cluster) -> None:
    await cluster.pod("chat-1")
    gateway = await cluster.gateway()
    await gateway.listens()
    await cluster.api.close()
    await gateway.says("what was known of pods stays in force")
    assert (await gateway.chat()).status == 200
    await cluster.api.open()
    await cluster.pod("chat-2")
    await gateway.until(reason="2 of 0..3 replicas ready")


async def test_a_pod_that_ends_finishes_what_it_has_and_gets_nothing_new(cluster: Cluster) -> None:
    gate = Gate()
    name = await cluster.pod("chat-1", gate)
    gateway = await cluster.gateway()
    await gateway.listens()
    asking = asyncio.create_task(gateway.chat())
    await eventually(lambda: bool(cluster.engines[0].asked), "it runs")
    await cluster.pod("chat-2")
    cluster.tell(name, "chat", cluster.engines[0].address, ready=False, serving=True, terminating=True)
    await gateway.until(slots=4)
    assert [(await gateway.chat()).status for _ in range(8)] == [200] * 8
    assert len(cluster.engines[0].asked) == 1
    cluster.api.remove(name)
    await gateway.until(reason="1 of 0..3 replicas ready", slots=4)
    gate.let()
    assert (await asking).status == 200


async def test_a_changed_file_is_taken_under_load_and_a_wrong_one_is_not(cluster: Cluster) -> None:
    await cluster.pod("chat-1")
    await cluster.pod("other-1", service="other")
    gateway = await cluster.gateway()
    await gateway.listens()
    stop = asyncio.Event()

    async def asks() -> list[int]:
        statuses = []
        while not stop.is_set():
            statuses.append((await gateway.chat()).status)
        return statuses

    tasks = [asyncio.create_task(asks()) for _ in range(4)]
    models = dict(gateway.content["models"])
    gateway.write(models=models | {"other": {"service": "other", "slots": 1}}, aliases={"gpt": "other"})
    await gateway.says("other is new")
    await gateway.until("other", phase="ready")
    assert (await gateway.chat("gpt")).status == 200
    gateway.write(models="none")
    await gateway.says("The file was not taken, the one before stays in force")
    assert (await gateway.chat("gpt")).status == 200
    gateway.write(models=models, aliases={})
    await gateway.says("other is served no more")
    assert (await gateway.chat("gpt")).status == 404
    stop.set()
    answered = [status for statuses in await asyncio.gather(*tasks) for status in statuses]
    assert answered
    assert set(answered) == {200}


async def refused(address: str) -> bool:
    try:
        await get(address, "/health", 5)
    except ConnectionRefusedError:
        return True
    return False


async def test_told_to_end_it_lets_nobody_in_answers_what_it_has_and_ends(cluster: Cluster) -> None:
    gate = Gate()
    await cluster.pod("chat-1", gate)
    gateway = await cluster.gateway()
    await gateway.listens()
    asking = asyncio.create_task(gateway.chat())
    await eventually(lambda: bool(cluster.engines[0].asked), "it runs")
    gateway.process.send_signal(signal.SIGTERM)
    await gateway.says("Draining: 1 requests may finish within 10s")
    async with asyncio.timeout(10):
        while not await refused(gateway.address):  # the readiness probe fails so
            pass
    assert not asking.done()
    gate.let()
    assert (await asking).status == 200
    assert await gateway.process.wait() == 0
    await gateway.says("Stopped; every request was answered.")


async def test_gateways_share_slots_and_any_of_them_tells_keda_of_all(cluster: Cluster) -> None:
    gate = Gate()
    await cluster.pod("chat-1", gate)
    one, two = await cluster.gateway("gateway-1"), await cluster.gateway("gateway-2")
    for gateway in (one, two):
        await gateway.listens()
        cluster.tell(gateway.name, "gateway", gateway.address)
        scaler = endpoint_slice(
            f"{gateway.name}-scaler", "gateway-scaler", [(gateway.name, "127.0.0.1", {})], port=gateway.scaler
        )
        scaler["ports"][0]["name"] = "grpc"
        cluster.api.set(scaler)
    for gateway in (one, two):
        await gateway.until(slots=2)
    asking = [asyncio.create_task(gateway.chat()) for gateway in (one, one, one, two)]
    request = messages.GetMetricsRequest(
        scaledObjectRef=messages.ScaledObjectRef(
            name="chat", namespace="inference", scalerMetadata={"model": "chat", "target": "1"}
        )
    )
    for gateway in (one, two):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.scaler}") as channel, asyncio.timeout(30):
            while await _load(channel, request) != 4:
                await asyncio.sleep(0.01)
    assert (await one.model())["load"]["waiting"] == 1  # its half of the slots is full
    gate.let(4)
    assert {(await each).status for each in asking} == {200}


async def test_what_is_cut_off_at_the_end_was_taken_as_well(cluster: Cluster) -> None:
    keys, gate = cluster.folder / "keys.json", Gate()
    secret = Store(keys).add(Stored("search", ""))
    await cluster.pod("chat-1", gate)
    gateway = await cluster.gateway(gateway={"listen": "127.0.0.1:0", "drain": 60, "keys": f"file:{keys}"}, scaler=None)
    await gateway.listens()
    asked = asyncio.create_task(ask(gateway.address, "POST", "/v1/chat/completions", BODY, 60, secret))
    await eventually(lambda: cluster.engines[0].asked, "it is being answered")
    gateway.process.send_signal(signal.SIGTERM)
    await gateway.says("Draining: 1 requests")
    gateway.process.send_signal(signal.SIGTERM)
    assert (await asked).status == 503
    assert await gateway.process.wait() == 0
    assert Uses(keys).read(this_month())["search"].requests == 1


async def _load(channel: Any, request: Any) -> int | None:
    """None while a gateway does not know the other yet."""
    try:
        told = await channel.unary_unary(f"/{messages.SERVICE}/GetMetrics")(request.SerializeToString())
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return None
        raise
    return int(messages.GetMetricsResponse.FromString(told).metricValues[0].metricValue)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["missing.json"], 78, "missing.json cannot be read: No such file or directory. `headrace render` writes it."),
        (["gateway.json"], 64, "This is no pod: KUBERNETES_SERVICE_HOST is not set. Elsewhere run `kubectl proxy`"),
        (["gateway.json", "--api", "https://api:6443"], 64, "--api https://api:6443 is not http://127.0.0.1:PORT."),
        (["gateway.json", "--listen", "0.0.0.0:8000"], 64, "say --insecure when something else guards it"),
    ],
)
async def test_mistakes_of_a_newcomer_are_told_in_a_sentence(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    (tmp_path / "gateway.json").write_text('{"namespace": "inference", "models": {"chat": {"service": "chat", "slots": 4}}}')
    program = str(Path(sys.executable).with_name("headrace"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}
    process = await asyncio.create_subprocess_exec(
        program, "gateway", *arguments, cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert (process.returncode, says in told.decode()) == (code, True), told.decode()
    assert "Traceback" not in told.decode()
