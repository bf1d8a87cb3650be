"""What clients may send and how connections live: framing, pipelining, limits, refusals. Real sockets, both event loops."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .clients import CHAT, Ended, asking, chat, get, request
from .engines import ANSWER, Gate, answers, chunk, eventually

HUGE = 1 << 20  # the limit of a body in these tests


# ---- keep-alive and pipelining


async def test_a_connection_serves_one_request_after_the_other(world):
    engine = await world.engine()
    client = await world.client()
    for _ in range(3):
        await client.send(chat())
        assert (await client.answer()).body == ANSWER
    assert len(engine.lines) == 1, "the engine's connection is kept as well"


async def test_a_connection_is_closed_when_the_client_asks_for_it(world):
    await world.engine()
    client = await world.client()
    await client.send(chat("Connection: close"))
    answer = await client.answer()
    assert answer.headers["connection"] == "close"
    await client.gone()


@pytest.mark.parametrize("count", [2, 500])
async def test_pipelined_requests_are_answered_in_order(world, count):
    async def echoes(asked):
        asked.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(asked.body) + asked.body)

    await world.engine(echoes)
    client = await world.client()
    await client.send(b"".join(chat(seed=number) for number in range(count)))
    for number in range(count):
        assert (await client.answer()).json["seed"] == number


async def test_pipelined_requests_of_every_kind_are_answered_in_order(world):
    await world.engine()
    client = await world.client()
    await client.send(chat() + get("/health") + chat(model="nobody") + get("/nothing") + chat(stream=True) + chat())
    statuses = [(await client.answer()).status for _ in range(6)]
    assert statuses == [200, 200, 404, 404, 200, 200]


async def test_a_pipelined_request_is_not_sent_before_the_one_in_front_is_answered(world):
    gate = Gate()
    engine = await world.engine(gate)
    client = await world.client()
    await client.send(chat() + chat())
    await engine.was_asked()
    gate.let()
    await client.answer()
    await engine.was_asked(2)
    assert engine.most == 1
    gate.let()
    await client.answer()


async def test_bytes_behind_a_body_never_reach_the_engine(world):
    engine = await world.engine()
    client = await world.client()
    await client.send(chat() + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.answer()
    assert (await client.answer()).json == {"status": "ok"}
    assert len(engine.asked) == 1
    assert engine.lines[0].buffer == b""


async def test_bytes_behind_connection_close_are_ignored_and_the_request_is_answered(world):
    await world.engine()
    client = await world.client()
    await client.send(chat("Connection: close") + chat() + b"\x00\xff garbage")
    assert (await client.answer()).status == 200
    await client.gone()


async def test_garbage_behind_a_request_ends_the_connection_after_its_answer(world):
    await world.engine()
    client = await world.client()
    await client.send(chat() + b"\x00\xff garbage\r\n\r\n")
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 400
    await client.gone()


async def test_empty_lines_between_requests_are_skipped(world):
    """RFC 9112 2.2: old clients send one after a body."""
    await world.engine()
    client = await world.client()
    await client.send(chat() + b"\r\n" + chat())
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 200


async def test_a_head_begun_in_the_read_of_a_large_body_is_not_too_large(world):
    await world.engine()
    second = chat()
    client = await world.client()
    await client.send(chat(padding="x" * 60_000) + second[:40])
    assert (await client.answer()).status == 200
    await client.send(second[40:])
    assert (await client.answer()).status == 200


# ---- bodies


async def test_a_request_byte_by_byte_is_the_same_request(world):
    engine = await world.engine()
    client = await world.client()
    await client.send_bytes_alone(chat("X-Name: value"))
    assert (await client.answer()).status == 200
    assert engine.asked[0].json["messages"][0]["content"] == "Say hi"


async def test_a_chunked_request_byte_by_byte_reaches_the_engine_with_a_length(world):
    engine = await world.engine()
    client = await world.client()
    body = asking()
    pieces = [body[:1], body[1:10], body[10:]]
    framed = b"".join(chunk(piece) for piece in pieces[:2]) + b"%X;name=value\r\n%s\r\n0\r\n\r\n" % (len(pieces[2]), pieces[2])
    await client.send_bytes_alone(request(b"", "Transfer-Encoding: chunked", length=False) + framed)
    assert (await client.answer()).status == 200
    asked = engine.asked[0]
    assert asked.json == json.loads(body) | {"model": "there"}
    assert int(asked.headers["content-length"]) == len(asked.body)
    assert "transfer-encoding" not in asked.headers


async def test_trailers_of_a_request_do_not_reach_the_engine(world):
    engine = await world.engine()
    framed = chunk(asking()) + b"0\r\nX-Trailer: evil\r\nHost: evil\r\n\r\n"
    answer = await world.ask(request(b"", "Transfer-Encoding: chunked", "X-Header: good", length=False) + framed)
    assert answer.status == 200
    assert engine.asked[0].headers["x-header"] == "good"
    assert "x-trailer" not in engine.asked[0].headers


async def test_endless_trailers_are_refused(world):
    await world.engine()
    client = await world.client()
    await client.send(request(b"", "Transfer-Encoding: chunked", length=False) + chunk(asking()) + b"0\r\n")
    for number in range(40):
        await client.send(b"X-Trailer-%d: %s\r\n" % (number, b"x" * 1000))
    assert (await client.answer()).status in (400, 431)


async def test_a_request_without_other_headers_reaches_the_engine_whole(world):
    engine = await world.engine()
    body = asking()
    answer = await world.ask(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (CHAT.encode(), len(body), body))
    assert answer.status == 200
    assert engine.asked[0].json["messages"] == json.loads(body)["messages"]


async def test_a_large_body_arrives_whole(world):
    engine = await world.engine()
    body = asking(padding="x" * 900_000)
    assert (await world.ask(request(body))).status == 200
    assert len(engine.asked[0].body) == len(body) + len("there") - len("chat")


# ---- Expect: 100-continue


async def test_a_client_that_expects_it_is_told_to_continue(world):
    await world.engine()
    client = await world.client()
    head, _, body = chat("Expect: 100-continue").partition(b"\r\n\r\n")
    await client.send(head + b"\r\n\r\n")
    assert (await client.answer()).status == 100
    await client.send(body)
    assert (await client.answer()).status == 200


REFUSED_HEADS = [
    # a body beyond the limit must not be sent at all: that is what Expect is for
    (request(b"", "Expect: 100-continue", f"Content-Length: {HUGE + 1}", length=False), 413),
    # nobody is there to read it
    (request(b"x", "Expect: 100-continue", target="/nothing")[:-1], 404),
    # nor is it wanted with this method
    (request(b"x", "Expect: 100-continue", method="PUT")[:-1], 405),
    # nor from a page of another origin
    (request(b"x", "Expect: 100-continue", "Origin: https://evil.example")[:-1], 403),
    # nor can it be understood
    (request(b"x", "Expect: 100-continue", "Content-Encoding: gzip")[:-1], 415),
]


@pytest.mark.parametrize(("head", "status"), REFUSED_HEADS, ids=[str(status) for _, status in REFUSED_HEADS])
async def test_what_is_refused_by_its_head_is_not_told_to_continue(world, head, status):
    client = await world.client()
    await client.send(head)
    answer = await client.answer()
    assert answer.status == status
    assert answer.error["source"] == "gateway"


async def test_an_http10_client_is_never_told_to_continue(world):
    """RFC 9110 10.1.1: it would take the 100 for the answer."""
    await world.engine()
    assert (await world.ask(chat("Expect: 100-continue", version="HTTP/1.0"))).status == 200


# ---- what is no legal request

ILLEGAL = {
    # request smuggling: two ways to see where the body ends
    "length and chunked": request(b"", "Content-Length: 5", "Transfer-Encoding: chunked", length=False) + b"0\r\n\r\n",
    "two lengths": request(b"", "Content-Length: 5", "Content-Length: 5", length=False) + b"hello",
    "length list": request(b"", "Content-Length: 5, 5", length=False) + b"hello",
    "signed length": request(b"", "Content-Length: +5", length=False) + b"hello",
    "hexadecimal length": request(b"", "Content-Length: 0x5", length=False) + b"hello",
    "space before the colon": request(b"", "Content-Length : 5", length=False) + b"hello",
    "chunked is not last": request(b"", "Transfer-Encoding: chunked, gzip", length=False) + b"0\r\n\r\n",
    "chunked twice": request(b"", "Transfer-Encoding: chunked, chunked", length=False) + b"0\r\n\r\n",
    "chunk size is no number": request(b"", "Transfer-Encoding: chunked", length=False) + b"xyz\r\n",
    "chunk longer than its size": request(b"", "Transfer-Encoding: chunked", length=False) + b"1\r\nabc\r\n0\r\n\r\n",
    "chunk size ends in bare LF": request(b"", "Transfer-Encoding: chunked", length=False) + b"1\na\n0\n\n",
    # the host is what pages that rebind names are told apart by
    "no host": request(asking(), host=None),
    "two hosts": request(asking(), "Host: other"),
    # header lines that servers read differently
    "folded header": request(asking(), "X-A: a\r\n b"),
    "NUL in a header": request(asking(), "X-A: a\x00b"),
    "bare CR in a header": request(asking(), "X-A: a\rb"),
    "bare LF": request(asking()).replace(b"\r\n", b"\n"),
    "no colon": request(asking(), "no colon"),
    # what is not HTTP/1.1 at all
    "TLS ClientHello": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(64),
    "words": b"hello there\r\n\r\n",
}


@pytest.mark.parametrize("data", ILLEGAL.values(), ids=ILLEGAL.keys())
async def test_illegal_requests_are_refused_and_the_connection_ends(world, data):
    engine = await world.engine()
    client = await world.client()
    await client.send(data)
    answer = await client.answer()
    assert answer.status in (400, 501)
    assert answer.error["source"] == "gateway"
    await client.gone()
    assert not engine.asked


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Encoding: gzip"], 415),  # would have to be bounded while it is unpacked
        (["Content-Encoding: zstd"], 415),
        (["Content-Encoding: identity"], 200),  # says nothing
        (["Transfer-Encoding: gzip, chunked"], 501),  # RFC 9112 6.1
        (["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], 501),  # the same, in two lines
        (["Transfer-Encoding: Chunked"], 200),  # names of codings have no case
    ],
)
async def test_codings_that_are_not_understood_are_refused(world, fields, status):
    await world.engine()
    chunked = any("ransfer" in each for each in fields)
    body = chunk(asking()) + b"0\r\n\r\n" if chunked else asking()
    answer = await world.ask(request(b"" if chunked else body, *fields, length=not chunked) + (body if chunked else b""))
    assert answer.status == status


# ---- limits


async def test_a_head_that_is_too_large_is_refused(world):
    answer = await world.ask(chat("X-Long: " + "x" * 40_000))
    assert answer.status == 431
    assert answer.error["code"] == "head_too_large"


async def test_a_head_that_does_not_end_is_refused(world):
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    for number in range(34):
        await client.send(b"X-%d: %s\r\n" % (number, b"x" * 1000))
    assert (await client.answer()).status == 431


async def test_a_target_that_does_not_end_is_refused(world):
    client = await world.client()
    await client.send(b"GET /" + b"x" * 40_000)
    assert (await client.answer()).status == 431


async def test_too_many_headers_are_refused(world):
    answer = await world.ask(chat(*(f"X-{number}: a" for number in range(101))))
    assert answer.status == 431


async def test_a_body_that_is_too_large_is_refused_without_reading_it(world):
    client = await world.client()
    await client.send(request(b"", f"Content-Length: {HUGE + 1}", length=False))
    answer = await client.answer()
    assert answer.status == 413
    assert str(HUGE) in answer.error["message"]
    assert str(HUGE + 1) in answer.error["message"]
    await client.gone()


async def test_a_body_of_absurd_length_is_refused(world):
    answer = await world.ask(request(b"", "Content-Length: 99999999999999999999999", length=False))
    assert answer.status in (400, 413)


async def test_a_body_as_large_as_allowed_is_answered(world):
    await world.engine()
    body = asking()
    assert (await world.ask(request(body + b" " * (HUGE - len(body))))).status == 200


async def test_a_chunked_body_that_becomes_too_large_is_refused_while_it_is_sent(world):
    client = await world.client()
    await client.send(request(b"", "Transfer-Encoding: chunked", length=False))
    piece = chunk(b" " * 65_536)
    for _ in range(17):
        await client.send(piece)
    assert (await client.answer()).status == 413


async def test_a_client_in_the_middle_of_a_refused_body_can_read_the_refusal(world):
    """Closing with unread bytes resets the connection, and the answer with it."""
    client = await world.client()
    await client.send(request(b"", f"Content-Length: {8 * HUGE}", length=False))
    for _ in range(20):
        await client.send(bytes(65_536))
    assert (await client.answer()).status == 413


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: local", 408),  # slowloris: a head sent by halves
        (request(asking())[:-5], 408),  # a body that stops
        (b"", None),  # a connection without a request is simply closed
    ],
)
async def test_a_client_that_stops_sending_does_not_stay(world, monkeypatch, sent, status):
    monkeypatch.setattr("headrace.gateway.wire.READ_SECONDS", {"idle": 0.1, "head": 0.1, "body": 0.1})
    monkeypatch.setattr("headrace.gateway.wire.LINGER_SECONDS", 0.1)
    client = await world.client()
    await client.send(sent)
    if status:
        assert (await client.answer()).status == status
    await client.gone()
    await eventually(lambda: not world.gateway.clients, "the gateway forgets the connection")


async def test_a_kept_connection_without_requests_is_closed_in_time(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.wire.READ_SECONDS", {"idle": 0.1, "head": 5, "body": 5})
    client = await world.client()
    await client.send(get("/health"))
    assert (await client.answer()).status == 200
    await client.gone()


# ---- methods and targets


@pytest.mark.parametrize(
    ("data", "status", "allow"),
    [
        (get(CHAT), 405, "POST"),  # a browser that looks
        (request(b"{}", method="PUT"), 405, "POST"),
        (request(b"{}", method="DELETE"), 405, "POST"),
        (request(b"{}", target="/health"), 405, "GET"),
        (get("/v1/nothing"), 404, None),
        (request(b"{}", target="/v1/chat/completions/"), 404, None),  # another path, as at OpenAI
        (get("//evil.example/v1/chat/completions"), 404, None),  # a path, not an authority
        (get("/v1/chat/completions%00"), 404, None),
        (request(b"", method="OPTIONS", target="*"), 404, None),  # RFC 9110 9.3.7: nothing is promised for the server as a whole
    ],
)
async def test_what_is_not_there_is_refused_with_what_is(world, data, status, allow):
    answer = await world.ask(data)
    assert answer.status in (status, 405 if status == 404 else status)
    assert answer.error["source"] == "gateway"
    if allow:
        assert allow in answer.headers["allow"]


async def test_connect_is_refused(world):
    """This is no forward proxy."""
    client = await world.client()
    await client.send(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
    assert (await client.answer()).status in (400, 405)
    await client.gone()


async def test_an_absolute_target_is_the_path_in_it(world):
    """RFC 9112 3.2.2: servers must accept it."""
    engine = await world.engine()
    answer = await world.ask(request(asking(), target="http://localhost" + CHAT))
    assert answer.status == 200
    assert engine.asked[0].target == CHAT


async def test_the_query_reaches_the_engine(world):
    engine = await world.engine()
    assert (await world.ask(request(asking(), target=CHAT + "?verbose=1"))).status == 200
    assert engine.asked[0].target == CHAT + "?verbose=1"


async def test_head_gets_the_head_alone_and_the_connection_goes_on(world):
    client = await world.client()
    await client.send(get("/health", method="HEAD") + get("/health"))
    answer = await client.answer(to_head=True)
    assert answer.status == 200
    assert int(answer.headers["content-length"]) > 0
    assert (await client.answer()).json == {"status": "ok"}


async def test_a_refused_head_request_has_no_body(world):
    client = await world.client()
    await client.send(get(CHAT, method="HEAD"))
    assert (await client.answer(to_head=True)).status == 405
    await client.gone()


async def test_a_refusal_after_a_head_request_has_its_body(world):
    client = await world.client()
    await client.send(get("/health", method="HEAD"))
    await client.answer(to_head=True)
    await client.send(get("/health", "Bad : header"))
    assert (await client.answer()).error["code"] == "invalid_http"


async def test_an_offered_upgrade_is_ignored_and_the_body_is_kept(world):
    """curl --http2 and Java's client offer h2c with their first request."""
    engine = await world.engine()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    client = await world.client()
    await client.send(chat(*offer, "X-Name: kept"))
    assert (await client.answer()).body == ANSWER
    asked = engine.asked[0]
    assert asked.json["messages"][0]["content"] == "Say hi"
    assert asked.headers["x-name"] == "kept"
    assert not {"upgrade", "connection", "http2-settings"} & set(asked.headers)
    await client.send(chat())
    assert (await client.answer()).status == 200


async def test_an_offered_upgrade_is_ignored_when_the_body_comes_later(world):
    engine = await world.engine()
    head, _, body = chat("Connection: Upgrade", "Upgrade: websocket").partition(b"\r\n\r\n")
    client = await world.client()
    await client.send(head + b"\r\n\r\n")
    await asyncio.sleep(0)
    await client.send_bytes_alone(body)
    assert (await client.answer()).status == 200
    assert engine.asked[0].json["messages"][0]["content"] == "Say hi"


# ---- HTTP/1.0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_http10_client_gets_no_chunks_and_the_end_of_the_connection(world, stream):
    await world.engine()
    client = await world.client()
    await client.send(chat(version="HTTP/1.0", stream=stream))
    answer = await client.answer()
    assert "transfer-encoding" not in answer.headers
    assert answer.events[-1] == b"[DONE]" if stream else answer.body == ANSWER
    await client.gone()


async def test_an_http10_client_without_a_host_is_served(world):
    await world.engine()
    assert (await world.ask(request(asking(), version="HTTP/1.0", host=None))).status == 200


async def test_an_http10_client_may_keep_its_connection(world):
    await world.engine()
    client = await world.client()
    for _ in range(2):
        await client.send(chat("Connection: keep-alive", version="HTTP/1.0"))
        assert (await client.answer()).body == ANSWER


# ---- headers


async def test_hop_by_hop_headers_and_credentials_do_not_reach_the_engine(world):
    engine = await world.engine(key="engine-key")
    fields = (
        "Authorization: Bearer client-key",
        "Proxy-Authorization: Basic abc",
        "X-Api-Key: client-key",
        "Cookie: session=1",
        "Connection: keep-alive, X-Hop",
        "X-Hop: one hop only",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Accept-Encoding: gzip",
        "X-Conversation-Id: 1",  # llama.cpp would keep a lost client's request running
        "User-Agent: test",
        "X-Custom: kept",
    )
    assert (await world.ask(chat(*fields))).status == 200
    asked = engine.asked[0]
    assert asked.headers["authorization"] == "Bearer engine-key"
    assert b"client-key" not in asked.head
    assert asked.headers["user-agent"] == "test"
    assert asked.headers["x-custom"] == "kept"
    hops = {"proxy-authorization", "x-api-key", "cookie", "connection", "x-hop", "keep-alive", "te", "accept-encoding"}
    assert not (hops | {"x-conversation-id"}) & set(asked.headers)
    assert [name for name, _ in asked.fields].count("host") == 1


async def test_headers_of_the_engines_connection_do_not_reach_the_client(world):
    async def script(asked):
        fields = (
            b"Server: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        )
        asked.write(b"HTTP/1.1 200 OK\r\n" + fields + b"X-Kept: 1\r\nContent-Length: 2\r\n\r\n{}")

    await world.engine(script)
    headers = (await world.ask(chat())).headers
    assert headers["x-kept"] == "1"
    assert not {"server", "access-control-allow-origin", "keep-alive", "x-hop", "connection"} & set(headers)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-123_X", True),  # what tracing tools send
        ("a" * 129, False),  # too long for a log line
        ("a b", False),  # not an id
        ("<script>", False),
        ("", False),
    ],
)
async def test_the_request_id_is_kept_or_made_and_is_the_same_on_both_sides(world, sent, kept):
    engine = await world.engine()
    got = (await world.ask(chat(f"X-Request-Id: {sent}"))).headers["x-request-id"]
    assert (got == sent) is kept
    assert got
    assert engine.asked[0].headers["x-request-id"] == got


async def test_every_request_has_another_id(world):
    await world.engine()
    ids = {(await world.ask(data)).headers["x-request-id"] for data in (chat(), chat(), get("/health"), chat(model="nobody"))}
    assert len(ids) == 4


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}", "X-Request-Id: abc-123", method="PUT"),  # refused by its head
        request(b"{}", "X-Request-Id: abc-123", target="/nothing"),
        chat("X-Request-Id: abc-123", model="nobody"),  # by its body
        get("/nothing", "X-Request-Id: abc-123"),  # by the application
    ],
)
async def test_a_refused_request_has_its_id_as_well(world, data):
    """It is what a user sends along with a question."""
    assert (await world.ask(data)).headers["x-request-id"] == "abc-123"


async def test_line_ends_in_a_model_name_are_never_reflected_raw(world):
    answer = await world.ask(chat(model="a\r\nSet-Cookie: evil=1\r\n\r\n<script>"))
    assert answer.status == 404
    assert "set-cookie" not in answer.headers
    assert b"\n" not in answer.body
    assert "Set-Cookie: evil=1" in answer.error["message"], "it is named, escaped as JSON"


# ---- anything at all


WORDS = b"GET |POST | HTTP/1.1| HTTP/1.0|Host: localhost|Content-Length: 5|Transfer-Encoding: chunked|Expect: 100-continue"
OFFERS = b"Upgrade: h2c|Connection: Upgrade|Connection: close|: |\r\n|\r\n\r\n|0\r\n\r\n|5\r\n|\x00|\x16\x03\x01"


async def test_no_bytes_at_all_bring_the_gateway_down(world):
    await world.engine()
    pieces = st.sampled_from([*(WORDS + b"|" + OFFERS).split(b"|"), CHAT.encode(), asking(), chat(), get("/health")])

    async def holds_out(data: bytes, step: int) -> None:
        client = await world.client()
        for at in range(0, len(data), step):
            await client.send(data[at : at + step])
        client.finish_sending()
        await client.rest()
        client.close()
        world.clients.remove(client)
        assert (await world.ask(get("/health"))).status == 200
        assert not world.complaints

    loop = asyncio.get_running_loop()

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.one_of(pieces, st.binary(max_size=40)), max_size=12).map(b"".join), st.integers(1, 80))
    def examples(data, step):
        asyncio.run_coroutine_threadsafe(holds_out(data, step), loop).result(30)

    await asyncio.to_thread(examples)
    assert (await world.ask(chat())).status == 200
    await world.rests()


async def test_a_client_that_resets_at_any_point_is_forgotten(world):
    await world.engine(answers)
    data = chat(stream=True)
    for cut in (0, 1, 20, len(data) - 1, len(data)):
        client = await world.client()
        await client.send(data[:cut])
        client.close()
    await eventually(lambda: not world.gateway.clients, "all clients are forgotten")
    await world.rests()


async def test_a_client_that_finishes_sending_is_taken_as_gone(world):
    """Nothing else tells that a client left while it waits; see docs/behaviour.md."""
    engine = await world.engine(Gate())
    client = await world.client()
    await client.send(chat())
    asked = await engine.was_asked()
    client.finish_sending()
    await asked.left()
    with pytest.raises(Ended):
        await client.answer()


async def test_more_connections_than_there_may_be_are_told_so(world):
    """Descriptors are left for engines and probes: without them every model would fail."""
    await world.engine()
    world.gateway.connections.limits = replace(world.gateway.connections.limits, connections=1)
    first, second = await world.client(), await world.client()
    answer = await second.answer()
    assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
    await second.gone()
    await first.send(chat())
    assert (await first.answer()).status == 200
    second.close()
    await eventually(lambda: len(world.gateway.clients) == 1, "the refused one is gone")
    first.close()
    await eventually(lambda: not world.gateway.clients, "both are gone")
    assert (await world.ask(chat())).status == 200
