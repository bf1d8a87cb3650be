"""A client made by protoc of KEDA's interface, both event loops, and scalers that are closed with the test."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import uvloop

from headrace.keda.activity import Count
from headrace.keda.scaler import Scaler

PROTO = Path(__file__).with_name("externalscaler.proto")


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ModuleType]:
    """(messages, stubs), as `protoc` makes them."""
    folder = tmp_path_factory.mktemp("proto")
    # In a process of its own: its protobuf aborts beside OR-tools'.
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTO.parent}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    ]
    subprocess.run([*command, str(PROTO)], check=True)
    return _loaded(folder, "externalscaler_pb2"), _loaded(folder, "externalscaler_pb2_grpc")


def _loaded(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Gateway:
    """A gateway as far as its scaler knows: what it counts, and who asks."""

    def __init__(self, made: tuple[ModuleType, ModuleType]) -> None:
        self.counts = {"chat": Count(0, 0), "embed": Count(0, 0)}
        self.messages, self._stubs = made
        self.scaler = Scaler(lambda: self.counts)
        self.port = 0

    async def open(self, port: int = 0) -> None:
        self.port = await self.scaler.listen("127.0.0.1", port)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.keda: Any = self._stubs.ExternalScalerStub(self.channel)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def counted(self, now: int, model: str = "chat") -> None:
        self.counts[model] = Count(now, self.counts[model].arrived + now)

    def ref(self, model: str = "chat", **metadata: str) -> Any:
        said = {"model": model, "target": "12", "scalerAddress": self.address} | metadata
        return self.messages.ScaledObjectRef(name="chat", namespace="inference", scalerMetadata=said)

    async def load(self, model: str = "chat") -> float:
        """What the HPA would be told."""
        request = self.messages.GetMetricsRequest(scaledObjectRef=self.ref(model), metricName="headrace-requests")
        (value,) = (await self.keda.GetMetrics(request)).metricValues
        assert value.metricName == "headrace-requests"
        assert value.metricValue == value.metricValueFloat
        return float(value.metricValueFloat)

    async def active(self, model: str = "chat") -> bool:
        return bool((await self.keda.IsActive(self.ref(model))).result)

    async def close(self) -> None:
        await self.channel.close()
        await self.scaler.close()


@pytest.fixture
async def gateway(made: tuple[ModuleType, ModuleType]) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """`await gateway()` makes one that knows no others."""
    opened: list[Gateway] = []

    async def open_one() -> Gateway:
        one = Gateway(made)
        await one.open()
        opened.append(one)
        one.scaler.peers.update({})
        return one

    yield open_one
    for one in opened:
        await one.close()
