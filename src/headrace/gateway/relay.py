"""Bring an engine's answer to the client: splice it as it is, fold a stream into one answer, or read an error to its end."""

import re
from typing import TYPE_CHECKING, Protocol

from headrace.gateway.engine_errors import engine_error, first_event_error, lacking, may_be_error
from headrace.gateway.fold import BrokenStream, Fold
from headrace.gateway.http import CHUNKED, LAST_CHUNK, BrokenAnswer, Chunks, ResponseHead, chunk, contents, response_head
from headrace.gateway.openai import TAIL_BYTES, Usage, usage_in

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange

ERROR_BYTES = 64 * 1024
"""How much of an engine's error is read."""
ANSWER_BYTES = 64 * 1024 * 1024
"""How large an answer may be that is put together or translated here."""
JSON_LINES = b"Content-Type: application/json\r\n"
"""The headers of answers that are made here."""

_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\][\r\n]*(?::[^\r\n]*[\r\n]+)*$")  # comments may follow it
_BOUNDARY = re.compile(rb"\r\n[0-9a-fA-F]{1,8}(?:;[^\r\n]*)?\r\n")
_NULL_EVENT = b"data: null\n\n"
"""llama.cpp begins a stream so when there are several prompts."""
_NULL_CHUNK = b"%x\r\n%s\r\n" % (len(_NULL_EVENT), _NULL_EVENT)


class Relay(Protocol):
    """What becomes of one answer's body."""

    begun: bool
    """Bytes of the answer have reached the client: no other replica can answer any more."""

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        """More of the body, with its framing when `chunks` is there to walk it."""

    def ended(self) -> None:
        """The body is complete."""

    def given(self) -> bool:
        """Whether the client has all of the answer, though not the end of its framing."""

    def settle(self) -> None:
        """Count the answer as complete."""

    def farewell(self, event: bytes) -> bytes:
        """The bytes that carry `event` to a client in the middle of the answer; empty where that cannot be."""


class Splice:
    """Pass the body on as the bytes it is, unless the client's framing must be another one."""

    __slots__ = (
        "_chunked",
        "_chunks",
        "_client",
        "_content",
        "_events",
        "_exchange",
        "_first_at",
        "_head",
        "_held",
        "_kept",
        "_pieces",
        "_raw",
        "_start",
        "begun",
    )

    def __init__(self, exchange: "Exchange", head: ResponseHead) -> None:
        self._exchange = exchange
        self._client = exchange.client
        self._head = head
        self._chunked = not exchange.request.head.http10 and (exchange.opened or head.framing in ("chunked", "close"))
        self._raw = self._chunked == (head.framing == "chunked")
        self._pieces: list[bytes] = []
        self._kept = 0
        self._held = b""
        self._content = b""
        self._start = b""
        self._chunks: Chunks | None = None
        self._events = 0
        self._first_at = 0.0
        self.begun = False

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        if not self.begun:
            if not (data := self._begin(data, chunks)):
                return
        elif chunks is None:
            if self._head.event_stream:
                self._events += data.count(b"data:")
            self._keep(data)
            self._client.write(data if self._raw else chunk(data))
            return
        elif self._raw:
            data = chunks.walk(data)
        else:
            data = b"".join(contents(data, chunks))
        self._keep(data)
        self._client.write(data)

    def _keep(self, data: bytes) -> None:
        """Remember the end of the answer, in pieces: joining them for each chunk would cost more than passing it on."""
        if self._head.event_stream and not self._first_at and b"data:" in data:  # comments are no tokens
            self._first_at = self._exchange.first_byte()
        self._pieces.append(data)
        self._kept += len(data)
        while self._kept - len(self._pieces[0]) >= TAIL_BYTES:
            self._kept -= len(self._pieces.pop(0))

    @property
    def _tail(self) -> bytes:
        return b"".join(self._pieces)

    def _begin(self, data: bytes, chunks: Chunks | None) -> bytes:
        """The first bytes: look for an error in a stream's first event, then send the head. Returns what to pass on."""
        payload = [data]
        if chunks is not None:
            payload = []
            data = chunks.walk(data, payload)
        self._held += data
        self._content += b"".join(payload)
        if self._held.startswith(_NULL_CHUNK):  # no client expects it
            self._held, self._content = self._held[len(_NULL_CHUNK) :], self._content[len(_NULL_EVENT) :]
        data, content = self._held, self._content
        if not content:
            return b""  # a size line alone: wait for what it announces
        if self._head.event_stream:
            if may_be_error(content):
                return b""
            if refusal := first_event_error(content):
                self._exchange.failed(refusal)
                return b""
        self._held = self._content = b""
        self._start = content[:TAIL_BYTES] if not self._head.event_stream else b""  # embeddings have their usage in front
        self._chunks = chunks
        self.begun = True
        if not self._head.event_stream:
            self._exchange.first_byte()
        if not self._raw:
            data = chunk(content) if self._chunked else content
        return self._own_head() + data

    def _own_head(self) -> bytes:
        """The head that the client has not got yet."""
        exchange, head = self._exchange, self._head
        if exchange.opened:
            return b""
        known = head.framing in ("length", "none") and head.length >= 0
        framing = b"Content-Length: %d\r\n" % head.length if known else b""
        if not self._chunked and not framing and head.status not in (204, 304):
            self._client.close_after()
        framing = CHUNKED if self._chunked else framing
        return response_head(head.status_line, head.lines, framing, exchange.request_id, self._client.own_lines())

    def farewell(self, event: bytes) -> bytes:
        """What says in the middle of an answer that it broke off: an event, where the answer is a stream that can take one."""
        if not self._head.event_stream or self._head.framing == "length":
            return b""
        event = b"\n\n" + event  # whatever event was cut ends here
        if not self._chunked:
            return event
        fill = self._chunks.fill() if self._raw and self._chunks is not None else b""
        return fill + chunk(event) if fill is not None else b""

    def ended(self) -> None:
        exchange = self._exchange
        if self._head.event_stream and exchange.route.done and not _is_done(self._tail):
            exchange.broken(f"{exchange.replica} ended the stream without [DONE]", stale=False)
            return
        if not self.begun:  # an answer without a body
            self.begun = True
            self._client.write(self._own_head())
        if self._chunked:
            self._client.write(LAST_CHUNK)
        self.settle()

    def given(self) -> bool:
        return self.begun and self._head.event_stream and _is_done(self._tail)

    def settle(self) -> None:
        self._exchange.completed(self._head.status, self._usage(), self._first_at)

    def _usage(self) -> Usage | None:
        """As the engine counted; without its count a stream has about one token per event, the last two of them empty."""
        tail = self._tail
        if (usage := usage_in(tail) or usage_in(self._start)) or not self._head.event_stream:
            return usage
        events = self._exchange.chunks_seen or self._events
        if not self._exchange.route.done:
            return Usage(0, events) if self._exchange.route.kind == "generate_stream" else None
        return usage_in(_BOUNDARY.sub(b"", tail)) or Usage(0, max(0, events - 2))


class Folding:
    """Put a stream together for a client that asked for one answer."""

    __slots__ = ("_exchange", "_first_at", "_fold", "_size", "begun")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._fold = Fold()
        self._first_at = 0.0
        self._size = 0
        self.begun = False  # until the whole is there: another replica may always answer

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        payload = contents(data, chunks)
        self._size += len(data)
        if self._size > ANSWER_BYTES:
            raise BrokenAnswer(f"its answer is longer than {ANSWER_BYTES} bytes")
        try:
            for piece in payload:
                self._fold.feed(piece)
        except BrokenStream as error:
            raise BrokenAnswer(str(error)) from None
        if self._fold.events and not self._first_at:
            self._first_at = self._exchange.first_byte()
        if self._fold.error:
            self._exchange.failed(self._fold.error)

    def ended(self) -> None:
        exchange, fold = self._exchange, self._fold
        if not fold.done:
            exchange.broken(f"{exchange.replica} ended the stream without [DONE]", stale=False)
            return
        exchange.client.respond(200, fold.answer(choices=exchange.ask.choices), JSON_LINES, exchange.request_id)
        self.settle()

    def given(self) -> bool:
        return False

    def settle(self) -> None:
        usage = self._fold.usage(self._exchange.ask.choices)
        counted = Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None
        self._exchange.completed(200, counted, self._first_at)

    def farewell(self, event: bytes) -> bytes:
        return b""


class Failing:
    """Read an engine's error to its end: it is tried elsewhere, or answered in OpenAI's shape."""

    __slots__ = ("_body", "_exchange", "_head", "begun")

    def __init__(self, exchange: "Exchange", head: ResponseHead) -> None:
        self._exchange = exchange
        self._head = head
        self._body = b""
        self.begun = False

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        payload = contents(data, chunks)
        if len(self._body) < ERROR_BYTES:
            self._body += b"".join(payload)

    def ended(self) -> None:
        self.settle()

    def given(self) -> bool:
        return False

    def settle(self) -> None:
        refusal = engine_error(self._head.status, self._body, self._head.retry_after)
        if self._exchange.route.optional and self._head.status in (404, 405, 501):
            refusal = lacking(refusal, self._exchange.request.head.path, self._exchange.ask.model)
        refusal.elsewhere = refusal.elsewhere and not self._head.never_again
        self._exchange.failed(refusal)

    def farewell(self, event: bytes) -> bytes:
        return b""


def _is_done(tail: bytes) -> bool:
    """Whether a stream's last event is [DONE], in chunks or not."""
    end = tail[-256:]
    at = end.rfind(b"data:")
    if at >= 0 and _DONE.match(end, at - 1 if at else 0):  # as it mostly is: to search takes 5 µs
        return True
    return bool(_DONE.search(end) or _DONE.search(_BOUNDARY.sub(b"", end)))
