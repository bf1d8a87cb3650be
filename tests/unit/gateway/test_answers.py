"""Engines' answers on their way to clients: every framing, split anywhere, cut anywhere, and errors in every place."""

import json

import pytest
from openai.types.chat import ChatCompletion

from .clients import asking, chat, request
from .engines import (
    ANSWER,
    DONE,
    EVENTS,
    LAST,
    STREAM,
    Gate,
    answers,
    chunk,
    event,
    eventually,
    in_turn,
    says,
    streams_and_holds,
    whole,
)

TEXTS = b"".join(EVENTS)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
STREAM_UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
HELD = event("never")


def bytes_of(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# ---- framings

FRAMINGS = {
    "length": (whole(), "wait"),
    "chunks": (CHUNKED + chunk(ANSWER[:50]) + chunk(ANSWER[50:]) + LAST, "wait"),
    "chunk extensions": (CHUNKED + b"%x;a=b\r\n%s\r\n" % (len(ANSWER), ANSWER) + b"0;last\r\n\r\n", "wait"),
    "trailers": (CHUNKED + chunk(ANSWER) + b"0\r\nX-Trailer: 1\r\n\r\n", "wait"),
    "until the connection's end": (UNTIL_CLOSE + ANSWER, "close"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER, "close"),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER, "wait"),
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + whole(), "wait"),
    "more headers": (whole(ANSWER, b"200 OK", b"X-A: 1", b"Connection: keep-alive"), "wait"),
}


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(("data", "then"), FRAMINGS.values(), ids=FRAMINGS.keys())
async def test_an_answer_arrives_whole_in_every_framing(world, data, then, version):
    await world.engine(says(data, then=then))
    answer = await world.ask(chat(version=version))
    assert answer.whole
    assert answer.body == ANSWER
    await world.rests()
    assert world.counted == {200: 1}


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(("data", "then"), FRAMINGS.values(), ids=FRAMINGS.keys())
async def test_an_answer_in_single_bytes_arrives_whole(world, data, then, version):
    await world.engine(says(*bytes_of(data), then=then))
    assert (await world.ask(chat(version=version))).body == ANSWER


STREAMS = {
    "a chunk per event": (STREAM + b"".join(map(chunk, EVENTS)) + LAST, "wait"),
    "all in one chunk": (STREAM + chunk(TEXTS) + LAST, "wait"),
    "chunks across events": (STREAM + b"".join(chunk(TEXTS[at : at + 37]) for at in range(0, len(TEXTS), 37)) + LAST, "wait"),
    "single bytes in chunks": (STREAM + b"".join(map(chunk, bytes_of(TEXTS))) + LAST, "wait"),
    "until the connection's end": (STREAM_UNTIL_CLOSE + TEXTS, "close"),
    "a length": (whole(TEXTS).replace(b"application/json", b"text/event-stream"), "wait"),
}


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(("data", "then"), STREAMS.values(), ids=STREAMS.keys())
async def test_a_stream_arrives_whole_in_every_framing(world, data, then, version, folds):
    await world.engine(in_turn(says(data, then=then), says(*bytes_of(data), then=then)), folds=folds)
    for _ in range(2):
        answer = await world.ask(chat(version=version, stream=not folds))
        assert answer.whole
        if folds:
            assert answer.json["choices"][0]["message"]["content"] == "Hi"
        else:
            assert answer.body == TEXTS
    if b"1\r\nd\r\n" not in data:  # in chunks of single bytes usage is not looked for
        load = world.model.load()
        assert (load.tokens_in, load.tokens_out) == (14, 4)


async def test_the_first_event_is_passed_on_before_the_second_exists(world):
    gate = Gate()

    async def script(asked):
        await asked.writes(STREAM, chunk(EVENTS[0]))
        await gate(asked)

    async def finishes(asked):
        asked.write(b"".join(map(chunk, EVENTS[1:])) + LAST)

    gate._script = finishes
    await world.engine(script)
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(EVENTS[0])
    gate.let()
    await client.until(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (b"204 No Content", b""),
        (b"304 Not Modified", b"ETag: 1\r\n"),
        (b"200 OK", b"Content-Length: 0\r\n"),
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(world, status, fields):
    await world.engine(says(b"HTTP/1.1 %s\r\n%s\r\n" % (status, fields)))
    client = await world.client()
    await client.send(chat())
    answer = await client.answer()
    assert answer.body == b""
    assert answer.status == int(status[:3])
    assert ("content-length" in answer.headers) is (answer.status == 200), "RFC 9110 8.6"
    await client.send(chat())
    assert (await client.answer()).status == int(status[:3]), "nothing was left over"


@pytest.mark.parametrize("last", [whole(), CHUNKED + chunk(ANSWER) + LAST], ids=["length", "chunks"])
async def test_bytes_behind_an_answer_reach_nobody_and_the_connection_is_not_used_again(world, last):
    engine = await world.engine(in_turn(says(last + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"), answers))
    client = await world.client()
    for _ in range(2):
        await client.send(chat())
        assert (await client.answer()).body == ANSWER
    assert len(engine.lines) == 2


async def test_bytes_that_nobody_asked_for_reach_nobody(world):
    engine = await world.engine()
    client = await world.client()
    await client.send(chat())
    await client.answer()
    engine.asked[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
    await engine.asked[0].left()
    await client.send(chat())
    assert (await client.answer()).body == ANSWER


# ---- what is no legal answer: another try, then a clear error

BROKEN = {
    "garbage": (b"\x00\xff garbage\r\n\r\n", "wait"),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "wait"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "wait"),
    "status 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "wait"),
    "a head that does not end": (b"HTTP/1.1 200 OK\r\n" + b"X-A: %s\r\n" % (b"x" * 1000) * 40, "wait"),
    "a folded header": (b"HTTP/1.1 200 OK\r\nX-A: a\r\n b: c\r\nContent-Length: 0\r\n\r\n", "wait"),
    "two framings": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "wait"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "wait"),
    "a signed length": (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "wait"),
    "another coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "wait"),
    "a chunk size that is no number": (CHUNKED + b"zz\r\n", "wait"),
    "nothing": (b"", "close"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", "close"),
    "a head alone": (STREAM, "close"),
    "a head and a size line alone": (STREAM + b"20\r\n", "close"),
    "a reset": (b"", "reset"),
    "a reset after the head": (STREAM, "reset"),
}


@pytest.mark.parametrize("unix", [True, False])
@pytest.mark.parametrize(("data", "then"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_survived_by_another_replica(world, data, then, unix):
    broken = await world.engine(says(data, then=then), name="chat-1", unix=unix)
    good = await world.engine(name="chat-2", unix=unix)
    for _ in range(2):  # whichever is asked first
        answer = await world.ask(chat(stream=True))
        assert answer.events[-1] == b"[DONE]"
    assert len(broken.asked) >= 1
    assert len(good.asked) == 2
    assert world.counted == {200: 2}


@pytest.mark.parametrize(("data", "then"), BROKEN.values(), ids=BROKEN.keys())
async def test_answers_that_stay_broken_end_in_a_502_after_a_bounded_number_of_tries(world, data, then):
    engine = await world.engine(says(data, then=then))
    answer = await world.ask(chat(stream=True))
    assert answer.status == 502
    assert answer.error["code"] == "engine_lost"
    assert answer.error["source"] == "gateway"
    assert "chat-1" in answer.error["message"]
    assert len(engine.asked) == 3
    await world.rests()
    assert world.counted == {502: 1}
    await eventually(lambda: not engine.open_lines, "broken connections are closed")


# ---- death in the middle

MIDDLE = STREAM + chunk(EVENTS[0] + EVENTS[1]) + chunk(HELD)
FIRST = len(STREAM) + MIDDLE[len(STREAM) :].index(b"\r\n") + 2 + len(EVENTS[0])
CUTS = [
    FIRST,  # after an event, in the middle of a chunk
    FIRST + 30,  # in the middle of an event and of a chunk
    MIDDLE.index(chunk(HELD)) - 2,  # the chunk's CRLF is missing
    MIDDLE.index(chunk(HELD)) - 1,  # half of the chunk's CRLF is missing
    MIDDLE.index(chunk(HELD)),  # between two chunks
    MIDDLE.index(chunk(HELD)) + 1,  # in the middle of a size line
    MIDDLE.index(chunk(HELD)) + 4,  # after a size line
    MIDDLE.index(chunk(HELD)) + 5,  # after the first byte of a chunk
    len(MIDDLE) - 4,  # before an event's end
    len(MIDDLE),
]


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("cut", CUTS)
async def test_a_stream_that_dies_anywhere_ends_in_an_error_event(world, cut, then, version):
    """The client reads legal framing so far, an error it can parse, no [DONE], and an end without the last chunk."""
    engine = await world.engine(says(MIDDLE[:cut], then=then))
    await world.engine(name="chat-2", slots=0)
    client = await world.client()
    await client.send(chat(stream=True, version=version))
    answer = await client.answer()
    await client.gone()
    assert answer.status == 200
    assert not answer.whole or version == "HTTP/1.0"
    assert DONE not in answer.body
    assert json.loads(answer.events[-1])["error"]["code"] == "engine_lost"
    assert answer.body.endswith(b"\n\n")
    assert answer.body.startswith(EVENTS[0])
    assert answer.rest == b"", "the chunk that was open is completed first"
    assert len(engine.asked) == 1, "what has begun is never sent again"
    await world.rests()
    assert world.counted == {502: 1}


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_stream_that_ends_cleanly_without_done_is_broken(world, version):
    await world.engine(says(STREAM + b"".join(map(chunk, EVENTS[:-1])) + LAST))
    client = await world.client()
    await client.send(chat(stream=True, version=version))
    answer = await client.answer()
    await client.gone()
    assert not answer.whole or version == "HTTP/1.0"
    assert "[DONE]" in json.loads(answer.events[-1])["error"]["message"]


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(
    "data",
    [
        STREAM + LAST,  # not a single event
        STREAM + chunk(b'data: {"er') + LAST,  # what might have become an error
        STREAM + chunk(b"data") + LAST,
        STREAM.replace(b"Transfer-Encoding: chunked", b"Content-Length: 0"),
    ],
)
async def test_a_stream_that_ends_before_its_first_event_is_asked_for_again(world, data, version):
    """Nothing of it reached the client; an answer that is empty would look complete."""
    await world.engine(says(data), name="chat-1")
    await world.engine(name="chat-2")
    for _ in range(2):
        answer = await world.ask(chat(stream=True, version=version))
        assert answer.whole
        assert answer.events[-1] == b"[DONE]"
    world.removes("chat-2")
    assert (await world.ask(chat(stream=True, version=version))).status == 502


@pytest.mark.parametrize(
    ("events", "complete"),
    [
        ([EVENTS[0], b"data:[DONE]\n\n"], True),  # the space is optional in server-sent events
        ([EVENTS[0], b"data: [DO", b"NE]\n\n"], True),  # chunks need not respect events
        ([EVENTS[0], *bytes_of(DONE)], True),
        ([EVENTS[0], b"data: [DONE]\r\n\r\n"], True),  # nor must lines end in LF alone
        ([EVENTS[0], b"data: [DONE]"], True),  # nor must the last event be closed
        ([EVENTS[0], DONE, b": ping\n\n"], True),  # a comment may follow
        ([event("data: [DONE]")], False),  # the text speaks of it, the stream did not end
        ([event("\n\ndata: [DONE]\n\n")], False),
        ([b'data: {"choices":[{"delta":{"content":"data: [DONE]'], False),
    ],
)
async def test_done_is_found_where_it_is_and_only_there(world, events, complete):
    await world.engine(says(STREAM + b"".join(map(chunk, events)) + LAST))
    answer = await world.ask(chat(stream=True))
    assert answer.whole is complete
    assert (b'"engine_lost"' in answer.body) is not complete


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "data",
    [
        whole()[:-5],  # the length tells
        CHUNKED + chunk(ANSWER)[:-9],  # the chunk tells
        CHUNKED + chunk(ANSWER),  # the last chunk is missing
    ],
)
async def test_an_answer_that_is_cut_never_looks_complete(world, data, then):
    await world.engine(says(data, then=then))
    client = await world.client()
    await client.send(chat())
    assert not (await client.answer()).whole
    await world.rests()
    assert world.counted == {502: 1}


async def test_a_stream_with_a_length_that_dies_is_cut_without_bytes_that_are_none_of_it(world):
    data = whole(TEXTS).replace(b"application/json", b"text/event-stream")
    await world.engine(says(data[: data.index(EVENTS[1])], then="close"))
    answer = await world.ask(chat(stream=True))
    assert not answer.whole
    assert answer.body.startswith(EVENTS[0])
    assert DONE not in answer.body
    lines = answer.body.split(b"\n")
    assert all(not line or line.startswith((b"data:", b":")) for line in lines), lines


# ---- engines' errors


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b'data: {"error":{"message":"no","code":503,"type":"overloaded"}}\n\n', 503),  # the engine says which
        (b'data: {"error":"no","error_type":"validation"}\n\n', 500),  # TGI
        (b'data:{"error":{"message":"no"}}\n\n', 500),  # the space is optional
    ],
)
@pytest.mark.parametrize("size", [1, 7, 12, 1000])
async def test_an_error_as_first_event_is_a_status_however_it_is_split(world, first, status, size):
    pieces = [chunk(first[at : at + size]) for at in range(0, len(first), size)]
    await world.engine(says(STREAM, *pieces, LAST))
    client = await world.client()
    await client.send(chat(stream=True))
    answer = await client.answer()
    assert answer.status == status
    assert answer.error["message"] == "no"
    assert answer.error["source"] == "engine"
    await client.send(chat(stream=True))
    assert (await client.answer()).status == status, "the connection goes on"


async def test_a_later_error_event_is_passed_on_and_the_stream_is_not_whole(world):
    broken = b'data: {"error":{"message":"out of memory"}}\n\n'
    await world.engine(says(STREAM + chunk(EVENTS[0]) + chunk(broken) + LAST))
    answer = await world.ask(chat(stream=True))
    assert not answer.whole
    assert b"out of memory" in answer.body
    assert DONE not in answer.body


@pytest.mark.parametrize("framed", [lambda body: whole(body, b"400 Bad Request"), None], ids=["length", "chunks"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_error_has_the_openai_envelope(world, stream, framed):
    body = b'{"error":{"code":400,"message":"Bad thing","type":"invalid_request_error"}}'
    chunks = b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body[:9]) + chunk(body[9:]) + LAST
    engine = await world.engine(says(framed(body) if framed else chunks))
    client = await world.client()
    for _ in range(2):
        await client.send(chat(stream=stream))
        answer = await client.answer()
        assert answer.status == 400
        assert answer.error == {
            "message": "Bad thing",
            "type": "invalid_request_error",
            "code": "invalid_request_error",
            "param": None,
            "source": "engine",
        }
    assert len(engine.lines) == 1, "an error is no reason to drop the connection"


@pytest.mark.parametrize("status", [418, 451, 499, 520, 599])
async def test_an_unknown_error_status_is_answered(world, status):
    await world.engine(says(whole(b"{}", b"%d Odd" % status)))
    answer = await world.ask(chat())
    assert 400 <= answer.status < 600
    assert answer.error["source"] == "engine"
    await world.rests()


async def test_a_huge_error_page_is_not_read_for_ever(world):
    await world.engine(says(whole(b"<html>" + b"x" * 2_000_000, b"500 Internal Server Error")))
    answer = await world.ask(chat())
    assert answer.status == 500
    assert len(answer.body) < 5000


# ---- folding


async def test_an_engine_that_folds_is_always_asked_for_a_stream(world):
    engine = await world.engine(folds=True)
    answer = await world.ask(chat(temperature=0.5))
    assert engine.asked[0].json["stream"] is True
    assert engine.asked[0].json["stream_options"] == {"include_usage": True}
    assert engine.asked[0].json["temperature"] == 0.5
    completion = ChatCompletion.model_validate(answer.json, strict=True)
    assert completion.choices[0].message.content == "Hi"
    assert completion.usage.completion_tokens == 2
    assert answer.headers["content-type"] == "application/json"


async def test_embeddings_are_never_folded(world):
    body = b'{"object":"list","data":[],"usage":{"prompt_tokens":3,"total_tokens":3}}'
    engine = await world.engine(says(whole(body)), name="vectors-1", model="vectors", folds=True)
    data = json.dumps({"model": "vectors", "input": "text"}).encode()
    answer = await world.ask(request(data, target="/v1/embeddings"))
    assert answer.body == body
    assert "stream" not in engine.asked[0].json


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_folded_answer_that_dies_in_the_middle_is_asked_for_again(world, then):
    """The client has nothing of it yet: until the end another replica can answer."""
    engine = await world.engine(in_turn(says(MIDDLE, then=then), answers), folds=True)
    answer = await world.ask(chat())
    assert answer.json["choices"][0]["message"]["content"] == "Hi", "nothing is left of the first try"
    assert len(engine.asked) == 2
    assert world.counted == {200: 1}


async def test_a_folded_stream_without_done_is_asked_for_again(world):
    cut = STREAM + b"".join(map(chunk, EVENTS[:-1])) + LAST
    engine = await world.engine(in_turn(says(cut), answers), folds=True)
    assert (await world.ask(chat())).json["choices"][0]["message"]["content"] == "Hi"
    assert len(engine.asked) == 2


async def test_an_error_event_in_a_folded_stream_is_a_status(world):
    error = b'data: {"error":{"message":"out of memory"}}\n\n'
    await world.engine(says(STREAM + chunk(EVENTS[0]) + chunk(error) + LAST), folds=True)
    answer = await world.ask(chat())
    assert answer.status == 500
    assert answer.error["message"] == "out of memory"


@pytest.mark.parametrize("event", [b"data: [1]\n\n", b'data: {"choices":[null]}\n\n', b"data: {\n\n"])
async def test_a_stream_that_cannot_be_folded_is_a_broken_answer(world, event):
    await world.engine(says(STREAM + chunk(event) + LAST), folds=True)
    assert (await world.ask(chat())).status == 502


async def test_an_error_of_an_engine_that_folds_keeps_its_status(world):
    await world.engine(says(whole(b'{"error":{"code":400,"message":"no","type":"x"}}', b"400 Bad Request")), folds=True)
    answer = await world.ask(chat())
    assert (answer.status, answer.error["message"]) == (400, "no")


# ---- what reaches the engine


async def test_the_body_reaches_the_engine_byte_for_byte(world):
    engine = await world.engine(model_there="chat")
    body = b' { "model" : "chat","messages":[ {"role":"user","content":"\xc3\xa9"}],"seed":1.50e2 , "x":{"b":1,"a":[]}}\n'
    assert (await world.ask(request(body))).status == 200
    assert engine.asked[0].body == body


@pytest.mark.parametrize("name", ["gpt-4o", "org/model:tag", "chat"])
async def test_an_alias_reaches_the_engine_under_the_engines_name(world, name):
    engine = await world.engine(model_there="there")
    assert (await world.ask(chat(model=name, seed=1))).status == 200
    assert engine.asked[0].json == json.loads(asking("there", seed=1))


async def test_a_client_that_leaves_at_done_had_its_whole_answer(world):
    """The official client closes its connection there: that is no disconnect, and its tokens count."""
    await world.engine(streams_and_holds(*EVENTS))
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(b"[DONE]")
    client.close()
    await world.rests()
    assert world.counted == {200: 1}
    assert (world.model.stats.tokens_in, world.model.stats.tokens_out, world.model.stats.disconnects) == (7, 2, 0)


async def test_llama_cpps_null_event_reaches_nobody(world):
    """It begins a stream of several prompts, and the official client breaks on it."""
    await world.engine(says(STREAM + chunk(b"data: null\n\n"), b"".join(chunk(each) for each in EVENTS) + LAST))
    answer = await world.ask(chat(stream=True))
    assert answer.status == 200
    assert answer.body == b"".join(EVENTS)
