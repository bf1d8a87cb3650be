"""TLS connections between accept and the end of their handshake: within a time, bounded in number, plain HTTP answered."""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from headrace.gateway.accepting import Accepting
from headrace.gateway.certificate import Certificate
from headrace.gateway.connections import Connections, place
from headrace.gateway.http import CLOSE, response_head
from headrace.gateway.openai import Refusal

HANDSHAKE_SECONDS = 10.0
"""How long a client may take from its connection to the end of its handshake."""
MOST_HANDSHAKES = 1024
"""At once; one more, and the oldest is given up: who dawdles does not keep others out."""
LINGER_SECONDS = 2.0
"""How long what a client of plain HTTP sends is dropped after its answer: closing at once would reset the connection under it."""
_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1)."""
_PLAIN = Refusal(400, "This address speaks TLS, and the request came in plain HTTP: write https:// in its URL.", "https_needed")

log = logging.getLogger("headrace")


class Handshakes:
    """Accepts from listening sockets and makes a client's protocol of each connection whose handshake is done.

    Our own loop around accept, because asyncio's servers keep one context for life, hand plain HTTP to OpenSSL, which drops it
    without a word, and bound neither how many handshakes go on nor, on every loop, how long. `connections` are those that are
    through, which handshakes share their limits with.
    """

    def __init__(self, client: Callable[[], asyncio.Protocol], certificate: Certificate, connections: Connections) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self._certificate, self._connections = client, certificate, connections
        self._accepting = Accepting(self._begin)
        self._pending: dict[asyncio.Task[None], str] = {}  # the oldest first, with what each is counted under
        self._places: Counter[str] = Counter()
        self.failed = 0
        """Connections that ended before their handshake."""

    def __len__(self) -> int:
        """Handshakes that go on."""
        return len(self._pending)

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these, which stay their owner's."""
        self._accepting.start(sockets)

    def stop(self) -> None:
        """Accept no more; handshakes that go on may end."""
        self._accepting.stop()

    def close(self) -> None:
        """End all of it."""
        self.stop()
        for task in list(self._pending):
            task.cancel()

    def _begin(self, connection: socket.socket, address: Any) -> None:
        connection.setblocking(False)
        where = place(address[0])
        self._make_room(where)
        task = self._loop.create_task(self._shake(connection, monotonic() + HANDSHAKE_SECONDS))
        self._pending[task] = where
        self._places[where] += 1
        task.add_done_callback(self._over)

    def _make_room(self, where: str) -> None:
        """For one more the oldest goes that there is no room for beside it. Where all room is taken by connections that are
        through, the new one is told so once it is.
        """
        over = self._connections.crowded(where, len(self._pending) + 1, self._places[where] + 1)
        if over is None and len(self._pending) < MOST_HANDSHAKES:
            return
        oldest = next((task for task, other in self._pending.items() if over != "address" or other == where), None)
        if oldest is not None:
            if over is not None:
                self._connections.refused[over] += 1
            self._forget(oldest)
            oldest.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        where = self._pending.pop(task, None)
        if where is not None:
            self._places[where] -= 1
            if not self._places[where]:
                del self._places[where]

    def _over(self, task: asyncio.Task[None]) -> None:
        self._forget(task)
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
