"""Connections to engines: one protocol per connection, one pool per replica, broken ones told apart from finished ones."""

import asyncio
import socket
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from headrace.gateway.http import HEAD_LIMIT, BrokenAnswer, Chunks, ResponseHead, parse_response_head
from headrace.traffic import Endpoint

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 4.0
"""An idle connection is not used for longer, unless the engine says how long it keeps it: uvicorn's default is 5 s."""
IDLE_LIMIT = 256
"""Idle connections kept per replica."""
_FULL_SECONDS = 0.005  # until a full backlog is tried again
_JOIN_LIMIT = 16 * 1024  # below, copying a body behind its head is cheaper than a second buffer


class Answered(Protocol):
    """Who hears what an engine answers. `broken` may come at any time, and is the last call; so is `ended`."""

    def head(self, head: ResponseHead) -> None:
        """The answer's head, complete."""

    def whole(self, head: ResponseHead, body: bytes, now: float) -> None:
        """An answer, no error and no stream, that came in one piece at `now`: instead of `head`, `body` and `ended`."""

    def body(self, data: bytes, upstream: "Upstream") -> None:
        """Bytes of the body with their framing, never the end of a chunked one."""

    def ended(self, upstream: "Upstream") -> None:
        """The answer is complete."""

    def broken(self, reason: str, *, stale: bool) -> None:
        """The answer will not be completed. `stale`: a kept connection was already closed by the engine, nothing was read."""


class Upstream(asyncio.Protocol):
    """A connection to an engine, serving one request after the other."""

    __slots__ = (
        "_bodyless",
        "_buffer",
        "_heard",
        "_left",
        "_paused",
        "_pool",
        "answered",
        "chunks",
        "head",
        "idle_until",
        "transport",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._bodyless = False
        self._buffer = b""
        self._left = 0
        self._heard = False
        self._paused = False
        self.answered: Answered | None = None
        self.chunks: Chunks | None = None
        self.head: ResponseHead | None = None
        self.idle_until = 0.0
        """Until when it may be used again; 0 before its first answer."""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use

    def send(self, answered: Answered, head: bytes, body: bytes, bodyless: bool = False) -> None:
        """Send a complete request; `answered` hears what comes back. A HEAD request is answered without a body."""
        self.answered = answered
        self._bodyless = bodyless
        if self.head is not None:
            self.head = self.chunks = None
        if len(body) < _JOIN_LIMIT:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def pause(self) -> None:
        """Read no more for now: whoever the answer is for reads slowly."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once: the engine sees that its client is gone."""
        self.answered = None
        self._pool.forget(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def sounded(self) -> bool:
        """Whether the engine sent anything since this was last asked; a connection that we do not read counts as well."""
        heard, self._heard = self._heard, False
        return heard or self._paused

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self.answered is None:
            self.abort()  # bytes that nobody asked for
            return
        try:
            if self.head is None:
                data = self._read_head(data)
            if data and self.head is not None:
                self._read_body(data)
        except BrokenAnswer as error:
            self._break(f"{self._pool.replica} sent no legal answer: {error}", stale=False)

    def _read_head(self, data: bytes) -> bytes:
        """Returns what follows the head, once it is complete."""
        rest = self._buffer + data if self._buffer else data
        while True:
            end = rest.find(b"\r\n\r\n")
            if end > HEAD_LIMIT or (end < 0 and len(rest) > HEAD_LIMIT):
                raise BrokenAnswer(f"its head is longer than {HEAD_LIMIT} bytes")
            if end < 0:
                self._buffer = rest
                return b""
            head = parse_response_head(rest[:end])
            rest = rest[end + 4 :]
            if head.status >= 200:  # 1xx are between the engine and us
                break
        if self._buffer:
            self._buffer = b""
        if self._bodyless:
            head = head.without_body()
        elif head.whole and head.length == len(rest):
            now = monotonic()
            self._release(head, now, False).whole(head, rest, now)
            return b""
        if head.framing == "chunked":
            self.chunks = Chunks()
        self.head, self._left = head, head.length
        assert self.answered
        self.answered.head(head)
        if head.framing == "none":
            self._end(extra=bool(rest))
            return b""
        return rest

    def _read_body(self, data: bytes) -> None:
        assert self.head
        answered, chunks = self.answered, self.chunks
        if answered is None:
            return
        if chunks is not None:
            answered.body(data, self)
            if chunks.done:
                self._end(extra=chunks.extra)
        elif self.head.framing == "length":
            extra = len(data) > self._left
            data = data[: self._left] if extra else data
            self._left -= len(data)
            answered.body(data, self)
            if not self._left:
                self._end(extra=extra)
        else:
            answered.body(data, self)

    def _end(self, *, extra: bool) -> None:
        if self.answered is not None and self.head is not None:
            self._release(self.head, monotonic(), extra).ended(self)

    def _release(self, head: ResponseHead, now: float, extra: bool) -> Answered:
        """The connection is free for the next request, if it can carry one; whose answer it carried."""
        answered, self.answered = self.answered, None
        assert answered
        self._heard = False  # that was this answer's sound, not the next one's
        if head.keep_alive and not extra and not self.transport.is_closing():
            if self._paused:
                self.resume()
            self._pool.give_back(self, head.idle_seconds, now)
        else:
            self._pool.forget(self)
            self.transport.close()
        return answered

    def eof_received(self) -> bool:
        if self.answered is not None and self.head is not None and self.head.framing == "close":
            self._end(extra=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        stale = self.idle_until > 0 and self.head is None and not self._buffer
        self._break(f"{self._pool.replica} closed the connection", stale=stale)

    def _break(self, reason: str, *, stale: bool) -> None:
        answered, self.answered = self.answered, None
        self._pool.forget(self)
        self.transport.abort()
        if answered is not None:
            answered.broken(reason, stale=stale)

    def pause_writing(self) -> None:
        """Requests are written whole, from memory that is bounded elsewhere."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


async def _connected(path: str) -> socket.socket:
    """A socket connected to the Unix socket at `path`.

    Linux answers EAGAIN at once while the listener's backlog is full, and llama.cpp's holds five; asyncio takes that for a
    connection that is under way. So it is tried again, within the caller's limit. Raises OSError.
    """
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:
            connection.close()
            await asyncio.sleep(_FULL_SECONDS)
        except OSError:
            connection.close()
            raise
        else:
            return connection


class Pool:
    """The connections to one replica. The one used last is used next, so that the others can grow old."""

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self.endpoint = endpoint
        self.replica = endpoint.replica
        scheme, _, rest = endpoint.address.partition(":")
        host = b"localhost" if scheme == "unix" else rest.removeprefix("//").encode()
        authorization = b"Authorization: Bearer %s\r\n" % endpoint.key.encode() if endpoint.key else b""
        self.lines = b"Host: %s\r\n%s" % (host, authorization)
        """The header lines that each request to the replica has."""
        self._loop = loop
        self._idle: list[Upstream] = []
        self._all: set[Upstream] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, now: float) -> Upstream | None:
        """An idle connection that is fit to be used, or None."""
        while self._idle:
            upstream = self._idle.pop()
            if upstream.idle_until > now and not upstream.transport.is_closing():
                return upstream
            upstream.abort()
        return None

    def connect(self, done: Callable[[Upstream | None, str], None]) -> asyncio.Task[None]:
        """Open a connection; `done` gets it, or None and the reason. Cancelling the task calls nobody."""
        task = self._loop.create_task(self._connect(done))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def _connect(self, done: Callable[[Upstream | None, str], None]) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                upstream = await self._open()
        except (OSError, TimeoutError) as error:
            why = f"did not accept a connection within {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else error
            done(None, f"{self.replica} cannot be reached: {why}")
            return
        self._all.add(upstream)
        done(upstream, "")

    async def _open(self) -> Upstream:
        scheme, _, rest = self.endpoint.address.partition(":")
        if scheme == "unix":
            _, upstream = await self._loop.create_unix_connection(lambda: Upstream(self), sock=await _connected(rest))
        else:
            host, _, port = rest.removeprefix("//").rpartition(":")
            _, upstream = await self._loop.create_connection(lambda: Upstream(self), host.strip("[]"), int(port))
        return upstream

    def give_back(self, upstream: Upstream, idle_seconds: float | None, now: float) -> None:
        """The connection is free again; the engine keeps it for `idle_seconds`, a second less is safe."""
        if self._closed or len(self._idle) >= IDLE_LIMIT:
            upstream.abort()
            return
        upstream.idle_until = now + (IDLE_SECONDS if idle_seconds is None else max(0.0, idle_seconds - 1))
        self._idle.append(upstream)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_old)

    def _close_old(self) -> None:
        """Engines may keep connections for ever; what nobody will use any more is closed."""
        now = monotonic()
        for upstream in [idle for idle in self._idle if idle.idle_until <= now]:
            self._idle.remove(upstream)
            upstream.abort()
        self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_old) if self._idle else None

    def forget(self, upstream: Upstream) -> None:
        """The connection is no more."""
        self._all.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)

    def close(self) -> None:
        """Close what is idle; what is in use ends with its request."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for upstream in list(self._idle):
            upstream.abort()

    def abort(self) -> None:
        """Close everything at once."""
        self.close()
        for task in list(self._connecting):
            task.cancel()
        for upstream in list(self._all):
            upstream.transport.abort()
