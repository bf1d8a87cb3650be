"""The loop of a gateway in a cluster: what slices say reaches the gateway, and pods that take no connections are knocked at."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace.control import follow
from headrace.control.follow import Follow
from headrace.spec.gateway_file import GatewayFile, ServiceModel
from headrace.spec.model import ModelSpec
from headrace.targets.base import Replica, State
from headrace.targets.pods.slices import Slice, parse
from headrace.testing.api_server import endpoint_slice
from headrace.traffic import Endpoint, ModelStatus
from tests.unit.gateway.engines import eventually


class Told:
    """What an API server told."""

    def __init__(self) -> None:
        self.slices: dict[str, Slice] | None = None

    def set(self, name: str, service: str, endpoints: Sequence[Any], **more: Any) -> None:
        self.slices = {**(self.slices or {}), name: parse(json.dumps(endpoint_slice(name, service, endpoints, **more)).encode())}


class Front:
    """What a gateway was told last, and what it suspects."""

    def __init__(self) -> None:
        self.statuses: dict[str, ModelStatus] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.suspected: dict[str, frozenset[str]] = {}

    def update(self, statuses: Sequence[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        self.statuses = {status.model: status for status in statuses}
        self.endpoints = {endpoint.replica: endpoint for endpoint in endpoints}

    def suspects(self) -> Mapping[str, frozenset[str]]:
        suspected, self.suspected = self.suspected, {}
        return suspected


class Elsewhere:
    replicas: tuple[Replica, ...] = ()


FILE = GatewayFile(namespace="inference", models={"chat": ServiceModel(service="chat", slots=10)})


class World:
    def __init__(self, file: GatewayFile = FILE) -> None:
        self.told, self.front, self.elsewhere = Told(), Front(), Elsewhere()
        self.follow = Follow(file, self.told, self.elsewhere, self.front, "gateway-1")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follow.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_pods_are_told_one_by_one_and_drained_when_they_end() -> None:
    world = World()
    world.follow.look()
    assert world.front.statuses["chat"].phase == "loading"
    world.told.set(
        "s", "chat", [("a", "10.0.0.1", {}), ("b", "10.0.0.2", {"terminating": True}), ("c", "10.0.0.3", {"ready": False})]
    )
    world.follow.look()
    assert {name: endpoint.slots for name, endpoint in world.front.endpoints.items()} == {"a": 10, "b": 0}
    assert [replica.state for replica in world.follow.replicas] == [State.READY, State.DRAINING, State.STARTING]


@pytest.mark.parametrize(
    ("gateways", "slots"),
    [
        ([], 10),  # nobody told of us yet
        ([("gateway-1", {})], 10),
        ([("gateway-1", {"ready": False}), ("gateway-2", {})], 5),
        ([("gateway-1", {}), ("gateway-2", {}), ("gateway-3", {})], 4),
        ([("gateway-1", {}), ("gateway-2", {"ready": False}), ("gateway-3", {"terminating": True})], 10),  # neither takes any
    ],
)
def test_slots_are_shared_by_the_gateways_that_are_ready(gateways: list[tuple[str, Any]], slots: int) -> None:
    world = World()
    world.told.set("s", "chat", [("a", "10.0.0.1", {})])
    world.told.set("g", "gateway", [(name, f"10.1.0.{n}", conditions) for n, (name, conditions) in enumerate(gateways)])
    world.follow.look()
    assert world.front.endpoints["a"].slots == slots


def test_peers_are_all_other_gateways_that_have_been_ready() -> None:
    world = World()
    assert world.follow.peers("gateway-scaler") is None
    gateways = [
        ("gateway-1", "10.1.0.1", {}),
        ("b", "10.1.0.2", {}),
        ("c", "fd00::3", {"terminating": True}),
        ("d", "10.1.0.4", {"ready": False}),
    ]
    world.told.set("g", "gateway-scaler", gateways, port=9091, port_name="grpc")
    assert world.follow.peers("gateway-scaler") == {"b": ("10.1.0.2:9091", False), "c": ("[fd00::3]:9091", True)}


def test_a_gateway_that_was_ready_stays_a_peer_until_it_is_gone() -> None:
    """Whatever its probe says it may have requests: what does not answer is unknown to KEDA, and never zero."""
    world = World()

    def peers(*gateways: tuple[str, str, dict[str, bool]]) -> set[str]:
        world.told.set("g", "gateway-scaler", gateways, port=9091, port_name="grpc")
        return set(world.follow.peers("gateway-scaler") or ())

    never, failing = ("new", "10.1.0.3", {"ready": False}), ("b", "10.1.0.2", {"ready": False})
    assert peers(failing, never) == set()
    assert peers(("b", "10.1.0.2", {}), never) == {"b"}
    assert peers(failing, never) == {"b"}
    assert peers(failing, never) == {"b"}  # for as long as it takes
    assert peers(never) == set()
    assert peers(failing, never) == set()  # another one of the same name, which was not ready yet


async def test_news_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_SECONDS", 3600.0)
    world = World()
    async with world.running():
        await eventually(lambda: "chat" in world.front.statuses, "it looked")
        world.told.set("s", "chat", [("a", "10.0.0.1", {})])
        world.follow.changed()
        await eventually(lambda: "a" in world.front.endpoints, "it looked again")


async def test_a_pod_that_takes_no_connection_gets_no_requests_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "KNOCK_SECONDS", 0.02)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    world = World()
    world.told.set("s", "chat", [("a", "127.0.0.1", {})], port=port)
    async with world.running():
        await eventually(lambda: "a" in world.front.endpoints, "it is known")
        world.front.suspected = {"chat": frozenset({"a"})}
        world.follow.changed()
        await eventually(lambda: world.front.endpoints["a"].slots == 0, "it gets none")
        world.follow.changed()
        assert world.front.statuses["chat"].phase == "ready"  # the kubelet says so; requests wait meanwhile
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
        await eventually(lambda: world.front.endpoints["a"].slots == 10, "it does again")
        server.close()
        await server.wait_closed()


async def test_a_pod_that_is_gone_is_not_knocked_at_any_more() -> None:
    world = World()
    world.told.set("s", "chat", [("a", "127.0.0.1", {})], port=1)
    world.follow.look()
    world.front.suspected = {"chat": frozenset({"a"})}
    world.follow.look()
    (task,) = world.follow._refusing.values()
    world.told.set("s", "chat", [])
    world.follow.look()
    assert not world.follow._refusing
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


def test_servers_elsewhere_stand_beside_pods() -> None:
    file = FILE.model_copy(update={"outside": {"gpt": ModelSpec(url=("http://there:1",))}})
    world = World(file)
    endpoint = Endpoint("gpt-1", "gpt", "http://there:1", 256, "gpt")
    world.elsewhere.replicas = (Replica("gpt-1", "gpt", "http://there:1", State.READY, endpoint=endpoint),)
    world.follow.look()
    assert (world.front.statuses["gpt"].phase, world.front.statuses["gpt"].task) == ("ready", None)
    assert world.front.endpoints == {"gpt-1": endpoint}
