"""Both event loops, a target with short waits, and a bounded wait for what it should come to."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from short_times import SHORT

from headrace.engines.base import Placement
from headrace.targets.base import Replica, Start
from headrace.targets.local import LocalTarget
from headrace.testing.engine import fake_engine

PLACEMENT = Placement("chat", "fake", "generate", "none.gguf", 1024, 2, 1, 0)


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class World:
    """A LocalTarget with the fake engine, and what tests do with one."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target

    async def start(self, name: str = "chat-1", runs: Placement | str = PLACEMENT, slots: int = 2) -> None:
        await self.target.apply([Start(name, "chat", runs, slots, "a test wants it")])

    async def until(self, wanted: Callable[[Replica], object], name: str = "chat-1") -> Replica:
        """The replica once `wanted` is true of it."""
        async with asyncio.timeout(30):
            while True:
                found = [each for each in await self.target.observe() if each.name == name and wanted(each)]
                if found:
                    return found[0]
                await self.target.changed(0.05)

    async def gone(self, name: str = "chat-1") -> None:
        """Wait until the target has forgotten the replica."""
        async with asyncio.timeout(30):
            while any(each.name == name for each in await self.target.observe()):
                await self.target.changed(0.05)


@pytest.fixture
def run_dir():
    """A folder with a path short enough for sockets, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(run_dir):
    """`world(*flags, **timing)` makes a World whose fake engines get `flags`; all are closed after the test."""
    worlds = []

    def made(*flags, engine=None, keys=None, **timing):
        engines = {"fake": engine or fake_engine(*flags)}
        worlds.append(World(LocalTarget(engines, run_dir, keys, replace(SHORT, **timing))))
        return worlds[-1]

    yield made
    for each in worlds:
        await each.target.close()
