"""The server's end of an HTTP/1.1 connection, for fakes: requests in, answers out, and a look at whether the client
left.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

REASONS = {
    **{200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"},
    **{422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error"},
}
ACCEL = MappingProxyType({"X-Accel-Buffering": "no"})
LLAMACPP = {"Server": "llama.cpp", "Access-Control-Allow-Origin": ""}
KEEP_ALIVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body or b"{}")


class Connection:
    """One client. `left` is set once the client has closed its side; `served` counts the requests before the present
    one; `every` are headers that all answers have.
    """

    def __init__(self, reader: "_Reader", writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._keep = True
        self.left = reader.left
        self.served = 0
        self.every: Mapping[str, str] = LLAMACPP

    async def requests(self, answer: Callable[["Connection", Received], Awaitable[None]]) -> None:
        """Answer one request after the other until the client leaves, asks to close, or says nothing for 5 s."""
        try:
            while self._keep and (request := await self._next()):
                await answer(self, request)
                self.served += 1
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError):
            pass  # the client left, fell silent, or does not speak HTTP
        except asyncio.CancelledError:
            self.die(reset=True)
            raise
        finally:
            self._writer.close()

    async def _next(self) -> Received | None:
        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        self._keep = headers.get("connection", "").lower() != "close"
        return Received(method, path, headers, body)

    async def reply(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json; charset=utf-8",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """A whole answer."""
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(body)), **headers})
        self._writer.write(body)
        await self._writer.drain()

    async def reply_json(self, status: int, value: Any, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """A whole answer in JSON."""
        await self.reply(status, json.dumps(value, separators=(",", ":")).encode(), headers=headers)

    def begin_stream(self, kind: str = "text/event-stream", headers: Mapping[str, str] = ACCEL) -> None:
        """The head of a stream of events."""
        self._head(200, {**headers, "Content-Type": kind, "Transfer-Encoding": "chunked"})

    async def send(self, data: bytes) -> None:
        """A piece of the stream, as one chunk."""
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        with contextlib.suppress(OSError):  # `left` says it
            await self._writer.drain()

    async def end_stream(self) -> None:
        """The last chunk."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def raw(self, data: bytes) -> None:
        """Bytes that need not be HTTP."""
        self._writer.write(data)

    def die(self, reset: bool = False) -> None:
        """Close without another word; with `reset`, throwing away what was not sent yet. Over TCP the client then gets
        a reset, over a Unix socket an end, as from a process that was killed.
        """
        self._keep = False
        if reset and not self._writer.transport.is_closing():
            end = self._writer.get_extra_info("socket")
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        close = {"Keep-Alive": "timeout=5, max=100"} if self._keep else {"Connection": "close"}
        every = {**self.every, **headers, **close}
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Service Unavailable')}"]
        lines += [f"{name}: {value}" for name, value in every.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())


class _Reader(asyncio.StreamReader):
    """Says at once when the other side has closed, while nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 20)
        self.left = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.left.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.left.set()


def listener(address: str) -> socket.socket:
    """A socket that listens at `unix:/path` or `http://host:port`."""
    if address.startswith("unix:"):
        found = socket.socket(socket.AF_UNIX)
        found.bind(address.removeprefix("unix:"))
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        found = socket.create_server((host, int(port)))
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited; asyncio would not: accept() forgets the protocol
    found.listen(1024)
    found.setblocking(False)
    return found


async def accept(found: socket.socket, serve: Callable[[Connection], Awaitable[None]], closed: asyncio.Event) -> None:
    """Call `serve` with each connection, up to the first after `closed` is set. Neither `loop.create_server` nor
    cancelling this will do: both may lose a connection that comes at that moment, and never close it.
    """
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(found)
        if closed.is_set():
            client.close()
            return
        await loop.connect_accepted_socket(lambda: _protocol(serve), client)


def knock(found: socket.socket) -> None:
    """Connect to a listening socket, so that `accept` looks up."""
    with socket.socket(found.family) as client:
        client.connect(found.getsockname())


def _protocol(serve: Callable[[Connection], Awaitable[None]]) -> asyncio.Protocol:
    reader = _Reader()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(Connection(reader, writer))

    return asyncio.StreamReaderProtocol(reader, connected)
