"""A real gateway on both event loops, scripted engines behind it and raw clients in front; accounts are checked at the end."""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from headrace.gateway.admin import Admin
from headrace.gateway.certificate import Certificate
from headrace.gateway.gateway import Gateway, Limits
from headrace.targets.base import Replica
from headrace.traffic import Endpoint, ModelStatus

from .certificates import SecureClient
from .clients import Answer, Client
from .engines import Script, ScriptedEngine, answers, eventually
from .handovers import Pair

STATUSES = (ModelStatus("chat", "generate", "ready", context=4096), ModelStatus("vectors", "embed", "ready"))
ALIASES = {"gpt-4o": "chat", "org/model:tag": "chat"}


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class View:
    """What control would show; tests may put replicas into it."""

    plan = None

    def __init__(self) -> None:
        self.replicas: Sequence[Replica] = ()
        self.decisions: Sequence[tuple[float, str, str]] = ()
        self.scaled: dict[tuple[str, str], int] = {}
        self.wanted: dict[str, int] = {}
        self.wants: dict[str, str] = {}

    def logs(self, replica: str, lines: int) -> list[str]:
        return [f"line {number} of {replica}" for number in range(3)][-lines:]


class World:
    """A gateway that listens, what stands behind it, and what tests do with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        self.complaints: list[Any] = []
        """What reached the loop's exception handler: always a bug."""
        self.view = View()
        self.engines: dict[str, ScriptedEngine] = {}
        self.endpoints: list[Endpoint] = []
        self.statuses: dict[str, ModelStatus] = {}
        self.clients: list[Client] = []

    async def open(
        self,
        *,
        queue: int = 8,
        wait: float = 8.0,
        body: int = 1 << 20,
        trusted: bool = False,
        statuses: Sequence[ModelStatus] = STATUSES,
        certificate: Certificate | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.trust = trust
        self.statuses = {status.model: status for status in statuses}
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.admin = admin = Admin(self.view, ALIASES, self.view)
        self.gateway = Gateway(Limits(queue, wait, body), statuses, ALIASES, admin.app, trusted=trusted, certificate=certificate)
        admin.gateway = self.gateway
        self.host, self.port = await self.gateway.listen("127.0.0.1", 0)

    # ---- engines

    async def engine(
        self, script: Script = answers, *, name: str = "chat-1", model: str = "chat", unix: bool = True, **endpoint: Any
    ) -> ScriptedEngine:
        """A replica that is ready, with `slots` (4) and whatever else an Endpoint has."""
        engine = ScriptedEngine(script)
        await engine.open(self.folder / f"{name}.sock" if unix else None)
        self.engines[name] = engine
        self.adds(engine.address, name=name, model=model, **endpoint)
        return engine

    def adds(self, address: str, *, name: str = "chat-1", model: str = "chat", slots: int = 4, **endpoint: Any) -> None:
        """A replica at any address."""
        endpoint.setdefault("model_there", "there")
        self.endpoints.append(Endpoint(name, model, address, slots, **endpoint))
        self.tell()

    def changes(self, name: str, **endpoint: Any) -> None:
        """What control knows of a replica has changed."""
        self.endpoints = [replace(each, **endpoint) if each.replica == name else each for each in self.endpoints]
        self.tell()

    def removes(self, name: str) -> None:
        """The replica is there no more."""
        self.endpoints = [each for each in self.endpoints if each.replica != name]
        self.tell()

    def tell(self, model: str = "chat", **status: Any) -> None:
        """Control tells the gateway what it knows, of `model` as `status` says."""
        self.statuses[model] = replace(self.statuses[model], **status)
        self.gateway.update(self.statuses.values(), self.endpoints)

    def unused_port(self) -> str:
        """An address where nobody listens."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{sock.getsockname()[1]}"

    # ---- clients

    async def client(self, *, receive_buffer: int | None = None) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.wait_for(self.loop.sock_connect(sock, (self.host, self.port)), 5)
        except OSError:
            sock.close()
            raise
        self.clients.append(Client(sock) if self.trust is None else SecureClient(sock, self.trust))
        if isinstance(secure := self.clients[-1], SecureClient):
            await secure.shake()
        return self.clients[-1]

    async def ask(self, data: bytes, *, to_head: bool = False) -> Answer:
        """Send `data` over a connection of its own and read one answer."""
        client = await self.client()
        await client.send(data)
        answer = await client.answer(to_head=to_head)
        client.close()
        return answer

    # ---- accounts

    @property
    def model(self) -> Any:
        return self.gateway.models["chat"]

    @property
    def waiting(self) -> int:
        return len(self.model.queue)

    @property
    def running(self) -> int:
        return sum(self.model.queue.running.values())

    @property
    def counted(self) -> dict[int, int]:
        """Finished requests by status."""
        return dict(self.model.stats.requests)

    def at_rest(self) -> bool:
        """Every request has left, exactly once: no slot is held and no count is off."""
        models = self.gateway.models.values()
        return all(not any(model.queue.running.values()) and not len(model.queue) and not model.exchanges for model in models)

    async def rests(self, within: float = 2.0) -> None:
        await eventually(self.at_rest, f"every slot is free: {[m.queue.running for m in self.gateway.models.values()]}", within)

    async def close(self) -> None:
        """Everybody leaves; then nothing may be held, and nothing may have gone wrong on the way."""
        for client in self.clients:
            client.close()
        try:
            await self.rests()
            for model in self.gateway.models.values():
                assert all(count >= 0 for count in model.queue.running.values())
                assert not model.queue._served
                assert not model.queue._avoid
        finally:
            self.gateway.close()
            for engine in self.engines.values():
                await engine.close()
            await eventually(lambda: not self.gateway.clients, "the gateway has closed its connections")
        assert not self.complaints, self.complaints
        for engine in self.engines.values():
            assert not engine.wrong, engine.wrong


@pytest.fixture
def folder():
    """A folder with a path short enough for sockets, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory(prefix="hr-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch):
    """Deadlines are looked at often, so that tests of short ones are short."""
    monkeypatch.setattr("headrace.gateway.gateway.TICK_SECONDS", 0.02)


@pytest.fixture
async def open_world(folder):
    """`await open_world(queue=…, wait=…, body=…)` makes a World; all are closed and checked after the test."""
    worlds: list[World] = []

    async def made(**limits: Any) -> World:
        worlds.append(World(folder))
        await worlds[-1].open(**limits)
        return worlds[-1]

    yield made
    for world in worlds:
        await world.close()


@pytest.fixture
async def world(open_world: Callable[..., Any]) -> World:
    return await open_world()


@pytest.fixture
def temporary(folder, monkeypatch):
    """The system's temporary folder, of a test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
async def pair(temporary, world):
    """A gateway that waits for who takes its place (see handovers.py)."""
    await world.engine()
    made = Pair(world)
    yield made
    await made.close()
