"""Heads and chunked framing by table and by property: whatever is split anywhere reads the same, and what is illegal is told."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.http import (
    CLOSE,
    HEAD_LIMIT,
    LAST_CHUNK,
    BrokenAnswer,
    Chunks,
    RequestHead,
    chunk,
    host_is_loopback,
    origin_allowed,
    parse_response_head,
    path_of,
    response_head,
)
from headrace.gateway.letter import request_head
from headrace.gateway.upstream import Pool
from headrace.traffic import Endpoint

LOOP = asyncio.AbstractEventLoop()
"""Nothing is connected here."""

# ---- chunked framing


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """(the chunks' contents, the body as an engine may frame it): any sizes, extensions, trailers and spellings."""
    payloads = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    extension = st.sampled_from([b"", b";a", b";a=b", b' ; a="b;c"', b"  "])
    body = b""
    for payload in payloads:
        size = b"%x" % len(payload)
        size = draw(st.sampled_from([size, size.upper(), size.rjust(4, b"0"), size.rjust(8, b"0")]))
        body += size + draw(extension) + b"\r\n" + payload + b"\r\n"
    trailer = draw(st.sampled_from([b"", b"X-A: 1\r\n", b"X-A: 1\r\nX-B: 2\r\n"]))
    return payloads, body + draw(st.sampled_from([b"0", b"000"])) + draw(extension) + b"\r\n" + trailer + b"\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places` (modulo its length)."""
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(at)]


def walked(pieces: list[bytes], payload: list[bytes] | None = None) -> tuple[Chunks, list[bytes]]:
    """What `walk` passes on of each piece, as long as the body goes on."""
    chunks = Chunks()
    passed = []
    for piece in pieces:
        if chunks.done:
            break
        passed.append(chunks.walk(piece, payload))
    return chunks, passed


def payloads_of(body: bytes) -> list[bytes]:
    """A second reader of chunked framing, slow and strict."""
    found = []
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size.partition(b";")[0], 16)
        if not count:
            return found
        found.append(body[:count])
        assert body[count : count + 2] == b"\r\n"
        body = body[count + 2 :]


places = st.lists(st.integers(0, 1000), max_size=12)
every_byte = st.just(list(range(1000)))


@given(chunked_bodies(), places | every_byte, st.binary(max_size=5))
def test_what_is_passed_on_and_a_last_chunk_make_the_same_body(framed, where, extra):
    payloads, body = framed
    chunks, passed = walked(cut(body + extra, where))
    assert chunks.done
    assert chunks.count == len(payloads)
    assert payloads_of(b"".join(passed) + LAST_CHUNK) == payloads


@given(chunked_bodies(), places | every_byte)
def test_the_payload_is_the_same_however_it_is_split(framed, where):
    payloads, body = framed
    payload: list[bytes] = []
    chunks, passed = walked(cut(body, where), payload)
    assert b"".join(payload) == b"".join(payloads)
    assert payloads_of(b"".join(passed) + LAST_CHUNK) == payloads, "what may be passed on is the same in both modes"
    assert chunks.done
    assert not chunks.extra


@given(chunked_bodies(), places | every_byte)
def test_a_part_of_a_size_line_or_of_the_last_chunk_is_never_passed_on(framed, where):
    """Whoever passes the bytes on can complete the chunk that is open, say more, and decide how the body ends."""
    payloads, body = framed
    chunks = Chunks()
    so_far = b""
    for piece in cut(body, where):
        so_far += chunks.walk(piece)
        fill = chunks.fill()
        found = payloads_of(so_far + fill + chunk(b"more") + LAST_CHUNK)
        assert found[-1] == b"more"
        for passed, payload in zip(found[:-1], payloads, strict=False):
            assert len(passed) == len(payload)
            assert _is_filled(passed, payload), "what is missing is filled with line ends"


def _is_filled(filled: bytes, whole: bytes) -> bool:
    """Whether `filled` is the start of `whole` and line ends."""
    kept = next((at for at, (a, b) in enumerate(zip(filled, whole, strict=True)) if a != b), len(whole))
    return not filled[kept:].strip(b"\n")


@given(chunked_bodies(), st.binary(min_size=1, max_size=5), places)
def test_bytes_behind_the_last_chunk_are_told_when_they_came_with_it(framed, extra, where):
    _, body = framed
    chunks, _ = walked([*cut(body[:-1], where), body[-1:] + extra])
    assert chunks.done
    assert chunks.extra


@given(st.binary(max_size=300), places)
def test_garbage_is_told_or_held_and_never_loops(data, where):
    chunks = Chunks()
    try:
        for piece in cut(data, where):
            if not chunks.done:
                chunks.walk(piece, [])
    except BrokenAnswer:
        return
    assert len(chunks._carry) <= max(HEAD_LIMIT, 4096)


BROKEN_CHUNKS = {
    "no number": b"xyz\r\n",
    "an empty size": b"\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "nine digits": b"000000005\r\nhello\r\n",  # beyond 8, readers disagree by overflow
    "a space in front": b" 5\r\nhello\r\n",
    "bare LF": b"5\nhello\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "more than its size": b"5\r\nhello world\r\n",
    "less than its size": b"5\r\nhel\r\n0\r\n\r\n" + b"\r\n",
    "an endless size line": b"5;" + b"a" * 5000,
    "an endless trailer line": b"0\r\n" + b"a" * (HEAD_LIMIT + 1),
}


@pytest.mark.parametrize("every_byte", [False, True])
@pytest.mark.parametrize("data", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
def test_broken_framing_is_told(data, every_byte):
    with pytest.raises(BrokenAnswer):
        walked([data[at : at + 1] for at in range(len(data))] if every_byte else [data])


def test_a_chunk_is_filled_up_only_when_little_is_missing():
    chunks = Chunks()
    chunks.walk(b"fffff\r\nhello")
    assert chunks.fill() is None


# ---- heads of answers


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK"):
    return parse_response_head(b"\r\n".join((status, *lines)))


@pytest.mark.parametrize(
    ("status", "lines", "framing", "length"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], "length", 5),
        (b"HTTP/1.1 200 OK", [b"CONTENT-LENGTH:5"], "length", 5),  # names have no case, the space is optional
        (b"HTTP/1.1 200 OK", [b"Content-Length: 0"], "none", 0),  # nothing to wait for
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: chunked"], "chunked", 0),
        (b"HTTP/1.1 200 OK", [b"Transfer-Encoding: Chunked"], "chunked", 0),  # nor have codings
        (b"HTTP/1.1 200 OK", [], "close", 0),  # RFC 9112 6.3: the connection's end
        (b"HTTP/1.1 204 No Content", [b"Content-Length: 5"], "none", -1),  # never a body, whatever it says
        (b"HTTP/1.1 304 Not Modified", [b"Content-Length: 5"], "none", -1),
        (b"HTTP/1.1 100 Continue", [], "none", -1),
        (b"HTTP/1.1 101 Switching Protocols", [], "none", -1),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5"], "length", 5),
        (b"HTTP/1.1 200", [b"Content-Length: 5"], "length", 5),  # the phrase is optional in practice
        (b"HTTP/1.1 200 ", [b"Content-Length: 5"], "length", 5),
    ],
)
def test_how_an_answer_ends_is_read_from_its_head(status, lines, framing, length):
    parsed = head(*lines, status=status)
    assert (parsed.framing, parsed.length) == (framing, length)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],  # two framings
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 6"],
        [b"Content-Length: +5"],
        [b"Content-Length: -5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length: "],
        [b"Content-Length: 5 5"],
        [b"Content-Length: " + b"9" * 30],  # more than any integer elsewhere
        [b"Transfer-Encoding: gzip, chunked"],  # we ask for none
        [b"Transfer-Encoding: chunked, gzip"],
        [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],  # the same, in two lines
        [b"Transfer-Encoding: identity"],
        [b"no colon"],
        [b": no name"],
        [b"X-A : space before the colon"],
        [b"X-A: a", b" folded: b"],
        [b"X-A: a\nX-B: b"],  # bare LF: the client would see two headers
        [b"X-A: a\rX-B: b"],
        [b"X-A: a\x00b"],
    ],
)
def test_an_illegal_or_ambiguous_head_is_told(lines):
    with pytest.raises(BrokenAnswer):
        head(*lines)


@pytest.mark.parametrize(
    "status",
    [
        b"",
        b"garbage",
        b"HTTP/2 200",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 999 X",
        b"HTTP/1.1 200OK",
        b"http/1.1 200 OK",
    ],
)
def test_what_does_not_begin_as_an_answer_is_told(status):
    with pytest.raises(BrokenAnswer):
        head(status=status)


@pytest.mark.parametrize(
    ("status", "lines", "kept", "seconds"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5"], True, None),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: close"], False, None),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: Close"], False, None),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: X-A, close"], False, None),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Connection: close", b"Connection: X-A"], False, None),  # in two lines
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Keep-Alive: timeout=5, max=100"], True, 5.0),  # llama.cpp
        (b"HTTP/1.1 200 OK", [b"Content-Length: 5", b"Keep-Alive: max=100"], True, None),
        (b"HTTP/1.1 200 OK", [], False, None),  # its end is the connection's
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5"], False, None),  # HTTP/1.0 closes
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5", b"Connection: keep-alive"], True, None),  # unless it says otherwise
    ],
)
def test_whether_and_how_long_a_connection_is_kept(status, lines, kept, seconds):
    parsed = head(*lines, status=status)
    assert (parsed.keep_alive, parsed.idle_seconds) == (kept, seconds)


def test_clients_see_the_headers_that_are_for_them():
    lines = head(
        b"Content-Type: text/event-stream",
        b"X-Kept: 1",
        b"X-Kept: 2",
        b"Server: llama.cpp",
        b"Connection: keep-alive, X-Hop",
        b"Connection: x-other",
        b"X-Hop: 1",
        b"X-Other: 1",
        b"Keep-Alive: timeout=5",
        b"Transfer-Encoding: chunked",
        b"Trailer: X-A",
        b"Access-Control-Allow-Origin: *",
        b"X-Request-Id: the engine's",
    ).lines
    assert lines == b"Content-Type: text/event-stream\r\nX-Kept: 1\r\nX-Kept: 2\r\n"


@pytest.mark.parametrize(
    ("kind", "is_stream"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream; charset=utf-8", True),
        (b"application/json", False),
    ],
)
def test_a_stream_is_known_by_its_type(kind, is_stream):
    assert head(b"Content-Type: " + kind).event_stream is is_stream


# ---- heads of requests


JSON = b"Content-Type: application/json"


def own_lines(host: str, key: str | None) -> bytes:
    """What every request has in its head that goes to this engine."""
    return Pool(Endpoint("chat-1", "chat", f"http://{host}", 1, "chat", key=key), LOOP).lines


def for_engine(*fields: tuple[bytes, bytes], target: bytes = b"/v1/chat/completions", key: str | None = None) -> list[bytes]:
    request = RequestHead("POST", target, [(b"host", b"localhost"), *fields], False, True)
    raw = request_head(request.lines_for_engine(), own_lines("10.0.0.1:80", key), 5, b"id-1")
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1, "one head"
    return raw[:-4].split(b"\r\n")


def test_a_request_without_other_headers_still_has_one_head():
    lines = for_engine()
    assert lines == [
        b"POST /v1/chat/completions HTTP/1.1",
        JSON,
        b"Host: 10.0.0.1:80",
        b"X-Request-Id: id-1",
        b"Content-Length: 5",
    ]


def test_the_engines_key_takes_the_place_of_the_clients():
    lines = for_engine((b"authorization", b"Bearer client"), key="engine")
    assert [line for line in lines if b"uthorization" in line] == [b"Authorization: Bearer engine"]


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
        b"authorization",
        b"proxy-authorization",
        b"x-api-key",
        b"api-key",
        b"cookie",
        b"http2-settings",
        b"accept-encoding",
        b"origin",
        b"x-request-id",
        b"x-conversation-id",
    ],
)
def test_what_is_not_for_engines_does_not_reach_them(name):
    lines = for_engine((name, b"a-value"), (b"x-kept", b"1"))
    assert not any(b"a-value" in line for line in lines)
    assert b"x-kept: 1" in lines


def test_what_connection_names_does_not_reach_engines():
    lines = for_engine(
        (b"connection", b"close, X-Hop"),
        (b"connection", b"x-other"),  # RFC 9110 5.3: the same as one line
        (b"x-hop", b"1"),
        (b"x-other", b"1"),
        (b"x-kept", b"1"),
    )
    assert lines[2:-3] == [b"x-kept: 1"]


def test_one_head_serves_many_requests():
    """It is shared: nothing of one request may be left in it for the next."""
    shared = RequestHead("POST", b"/v1/chat/completions", [(b"host", b"localhost")], False, True)
    first = request_head(shared.lines_for_engine(), own_lines("a", "key"), 5, b"id-1")
    second = request_head(shared.lines_for_engine(), own_lines("b", None), 6, b"id-2")
    assert b"Bearer key" in first
    assert b"Bearer" not in second
    assert b"id-2" in second
    assert b"Content-Length: 6" in second


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/models", "/v1/models"),
        (b"/v1/models?a=b", "/v1/models"),
        (b"http://localhost/v1/models", "/v1/models"),  # RFC 9112 3.2.2
        (b"http://localhost:8080/v1/models?a=b", "/v1/models"),
        (b"http://localhost", "/"),
        (b"*", "/"),
        (b"//evil.example/v1/models", "//evil.example/v1/models"),  # a path, not an authority
        (b"/\xff", "/ÿ"),  # never raises
    ],
)
def test_the_path_of_a_target(target, path):
    assert path_of(target) == path


def test_the_head_of_an_answer_says_whether_the_connection_ends():
    kept = response_head(b"HTTP/1.1 200 OK\r\n", b"X-A: 1\r\n", b"Content-Length: 5\r\n", b"id", b"")
    assert kept == b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\nX-Request-Id: id\r\n\r\n"
    assert b"Connection: close\r\n" in response_head(b"HTTP/1.1 200 OK\r\n", b"", b"", b"id", CLOSE)


# ---- pages of others


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),  # no browser
        (b"http://localhost", True),
        (b"http://localhost:3000", True),  # a web interface beside us
        (b"https://LOCALHOST", True),
        (b"http://127.0.0.1:8080", True),
        (b"http://[::1]:8080", True),
        (b"http://[::1]", True),
        (b"https://evil.example", False),
        (b"http://localhost.evil.example", False),
        (b"http://evil.example:80", False),
        (b"http://127.0.0.1.evil.example", False),
        (b"http://evil-localhost", False),
        (b"null", False),  # sandboxed frames and local files
        (b"", False),
        (b"localhost", False),  # not an origin
        (b"file://", False),
        (b"chrome-extension://abcdef", False),
    ],
)
def test_only_loopback_pages_may_use_a_gateway_without_keys(origin, allowed):
    assert origin_allowed([] if origin is None else [(b"origin", origin)]) is allowed


def test_one_foreign_origin_among_several_is_enough():
    assert not origin_allowed([(b"origin", b"http://localhost"), (b"origin", b"https://evil.example")])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        (b"localhost", True),
        (b"localhost:8080", True),
        (b"127.0.0.1:8080", True),
        (b"[::1]:8080", True),
        (b"evil.example", False),
        (b"localhost.evil.example:8080", False),
        (b"10.0.0.1", False),
        (b"0.0.0.0", False),  # browsers reach loopback by it
        (b"", False),
        (b"localhost@evil.example", False),
    ],
)
def test_a_name_that_was_rebound_is_no_loopback_host(host, loopback):
    assert host_is_loopback([(b"host", host)]) is loopback
