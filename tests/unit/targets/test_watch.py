"""Listing and watching EndpointSlices at an API server that pages, expires, breaks off, lies, forbids, hangs and comes back."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from headrace.errors import UsageError
from headrace.targets.pods import watch
from headrace.targets.pods.api import Api, in_cluster, proxy
from headrace.targets.pods.slices import Standing, pods
from headrace.targets.pods.watch import SliceWatch
from headrace.testing.api_server import FakeApiServer, endpoint_slice
from tests.unit.gateway.engines import eventually

ONE = ("chat-1", "10.0.0.1", {"ready": True})
TWO = ("chat-2", "10.0.0.2", {"ready": True})


class World:
    """A fake API server and somebody who listens."""

    def __init__(self) -> None:
        self.server = FakeApiServer()
        self.changes = 0
        self.watch: SliceWatch
        self.task: asyncio.Task[None]

    async def open(self) -> None:
        await self.server.open()
        self.watch = SliceWatch(proxy(self.server.url), "inference", self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def start(self) -> None:
        self.task = asyncio.create_task(self.watch.run())

    @property
    def names(self) -> set[str]:
        return set(pods((self.watch.slices or {}).values(), "chat", "http"))

    async def knows(self, *names: str) -> None:
        await eventually(lambda: self.watch.slices is not None and self.names == set(names), f"it knows {names}")

    async def close(self) -> None:
        if hasattr(self, "task"):
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BACKOFF_SECONDS", (0.01, 0.05))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.open()
    yield world
    await world.close()


async def test_what_is_there_is_listed_and_what_comes_is_heard(world: World) -> None:
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    world.server.set(endpoint_slice("s", "chat", [ONE, TWO]))
    await world.knows("chat-1", "chat-2")
    world.server.set(endpoint_slice("other", "chat", [("chat-3", "10.0.0.3", {})]))
    await world.knows("chat-1", "chat-2", "chat-3")
    world.server.remove("s")
    await world.knows("chat-3")
    assert (world.server.lists, world.server.watches) == (1, 1)


async def test_a_list_of_many_pages_is_one_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PAGE", 2)
    for number in range(5):
        world.server.set(endpoint_slice(f"s{number}", "chat", [(f"chat-{number}", f"10.0.0.{number}", {})]))
    world.start()
    await world.knows(*(f"chat-{number}" for number in range(5)))
    assert world.server.lists == 3
    assert world.changes == 1


async def test_a_pod_that_ends_drains(world: World) -> None:
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    world.server.set(
        endpoint_slice("s", "chat", [("chat-1", "10.0.0.1", {"ready": False, "serving": True, "terminating": True})])
    )
    await eventually(
        lambda: pods((world.watch.slices or {}).values(), "chat", "http")["chat-1"].standing is Standing.DRAINING, "it drains"
    )


@pytest.mark.parametrize("how", ["event", "status"])
async def test_a_version_that_is_too_old_is_a_new_list(world: World, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace")
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    await eventually(lambda: world.server.watches == 1, "it watches")
    if how == "event":
        world.server.expire()
    else:
        world.server.keeps = 0
        world.server.disconnect()
        world.server.set(endpoint_slice("s", "chat", [TWO]))
    world.server.set(endpoint_slice("s", "chat", [TWO]))
    await world.knows("chat-2")
    assert world.server.lists >= 2
    if how == "event":
        assert not caplog.records  # it is no trouble


async def test_what_was_heard_stays_while_the_server_is_lost_and_is_put_right_after(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headrace")
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    await eventually(lambda: world.server.watches == 1, "it watches")
    await world.server.close()
    await eventually(lambda: world.watch.trouble != "", "it notices")
    world.server.remove("s")
    world.server.set(endpoint_slice("t", "chat", [TWO]))
    assert world.names == {"chat-1"}
    await world.server.open()
    await world.knows("chat-2")
    await eventually(lambda: world.watch.trouble == "", "all is well")
    told = [record.getMessage() for record in caplog.records]
    assert any("what was known of pods stays in force" in line for line in told)
    assert "again" in told[-1]


@pytest.mark.parametrize(
    "data",
    [
        b"{\n",
        b"\xff\xfe\n",
        b"null\n",
        b'{"type": "EXPLODED", "object": {"metadata": {"name": "s"}}}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "s"}, "endpoints": 7}}\n',
        b'{"type": "DELETED", "object": {}}\n',
        b"x" * 5_000_000,
    ],
    ids=["cut", "bytes", "null", "type", "endpoints", "nameless", "endless"],
)
async def test_garbage_takes_no_replica_away(world: World, data: bytes) -> None:
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    await eventually(lambda: world.server.watches == 1, "it watches")
    world.server.garbage(data)
    await eventually(lambda: world.server.lists == 2, "it lists again")
    assert world.names == {"chat-1"}
    world.server.set(endpoint_slice("s", "chat", [ONE, TWO]))
    await world.knows("chat-1", "chat-2")


async def test_a_forbidden_list_says_which_right_is_missing_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.refuses = (403, 'endpointslices is forbidden: User "x" cannot list')
    world.start()
    await eventually(lambda: "Role must allow list and watch of endpointslices" in world.watch.trouble, "it says what is missing")
    failures = world.watch._failures
    await eventually(lambda: world.watch._failures > failures + 2, "it asks on")
    assert len(caplog.records) == 1
    assert world.watch.slices is None
    world.server.refuses = None
    await world.knows()


async def test_an_older_cluster_is_asked_in_the_older_version(world: World) -> None:
    world.server.serves = ("v1beta1",)
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    assert world.watch.trouble == ""


async def test_a_server_that_hangs_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LIST_SECONDS", 0.05)
    world.server.hangs = True
    world.start()
    await eventually(lambda: world.watch.trouble == "it did not answer in time", "it is left")
    world.server.hangs = False
    await world.knows()


async def test_a_watch_goes_on_where_the_last_one_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.server.set(endpoint_slice("s", "chat", [ONE]))
    world.start()
    await world.knows("chat-1")
    world.server.bookmark()
    await eventually(lambda: world.watch._version == str(world.server.version), "the bookmark is heard")


@pytest.mark.parametrize(
    ("environment", "says"),
    [({}, "This is no pod"), ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "x"}, "This is no pod")],
)
def test_outside_of_a_pod_it_says_what_to_do(environment: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        in_cluster(environment)


def test_a_pod_without_its_token_is_told_so(tmp_path) -> None:
    with pytest.raises(UsageError, match="automountServiceAccountToken"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    (tmp_path / "token").write_text("secret")
    assert in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path) == Api("fd00::1", 443, tmp_path)


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "http://10.0.0.1:8001", "127.0.0.1:8001", "http://127.0.0.1:x", "http://localhost/a"]
)
def test_without_tls_only_loopback_is_asked(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not http://127\.0\.0\.1:PORT"):
        proxy(url)
