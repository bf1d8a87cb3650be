"""One small HTTP/1.1 request, bounded in time and size, over TCP or a Unix socket: enough to ask an engine how it is."""

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

LARGEST_BODY = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and whole body of a response."""

    status: int
    body: bytes


class ShutDoor(ValueError):
    """The connection was accepted and closed or reset without a byte of an answer, as servers do that let nobody in any more. It
    is reset where the request had arrived before, which is a matter of how busy the machine is.
    """


async def get(address: str, path: str, timeout: float, key: str | None = None) -> Answer:
    """The answer to `GET path`: see `ask`."""
    return await ask(address, "GET", path, b"", timeout, key)


async def ask(address: str, method: str, path: str, body: bytes, timeout: float, key: str | None = None) -> Answer:
    """The answer of `address` (`unix:/path` or `http://host:port`), on a connection of its own; a `body` is JSON.

    Raises TimeoutError after `timeout` seconds, OSError when there is no connection or it breaks, ValueError when what
    comes is not HTTP, is longer than 4 MiB or ends too early (ShutDoor: before it began); nothing else.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await _connect(address)
        try:
            writer.write(_request(address, method, path, body, key))
            return await _read(reader)
        finally:
            writer.close()


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{address} is not an address; write http://host:port")
    return await asyncio.open_connection(parts.hostname, parts.port or 80)


def _request(address: str, method: str, path: str, body: bytes, key: str | None) -> bytes:
    host = "localhost" if address.startswith("unix:") else urlsplit(address).netloc
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method != "GET" else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n{content}{authorization}\r\n"
    return head.encode("latin-1") + body


@dataclass(slots=True)
class _Response:
    """What httptools tells about the response while it is fed."""

    body: bytearray = field(default_factory=bytearray)
    framed: bool = False
    headed: bool = False
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.framed |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.headed = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


async def _read(reader: asyncio.StreamReader) -> Answer:
    response = _Response()
    parser = httptools.HttpResponseParser(response)
    received = 0
    while not response.complete and (data := await _more(reader, first=not received)):
        received += len(data)
        if received > LARGEST_BODY:
            raise ValueError(f"the answer is longer than {LARGEST_BODY} bytes")
        _feed(parser, data)
    if not received:
        raise ShutDoor("the answer ended too early, before it began")
    if not response.complete and (response.framed or not response.headed):  # without a length, its end is the end
        raise ValueError("the answer ended too early")
    return Answer(parser.get_status_code(), bytes(response.body))


async def _more(reader: asyncio.StreamReader, *, first: bool) -> bytes:
    try:
        return await reader.read(65536)
    except ConnectionResetError as error:
        if first:
            raise ShutDoor("the connection was reset before the answer began") from error
        raise


def _feed(parser: httptools.HttpResponseParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserError as error:
        raise ValueError(f"the answer is not HTTP: {error}") from error
