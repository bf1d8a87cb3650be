"""The fake TGI keeps to TGI's contract, as the clients that were written for TGI understand it, and its traps are there."""

import asyncio
import json
import sys

import httpx2 as httpx
import openai
import pytest
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError
from huggingface_hub.inference._common import raise_text_generation_error

from headrace.engines.base import Placement, Reading
from headrace.engines.tgi import ENGINE
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.testing.tgi import FakeTgi, fake_tgi
from headrace.testing.tgi_requests import Limits

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
async def tgi():
    async with FakeTgi(tokens=5, slots=2, concurrent=3) as fake:
        yield fake


@pytest.fixture
async def http(tgi):
    async with httpx.AsyncClient(base_url=tgi.address, trust_env=False) as client:
        yield client


@pytest.fixture
async def hub(tgi):
    async with AsyncInferenceClient(base_url=tgi.address) as client:
        yield client


@pytest.fixture
async def client(tgi):
    async with openai.AsyncOpenAI(base_url=f"{tgi.address}/v1", api_key="-", max_retries=0) as client:
        yield client


async def until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def test_huggingface_hub_generates(hub):
    found = await hub.text_generation("one two three", details=True, max_new_tokens=3)
    assert found.generated_text == "w0 w1 w2 "
    assert (found.details.finish_reason, found.details.generated_tokens) == ("length", 3)
    assert [token.text for token in found.details.tokens] == ["w0 ", "w1 ", "w2 "]


async def test_huggingface_hub_streams(hub):
    events = [each async for each in await hub.text_generation("one", stream=True, details=True, max_new_tokens=9)]
    assert [event.token.text for event in events] == [f"w{number} " for number in range(5)]
    assert [event.generated_text for event in events] == [None] * 4 + ["w0 w1 w2 w3 w4 "]
    assert events[-1].details.finish_reason == "eos_token"
    assert events[-1].details.input_length == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_huggingface_hub_chats(hub, stream):
    found = await hub.chat_completion(MESSAGES, max_tokens=2, stream=stream)
    texts = [each.choices[0].delta.content async for each in found] if stream else [found.choices[0].message.content]
    assert "".join(texts) == "w0 w1 "


async def test_openai_chats_and_counts(client):
    whole = await client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=4)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("w0 w1 w2 w3 ", "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 4)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [each async for each in await client.chat.completions.create(model="tgi", messages=MESSAGES, **options)]
    assert "".join(each.choices[0].delta.content for each in chunks[:-1]) == "w0 w1 w2 w3 w4 "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 5


async def test_openai_completes(client):
    whole = await client.completions.create(model="tgi", prompt="one two", max_tokens=2)
    assert whole.choices[0].text == "w0 w1 "
    chunks = [each async for each in await client.completions.create(model="tgi", prompt="one", stream=True, max_tokens=2)]
    assert "".join(each.choices[0].text for each in chunks) == "w0 w1 "


@pytest.mark.parametrize(
    ("path", "ends"),
    [("/generate_stream", b'"input_length":1}}\n\n'), ("/v1/chat/completions", b"data: [DONE]\n\n")],
)
async def test_only_openais_streams_say_done(http, path, ends):
    body = {"inputs": "one", "messages": MESSAGES, "stream": True}
    answer = await http.post(path, json=body)
    assert answer.content.endswith(ends)
    assert answer.content.startswith(b"data:{")  # no space
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 4000}, "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1 `inputs` tokens and 4000"),
        ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ],
)
async def test_what_it_refuses_is_422_and_in_a_stream_an_event(http, parameters, message):
    body = {"inputs": "one", "parameters": parameters}
    whole, stream = await http.post("/generate", json=body), await http.post("/generate_stream", json=body)
    assert (whole.status_code, whole.json()["error_type"]) == (422, "validation")
    assert whole.json()["error"].startswith(f"Input validation error: {message}")
    assert stream.status_code == 200
    assert json.loads(stream.content.removeprefix(b"data:")) == whole.json()


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"temperature": 0}, 200),  # greedy on OpenAI's routes
        ({"top_p": 1.0}, 422),  # refused there as well: the gateway has to leave it out
        ({"top_p": 0.9}, 200),
        ({"model": "anything"}, 200),
        ({"messages": []}, 200),
    ],
)
async def test_openais_routes_have_rules_of_their_own(http, more, status):
    answer = await http.post("/v1/chat/completions", json={"messages": MESSAGES, **more})
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["error_type"] == "validation"  # TGI's shape, not OpenAI's


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"content": b"{no json", "headers": {"content-type": "application/json"}}, 400, "Failed to parse"),
        ({"content": b"{}"}, 415, "Expected request with"),
        ({"json": {}}, 422, "missing field `inputs`"),
        ({"json": {"inputs": ""}}, 422, "`inputs` cannot be empty"),
    ],
)
async def test_bodies_that_are_none(http, request_, status, text):
    answer = await http.post("/generate", **request_)
    assert answer.status_code == status
    assert text in answer.text


async def test_overload_is_429_at_once_and_in_streams_an_event(tgi, http):
    tgi.gate.clear()
    held = [asyncio.create_task(http.post("/generate", json={"inputs": "one"})) for _ in range(3)]
    await until(lambda: (tgi.running, tgi.waiting) == (2, 1))
    refused = await http.post("/generate", json={"inputs": "one"})
    assert (refused.status_code, refused.json()) == (429, {"error": "Model is overloaded", "error_type": "overloaded"})
    native = await http.post("/generate_stream", json={"inputs": "one"})
    assert (native.status_code, native.content) == (200, b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n')
    chat = await http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": True})
    error = b'data:{"error":{"message":"Model is overloaded","http_status_code":422}}\n\ndata: [DONE]\n\n'
    assert (chat.status_code, chat.content) == (200, error)  # always 422 there, whatever it was
    assert ENGINE.read((await http.get("/metrics")).text, "any") == Reading(2, 1, 0, 0)
    tgi.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*held)] == [200] * 3


def test_the_hub_knows_the_errors():
    for kind, error in {"overloaded": OverloadedError, "validation": ValidationError, "generation": GenerationError}.items():
        response = httpx.Response(400, json={"error": "…", "error_type": kind}, request=httpx.Request("POST", "http://x"))
        with pytest.raises(error):
            raise_text_generation_error(httpx.HTTPStatusError("…", request=response.request, response=response))


async def test_a_model_without_a_chat_template_is_a_true_422_in_streams_too():
    async with FakeTgi(template=False) as fake, httpx.AsyncClient(base_url=fake.address, trust_env=False) as http:
        answer = await http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": True})
        assert (answer.status_code, answer.json()["error_type"]) == (422, "template_error")


async def test_the_metrics_page_is_empty_before_the_first_request(http):
    assert ENGINE.read((await http.get("/metrics")).text, "any") == Reading(running=0, waiting=0)
    await http.post("/generate", json={"inputs": "one two"})
    assert ENGINE.read((await http.get("/metrics")).text, "any") == Reading(0, 0, 2, 5)


async def test_whole_answers_say_how_long_they_took(http):
    answer = await http.post("/generate", json={"inputs": "one two"})
    for name in ("queue", "validation", "inference", "total"):
        assert f"x-{name}-time" in answer.headers
    assert (answer.headers["x-prompt-tokens"], answer.headers["x-generated-tokens"]) == ("2", "5")


async def test_the_old_route_answers_with_a_list_or_a_stream(http):
    assert (await http.post("/", json={"inputs": "one"})).json() == [{"generated_text": "w0 w1 w2 w3 w4 "}]
    assert (await http.post("/", json={"inputs": "one", "stream": True})).content.startswith(b'data:{"index":1,')


async def test_info_has_every_field(http):
    info = (await http.get("/info")).json()
    assert {"model_id", "max_concurrent_requests", "max_total_tokens", "router", "version", "docker_label"} <= set(info)
    assert (info["max_concurrent_requests"], info["model_id"]) == (3, "fake/model")


async def test_the_key_is_asked_for_on_post_only():
    async with FakeTgi(key="s3cret") as fake, httpx.AsyncClient(base_url=fake.address, trust_env=False) as http:
        refused = await http.post("/generate", json={"inputs": "one"})
        assert (refused.status_code, refused.content) == (401, b"")
        for path in ("/info", "/health", "/metrics", "/v1/models"):
            assert (await http.get(path)).status_code == 200
        allowed = await http.post("/generate", json={"inputs": "one"}, headers={"Authorization": "Bearer s3cret"})
        assert allowed.status_code == 200


async def test_it_says_when_it_is_ill(tgi, http):
    assert (await http.get("/health")).content == b""
    tgi.healthy = False
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"error": "unhealthy", "error_type": "healthcheck"})


async def test_silence_in_a_stream_has_comments():
    async with (
        FakeTgi(gate_after=2, ping_seconds=0.01) as fake,
        httpx.AsyncClient(base_url=fake.address, trust_env=False) as http,
    ):
        fake.gate.clear()
        async with http.stream("POST", "/generate_stream", json={"inputs": "one"}) as answer:
            seen = b""
            async for data in answer.aiter_bytes():
                seen += data
                if b"\n\n:\n\n" in seen:
                    break
        assert seen.count(b"data:") == 2


async def test_cold_it_refuses_connections_and_draining_too():
    async with FakeTgi(cold=True) as fake, httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{fake.address}/health")
        await fake.warm()
        fake.gate.clear()
        held = asyncio.create_task(http.post(f"{fake.address}/generate", json={"inputs": "one"}))
        await until(lambda: fake.running == 1)
        drain = asyncio.create_task(fake.drain())
        await until(fake._accepting.done)
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(trust_env=False) as other:
                await other.get(f"{fake.address}/health")
        fake.gate.set()
        assert (await held).status_code == 200
        await drain


async def test_a_target_starts_it_with_the_launchers_flags_and_it_drains(tmp_path):
    placement = Placement("chat", "tgi", "generate", "/data/chat", 512, 2, 1, 0)
    target = LocalTarget({"tgi": fake_tgi("--load-seconds", "0.1", "--token-seconds", "0.05")}, tmp_path)
    try:
        await target.apply([Start("chat-1", "chat", placement, 2, "a test wants it")])
        async with asyncio.timeout(30):
            while (replica := (await target.observe())[0]).state is not State.READY:
                assert replica.state is not State.FAILED, replica.reason
                await target.changed(0.05)
        assert replica.endpoint.speaks == "tgi"
        async with httpx.AsyncClient(base_url=replica.endpoint.address, trust_env=False) as http:
            answer = asyncio.create_task(http.post("/v1/chat/completions", json={"messages": MESSAGES}))
            while ENGINE.read((await http.get("/metrics")).text, "chat").running != 1:
                await asyncio.sleep(0.01)
            await asyncio.gather(target.close(), answer)
            assert answer.result().status_code == 200
    finally:
        await target.close()


def test_its_limits_are_the_launchers_defaults():
    assert Limits() == Limits(1024, 2048, 2, 4, 5, 4)
    assert sys.modules["headrace.testing.tgi"]
