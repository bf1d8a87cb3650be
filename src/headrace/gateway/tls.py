"""TLS connections between accept and the end of their handshake: within a time, bounded in number, plain HTTP answered."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from time import monotonic

from headrace.gateway.certificate import Certificate
from headrace.gateway.http import CLOSE, response_head
from headrace.gateway.openai import Refusal

HANDSHAKE_SECONDS = 10.0
"""How long a client may take from its connection to the end of its handshake."""
MOST_HANDSHAKES = 1024
"""At once; one more, and the oldest is given up: who dawdles does not keep others out."""
LINGER_SECONDS = 2.0
"""How long what a client of plain HTTP sends is dropped after its answer: closing at once would reset the connection under it."""
_AT_ONCE = 64
_FULL_SECONDS = 0.25
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1)."""
_PLAIN = Refusal(400, "This address speaks TLS, and the request came in plain HTTP: write https:// in its URL.", "https_needed")

log = logging.getLogger("headrace")


class Handshakes:
    """Accepts from listening sockets and makes a client's protocol of each connection whose handshake is done.

    Our own loop around accept, because asyncio's servers keep one context for life, hand plain HTTP to OpenSSL, which drops it
    without a word, and bound neither how many handshakes go on nor, on every loop, how long.
    """

    def __init__(self, client: Callable[[], asyncio.Protocol], certificate: Certificate) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self._certificate = client, certificate
        self._listening: list[socket.socket] = []
        self._pending: dict[asyncio.Task[None], None] = {}
        self.failed = 0
        """Connections that ended before their handshake."""

    def __len__(self) -> int:
        """Handshakes that go on."""
        return len(self._pending)

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these, which stay their owner's."""
        self._listening = list(sockets)
        for listening in sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accept no more; handshakes that go on may end."""
        for listening in self._listening:
            self._loop.remove_reader(listening)
        self._listening = []

    def close(self) -> None:
        """End all of it."""
        self.stop()
        for task in list(self._pending):
            task.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._loop.remove_reader(listening)
                self._loop.call_later(_FULL_SECONDS, self._accept_again, listening)
                return
            self._begin(connection)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if len(self._pending) >= MOST_HANDSHAKES:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._shake(connection, monotonic() + HANDSHAKE_SECONDS))
        self._pending[task] = None
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        if not task.cancelled():
            task.result()  # what is left is a bug, for the loop's handler

    async def _shake(self, connection: socket.socket, until: float) -> None:
        """From accept to the client's protocol, which owns the connection then."""
        ours = True
        try:
            with contextlib.suppress(OSError):  # gone already
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(until - monotonic()):
                first = await self._first_byte(connection)
            if first == _HANDSHAKE:
                ours, left = False, max(0.001, until - monotonic())
                await self._loop.connect_accepted_socket(
                    self._client, connection, ssl=self._certificate.context, ssl_handshake_timeout=left
                )
                return
            self.failed += 1
            if first.isalpha():
                await self._tell(connection)
        except OSError as error:  # TimeoutError and ssl.SSLError are some of them
            self.failed += 1
            log.debug("a handshake failed: %s", error)
        finally:
            if ours:
                connection.close()

    async def _first_byte(self, connection: socket.socket) -> bytes:
        """What comes first, left where it is; empty when the client leaves before."""
        arrived = self._loop.create_future()
        self._loop.add_reader(connection, _done, arrived)
        try:
            await arrived
        finally:
            self._loop.remove_reader(connection)
        return connection.recv(1, socket.MSG_PEEK)

    async def _tell(self, connection: socket.socket) -> None:
        """Say in plain HTTP that it is the wrong protocol, then let the client finish."""
        body = _PLAIN.envelope()
        lines = b"Content-Type: application/json\r\n"
        head = response_head(b"HTTP/1.1 400 Bad Request\r\n", lines, b"Content-Length: %d\r\n" % len(body), b"-", CLOSE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._loop.sock_sendall(connection, head + body)
                connection.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(connection, 65536):
                    pass


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
