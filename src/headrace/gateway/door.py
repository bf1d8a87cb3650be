"""Where clients come in: the listening sockets, with TLS or without; closed, opened again, or those of another process."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from headrace.errors import HeadraceError
from headrace.gateway.certificate import Certificate
from headrace.gateway.connections import Connections
from headrace.gateway.tls import Handshakes

_BACKLOG = 4096
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What a machine without IPv6 says of ::1, which is localhost too."""


class ListenError(HeadraceError):
    """The address cannot be listened on."""

    exit_code = 69


class Door:
    """The listening sockets of a gateway. `client` makes the protocol of a connection, which `connections` counts."""

    def __init__(self, client: Callable[[], asyncio.Protocol], certificate: Certificate | None, connections: Connections) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self.certificate = client, certificate
        self._handshakes = Handshakes(client, certificate, connections) if certificate is not None else None
        self._servers: list[asyncio.Server] = []
        self.sockets: list[socket.socket] = []
        """They listen as long as they are open, here or in another process."""

    @property
    def scheme(self) -> str:
        """Of the gateway's URL."""
        return "http" if self._handshakes is None else "https"

    @property
    def address(self) -> tuple[str, int]:
        """The host and port really used, which differ from those asked for with port 0."""
        host, port = self.sockets[0].getsockname()[:2]
        return host, port

    @property
    def handshakes(self) -> int:
        """How many go on."""
        return len(self._handshakes) if self._handshakes is not None else 0

    @property
    def tls(self) -> tuple[float, int] | None:
        """(seconds until the certificate's end, handshakes that failed so far)"""
        if self.certificate is None or self._handshakes is None:
            return None
        return self.certificate.seconds_left, self._handshakes.failed

    async def open(self, host: str, port: int) -> None:
        """Listen, and accept clients. Raises ListenError."""
        try:
            self.sockets = await _bound(host, port)
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}.",
                "Stop what listens there, choose another port (gateway.listen in the file, or --listen), or take a running "
                "Headrace's place: --takeover.",
            ) from None
        await self.start()

    async def start(self) -> None:
        """Accept clients from `sockets`."""
        if self._handshakes is not None:
            self._handshakes.start(self.sockets)
            return
        for listening in self.sockets:  # a server closes what it listens on, and these shall stay
            self._servers.append(await self._loop.create_server(self._client, sock=listening.dup(), backlog=_BACKLOG))

    def stop(self) -> None:
        """Accept nobody; whoever comes waits, in the kernel, for `start` here or in another process."""
        if self._handshakes is not None:
            self._handshakes.stop()
        for server in self._servers:
            server.close()
        self._servers.clear()

    def close(self) -> None:
        """Whoever comes is refused, unless another process has the sockets too."""
        self.stop()
        for listening in self.sockets:
            listening.close()
        self.sockets = []

    def abort(self) -> None:
        """End handshakes that go on."""
        if self._handshakes is not None:
            self._handshakes.close()


async def addresses(host: str) -> list[tuple[Any, ...]]:
    """(family, address, …) for each that a name stands for, as localhost does for two. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, where[0], *where[2:]) for family, _, _, _, where in found))


async def _bound(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of `host` that this machine has. Raises OSError."""
    made: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address, *more in await addresses(host):
            try:
                made.append(_listening(family, (address, port, *more)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                port = made[0].getsockname()[1]
        if not made and missing is not None:
            raise missing
    except OSError:
        for listening in made:
            listening.close()
        raise
    return made


def _listening(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
