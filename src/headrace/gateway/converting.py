"""Answers that clients cannot get as they came: translated from another protocol, or made the stream that was promised."""

from typing import TYPE_CHECKING

from headrace.gateway.http import BrokenAnswer, Chunks, ResponseHead, contents
from headrace.gateway.openai import Refusal, usage_in
from headrace.gateway.relay import ANSWER_BYTES, JSON_LINES
from headrace.gateway.reply import close_stream, framed, write_events
from headrace.gateway.translate.base import Translation
from headrace.gateway.unfold import unfolded

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange


class Converting:
    """Pass an engine's answer on through a translation."""

    __slots__ = ("_exchange", "_first_at", "_read", "_streams", "_translation", "begun")

    def __init__(self, exchange: "Exchange", head: ResponseHead, translation: Translation) -> None:
        self._exchange = exchange
        self._translation = translation
        self._streams = head.event_stream
        self._read = _Collected()
        self._first_at = 0.0
        self.begun = False

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        if not self._first_at:
            self._first_at = self._exchange.first_byte()
        payload = contents(data, chunks)
        if not self._streams:
            self._read.add(payload)
            return
        try:
            out = b"".join([self._translation.feed(piece) for piece in payload])
        except Refusal as refusal:
            self._exchange.failed(refusal)
            return
        if out:
            self._write(out)

    def ended(self) -> None:
        exchange, translation = self._exchange, self._translation
        try:
            rest = translation.end() if self._streams else translation.whole(self._read.all())
        except Refusal as refusal:
            exchange.failed(refusal)
            return
        except BrokenAnswer as error:
            exchange.broken(f"{exchange.replica} sent no legal answer: {error}", stale=False)
            return
        if translation.streams:
            self._write(rest)
            close_stream(exchange)
        else:
            exchange.client.respond(200, rest, JSON_LINES, exchange.request_id)
        self.settle()

    def _write(self, events: bytes) -> None:
        self.begun = True
        write_events(self._exchange, events)

    def given(self) -> bool:
        return False

    def settle(self) -> None:
        self._exchange.completed(200, self._translation.usage, self._first_at if self._streams else 0.0)

    def farewell(self, event: bytes) -> bytes:
        return framed(self._exchange, event)


class Unfolding:
    """Make a stream of an answer that came whole: its client was promised one while the model was loading."""

    __slots__ = ("_exchange", "_read", "begun")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._read = _Collected()
        self.begun = False  # of the answer itself nothing has been sent: another replica may give it

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        self._exchange.first_byte()
        self._read.add(contents(data, chunks))

    def ended(self) -> None:
        exchange = self._exchange
        try:
            events = unfolded(self._read.all(), exchange.route.kind)
        except Refusal as refusal:
            exchange.failed(refusal)
            return
        write_events(exchange, events)
        close_stream(exchange)
        self.settle()

    def given(self) -> bool:
        return False

    def settle(self) -> None:
        self._exchange.completed(200, usage_in(self._read.all()), 0.0)

    def farewell(self, event: bytes) -> bytes:
        return b""


class _Collected:
    """The pieces of a body, within bounds."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, pieces: list[bytes]) -> None:
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        if self._size > ANSWER_BYTES:
            raise BrokenAnswer(f"its answer is longer than {ANSWER_BYTES} bytes")

    def all(self) -> bytes:
        return b"".join(self._pieces)
