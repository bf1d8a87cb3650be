"""The fake vLLM does what 0.32.0 was seen to do (facts of its sheet, section 13), and what it was recorded to say."""

import asyncio
import json
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from headrace.engines.base import Placement, Reading
from headrace.engines.vllm import ENGINE
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.testing.vllm import FakeVllm, fake_vllm

RECORDED = Path(__file__).parent / "recorded"
MESSAGES = [{"role": "user", "content": "one two three"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def fake():
    async with FakeVllm("http://127.0.0.1:0", model="chat", slots=2, tokens=6, context=64) as fake:
        yield fake


@pytest.fixture
async def http(fake):
    async with httpx.AsyncClient(base_url=fake.address, trust_env=False, timeout=20) as client:
        yield client


async def until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def events(body):
    """The events of a stream, without the last, which is `[DONE]`."""
    found = [text.removeprefix("data: ") for text in body.split("\n\n") if text.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(text) for text in found[:-1]]


def shape(event):
    """The keys of an event and of its choice, in order, with what the choice ends as."""
    choices = [(list(choice), list(choice["delta"]), choice["finish_reason"]) for choice in event["choices"]]
    return list(event), choices, list(event.get("usage", ()))


async def test_a_stream_has_the_recorded_shape(http):
    body = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 4}
    answer = await http.post(CHAT, json=body)
    recorded = events((RECORDED / "vllm_sse.txt").read_text().partition("\n\n")[2])
    ours = events(answer.text)
    for at in (0, 1, -2, -1):  # role, a word, the last word, usage
        assert shape(ours[at]) == shape(recorded[at])
    assert ours[0]["choices"][0]["delta"]["content"] == recorded[0]["choices"][0]["delta"]["content"] == ""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_events_are_not_tokens(fake, http):
    fake.per_event = 4
    answer = await http.post(CHAT, json={"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}})
    found = events(answer.text)
    assert (len(found), found[-1]["usage"]["completion_tokens"]) == (1 + 2 + 1, 6)


async def test_openais_client_is_content(fake):
    async with openai.AsyncOpenAI(base_url=f"{fake.address}/v1", api_key="-", max_retries=0) as client:
        whole = await client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=2)
        assert (whole.choices[0].message.content, whole.usage.completion_tokens) == ("w0 w1 ", 2)
        text = await client.completions.create(model="chat", prompt="one", max_tokens=2)
        assert text.choices[0].text == "w0 w1 "


async def test_waiting_ones_are_on_the_page_and_usage_is_in_blocks(fake, http):
    fake.gate.clear()
    sent = [asyncio.create_task(http.post(CHAT, json={"messages": MESSAGES})) for _ in range(5)]
    await until(lambda: (fake.running, fake.waiting) == (2, 3))
    page = (await http.get("/metrics")).text
    assert ENGINE.read(page, "chat") == Reading(2, 3, 0, 0, pytest.approx(2 / 90), 91 * 128)
    assert "vllm:prompt_tokens_created" in page
    fake.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*sent)] == [200] * 5
    assert ENGINE.read((await http.get("/metrics")).text, "chat") == Reading(0, 0, 15, 30, 0.0, 91 * 128)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("POST", CHAT, {"model": "nope", "messages": MESSAGES}, 404, ("NotFoundError", "model")),
        ("POST", CHAT, {}, 400, ("Bad Request", "body.messages")),
        ("POST", CHAT, {"messages": []}, 400, ("BadRequestError", None)),
        ("POST", CHAT, {"messages": MESSAGES, "max_tokens": 5000}, 400, ("BadRequestError", "max_tokens")),
        ("POST", CHAT, {"messages": [{"role": "user", "content": "word " * 65}]}, 400, ("BadRequestError", "input_tokens")),
        ("POST", "/v1/embeddings", {"input": "a"}, 404, "Not Found"),
        ("GET", CHAT, None, 405, "Method Not Allowed"),
    ],
)
async def test_errors_have_the_recorded_shapes(http, method, path, body, status, told):
    answer = await http.request(method, path, json=body)
    assert answer.status_code == status
    if isinstance(told, str):
        return check_detail(answer, told)
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (*told, status)
    return None


def check_detail(answer, told):
    assert answer.json() == {"detail": told}


@pytest.mark.parametrize("late", [False, True])
async def test_overload_is_503_or_an_event_that_ends_well(late):
    async with FakeVllm("http://127.0.0.1:0", slots=1, queued=1, late=late) as fake:
        fake.gate.clear()
        async with httpx.AsyncClient(base_url=fake.address, trust_env=False) as http:
            held = asyncio.create_task(http.post(CHAT, json={"messages": MESSAGES}))
            await until(lambda: fake.running == 1)
            refused = await http.post(CHAT, json={"messages": MESSAGES, "stream": True})
            assert refused.status_code == (200 if late else 503)
            (error,) = events(refused.text) if late else [refused.json()]
            assert error["error"]["code"] == 503
            assert "currently busy" in error["error"]["message"]
            fake.gate.set()
            await held


async def test_while_it_drains_it_says_that_it_is_well_and_refuses_everybody(fake, http):
    fake.gate.clear()
    held = asyncio.create_task(http.post(CHAT, json={"messages": MESSAGES, "stream": True}))
    await until(lambda: fake.running == 1)
    drain = asyncio.create_task(fake.drain())
    await until(lambda: fake.draining)
    assert (await http.get("/health")).status_code == 200
    refused = await http.post(CHAT, json={"messages": MESSAGES, "stream": True})
    assert (refused.status_code, refused.json()["error"]["message"]) == (500, "cannot schedule new futures after shutdown")
    fake.gate.set()
    assert (await held).text.endswith("data: [DONE]\n\n")
    await drain


async def test_aborted_it_leaves_its_clients_in_silence(fake, http):
    fake.gate.clear()
    async with http.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True}, timeout=0.3) as answer:
        await until(lambda: fake.running == 1)
        await fake.abort()
        fake.gate.set()
        with pytest.raises(httpx.ReadTimeout):
            await answer.aread()
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient(trust_env=False) as other:
            await other.get(f"{fake.address}/health")


async def test_crashed_it_ends_streams_with_an_error_and_done(fake, http):
    fake.gate_after = 3
    fake.gate.clear()
    async with http.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True}) as answer:
        await until(lambda: fake.running == 1)
        fake.crash()
        fake.gate.set()
        body = (await answer.aread()).decode()
    assert events(body)[-1]["error"]["code"] == 500
    assert (await http.get("/health")).status_code == 503
    assert (await http.post(CHAT, json={"messages": MESSAGES})).status_code == 500


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_place_streaming_or_not(fake, stream):
    fake.gate.clear()
    async with httpx.AsyncClient(base_url=fake.address, trust_env=False) as leaving:
        sent = asyncio.create_task(leaving.post(CHAT, json={"messages": MESSAGES, "stream": stream}))
        await until(lambda: fake.running == 1)
        sent.cancel()
        await asyncio.gather(sent, return_exceptions=True)
    await until(lambda: fake.running == 0)
    assert (fake.aborted, fake.finished) == (1, 0)


async def test_adapters_come_and_go(http, tmp_path):
    adapter = {"lora_name": "poet", "lora_path": str(tmp_path)}
    assert (await http.post("/v1/load_lora_adapter", json=adapter | {"lora_path": "/no/poet"})).status_code == 404
    assert (await http.post("/v1/unload_lora_adapter", json=adapter)).status_code == 404
    assert (await http.post("/v1/load_lora_adapter", json=adapter)).status_code == 200
    assert (await http.post("/v1/load_lora_adapter", json=adapter)).status_code == 400
    listed = (await http.get("/v1/models")).json()["data"]
    assert [(each["id"], each["parent"]) for each in listed] == [("chat", None), ("poet", "chat")]
    assert (await http.post(CHAT, json={"messages": MESSAGES, "model": "poet"})).json()["model"] == "poet"


async def test_the_key_is_for_v1_only():
    async with (
        FakeVllm("http://127.0.0.1:0", key="s3cret") as fake,
        httpx.AsyncClient(base_url=fake.address, trust_env=False) as http,
    ):
        refused = await http.get("/v1/models")
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
        assert (await http.get("/metrics")).status_code == 200


@pytest.mark.parametrize("task", ["generate", "embed"])
async def test_a_target_starts_it_with_vllms_flags_and_it_drains(tmp_path, task):
    adapters = {"poet": "/a/poet"} if task == "generate" else {}
    placement = Placement("chat", "vllm", task, "/models/chat", 512, 2, 1, 0, {"cache_bytes": 1 << 28}, adapters=adapters)
    target = LocalTarget({"vllm": fake_vllm("--load-seconds", "0.1")}, tmp_path)
    try:
        await target.apply([Start("chat-1", "chat", placement, 2, "a test wants it")])
        async with asyncio.timeout(30):
            while (replica := (await target.observe())[0]).state is not State.READY:
                assert replica.state is not State.FAILED, replica.reason
                await target.changed(0.05)
        assert replica.endpoint.address.startswith("unix:")
    finally:
        await target.close()
