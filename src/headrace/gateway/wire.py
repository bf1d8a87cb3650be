"""Clients' connections: answer their requests in order, keep alive, press back on both sides, notice who left."""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from headrace.gateway.access_log import tell_refused
from headrace.gateway.connections import place
from headrace.gateway.envelope import envelope
from headrace.gateway.http import CLOSE, Request, RequestHead, response_head
from headrace.gateway.openai import Refusal
from headrace.gateway.reading import Reader

if TYPE_CHECKING:
    from headrace.gateway.access_log import AccessLog
    from headrace.gateway.accounts import Account
    from headrace.gateway.gateway import Gateway

READ_SECONDS = {"idle": 75.0, "head": 15.0, "body": 120.0}
"""How long a connection may be without a request, and how long a client may take to send a head or a body."""
LINGER_SECONDS = 2.0
"""After a refusal in the middle of a body: how long the rest is read and dropped, so that the client can read the answer."""
UNREAD_SECONDS = 300.0
"""How long a client may leave its answer unread: in that time it has to read `WRITE_HIGH_WATER` bytes, or what there is."""
WRITE_HIGH_WATER = 64 * 1024
"""Bytes of an unread answer at which the engine is no longer read."""
REFUSED_AT_ONCE = 64
"""Connections beyond the limits that are told so; further ones are closed at once."""
BACKLOG_LIMIT = 256 * 1024
"""Bytes of further requests kept while one is answered."""

_KEPT = b"Connection: keep-alive\r\n"  # clients of HTTP/1.0 must be told: they wait for the connection's end otherwise
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_JSON = b"Content-Type: application/json\r\n"


class Work(Protocol):
    """What answers a request: an exchange with an engine, or a call of the admin application."""

    def cancel(self) -> None:
        """The client is gone."""

    def pause(self) -> None:
        """The client reads slowly."""

    def resume(self) -> None:
        """The client caught up."""


class Client(asyncio.Protocol):
    """One connection. Requests are answered one after the other, in the order they came."""

    __slots__ = (
        "_backlog",
        "_close",
        "_deadline",
        "_head",
        "_lingers",
        "_paused_at",
        "_paused_reading",
        "_phase",
        "_reader",
        "_unread",
        "_work",
        "account",
        "address",
        "gateway",
        "held",
        "place",
        "sent",
        "told",
        "transport",
    )

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self._reader = Reader(gateway.heads, gateway.judge, gateway.body_limit, self._go_on)
        self._backlog = b""
        self._work: Work | None = None
        self._head: RequestHead | None = None
        self._close = False
        self._lingers = False
        self._paused_at = 0.0
        self._paused_reading = False
        self._phase = "idle"
        self._deadline = 0.0
        self._unread = 0
        self.held = 0
        """Bytes of a body that is not complete yet."""
        self.address = self.place = ""
        """Of whoever is connected: an IP address, or nothing; and what it is counted under."""
        self.account: Account | None = None
        """Of the key that was used last."""
        self.sent = 0
        """Bytes of the present answer so far."""
        self.told = b""
        """Header lines of the present answer that tell its client of the limits of its key."""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._deadline = self.gateway.now() + READ_SECONDS["idle"]
        if isinstance(peer := transport.get_extra_info("peername"), tuple):
            self.address, self.place = peer[0], place(peer[0])
        if refusal := self.gateway.admit(self):
            self._turn_away(refusal)

    def _turn_away(self, refusal: Refusal) -> None:
        self._lingers = self._close = True
        turned_away = self.gateway.connections.turned_away
        if len(turned_away) >= REFUSED_AT_ONCE:
            self.transport.abort()
            return
        turned_away.add(self)
        self.refuse(refusal, b"-")
        self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.clients.discard(self)
        self.gateway.connections.closed(self)
        self._lingers = True  # what is still to be read or answered is not any more
        work, self._work = self._work, None
        if work is not None:
            work.cancel()

    def eof_received(self) -> bool:
        """A client that closes its sending side is taken as gone: nothing else tells that it left while it waits."""
        return False

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        known = reader.known if self._work is None and self._phase == "idle" else None
        busy = reader.ready or self._backlog or self._paused_at or self._close or self._lingers or self.transport.is_closing()
        # Most requests come so: whole, with the head of the one before, over a connection where nothing else is to be done.
        if known is not None and not busy and (request := known.request(data, reader.body_limit)) is not None:
            self._head, self._close = known.head, not known.head.keep_alive
            self.gateway.handle(self, request)
            return
        if self._lingers:
            return
        if self._work is not None or self._reader.ready or self._backlog or self._paused_at:  # what came before is read before
            self._keep_for_later(data)
        else:
            self._read(data)
            self._next()

    def pause_writing(self) -> None:
        self._paused_at, self._unread = self.gateway.now(), self.transport.get_write_buffer_size()
        if self._work is not None:
            self._work.pause()

    def resume_writing(self) -> None:
        self._paused_at = 0.0
        if self._work is not None:
            self._work.resume()
        else:
            self._deadline = max(self._deadline, self.gateway.now() + READ_SECONDS[self._phase])
            self._next()

    def tick(self, now: float) -> None:
        """Close what takes too long."""
        if self._paused_at:
            if (unread := self.transport.get_write_buffer_size()) <= self._unread - WRITE_HIGH_WATER:
                self._paused_at, self._unread = now, unread
            elif now > self._paused_at + UNREAD_SECONDS:
                self.transport.abort()
        elif self._work is None and now > self._deadline:
            self._timed_out()

    @property
    def log(self) -> "AccessLog | None":
        """Where it is told how requests ended."""
        return self.gateway.log

    @property
    def idle(self) -> bool:
        """Nothing is being answered or read."""
        return self._work is None and not self._reader.ready and self._reader.phase == "idle" and not self._backlog

    def _read(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        if reader.phase != self._phase:
            self._phase = reader.phase
            self._deadline = self.gateway.now() + READ_SECONDS[self._phase]
        if reader.held != self.held:
            self._count()

    def _count(self) -> None:
        more, self.held = self._reader.held - self.held, self._reader.held
        if refusal := self.gateway.connections.received(more):
            self._reader.refuse(refusal)
            self._count()  # what was read of it is gone

    def _go_on(self) -> None:
        self.transport.write(_CONTINUE)

    def _keep_for_later(self, data: bytes) -> None:
        self._backlog += data
        if len(self._backlog) > BACKLOG_LIMIT and not self._paused_reading:
            self._paused_reading = True
            self.transport.pause_reading()

    def _timed_out(self) -> None:
        if self.transport.is_closing():  # and what is left of its answers is not read
            self.transport.abort()
        elif self._lingers or self._reader.phase == "idle":
            self._end()
        else:
            self._reader.refuse(Refusal(408, "The request did not arrive in time.", "request_timeout"))
            self._next()

    # ---- answering

    def _next(self) -> None:
        """Answer what was read, in order, then read what came meanwhile; nothing while the client leaves its answers unread."""
        while self._work is None and not self._paused_at and not self._lingers and not self.transport.is_closing():
            if self._reader.ready:
                self._answer(self._reader.ready.popleft())
            elif self._backlog:
                backlog, self._backlog = self._backlog, b""
                if self._paused_reading:
                    self._paused_reading = False
                    self.transport.resume_reading()
                self._read(backlog)
            else:
                if self._reader.owes_leave:
                    self._reader.let_go_on()
                return

    def _answer(self, request: Request | Refusal) -> None:
        if isinstance(request, Refusal):
            self._close = True
            self._head = self._reader.refused_head
            request_id = self.gateway.request_id(self._head)
            self.refuse(request, request_id)
            tell_refused(self.gateway, self, self._head, request_id, request)
            self._linger()
        else:
            self._head = request.head
            self._close = not request.head.keep_alive
            self.gateway.handle(self, request)

    def _end(self) -> None:
        """Close, once what was written is read, which takes no longer than it may."""
        self.transport.close()
        self._deadline = self.gateway.now() + UNREAD_SECONDS

    def uses(self, account: "Account | None") -> Refusal | None:
        """The connection asks with the key of `account` now; why it may not."""
        if account is None or account is self.account:
            return None
        if refusal := self.gateway.connections.moved(self.account, account):
            self.close_after()
            return refusal
        self.account = account
        return None

    def _linger(self) -> None:
        """End our side and drop what still comes: closing at once would reset the connection under the answer."""
        self._lingers = True
        self._backlog = b""
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()
        self._deadline = self.gateway.now() + LINGER_SECONDS
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def begin(self, work: Work) -> None:
        """From now on `work` answers, until it calls `finished`."""
        self._work = work
        if self._paused_at:
            work.pause()

    def write(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.sent += len(data)
        self.transport.write(data)

    def respond(self, status: int, body: bytes, lines: bytes, request_id: bytes) -> None:
        """A whole answer."""
        status_line = b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b"Unknown"))
        head = response_head(status_line, lines, b"Content-Length: %d\r\n" % len(body), request_id, self.own_lines())
        bodyless = self._head is not None and self._head.method == "HEAD"
        self.write(head if bodyless else head + body)

    def refuse(self, refusal: Refusal, request_id: bytes) -> None:
        """An answer that is an error."""
        lines = _JSON
        if refusal.retry_after is not None:
            lines += b"Retry-After: %d\r\n" % refusal.retry_after
        if refusal.status == 401:
            lines += b"WWW-Authenticate: Bearer\r\n"  # RFC 9110 11.6.1
        if refusal.allow is not None:
            lines += b"Allow: %s\r\n" % refusal.allow.encode()
        route = self._head.route if self._head is not None else None
        self.respond(refusal.status, envelope(refusal, route), lines, request_id)

    @property
    def scheme(self) -> str:
        """http or https."""
        return self.gateway.door.scheme

    def own_lines(self) -> bytes:
        """What the connection adds to a head: its end, if it ends with this answer, which is kept to; which page may read."""
        if self.gateway.draining:
            self._close = True
        head = self._head
        own = head.cors + self.told if head is not None else self.told
        if self._close:
            return CLOSE + own
        return _KEPT + own if head is not None and head.http10 else own

    def close_after(self) -> None:
        """The end of the connection is the end of this answer."""
        self._close = True

    def finished(self, now: float) -> None:
        """The answer is complete; `now` in monotonic seconds."""
        self._work = None
        self.told, self.sent = b"", 0
        if self._close:
            self._end()
            return
        self._deadline = now + READ_SECONDS["idle"]
        if self._backlog or self._reader.ready or self._reader.owes_leave:
            self.gateway.soon(self._next)
