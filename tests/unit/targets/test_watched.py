"""Servers that are not ours: watched, never started, used under the name they give the model."""

import psutil
import pytest
from canned_server import CannedServer

from headrace.targets.base import Drain, State, Stop
from headrace.testing.engine import FakeEngine
from headrace.traffic import Endpoint


def ready(replica):
    return replica.state is State.READY


async def test_a_server_that_answers_is_an_endpoint(world):
    one, before = world(keys={"chat": "s3cret"}), set(psutil.Process().children())
    async with FakeEngine("http://127.0.0.1:0", model="their-name", key="s3cret") as server:
        await one.start(runs=server.address, slots=64)
        replica = await one.until(ready)
        assert replica.endpoint == Endpoint("chat-1", "chat", server.address, 64, "their-name", False, "s3cret")
        assert (replica.pid, replica.memory_bytes, replica.reading) == (None, None, None)
        assert set(psutil.Process().children()) <= before
        assert one.target.logs("chat-1", 5) == []


async def test_our_name_for_the_model_is_kept_where_the_server_knows_it(world):
    one = world()
    async with FakeEngine("http://127.0.0.1:0", model="chat") as server:
        await one.start(runs=server.address)
        assert (await one.until(ready)).endpoint.model_there == "chat"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ('{"data": [{"id": "a"}, {"id": "chat"}]}', "chat"),
        ('{"data": [{"id": "a"}]}', "a"),
        ('{"data": [{"id": 7}, "x"]}', "chat"),
        ("[]", "chat"),
        ("not json", "chat"),
    ],
)
async def test_a_server_without_health_is_known_by_its_models(world, page, name):
    def answer(path):
        status = "200 OK" if path == "/v1/models" else "404 Not Found"
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(page)}\r\n\r\n{page}".encode()

    one = world()
    async with CannedServer(answer) as server:
        await one.start(runs=server.address)
        assert (await one.until(ready)).endpoint.model_there == name


async def test_a_server_that_has_other_models_is_not_ready_and_names_them(world):
    page = '{"data": [{"id": "a"}, {"id": "b"}]}'

    def answer(path):
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(page)}\r\n\r\n{page}".encode()

    one = world()
    async with CannedServer(answer) as server:
        await one.start(runs=server.address)
        replica = await one.until(lambda replica: replica.state is State.FAILED)
    assert "has no model chat: it has a, b" in replica.reason


async def test_it_fails_when_it_is_gone_and_comes_back_by_itself(world):
    one = world()
    async with FakeEngine("http://127.0.0.1:0") as server:
        await one.start(runs=server.address)
        await one.until(ready)
    gone = await one.until(lambda each: each.state is State.FAILED)
    assert gone.endpoint is None
    assert gone.retry_at is None
    assert gone.reason.startswith(f"{server.address} is not usable: /health could not be asked: ")
    async with FakeEngine(server.address):
        again = await one.until(ready)
        assert again.restarts == 1


async def test_one_that_was_never_there_fails_with_the_cause(world):
    one = world()
    await one.start(runs="http://127.0.0.1:1")
    assert "not usable" in (await one.until(lambda each: each.state is State.FAILED)).reason


async def test_one_failed_probe_is_not_a_failure(world):
    one = world(health_failures=3)
    async with FakeEngine("http://127.0.0.1:0") as server:
        checks = []
        server.on_health = lambda: (checks.append(1), setattr(server, "loading", len(checks) in (2, 3)))
        await one.start(runs=server.address)
        await one.until(ready)
        seen = []
        while len(checks) < 8:
            await one.target.changed(0.02)
            seen += [each.state for each in await one.target.observe()]
        assert set(seen) == {State.READY}


async def test_it_drains_and_is_forgotten(world):
    one = world()
    async with FakeEngine("http://127.0.0.1:0") as server:
        await one.start(runs=server.address)
        await one.until(ready)
        await one.target.apply([Drain("chat-1", "not wanted")])
        (replica,) = await one.target.observe()
        assert (replica.state, replica.endpoint.slots) == (State.DRAINING, 0)
        await one.target.apply([Stop("chat-1", "drained")])
        await one.gone()
        assert server.connections
