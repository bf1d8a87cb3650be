"""Streams that can survive their replica: kept in whole events while they pass, continued at another one when they break."""

import re
from typing import TYPE_CHECKING

import msgspec

from headrace.gateway.converting import Converting, Unfolding
from headrace.gateway.engine_errors import event_error
from headrace.gateway.http import BrokenAnswer, Chunks, ResponseHead, chunk, contents
from headrace.gateway.letter import Letter
from headrace.gateway.openai import TAIL_BYTES, Usage
from headrace.gateway.relay import Folding, Relay, Splice
from headrace.gateway.reply import close_stream, framed, write_events
from headrace.gateway.seam import Seam
from headrace.gateway.sofar import SoFar, gave_up, is_text

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange

KEPT_BYTES = 64 * 1024
"""How much of a stream is kept as it came; what is older is read and kept as text."""
EVENT_BYTES = 64 * 1024
"""How much of an event is held back until its end is there; a longer one passes in parts, and cannot be continued."""

_NOTICE = b": the replica was lost, another one continues the answer\n\n"
_END = re.compile(rb".*(?:\n\n|\r\n\r\n)", re.DOTALL)
_ERROR_START = b'data: {"error"'
_UNFINISHED = b'"finish_reason":null'
_NEVER = b"\0"  # no event ends with it
_ERROR = re.compile(rb'(?:^|\n)data: ?(\{"error".*)')


def relay_for(exchange: "Exchange", head: ResponseHead, sent: Letter | None) -> Relay:
    """What brings an answer to its client, if it is one; `sent` is what was asked, where that was not the client's own bytes."""
    endpoint, translation = exchange.endpoint, sent and sent.translation
    if exchange.seam is not None:
        return Continuing(exchange, exchange.seam)
    if translation is not None:
        return Converting(exchange, head, translation)
    if exchange.opened and not head.event_stream:
        return Unfolding(exchange)
    if head.event_stream and endpoint.folds and not exchange.ask.stream and exchange.route.folds:
        return Folding(exchange)
    lasts = head.event_stream and head.status == 200 and head.framing != "length" and endpoint.continues is not None
    return Kept(exchange, head) if lasts and is_text(exchange.ask, exchange.route) else Splice(exchange, head)


def seam(exchange: "Exchange", relay: Relay | None, why: str) -> Seam | None:
    """Where the answer that `relay` gave can go on; None when it cannot."""
    if isinstance(relay, Continuing):
        relay.seam.why = why
        return relay.seam if relay.seam.so_far.intact else None
    if not isinstance(relay, Kept):
        return None
    so_far = relay.all_so_far()
    return Seam(so_far, exchange.ask, why, chat=exchange.route.kind == "chat") if so_far.intact else None


def goes_on(exchange: "Exchange", relay: Relay | None, why: str, *, last: bool) -> bool:
    """Whether the stream that broke off is complete, or can be continued: then the exchange has its seam. `last`: not that."""
    where = seam(exchange, relay, why)
    if where is None or (last and not where.is_whole):
        return False
    exchange.seam, exchange.opened = where, True
    if where.is_whole:
        close_whole(exchange, where)
    else:
        write_events(exchange, _NOTICE)
    return True


def close_whole(exchange: "Exchange", where: Seam) -> None:
    """End a stream of which nothing but its end was missing."""
    if not where.so_far.done:
        write_events(exchange, where.ended())
    close_stream(exchange)
    exchange.completed(200, _counted(where), 0.0)


class Kept(Splice):
    """Splice whole events, and know what was given. The client is at the end of an event, and of a chunk, all the time."""

    __slots__ = ("_partial", "_so_far", "_usual")

    def __init__(self, exchange: "Exchange", head: ResponseHead) -> None:
        super().__init__(exchange, head)
        self._partial = b""
        self._so_far = SoFar()
        self._usual = _NEVER
        """How the chunks of this stream end that are neither an error nor the last: to compare it costs least."""

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        if self._chunks is not None:
            super().body(data, chunks)
            return
        if self._raw and self.begun and chunks and not self._partial and not chunks.left and data.endswith(b"\n\n\r\n"):
            self._pass_on(data, chunks)  # whole events in whole chunks, as engines send them
            return
        self._partial += b"".join(contents(data, chunks))
        self._events += data.count(b"data:")
        end = _END.match(self._partial)
        size = end.end() if end else 0
        if not size and len(self._partial) > EVENT_BYTES:
            self._so_far.intact, size = False, len(self._partial)
        events, self._partial = self._partial[:size], self._partial[size:]
        if events:
            self._pass(events)

    def _pass_on(self, data: bytes, chunks: Chunks) -> None:
        count = chunks.count + 1
        data = chunks.walk(data)
        if chunks.left:  # it only looked like their end: now it must pass as it comes
            self._so_far.intact, self._chunks = False, chunks
        elif (chunks.count != count or not data.endswith(self._usual)) and self._fails(data, one=chunks.count == count):
            pieces: list[bytes] = []
            Chunks().walk(data, pieces)
            self._pass(b"".join(pieces))
            return
        self._keep(data)
        self._client.write(data)

    def _fails(self, data: bytes, *, one: bool) -> bool:
        """Whether the engine fails the answer in these chunks, or in this one."""
        if (not one or data.find(_ERROR_START, 0, 32) >= 0) and _ERROR_START in data:
            return True
        if gave_up(data):
            return True
        if one and self._usual is _NEVER and (at := data.rfind(_UNFINISHED)) >= 0:
            end = data[at:]
            # llama.cpp has its text behind the reason; it never gives up in this way, and its errors end otherwise.
            self._usual = data[-16:] if b'"delta"' in end or b'"text"' in end else end
        return False

    def _pass(self, events: bytes) -> bool:
        """Events that do not come as they can be passed on: the first, parts of chunks, failures. False: the engine failed."""
        if b'{"error"' in events and (found := _ERROR.search(events)):
            refusal = event_error(found[1].strip())
            if not self.begun:
                self._exchange.failed(refusal)
                return False
            if refusal.elsewhere:  # the engine tells those whose answers it cannot complete
                self._exchange.lost(f"{self._exchange.replica} answered: {refusal.message}")
                return False
        if gave_up(events):
            self._exchange.lost(f"{self._exchange.replica} aborted it")
            return False
        if not self.begun and not (events := events.removeprefix(b"data: null\n\n")):
            return True
        head = b"" if self.begun else self._own_head()
        self.begun = True
        data = chunk(events) if self._chunked else events
        self._keep(data)
        self._client.write(head + data)
        return True

    def _keep(self, data: bytes) -> None:
        if not self._first_at and b"data:" in data:
            self._first_at = self._exchange.first_byte()
        self._pieces.append(data)
        self._kept += len(data)
        if self._kept > KEPT_BYTES:
            self._read()

    def _read(self) -> None:
        """Read all but the last events, which tell whether the stream is complete and what it used."""
        pieces, size, at = self._pieces, 0, len(self._pieces)
        while at and size < TAIL_BYTES:
            at -= 1
            size += len(pieces[at])
        self._so_far.read(b"".join(pieces[:at]), chunked=self._chunked)
        self._pieces, self._kept = pieces[at:], size

    def all_so_far(self) -> SoFar:
        """Everything that the client has."""
        self._so_far.read(self._tail, chunked=self._chunked)
        self._pieces, self._kept = [], 0
        return self._so_far

    def ended(self) -> None:
        rest, self._partial = self._partial, b""
        if rest and self._so_far.intact and b"[DONE]" in rest and not self._pass(rest):  # its last line end is missing
            return
        super().ended()

    def farewell(self, event: bytes) -> bytes:
        return framed(self._exchange, event) if self._so_far.intact else super().farewell(event)


class Continuing:
    """The rest of an answer, from another replica."""

    __slots__ = ("_exchange", "_first_at", "_gone", "_partial", "_said", "begun", "seam")

    def __init__(self, exchange: "Exchange", where: Seam) -> None:
        self._exchange = exchange
        self.seam = where
        self._partial = b""
        self._said = False
        self._gone = False  # the replica: what else came from it in the same read is no part of the answer
        self._first_at = 0.0
        self.begun = True  # by the replica before

    def body(self, data: bytes, chunks: Chunks | None) -> None:
        *lines, self._partial = (self._partial + b"".join(contents(data, chunks))).split(b"\n")
        if len(self._partial) > EVENT_BYTES:
            raise BrokenAnswer("an event does not end")
        for line in lines:
            if self._gone or self.seam.stopped or self._exchange.over:
                break
            if line.startswith(b"data:"):
                self._event(line[5:].strip())
        if self.seam.stopped and not self._gone and not self._exchange.over:
            self._exchange.leave_engine()
            write_events(self._exchange, self.seam.ended())
            self.ended()

    def _event(self, data: bytes) -> None:
        if data in (b"null", b""):
            return
        if data.startswith(b'{"error"'):
            self._lose(f"answered: {event_error(data).message}")
            return
        if gave_up(data):
            self._lose("aborted it")
            return
        try:
            event = self.seam.ended() if data == b"[DONE]" else self.seam.feed(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BrokenAnswer(f"an event is not JSON: {data[:60]!r}") from None
        if event:
            self._write(event)

    def _lose(self, what: str) -> None:
        self._gone = True
        self._exchange.lost(f"{self._exchange.replica} {what}")

    def _write(self, event: bytes) -> None:
        if not self._said:
            self._said = True
            self._first_at = self._exchange.first_byte()
            self._exchange.model.stats.resumed += 1
        write_events(self._exchange, event)

    def ended(self) -> None:
        exchange = self._exchange
        if exchange.over:
            return
        if not self.seam.done:
            exchange.broken(f"{exchange.replica} ended the stream without [DONE]", stale=False)
            return
        close_stream(exchange)
        self.settle()

    def given(self) -> bool:
        return self.seam.done

    def settle(self) -> None:
        self._exchange.completed(200, _counted(self.seam), 0.0)

    def farewell(self, event: bytes) -> bytes:
        return framed(self._exchange, event)


def _counted(where: Seam) -> Usage:
    """As the engine counted, where it did; else about one token an event."""
    usage = where.so_far.usage or {}
    return where.usage or Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or where.so_far.given)
