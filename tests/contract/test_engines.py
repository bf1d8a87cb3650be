"""What Headrace relies on in llama.cpp, and what a fake of it must do as well."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from engine_client import Answer, chat

from headrace.targets.base import State
from headrace.targets.http import get
from headrace.targets.probes import reading

RECORDED = Path(__file__).parent / "recorded"
HEADERS = {
    "Server": "llama.cpp",
    "Access-Control-Allow-Origin": "",
    "X-Accel-Buffering": "no",
    "Content-Type": "text/event-stream",
    "Transfer-Encoding": "chunked",
    "Keep-Alive": "timeout=5, max=100",
}


def shape(value):
    """The keys of an event, all the way down; values and the engine's own timings do not matter."""
    if isinstance(value, dict):
        return {key: "…" if key == "timings" else shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return value if value in ("[DONE]", None) else type(value).__name__


def told_apart(events):
    """The shapes of a stream in order, equal neighbours (the words) once."""
    shapes = [shape(event) for event in events]
    return [each for each, before in zip(shapes, [None, *shapes], strict=False) if each != before]


async def test_a_stream_has_the_recorded_shape(serve):
    server = await serve()
    answer = await server.chat(stream=True, stream_options={"include_usage": True})
    recorded = Answer(body=(RECORDED / "llamacpp_sse.txt").read_bytes())
    assert told_apart(answer.events) == told_apart(recorded.events)
    assert answer.headers == HEADERS
    assert answer.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert answer.events[-3]["choices"][0]["finish_reason"] == "length"


async def test_without_being_asked_it_says_no_usage(serve):
    server = await serve()
    answer = await server.chat(stream=True)
    assert answer.events[-1] == "[DONE]"
    assert not any("usage" in event for event in answer.events[:-1])
    assert "timings" in answer.events[-2]


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_counts_the_tokens(serve, stream):
    server = await serve()
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = await server.chat(max_tokens=5, **more)
    usage = (answer.events[-2] if stream else answer.json)["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5


async def test_a_whole_answer_has_its_shape(serve):
    server = await serve()
    answer = await server.chat()
    assert shape(answer.json) == {
        "choices": [{"finish_reason": "str", "index": "int", "message": {"role": "str", "content": "str"}}],
        "created": "int",
        "model": "str",
        "system_fingerprint": "str",
        "object": "str",
        "usage": {
            "completion_tokens": "int",
            "prompt_tokens": "int",
            "total_tokens": "int",
            "prompt_tokens_details": {"cached_tokens": "int"},
        },
        "id": "str",
        "timings": "…",
    }
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_plain_completions_are_text(serve):
    server = await serve()
    body = {"model": "chat", "prompt": "One two", "max_tokens": 4, "seed": 1}
    whole = (await server.ask("POST", "/v1/completions", body)).json
    stream = (await server.ask("POST", "/v1/completions", body | {"stream": True})).events
    assert (whole["object"], stream[0]["object"]) == ("text_completion", "text_completion")
    assert isinstance(whole["choices"][0]["text"], str)
    assert isinstance(stream[0]["choices"][0]["text"], str)
    assert stream[-1] == "[DONE]"


async def test_a_prompt_that_does_not_fit_is_a_400_also_for_a_stream(serve):
    server = await serve()
    for stream in (False, True):
        answer = await server.chat(text="word " * 1000, stream=stream)
        assert answer.status == 400
        error = answer.json["error"]
        assert (error["type"], error["code"], error["n_ctx"]) == ("exceed_context_size_error", 400, 256)
        assert error["n_prompt_tokens"] > 256


async def test_any_model_name_is_served(serve):
    server = await serve()
    assert (await server.chat(model="someone-else")).status == 200


async def test_models_lists_the_name(serve):
    server = await serve()
    listed = (await server.ask("GET", "/v1/models")).json["data"]
    assert [entry["id"] for entry in listed] == ["chat"]


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status"),
    [
        ("POST", "/v1/chat/completions", b"{no json", "right", 400),
        ("POST", "/v1/chat/completions", b"{}", "right", 400),
        ("POST", "/v1/nothing", b"{}", "right", 404),
        ("GET", "/v1/models", b"", "wrong", 401),
        ("GET", "/metrics", b"", None, 401),
    ],
)
async def test_errors_have_an_integer_code(serve, method, path, body, key, status):
    server = await serve()
    answer = await server.ask(method, path, body, key)
    assert answer.status == status
    assert answer.json["error"]["code"] == status
    assert isinstance(answer.json["error"]["type"], str)


async def test_health_needs_no_key(serve):
    server = await serve()
    assert (await server.ask("GET", "/health", key=None)).status == 200


async def test_metrics_are_read_and_count(serve):
    server = await serve()
    await server.chat(max_tokens=5)
    replica = await server.replica()
    engine = server.target._engines[replica.placement.engine]
    found = await reading(engine, replica.endpoint.address, "chat", 10.0, replica.endpoint.key)
    assert (found.running, found.waiting, found.tokens_out_total) == (0, 0, 5)
    assert found.tokens_in_total > 0


async def observed(server, wanted):
    """Poll the metrics until `wanted` is true of the reading."""
    replica = await server.replica()
    engine = server.target._engines[replica.placement.engine]
    async with asyncio.timeout(30):
        while not wanted(await reading(engine, replica.endpoint.address, "chat", 10.0, replica.endpoint.key)):
            await asyncio.sleep(0.05)


async def test_requests_beyond_the_slots_wait(serve):
    server = await serve(slots=1)
    streams = [await server.send("POST", "/v1/chat/completions", chat(stream=True, max_tokens=200)) for _ in range(2)]
    await observed(server, lambda found: (found.running, found.waiting) == (1, 1))
    for stream in streams:
        assert (await stream.until()).events[-1] == "[DONE]"


async def test_a_client_that_leaves_a_stream_frees_its_slot(serve):
    server = await serve(slots=1)
    endless = chat(stream=True, max_tokens=100_000, ignore_eos=True)
    stream = await server.send("POST", "/v1/chat/completions", endless)
    await stream.until(seen=b"content")
    stream.close()
    await observed(server, lambda found: found.running == 0)
    assert (await server.chat()).status == 200


async def test_a_killed_engine_cuts_its_streams_without_done(serve):
    server = await serve()
    stream = await server.send("POST", "/v1/chat/completions", chat(stream=True, max_tokens=100_000, ignore_eos=True))
    await stream.until(seen=b"content")
    os.kill((await server.replica()).pid, signal.SIGKILL)
    try:
        answer = await stream.until()
    except ConnectionResetError:
        answer = stream.answer
    assert not answer.complete
    assert b"[DONE]" not in answer.body


async def test_embeddings_come_one_per_input(serve):
    server = await serve(task="embed", slots=2)
    answer = await server.ask("POST", "/v1/embeddings", {"model": "chat", "input": ["a cat", "a dog"]})
    assert answer.status == 200
    body = answer.json
    assert set(body) == {"model", "object", "usage", "data"}
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    assert set(body["usage"]) == {"prompt_tokens", "total_tokens"}
    for entry in body["data"]:
        assert sum(value * value for value in entry["embedding"]) == pytest.approx(1.0, abs=1e-3)


async def test_the_engine_stops_at_once_and_leaves_no_socket(serve):
    server = await serve()
    replica = await server.replica(lambda each: each.state is State.READY)
    await server.target.close()
    with pytest.raises(OSError, match="No such file"):
        await get(replica.endpoint.address, "/health", 1.0)


def test_the_recordings_are_what_they_say():
    events = Answer(body=(RECORDED / "llamacpp_sse.txt").read_bytes()).events
    assert events[-1] == "[DONE]"
    assert json.dumps(events[-2]["usage"])
