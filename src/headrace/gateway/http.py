"""What is legal on the wire: heads, framing, hop-by-hop headers, limits. Bytes in, values out.

llhttp (through httptools) reads requests strictly; what it leaves to the application is judged here. Responses of engines are
parsed here, because their bodies pass through as the bytes they are and only their framing is walked.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec

from headrace.gateway.paths import Route, find

if TYPE_CHECKING:
    from headrace.gateway.keys import Account, Keys

HEAD_LIMIT = 32 * 1024
"""Bytes of a head, on either side; past it 431 (RFC 6585) for clients, a broken answer for engines."""
HEADER_LIMIT = 100
"""Header fields of a request."""

Headers = list[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""

# RFC 9110 7.6.1, and what is ours to say on each side: framing, identity of the peer, credentials, encodings.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_NOT_FOR_ENGINES = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"authorization",  # the gateway's keys must not reach engines
    b"proxy-authorization",
    b"x-api-key",
    b"api-key",
    b"cookie",
    b"http2-settings",
    b"accept-encoding",  # answers are read on their way: no compression between gateway and engine
    b"origin",
    b"x-request-id",
    b"x-conversation-id",  # llama.cpp would keep a lost client's request running to its end
}
_NOT_FOR_CLIENTS = _HOP_BY_HOP | {b"server", b"content-length", b"x-request-id"}
_NOT_FOR_CLIENTS |= {b"access-control-" + name for name in (b"allow-origin", b"allow-credentials", b"expose-headers")}

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([^\r\n]*))?")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_SIZE_LINE_LIMIT = 4096
_CONTROL = re.compile(rb"[\0\r\n]")
_TIMEOUT = re.compile(rb"timeout=(\d{1,6})")
_FILL_LIMIT = 64 * 1024
CLOSE = b"Connection: close\r\n"
"""The header line of the last answer on a connection."""
CHUNKED = b"Transfer-Encoding: chunked\r\n"
"""The header line of a body in chunks."""
LAST_CHUNK = b"0\r\n\r\n"
"""What ends a chunked body."""


class BrokenAnswer(Exception):
    """An engine's bytes are not a legal HTTP answer."""


class RequestHead:
    """The head of a request as its client sent it; never changed once made, and shared by requests with the same head."""

    __slots__ = (
        "cors", "headers", "holder", "http10", "keep_alive", "known", "lines", "method", "passed", "path", "preflight",
        "request_id", "route", "target",
    )  # fmt: skip

    def __init__(self, method: str, target: bytes, headers: Headers, http10: bool, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.path = path_of(target)
        self.headers = headers
        self.known = _combined(headers)
        """Each header's value; those of a repeated one are joined by commas."""
        origin = self.known.get(b"origin")
        self.preflight = method == "OPTIONS" and origin is not None and b"access-control-request-method" in self.known
        """A browser asks whether a page may ask."""
        self.route: Route | None = find(method, self.path) if not self.preflight else None
        """What it is for; None when that is nothing of the data path."""
        readable = self.route is not None or self.preflight or self.path.startswith("/v1/models")
        self.cors = _readable_by(origin) if origin is not None and readable else b""
        """The lines of an answer that let a page of a loopback origin read it."""
        self.http10 = http10
        self.keep_alive = keep_alive
        given = self.known.get(b"x-request-id", b"")
        self.request_id = given if len(given) <= 128 and given.replace(b"-", b"").replace(b"_", b"").isalnum() else b""
        """Its client's own name for the request, if it may be repeated in a head."""
        self.lines = b""  # see `lines_for_engine`, once it was asked for
        self.holder: tuple[Keys | None, Account | None] = (None, None)  # whose key it presents, among these: see `Keys.account`
        self.passed: Keys | None = None  # those by which it may do this, with the one that it presents

    def lines_for_engine(self) -> bytes:
        """Request line, and the headers that are an engine's business, for a body that was read as JSON."""
        if not self.lines:
            target = self.route.target if self.route is not None else b""
            self.lines = self.lines_to(target or self.path.encode("latin-1"), json=True)
        return self.lines

    def lines_to(self, path: bytes, *, json: bool) -> bytes:
        """The same for another path; the query stays. A body read as `json` is called so, whatever its client said."""
        dropped = _NOT_FOR_ENGINES | _nominated(self.known.get(b"connection", b"").lower())
        dropped |= {b"content-type"} if json else set()
        lines = b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] not in dropped)
        _, mark, query = self.target.partition(b"?")
        method, kind = (b"POST", b"Content-Type: application/json\r\n") if json else (self.method.encode(), b"")
        return b"%s %s%s%s HTTP/1.1\r\n%s%s" % (method, path, mark, query, kind, lines)


class Request(msgspec.Struct, gc=False):
    """A whole request, its body without framing."""

    head: RequestHead
    body: bytes


@lru_cache(maxsize=256)
def path_of(target: bytes) -> str:
    """The path of a request target, without the query; the absolute form (RFC 9112 3.2.2) is reduced to it."""
    if not target.startswith(b"/"):
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    return target.partition(b"?")[0].decode("latin-1")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an engine's answer. `lines` are the headers that clients may see, ready to be sent."""

    status: int
    status_line: bytes
    lines: bytes
    framing: Literal["chunked", "length", "close", "none"]
    length: int
    keep_alive: bool
    idle_seconds: float | None
    """How long the engine keeps the connection when idle, if it says so."""
    event_stream: bool
    retry_after: int | None
    """Seconds after which the engine wants to be asked again, if it says so."""
    never_again: bool = False
    """No replica shall be asked again, it says with the header that OpenAI's clients obey: what hangs one would hang all."""
    whole: bytes = b""
    """What a client gets as its head, but for its connection's lines; empty for errors, streams and bodies of unknown length."""

    def without_body(self) -> "ResponseHead":
        """The same as the answer to a HEAD request; `length` is -1 when the body's would not be known."""
        return replace(self, framing="none", length=self.length if self.framing in ("length", "none") else -1, whole=b"")


@lru_cache(maxsize=1024)
def parse_response_head(raw: bytes) -> ResponseHead:
    """The head `raw` (without the empty line that ends it). Heads repeat, so the last ones are kept. Raises BrokenAnswer."""
    first, *rest = raw.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if not match:
        raise BrokenAnswer(f"its answer starts with {first[:40]!r}")
    headers = [_field(line) for line in rest]
    known = _combined([(name.lower(), value) for name, value in headers])
    status = int(match[2])
    framing, length = _framing(status, known)
    tokens = known.get(b"connection", b"").lower()
    timeout = _TIMEOUT.search(known.get(b"keep-alive", b""))
    dropped = _NOT_FOR_CLIENTS | _nominated(tokens)
    status_line = b"HTTP/1.1 %d %s\r\n" % (status, match[3] or b"")
    lines = b"".join(b"%s: %s\r\n" % (n, v) for n, v in headers if n.lower() not in dropped)
    event_stream = known.get(b"content-type", b"").lower().startswith(b"text/event-stream")
    is_whole = framing == "length" and status < 400 and not event_stream
    return ResponseHead(
        status=status,
        status_line=status_line,
        lines=lines,
        framing=framing,
        length=length,
        keep_alive=framing != "close" and (b"close" not in tokens if match[1] == b"1" else b"keep-alive" in tokens),
        idle_seconds=float(timeout[1]) if timeout else None,
        event_stream=event_stream,
        retry_after=int(retry) if (retry := known.get(b"retry-after", b"")).isdigit() and len(retry) < 7 else None,
        never_again=known.get(b"x-should-retry", b"").lower() == b"false",
        whole=b"%s%sContent-Length: %d\r\n" % (status_line, lines, length) if is_whole else b"",
    )


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip() or _CONTROL.search(line):
        raise BrokenAnswer(f"its head has the line {line[:40]!r}")
    return name, value.strip()


def _combined(headers: Headers) -> dict[bytes, bytes]:
    known: dict[bytes, bytes] = {}
    for name, value in headers:
        known[name] = known[name] + b", " + value if name in known else value
    return known


def _framing(status: int, known: dict[bytes, bytes]) -> tuple[Literal["chunked", "length", "close", "none"], int]:
    """How the body ends (RFC 9112 6.3), but for answers to HEAD; requests that reach engines are never CONNECT."""
    if status < 200 or status in (204, 304):
        return "none", -1  # RFC 9110 8.6: a 204 has no Content-Length, and that of a 304 is not its own
    coding = known.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked" or b"content-length" in known:
            raise BrokenAnswer("its framing is ambiguous")
        return "chunked", 0
    length = known.get(b"content-length")
    if length is None:
        return "close", 0
    if not length.isdigit() or len(length) > 18:
        raise BrokenAnswer("its Content-Length is not one number")
    return ("length", int(length)) if int(length) else ("none", 0)


def _nominated(connection: bytes) -> frozenset[bytes]:
    return frozenset(token.strip() for token in connection.split(b",")) - {b"close", b"keep-alive", b""}


def response_head(status_line: bytes, lines: bytes, framing: bytes, request_id: bytes, own: bytes) -> bytes:
    """The head that a client gets. `framing` is a complete header line, or empty when the connection's end is the body's;
    `own` are the lines that its connection adds.
    """
    return b"%s%s%s%sX-Request-Id: %s\r\n\r\n" % (status_line, lines, framing, own, request_id)


class Chunks:
    """Walks chunked framing (RFC 9112 7.1) split anywhere, copying as little as it can.

    `walk` returns the bytes that may be passed on: whole chunks and parts of chunks, never a piece of a size line and never the
    last chunk, so that whoever passes them on decides how the body ends. `count` chunks were seen; `done` after the last one;
    `extra` tells that bytes followed it.
    """

    __slots__ = ("_carry", "_trailer", "count", "done", "extra", "left")

    def __init__(self) -> None:
        self._carry = b""
        self.left = 0  # of the present chunk, its CRLF included
        self._trailer = False
        self.count = 0
        self.done = False
        self.extra = False

    def walk(self, data: bytes, payload: list[bytes] | None = None) -> bytes:
        """The part of `data`, and of what was held back, that may be passed on; chunk contents are appended to `payload`.

        Raises BrokenAnswer.
        """
        if self._carry:
            data, self._carry = self._carry + data, b""
        if self._trailer:
            return self._walk_trailer(data, 0)
        position, end = 0, len(data)
        size = _CHUNK_SIZE.match(data) if not self.left else None
        if size is not None and end == size.end() + (length := int(size[1], 16)) + 2 and length:
            self.count += 1  # one whole chunk, as engines send them
            if payload is not None:
                payload.append(data[size.end() : -2])
            return data
        while position < end:
            if self.left:
                step = min(self.left, end - position)
                if payload is not None:
                    payload.append(data[position : position + min(step, max(0, self.left - 2))])
                position += step
                self.left -= step
                continue
            size = _CHUNK_SIZE.match(data, position)
            if size is None:
                return self._hold(data, position)
            length = int(size[1], 16)
            if length == 0:
                self._trailer = True
                return data[:position] + self._walk_trailer(data, size.end())
            self.count += 1
            self.left = size.end() - position + length + 2 if payload is None else length + 2
            if payload is not None:
                position = size.end()
        return data

    def fill(self) -> bytes | None:
        """What completes a chunk that was passed on in part, so that another may follow; None when too much is missing."""
        if self.left > _FILL_LIMIT:
            return None
        return b"\n" * (self.left - 2) + b"\r\n" if self.left > 2 else b"\r\n"[2 - self.left :]

    def _hold(self, data: bytes, position: int) -> bytes:
        """Keep the start of a size line for the next read, if it can still become one."""
        rest = data[position:]
        if len(rest) > _SIZE_LINE_LIMIT or b"\n" in rest or rest[:1] not in b"0123456789abcdefABCDEF":
            raise BrokenAnswer("its chunked framing is broken")
        self._carry = rest
        return data[:position]

    def _walk_trailer(self, data: bytes, position: int) -> bytes:
        """Trailer fields are dropped, as RFC 9110 6.5.1 allows."""
        while (end := data.find(b"\r\n", position)) >= 0:
            if end == position:
                self.done = True
                self.extra = end + 2 < len(data)
                return b""
            position = end + 2
        if len(data) - position > HEAD_LIMIT:
            raise BrokenAnswer("its trailer does not end")
        self._carry = data[position:]
        return b""


def contents(data: bytes, chunks: Chunks | None) -> list[bytes]:
    """What the bytes `data` of a body hold, without framing. Raises BrokenAnswer."""
    if chunks is None:
        return [data]
    payload: list[bytes] = []
    chunks.walk(data, payload)
    return payload


def chunk(payload: bytes) -> bytes:
    """`payload` as one chunk."""
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def origin_allowed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser page may have sent this to a gateway without keys: its origin, if it names one, must be loopback.

    Otherwise any page a user visits could use the models and read the answers, by DNS rebinding or a plain form.
    """
    return all(_loopback(value.partition(b"://")[2]) for name, value in headers if name == b"origin")


def _readable_by(origin: bytes) -> bytes:
    if not _loopback(origin.partition(b"://")[2]):
        return b""
    seen = b"X-Request-Id, Retry-After, Inference-Header-Content-Length"
    return b"Access-Control-Allow-Origin: %s\r\nAccess-Control-Expose-Headers: %s\r\nVary: Origin\r\n" % (origin, seen)


@lru_cache(maxsize=256)
def _loopback(host: bytes) -> bool:
    name = host.rsplit(b":", 1)[0] if not host.endswith(b"]") else host
    return name.lower() in (b"localhost", b"127.0.0.1", b"[::1]")


def host_is_loopback(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the request names a loopback host; a page that rebinds its own name to 127.0.0.1 does not."""
    return all(_loopback(value) for name, value in headers if name == b"host")
