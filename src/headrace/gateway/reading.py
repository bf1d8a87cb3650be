"""Read requests, sans I/O: bytes in, whole requests or refusals out, within limits and in order.

llhttp (through httptools) parses. From one request to the next a client's heads differ only in their Content-Length, so heads
that llhttp found legal are remembered without it: a request that arrives whole behind a known head needs no second parse.
"""

import re
from collections import deque
from collections.abc import Callable
from typing import Literal

import httptools

from headrace.gateway.http import HEAD_LIMIT, HEADER_LIMIT, Headers, Request, RequestHead
from headrace.gateway.openai import Refusal

Judge = Callable[[RequestHead], Refusal | None]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,15})(?=\r\n)", re.IGNORECASE)
_HEADS = 1024
_OFFERS = (b"upgrade", b"http2-settings")
_FRAMING = 8
"""Bytes of framing that each byte of a chunked body may take, beyond twice `HEAD_LIMIT`: endless extensions are refused."""


class KnownHead:
    """A legal head, as the bytes before and behind the number of its Content-Length."""

    __slots__ = ("_number_at", "_size", "after", "before", "head")

    def __init__(self, before: bytes, after: bytes, head: RequestHead) -> None:
        self.before = before
        self.after = after
        self._number_at, self._size = len(before), len(after)
        self.head = head

    def request(self, data: bytes, body_limit: int) -> Request | None:
        """The request that `data` is, when it is exactly one, whole, with this head."""
        if not data.startswith(self.before):
            return None
        end = data.find(b"\r", self._number_at)
        body_at = end + self._size
        length = len(data) - body_at
        if data[self._number_at : end] != b"%d" % length or length > body_limit or not data.startswith(self.after, end):
            return None
        return Request(self.head, data[body_at:])


class HeadMemo:
    """Heads that llhttp found legal, shared by all connections."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}

    def keep(self, data: bytes, request: Request) -> KnownHead | None:
        """The head of `request`, which was parsed from exactly `data`, if it is one that can be known again."""
        end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, end)
        if length is None or end > HEAD_LIMIT or len(data) - end != int(length[1]) or b"expect" in request.head.known:
            return None
        key = data[: length.start(1)], data[length.end(1) : end]
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        return self._heads.setdefault(key, KnownHead(*key, request.head))


class Reader:
    """Reads one connection. `ready` holds what was read; after a refusal nothing more is read.

    `judge` may refuse a request by its head, before its body; `go_on` is called when the client waits for leave to send a body,
    at once or, when requests before it are not answered yet, by `let_go_on`.
    """

    __slots__ = (
        "_began",
        "_body",
        "_fed",
        "_go_on",
        "_head",
        "_headers",
        "_judge",
        "_memo",
        "_parser",
        "_size",
        "_trailer",
        "_url",
        "_wire",
        "body_limit",
        "known",
        "owes_leave",
        "phase",
        "ready",
        "refused",
        "refused_head",
    )

    def __init__(self, memo: HeadMemo, judge: Judge, body_limit: int, go_on: Callable[[], None]) -> None:
        self._memo = memo
        self._judge = judge
        self.body_limit = body_limit
        self._go_on = go_on
        self._parser = httptools.HttpRequestParser(self)
        self._fed = 0  # bytes read of an unfinished head
        self._began = False  # a head began in the present read
        self._url = b""
        self._headers: Headers = []
        self._head: RequestHead | None = None
        self._body: bytes | bytearray = b""
        self._size = 0
        self._wire = 0  # bytes that the body took with its framing, and the head that came in the same read
        self._trailer = 0
        self.known: KnownHead | None = None
        """The last head of this connection. A request that is behind it need not be fed, while the phase is idle."""
        self.owes_leave = False
        """The client waits for leave to send a body, behind requests that are to be answered first."""
        self.ready: deque[Request | Refusal] = deque()
        self.phase: Literal["idle", "head", "body"] = "idle"
        """What is being read of the next request."""
        self.refused = False
        self.refused_head: RequestHead | None = None
        """The head of the refused request, if it was read."""

    def feed(self, data: bytes) -> None:
        """Read more."""
        if self.refused:
            return
        if self.phase == "idle":
            if self.known is not None and (request := self.known.request(data, self.body_limit)) is not None:
                self.ready.append(request)
                return
            self._parse(data)
            if self.phase == "idle" and len(self.ready) == 1 and isinstance(only := self.ready[0], Request):
                self.known = self._memo.keep(data, only)
        else:
            self._parse(data)

    def refuse(self, refusal: Refusal) -> None:
        """Refuse what is being read, after what was read before it has been answered."""
        if not self.refused:
            self.refused = True
            self.refused_head = self._head
            self._body = b""
            self.ready.append(refusal)

    @property
    def held(self) -> int:
        """Bytes of a body that is not complete yet."""
        return len(self._body)

    def let_go_on(self) -> None:
        """What was read before is answered: give the leave that is owed."""
        self.owes_leave = False
        self._go_on()

    def _parse(self, data: bytes) -> None:
        self._began = False
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            # llhttp also complains of bytes behind a request that closes the connection: that request is answered all the same.
            last = self.ready[-1] if self.ready else None
            if not isinstance(last, Request) or last.head.keep_alive:
                self.refuse(Refusal(400, f"This is not a legal HTTP request: {error}.", "invalid_http"))
        if self.phase == "head":
            self._fed = self._size_of_head() if self._began else self._fed + len(data)
            if self._fed > HEAD_LIMIT:
                self.refuse(_too_large_head())
        elif self.phase == "body":
            self._wire = self._size if self._began else self._wire + len(data)
            if self._wire - self._size > 2 * HEAD_LIMIT + _FRAMING * self._size:
                self.refuse(self._too_large(self._wire))

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse. An offered upgrade (h2c) is ignored, as RFC 9110 7.8 allows: the same request is read again without it."""
        while data and not self.refused:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                self._take_again()
            else:
                return

    def _take_again(self) -> None:
        """Start anew with the present head, less what offers an upgrade. A tunnel is refused."""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        if method == b"CONNECT":
            self.refuse(Refusal(405, "This is not a proxy: CONNECT is not served.", "method_not_allowed", allow="GET, POST"))
            return
        lines = b"".join(b"%s: %s\r\n" % field for field in map(_without_offer, self._headers) if field is not None)
        self._parser.feed_data(b"%s %s HTTP/%s\r\n%s\r\n" % (method, self._url, version, lines))

    # ---- called by httptools

    def on_message_begin(self) -> None:
        self.phase = "head"
        self._began = True
        self._head = None
        self._url = b""
        self._headers = []
        self._body = b""
        self._size = self._wire = self._trailer = 0
        self.owes_leave = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "body":  # a trailer field, dropped as RFC 9110 6.5.1 allows
            self._trailer += len(name) + len(value) + 4
            if self._trailer > HEAD_LIMIT:
                self.refuse(_too_large_head())
            return
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.phase = "body"
        parser = self._parser
        if self.refused or parser.should_upgrade():
            return
        method = parser.get_method().decode("latin-1")
        http10 = parser.get_http_version() == "1.0"
        self._head = RequestHead(method, self._url, self._headers, http10, parser.should_keep_alive())
        refusal = self._first_judgement(self._head) or self._judge(self._head)
        if refusal is not None:
            self.refuse(refusal)
        elif b"expect" in self._head.known and not http10:
            if self.ready:
                self.owes_leave = True
            else:
                self._go_on()

    def on_body(self, body: bytes) -> None:
        if self.refused:
            return
        self._size += len(body)
        if self._size > self.body_limit:
            self.refuse(self._too_large(self._size))
        elif not self._body:
            self._body = body
        else:  # no list of pieces: bytes that come one by one would take fifty times their number
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        self.phase = "idle"
        self.owes_leave = False
        if self.refused or self._parser.should_upgrade():
            return
        body, self._body = bytes(self._body), b""
        assert self._head
        self.ready.append(Request(self._head, body))

    # ---- what llhttp leaves to us

    def _first_judgement(self, head: RequestHead) -> Refusal | None:
        """What makes a request illegal, or more than is read, whoever it is for."""
        headers, known = head.headers, head.known
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            return Refusal(505, "HTTP/1.1 and HTTP/1.0 are spoken here.", "http_version_not_supported")
        if len(headers) > HEADER_LIMIT or self._size_of_head() > HEAD_LIMIT:
            return _too_large_head()
        hosts = sum(name == b"host" for name, _ in headers)
        if hosts > 1 or (hosts == 0 and not head.http10):
            return Refusal(400, f"A request needs one Host header; this one has {hosts}.", "invalid_http")
        coding = known.get(b"transfer-encoding")
        if coding is not None and head.http10:  # RFC 9112 6.1: what a proxy of that age made of it cannot be known
            return Refusal(400, "HTTP/1.0 has no transfer codings.", "invalid_http")
        if coding is not None and coding.lower() != b"chunked":
            return Refusal(501, "The only transfer coding understood is chunked.", "unsupported_transfer_encoding")
        if known.get(b"expect", b"100-continue").lower() != b"100-continue" and not head.http10:
            return Refusal(417, "The only expectation understood is 100-continue.", "expectation_failed")
        if known.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            message = "Compressed request bodies are not accepted. Send the body without Content-Encoding."
            return Refusal(415, message, "unsupported_content_encoding")
        length = int(known.get(b"content-length", b"0"))
        return self._too_large(length) if length > self.body_limit else None

    def _size_of_head(self) -> int:
        return len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _too_large(self, size: int) -> Refusal:
        message = f"The body has {size} bytes or more; gateway.body allows {self.body_limit}."
        return Refusal(413, message, "request_too_large")


def _without_offer(field: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
    """The header field, as it would be if no upgrade were offered."""
    name, value = field
    if name != b"connection":
        return None if name in _OFFERS else field
    return name, b", ".join(token for each in value.split(b",") if (token := each.strip()).lower() not in _OFFERS)


def _too_large_head() -> Refusal:
    return Refusal(431, f"The head is larger than {HEAD_LIMIT} bytes or {HEADER_LIMIT} fields.", "head_too_large")
