"""`headrace gateway --takeover` with real processes under load."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.targets.http import ask
from tests.e2e.test_cluster_gateway import BODY, Cluster, Gateway, free_port
from tests.unit.gateway.engines import eventually


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.api.open()
    yield cluster
    await cluster.close()


async def _listens(gateway: Gateway) -> None:
    """Within a time in which a process starts on a machine that has other work too."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: gateway.address or gateway.process.returncode is not None, "it listens or ends", 80)
    assert gateway.address, gateway.output


@pytest.mark.timeout(300)
async def test_the_next_gateway_takes_its_place_under_load(cluster: Cluster) -> None:
    await cluster.pod("chat-1")
    listen = {"listen": f"127.0.0.1:{free_port()}", "drain": 10}
    now = await cluster.gateway("gateway-0", gateway=listen, scaler=None)
    await _listens(now)
    stop = asyncio.Event()

    async def asks() -> list[int]:
        statuses = []
        while not stop.is_set():
            statuses.append((await ask(f"http://{listen['listen']}", "POST", "/v1/chat/completions", BODY, 30)).status)
            await asyncio.sleep(0.05)  # a load, not all that the machine has: processes are to start beside it
        return statuses

    tasks = [asyncio.create_task(asks()) for _ in range(2)]
    for number in (1, 2):
        before, now = now, Gateway(cluster, f"gateway-{number}", {"gateway": listen, "scaler": None})
        cluster.gateways.append(now)
        await now.start("--takeover")
        await _listens(now)
        assert await before.process.wait() == 0
    stop.set()
    answered = [status for statuses in await asyncio.gather(*tasks) for status in statuses]
    assert len(answered) > 20
    assert set(answered) == {200}
