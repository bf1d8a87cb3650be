"""One connection to the server that is measured: a request out, an answer in, and nothing on the way that costs time."""

import asyncio
import re
from collections.abc import Callable
from time import monotonic

from headrace.gateway.http import HEAD_LIMIT, BrokenAnswer, Chunks, ResponseHead, contents, parse_response_head
from headrace.measure.base import Kind, Outcome
from headrace.measure.events import Events, TooLong, error_in, whole

_LOCATION = re.compile(rb"(?im)^location: *([!-~]+)\r$")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
_WHOLE_LIMIT = 64 << 20
_DETAIL = 200


class Wire(asyncio.Protocol):
    """Carries one exchange after another, until it is `closed`. `release` is told when one is over.

    What cannot be the end of an answer is kept with its time, and looked at later together: `settle` does.
    """

    __slots__ = (
        "_body", "_buffer", "_chunks", "_done", "_events", "_flows", "_head", "_late", "_left", "_release", "_size",
        "closed", "heard", "outcome", "transport", "used",
    )  # fmt: skip

    def __init__(self, release: Callable[["Wire"], None]) -> None:
        self._release = release
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.outcome: Outcome | None = None
        self.heard = 0.0
        self.used = False
        self.closed = False
        self._done: asyncio.Future[bool] | None = None
        self._late: list[tuple[float, bytes]] = []
        self._reset(None)

    def ask(self, request: bytes, outcome: Outcome) -> "asyncio.Future[bool]":
        """Send the request; the future is done when `outcome` is complete. Its result: whether a kept connection proved dead
        before anything came, so that the request may be sent again.
        """
        self._reset(Events(outcome.stamps))
        self.outcome, self.heard = outcome, monotonic()
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._done

    def give_up(self, kind: Kind, detail: str) -> None:
        """End the exchange from our side; the server sees that its client left."""
        self.settle()
        self._end(kind, detail, keep=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def settle(self) -> None:
        """Look at what was kept: from now on `outcome` has the stamps of all that came."""
        late, self._late = self._late, []
        for now, data in late:
            if not (self._flows and self._whole_chunk(data, now)):
                self._look(data, now)

    def data_received(self, data: bytes) -> None:
        self.heard = now = monotonic()
        if self._flows and data.endswith(b"\n\n\r\n"):  # events, or the middle of one: the end of a chunked body has two CRLF
            self._late.append((now, data))
            return
        if self._late:
            self.settle()
        self._look(data, now)

    def _look(self, data: bytes, now: float) -> None:
        if self.outcome is None:
            self.closed = True
            self.transport.abort()  # bytes that nobody asked for
            return
        try:
            if self._head is None:
                data = self._read_head(data)
            if data and self._head is not None:
                self._read_body(data, now)
        except BrokenAnswer as error:
            self._end("broken", f"The answer is no legal HTTP: {error}.", keep=False)
        except TooLong:
            self._end("broken", "An event of the stream does not end.", keep=False)

    def _whole_chunk(self, data: bytes, now: float) -> bool:
        """Whether this was one whole chunk with whole events, as nearly always: the rest of this class would take three times as
        long to find that out.
        """
        size = _SIZE.match(data)
        if size is None or self._events is None or int(size[1], 16) != len(data) - size.end() - 2:
            return False
        self._events.feed(data[size.end() : -2], now)
        return True

    def eof_received(self) -> bool:
        if self.outcome is not None and self._head is not None and self._head.framing == "close":
            self._complete(keep=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.settle()
        self.closed = True
        if self.outcome is not None:
            stale = self.used and self._head is None and not self._buffer
            self._end("broken", "The connection was closed before the answer was complete.", keep=False, stale=stale)

    def _reset(self, events: Events | None) -> None:
        self._events = events
        self._head: ResponseHead | None = None
        self._chunks: Chunks | None = None
        self._buffer = b""
        self._body: list[bytes] = []
        self._left = self._size = 0
        self._flows = False
        self._late = []

    def _read_head(self, data: bytes) -> bytes:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = parse_response_head(self._buffer[:end])
            self._buffer = self._buffer[end + 4 :]
            if head.status >= 200:
                return self._begin(head)
        if len(self._buffer) > HEAD_LIMIT:
            raise BrokenAnswer(f"its head is longer than {HEAD_LIMIT} bytes")
        return b""

    def _begin(self, head: ResponseHead) -> bytes:
        assert self.outcome
        self._head, self.outcome.status = head, head.status
        self.outcome.streamed = head.event_stream
        self._left = head.length
        self._chunks = Chunks() if head.framing == "chunked" else None
        rest, self._buffer = self._buffer, b""
        if head.framing == "none":
            self._complete(keep=head.keep_alive)
            return b""
        return rest

    def _read_body(self, data: bytes, now: float) -> None:
        assert self._head
        assert self._events
        chunks = self._chunks
        for part in contents(data, chunks):
            if self._head.event_stream and self._head.status == 200:
                self._events.feed(part, now)
            else:
                self._keep(part)
        if chunks is not None:
            if chunks.done:
                self._complete(keep=self._head.keep_alive and not chunks.extra)
            else:  # at the end of a chunk, of which nothing is missing
                self._flows = self._head.event_stream and self._head.status == 200 and data[-2:] == b"\r\n" and not chunks.fill()
        elif self._head.framing == "length":
            self._left -= len(data)
            if self._left <= 0:
                self._complete(keep=self._head.keep_alive and not self._left)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > _WHOLE_LIMIT:
            raise TooLong
        self._body.append(part)

    def _complete(self, *, keep: bool) -> None:
        """The answer is whole as HTTP; what it is worth, its content says."""
        assert self._head
        assert self._events
        if self._head.status != 200:
            kind, detail = _refused(self._head, b"".join(self._body))
        elif self._head.event_stream:
            self._events.close()
            kind, detail = _streamed(self._events)
        else:
            kind, detail = self._at_once(b"".join(self._body))
        self._end(kind, detail, keep=keep)

    def _at_once(self, body: bytes) -> tuple[Kind, str]:
        assert self.outcome
        found = whole(body)
        if found is None:
            message = error_in(body)
            kind: Kind = "error event" if message else "not an API"
            return kind, message or f"200 with {_start(body)} instead of an answer of OpenAI's API."
        self._events = found
        if not found.done:
            return "empty", "The answer has no text."
        self.outcome.stamps.append(self.heard)
        return "ok", ""

    def _end(self, kind: Kind, detail: str, *, keep: bool, stale: bool = False) -> None:
        outcome, events, done = self.outcome, self._events, self._done
        self.outcome = self._events = self._done = None
        self._flows = False
        if outcome is None or events is None or done is None:
            return
        outcome.kind, outcome.detail = kind, detail
        outcome.ended = monotonic() if kind in ("stalled", "unfinished") else self.heard
        outcome.prompt_tokens, outcome.output_tokens, outcome.cached_tokens = events.tokens_in, events.tokens_out, events.cached
        outcome.finish, outcome.done = events.finish, events.done
        self.used = True
        if not keep or self.transport.is_closing():
            self.closed = True
            self.transport.abort()
        self._release(self)
        if not done.done():
            done.set_result(stale)


def _streamed(events: Events) -> tuple[Kind, str]:
    if events.error:
        return "error event", events.error
    if not events.done and not events.finish:
        return "broken", f"The stream ended after {len(events.stamps)} events without [DONE] and without a finish reason."
    return ("ok", "") if events.stamps else ("empty", "The stream ended well and had no text.")


def _refused(head: ResponseHead, body: bytes) -> tuple[Kind, str]:
    status = head.status
    if 300 <= status < 400:
        there = (
            found[1].decode("latin-1") if (found := _LOCATION.search(head.lines)) else "another address, which it does not name"
        )
        return (
            "redirect",
            f"{status}: the server sends its clients to {there[:_DETAIL]}. Redirects are not followed: give that as --url.",
        )
    kind: Kind = "429" if status == 429 else "5xx" if status >= 500 else "4xx" if status >= 400 else "not an API"
    return kind, f"{status}: {error_in(body) or _start(body)}"


def _start(body: bytes) -> str:
    text = " ".join(body[:4096].decode("utf-8", "replace").split())
    if text[:1] == "<":
        return "an HTML page"
    return repr(text[:_DETAIL]) if text else "an empty body"
