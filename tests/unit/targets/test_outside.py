"""Servers elsewhere: watched while they are wanted, and undisturbed while they stay so."""

from collections.abc import AsyncIterator

import pytest
from short_times import SHORT

from headrace.targets.base import State
from headrace.targets.outside import Outside, Server
from headrace.testing.engine import FakeEngine
from tests.unit.gateway.engines import eventually


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    made = Outside(lambda: None, SHORT)
    yield made
    await made.close()


def names(outside: Outside) -> dict[str, State]:
    return {replica.name: replica.state for replica in outside.replicas}


async def test_servers_are_watched_while_they_are_wanted(outside: Outside) -> None:
    async with FakeEngine("http://127.0.0.1:0", model="gpt") as one, FakeEngine("http://127.0.0.1:0", model="gpt") as two:
        first, second = Server("gpt", one.address, 4), Server("gpt", two.address, 4)
        outside.want({"gpt": [first]})
        await eventually(lambda: names(outside) == {"gpt-1": State.READY}, "the first answers")
        before = outside.replicas[0].since
        outside.want({"gpt": [first, second]})
        await eventually(lambda: names(outside) == {"gpt-1": State.READY, "gpt-2": State.READY}, "both answer")
        assert outside.replicas[0].since == before  # it was not disturbed
        outside.want({"gpt": [second]})
        assert names(outside) == {"gpt-2": State.READY}
        outside.want({"gpt": [Server("gpt", two.address, 8)]})
        await eventually(lambda: names(outside) == {"gpt-3": State.READY}, "it is another, with more slots")
        assert [replica.endpoint.slots for replica in outside.replicas if replica.endpoint] == [8]


def test_a_key_is_not_shown() -> None:
    assert "s3cret" not in repr(Server("gpt", "http://there:1", 4, "s3cret"))
