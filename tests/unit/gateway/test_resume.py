"""A stream that breaks goes on at another replica: wherever it is cut, the client reads what it would have read, once."""

import asyncio
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from .clients import asking, chat, request
from .conftest import World
from .engines import LAST, STREAM, chunk, eventually, in_turn, says

TOKENS = ["Once", " upon", " a", " time", "\n\n", "é", "漢", " \U0001f600", '"', "\\n", " ", "S", "T", "OP", " the end", "."]
TEXT = "".join(TOKENS)
PROMPT = 5
TOLD = {"include_usage": True}
DEATH = b'data: {"error":{"message":"EngineCore encountered an issue. See stack trace.","code":500}}\n\n'
ABORT = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"abort","stop_reason":null}]}\n\n'
LOST = b'data: {"error":{"message":"odd","code":500,"type":"server_error"}}\n\n'


def answer(body, *, number=1, is_chat=True, trims=False, finish_with_text=False):
    """What an engine of `TOKENS` streams, from where the text in `body` ends; stop strings as engines without hold-back."""
    said = ""
    if is_chat and body["messages"][-1]["role"] == "assistant":
        said = body["messages"][-1]["content"]
        said = said.rstrip() if trims else said
    elif not is_chat:
        said = body["prompt"].removeprefix("P: ")
    assert TEXT.startswith(said), said
    left, at = [], 0
    for token in TOKENS:
        if at >= len(said):
            left.append(token)
        at += len(token)
    limit = min([body[name] for name in ("max_tokens", "max_completion_tokens") if name in body], default=10_000)
    events, text, finish = [], "", "stop"
    for count, token in enumerate(left):
        if count == limit:
            finish = "length"
            break
        text += token
        events.append(token)
        if any(stop in text for stop in body.get("stop") or ()):
            events.pop()
            break
    else:
        finish = "length" if len(left) == limit else "stop"

    def event(choices, **more):
        head = {"id": f"id-{number}", "object": "x", "created": number, "model": f"m-{number}", "choices": choices}
        data = json.dumps(head | more, ensure_ascii=number % 2 == 0, separators=(",", ":"))
        return f"data: {data}\n\n".encode()

    def choice(content, finish=None):
        said = {"delta": {"content": content} if content else {}} if is_chat else {"text": content}
        return {"index": 0, **said, "finish_reason": finish}

    role = [event([{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}])] if is_chat else []
    out = [*role, *(event([choice(token)]) for token in events), event([choice("", finish)])]
    usage = {"prompt_tokens": PROMPT + len(TOKENS) - len(left), "completion_tokens": len(events)}
    if (body.get("stream_options") or {}).get("include_usage"):
        out.append(event([], usage=usage | {"total_tokens": sum(usage.values())}))
    return [*out, b"data: [DONE]\n\n"]


def engine(number, *, cut=None, pieces=1, then="reset", **kind):
    """Answers as `answer`, in reads of `pieces` events; of its stream only `cut` bytes arrive."""

    async def script(asked):
        events = answer(asked.json, number=number, **kind)
        chunks = [chunk(b"".join(events[at : at + pieces])) for at in range(0, len(events), pieces)]
        data = b"".join(chunks) + LAST
        if cut is None:
            await says(STREAM + data)(asked)
            return
        await asked.writes(STREAM + data[: cut // 2], data[cut // 2 : cut])
        await asyncio.sleep(0)
        asked.close() if then == "close" else asked.reset()

    return script


def stream_of(got):
    """The events, checked: one id, one role at most, one finish at the end, one [DONE], the last."""
    events = got.events
    assert got.whole
    assert events[-1] == b"[DONE]", events[-1]
    parsed = [json.loads(event) for event in events[:-1]]
    assert not any("error" in event for event in parsed), parsed
    assert len({(e["id"], e["created"], e["model"]) for e in parsed}) == 1
    choices = [event["choices"][0] for event in parsed if event["choices"]]
    assert sum("role" in choice.get("delta", {}) for choice in choices) <= 1
    finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert len(finishes) == 1
    assert choices[-1]["finish_reason"]
    text = "".join(c["delta"].get("content") or "" if "delta" in c else c["text"] for c in choices)
    return text, finishes[0], [event["usage"] for event in parsed if event.get("usage")]


def body_of(is_chat, **more):
    if is_chat:
        return chat(stream=True, **more)
    data = json.loads(asking(stream=True, **more))
    del data["messages"]
    return request(json.dumps(data | {"prompt": "P: "}).encode(), target="/v1/completions")


async def asked_twice(folder, first, second, continues="prefill", is_chat=True, **more):
    """The answer to one request that the engine `first` begins and `second` may go on with."""
    world = World(Path(folder))
    await world.open()
    try:
        await world.engine(first, name="chat-1", continues=continues)
        other = await world.engine(second, name="chat-2", continues=continues)
        world.changes("chat-2", slots=0)
        client = await world.client()
        await client.send(body_of(is_chat, **more))
        await eventually(lambda: world.running == 1, "it runs")
        world.changes("chat-2", slots=4)
        got = await client.answer()
        await world.rests()
        return got, world.model.stats, other
    finally:
        await world.close()


LENGTH = len(b"".join(map(chunk, answer(json.loads(asking(stream_options=TOLD)))))) + len(LAST)
KINDS = st.sampled_from(["prefill", "final_message"])


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, LENGTH), st.integers(1, 4), st.booleans(), KINDS, st.booleans(), st.data())
@example(cut=LENGTH - 1, pieces=1, usage=True, kind="prefill", is_chat=True, data=None)
def test_wherever_it_is_cut_the_text_is_whole(cut, pieces, usage, kind, is_chat, data):
    limit = data.draw(st.sampled_from([None, 1, 6, 15, 16, 17])) if data else None
    stops = data.draw(st.sampled_from([None, "STOP", ["xx", "STOP"], [" the end"], "\n\né"])) if data else None
    told = {"stream_options": TOLD} if usage else {}
    told |= {"max_tokens": limit} if limit else {}
    told |= {"stop": [stops] if isinstance(stops, str) else stops} if stops else {}
    if kind == "final_message" and not is_chat:
        told.setdefault("max_tokens", 30)
    trims = kind == "final_message" and is_chat
    base = json.loads(asking(stream=True, **told)) | ({} if is_chat else {"prompt": "P: "})
    wanted = [json.loads(e[6:]) for e in answer(base, is_chat=is_chat)[:-1]]

    async def run():
        with tempfile.TemporaryDirectory(prefix="hr-") as folder:
            first = engine(1, cut=cut, pieces=pieces, is_chat=is_chat)
            second = engine(2, is_chat=is_chat, trims=trims)
            return await asked_twice(folder, first, second, kind, is_chat, **told)

    got, stats, _ = asyncio.run(run())
    text, finish, counted = stream_of(got)
    choices = [e["choices"][0] for e in wanted if e["choices"]]
    whole = "".join(c["delta"].get("content") or "" if "delta" in c else c["text"] for c in choices)
    if stops and finish == "stop" and text != whole:  # an engine that shows parts of a stop string; at the seam nothing is
        assert whole.startswith(text)
        assert any(stop.startswith(whole[len(text.rstrip("ST")) :]) for stop in told["stop"])
    else:
        assert text == whole
    assert finish == choices[-1]["finish_reason"]
    assert stats.requests == {200: 1}
    if usage and counted:
        assert counted == [wanted[-1]["usage"]]
    if usage and not (stops and "STOP" in stops):
        assert len(counted) == 1
    assert (stats.tokens_in, stats.tokens_out) in ((PROMPT, len(choices) - 1 - is_chat), (0, stats.tokens_out))


async def test_the_second_replica_is_asked_for_the_rest_only(folder):
    cut = len(b"".join(map(chunk, answer(json.loads(asking()))[:5])))
    got, stats, other = await asked_twice(folder, engine(1, cut=cut), engine(2), max_tokens=10, seed=7, stop=["x"])
    text, finish, counted = stream_of(got)
    assert (text, finish, counted) == ("".join(TOKENS[:10]), "length", [])
    sent = other.asked[0].json
    assert sent["messages"][-1] == {"role": "assistant", "content": "Once upon a time"}
    assert (sent["max_tokens"], sent["seed"], sent["stop"], sent["stream"]) == (6, 7, ["x"], True)
    assert (stats.resumed, stats.tokens_in, stats.tokens_out) == (1, PROMPT, 10)
    assert b": the replica was lost" in got.body


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"n": 2},
        {"grammar": "root ::= x"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_what_is_more_than_text_ends_in_an_error(folder, more):
    got, stats, other = await asked_twice(folder, engine(1, cut=700), engine(2), **more)
    assert not got.whole
    assert got.events[-1].startswith(b'{"error":{"message":"The answer broke off')
    assert b"[DONE]" not in got.body
    assert (stats.requests, stats.resumed, other.asked) == ({502: 1}, 0, [])


@pytest.mark.parametrize("continues", [None, "prompt"])
async def test_an_engine_that_cannot_go_on_is_not_asked(folder, continues):
    got, _stats, other = await asked_twice(folder, engine(1, cut=700), engine(2), continues)
    assert not got.whole
    assert b"[DONE]" not in got.body
    assert not other.asked


async def test_an_error_event_that_is_a_death_is_a_death(folder):
    events = answer(json.loads(asking()))
    first = says(STREAM + b"".join(map(chunk, events[:4])), b"".join(map(chunk, [DEATH, b"data: [DONE]\n\n"])) + LAST)
    got, stats, _ = await asked_twice(folder, first, engine(2))
    assert stream_of(got)[0] == TEXT
    assert stats.resumed == 1


@pytest.mark.parametrize("given", [0, 1, 4])
@pytest.mark.parametrize("at_once", [True, False])
async def test_an_answer_that_the_engine_aborted_goes_on(folder, given, at_once):
    """vLLM and SGLang say "abort" as its reason to be finished, and [DONE]."""
    before, after = answer(json.loads(asking()))[:given], [ABORT, b"data: [DONE]\n\n"]
    pieces = [b"".join(map(chunk, after)) + LAST] if at_once else [chunk(after[0]), chunk(after[1]) + LAST]
    first = says(STREAM, *map(chunk, before), *pieces)
    got, stats, _ = await asked_twice(folder, first, engine(2), "final_message")
    assert stream_of(got)[:2] == (TEXT, "stop")
    assert b'"abort"' not in got.body
    assert stats.requests == {200: 1}


@pytest.mark.parametrize("failure", [DEATH, ABORT], ids=["error", "abort"])
async def test_the_end_of_a_dead_replica_is_not_the_answers(folder, failure):
    """The second breaks as well, and ends its stream in the same read: the third goes on."""

    async def fails(asked):
        begun = b"".join(map(chunk, answer(asked.json, number=2)[:3]))
        await asked.writes(STREAM + begun, chunk(failure) + chunk(b"data: [DONE]\n\n") + LAST)

    script = in_turn(engine(1, cut=700), fails, engine(3))
    got, stats, _ = await asked_twice(folder, script, script)
    assert stream_of(got)[:2] == (TEXT, "stop")
    assert (stats.resumed, stats.requests) == (2, {200: 1})


async def test_an_error_without_its_line_end_is_one_failure(folder):
    events = answer(json.loads(asking()))
    end = DEATH.strip() + b"\n" + b"data: [DONE]"
    first = says(STREAM + b"".join(map(chunk, events[:4])), chunk(end) + LAST)
    got, stats, _ = await asked_twice(folder, first, engine(2))
    assert stream_of(got)[0] == TEXT
    assert (stats.resumed, stats.retries) == (1, 1)


async def test_another_error_event_is_the_clients(folder):
    events = answer(json.loads(asking()))
    first = says(STREAM + b"".join(map(chunk, [*events[:4], LOST])) + LAST)
    got, stats, other = await asked_twice(folder, first, engine(2))
    assert b'"odd"' in got.body
    assert not other.asked
    assert stats.resumed == 0


async def test_a_refusal_of_the_second_is_told(folder):
    refuses = says(b'HTTP/1.1 400 No\r\nContent-Length: 41\r\n\r\n{"error":{"message":"no prefill please"}}')
    got, stats, _ = await asked_twice(folder, engine(1, cut=700), refuses)
    error = json.loads(got.events[-1])["error"]["message"]
    assert "broke off: chat-1" in error
    assert error.endswith("no prefill please")
    assert b"[DONE]" not in got.body
    assert stats.resumed == 0


async def test_the_number_of_resumes_is_bounded(folder):
    """Each replica gives something more and dies: three are enough."""

    async def dies(asked):
        await asked.writes(STREAM + b"".join(map(chunk, answer(asked.json, number=2)[:3])))
        asked.reset()

    got, stats, _ = await asked_twice(folder, dies, dies)
    assert not got.whole
    assert b"[DONE]" not in got.body
    assert "error" in json.loads(got.events[-1])
    assert stats.resumed <= 2
    assert stats.requests == {502: 1}


async def test_too_long_a_text_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr("headrace.gateway.sofar.TEXT_LIMIT", 10)
    got, _, other = await asked_twice(folder, engine(1, cut=1200), engine(2))
    assert not got.whole
    assert "error" in json.loads(got.events[-1])
    assert not other.asked


async def test_a_long_stream_is_read_on_the_way(folder, monkeypatch):
    monkeypatch.setattr("headrace.gateway.continuing.KEPT_BYTES", 300)
    monkeypatch.setattr("headrace.gateway.continuing.TAIL_BYTES", 200)
    got, stats, _ = await asked_twice(folder, engine(1, cut=LENGTH * 2 // 3), engine(2), stream_options=TOLD)
    assert stream_of(got) == (TEXT, "stop", [{"prompt_tokens": PROMPT, "completion_tokens": 16, "total_tokens": PROMPT + 16}])
    assert stats.resumed == 1
