"""Headrace as its clients meet it, in the process of the tests: a gateway before real replicas that a control loop watches."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_client import Answer, Exchange, chat

from headrace.control.loop import Loop
from headrace.engines.base import Engine, Placement, Reading
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.plan.base import Plan, PlannedModel
from headrace.serve import View
from headrace.targets import probes
from headrace.targets.base import Replica, Start, State
from headrace.targets.local import LocalTarget
from headrace.targets.timing import Timing
from headrace.traffic import Endpoint, Load, ModelStatus

PATIENT_SECONDS = 300
"""The longest that anything may take here, vLLM's start on busy cores included; what hangs fails with it."""

TIMING = Timing(health_timeout=60.0)


class Deployment:
    """The models of a plan, one replica each, all of one engine. `first` are their readings from before any client came."""

    def __init__(self, given: "Given", engine: Engine, target: LocalTarget, gateway: Gateway, address: tuple[str, int]) -> None:
        self.plan, self.broken, self.engine = given.plan, given.broken, engine
        self._target, self._gateway, self._address = target, gateway, address
        self.first: dict[str, Reading | None] = {}
        self.loop: Loop
        self._open: list[Exchange] = []

    async def send(self, method: str, path: str, body: Any = b"", headers: str = "") -> Exchange:
        """A request to the gateway, under way; `headers` are further lines."""
        exchange = Exchange(*await asyncio.open_connection(*self._address))
        self._open.append(exchange)
        if isinstance(body, bytes):
            exchange.request(method, path, body, headers)
        else:
            exchange.post(path, body)
        return exchange

    async def ask(self, path: str, body: Any = b"", method: str = "POST", headers: str = "") -> Answer:
        return await (await self.send(method, path, body, headers)).until(seconds=PATIENT_SECONDS)

    async def chat(self, text: str = "Say something.", **more: Any) -> Answer:
        return await self.ask("/v1/chat/completions", chat(text, **more))

    async def streams(self, count: int, tokens: int) -> list[Exchange]:
        """So many chats of so many tokens, under way."""
        body = chat(stream=True, max_tokens=tokens, ignore_eos=True)
        return [await self.send("POST", "/v1/chat/completions", body) for _ in range(count)]

    async def directly(self, model: str, method: str, path: str, body: Any = b"", key: str | None = None) -> Answer:
        """The answer of the replica itself, without the gateway between."""
        address = (await self.endpoint(model)).address
        exchange = Exchange(*await connected(address))
        self._open.append(exchange)
        if isinstance(body, bytes):
            exchange.request(method, path, body, f"Authorization: Bearer {key}\r\n" if key else "")
        else:
            exchange.post(path, body)
        return await exchange.until(seconds=PATIENT_SECONDS)

    def planned(self, model: str) -> PlannedModel:
        return next(each for each in self.plan.models if each.name == model)

    def placement(self, model: str) -> Placement:
        found = self.planned(model).replicas[0]
        assert isinstance(found, Placement)
        return found

    async def replica(self, model: str, wanted: Callable[[Replica], object] = lambda replica: True) -> Replica:
        """The model's one replica, once `wanted` is true of it."""

        seen: list[Replica] = []

        async def look() -> Replica | None:
            nonlocal seen
            seen = [each for each in await self._target.observe() if each.model == model]
            return next(filter(wanted, seen), None)

        return await eventually(look, lambda: f"a replica of {model} as wanted, but {seen}")

    async def ready(self, model: str, but: Replica | None = None) -> Replica:
        """A replica that serves, in another process than `but`."""
        return await self.replica(model, lambda found: found.state is State.READY and (but is None or found.pid != but.pid))

    async def endpoint(self, model: str) -> Endpoint:
        endpoint = (await self.ready(model)).endpoint
        assert endpoint
        return endpoint

    async def reading(self, model: str, wanted: Callable[[Reading], object] = lambda reading: True) -> Reading:
        """What the replica's own page says, once `wanted` is true of it."""

        seen: Reading | None = None

        async def look() -> Reading | None:
            nonlocal seen
            seen = await self._read(model)
            return seen if seen and wanted(seen) else None

        return await eventually(look, lambda: f"a reading of {model} as wanted, but {seen}")

    async def _read(self, model: str) -> Reading | None:
        endpoint = await self.endpoint(model)
        metrics = self.engine.launch(self.placement(model), endpoint.address).metrics_address or endpoint.address
        return await probes.reading(self.engine, metrics, model, 60.0, endpoint.key or "")

    async def load(self, model: str, wanted: Callable[[Load], object] = lambda load: True) -> Load:
        """What the gateway counts, once `wanted` is true of it."""

        async def look() -> Load | None:
            found = self._gateway.loads()[model]
            return found if wanted(found) else None

        return await eventually(look, lambda: f"a load of {model} as wanted, but {self._gateway.loads()[model]}")

    async def failing(self, placement: Placement) -> Replica:
        """What becomes of a replica that has this to run, once it has failed, on a target of its own."""
        with tempfile.TemporaryDirectory(prefix="hr-") as folder:
            target = LocalTarget({placement.engine: self.engine}, Path(folder), timing=TIMING)

            async def look() -> Replica | None:
                found = (await target.observe())[0]
                return found if found.state is State.FAILED else None

            try:
                await target.apply([Start("broken-1", placement.model, placement, placement.slots, "a test wants it")])
                return await eventually(look, lambda: "its failure")
            finally:
                await target.close()

    async def begin(self) -> None:
        """Wait for every model, and keep what their pages said before the first client."""
        for model in self.plan.models:
            found = await self.replica(model.name, lambda replica: replica.state in (State.READY, State.FAILED))
            assert found.state is State.READY, found.reason
            self.first[model.name] = await self._read(model.name)

    def close(self) -> None:
        for exchange in self._open:
            exchange.close()


@dataclass(frozen=True, slots=True)
class Given:
    """What is deployed; `broken` is a placement that its engine cannot load, and words of the reason that it gives: None where
    nobody asks for that.
    """

    plan: Plan
    engines: Mapping[str, Engine]
    broken: tuple[Placement, str] | None = None


@contextlib.asynccontextmanager
async def deployed(given: Given, compiled: Path) -> AsyncIterator[Deployment]:
    """A Deployment of what is given, ready."""
    plan, engines = given.plan, given.engines
    view = View()
    admin = Admin(view, {})
    loading = [ModelStatus(model.name, model.task, "loading", "it is being started") for model in plan.models]
    gateway = Gateway(Limits(512, PATIENT_SECONDS, 32_000_000), loading, {}, admin.app)
    admin.gateway = gateway
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        target = LocalTarget(engines, Path(folder), timing=TIMING, compiled=compiled)
        loop = view.loop = Loop(plan, target, gateway, lambda statuses: None, adapts=adapts_of(engines))
        task = asyncio.create_task(loop.run())
        first = plan.models[0].replicas[0]
        assert isinstance(first, Placement)
        address = await gateway.listen("127.0.0.1", 0)
        deployment = Deployment(given, engines[first.engine], target, gateway, address)
        deployment.loop = loop
        try:
            await deployment.begin()
            yield deployment
        finally:
            deployment.close()
            gateway.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await target.close()


def adapts_of(engines: Mapping[str, Engine]) -> Callable[[Placement, Placement], bool]:
    """Whether a replica can be made to run other adapters, as its engine says."""
    return lambda running, wanted: engines[running.engine].adapt(running, wanted) is not None


async def connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def eventually(look: Callable[[], Any], what: Callable[[], str]) -> Any:
    """The first true value that `look` gives; `what` was waited for, and says what there is in its place."""
    try:
        async with asyncio.timeout(PATIENT_SECONDS):
            while not (found := await look()):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENT_SECONDS} s: {what()}") from None
    return found


def idle(reading: Reading) -> bool:
    """Whether nothing runs."""
    return reading.running == 0
