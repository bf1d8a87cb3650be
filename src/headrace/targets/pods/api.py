"""The API server from inside a pod: the account's token and CA, one GET read line by line, bounded in time and size.

Not lightkube: what is needed is LIST and WATCH of one kind in two API versions, on the loop that clients' streams run on, and its
models and httpx2 would be loaded in every gateway for that. `headrace apply`, which needs much more of the API, uses it.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httptools

from headrace.errors import UsageError
from headrace.spec.addresses import LOOPBACK, joined

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's account."""
CONNECT_SECONDS = 5.0
_READ_BYTES = 256 * 1024
# A dead network says nothing: after 15 s of silence three questions, 5 s apart.
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


class ApiError(OSError):
    """The API server answered with another status than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"it answered {status}: {message}" if message else f"it answered {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Api:
    """Where the API server is. Without an `account` (a folder with `token` and `ca.crt`) it is asked as `kubectl proxy` is."""

    host: str
    port: int
    account: Path | None = None

    def __str__(self) -> str:
        return f"{'https' if self.account else 'http'}://{joined(self.host, self.port)}"


def in_cluster(environment: Mapping[str, str], account: Path = ACCOUNT) -> Api:
    """As a pod is told where it is. Raises UsageError elsewhere."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not port.isdecimal():
        raise UsageError(
            "This is no pod: KUBERNETES_SERVICE_HOST is not set.",
            "Elsewhere run `kubectl proxy` and say --api http://127.0.0.1:8001.",
        )
    if not (account / "token").is_file():
        raise UsageError(f"The pod has no token in {account}.", "Its spec needs automountServiceAccountToken: true.")
    return Api(host, int(port), account)


def proxy(url: str) -> Api:
    """`kubectl proxy` or the like: without TLS and token, hence on loopback only. Raises UsageError."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or host not in LOOPBACK or parts.path not in ("", "/"):
        raise UsageError(f"--api {url} is not http://127.0.0.1:PORT.", "`kubectl proxy` says where it listens.")
    return Api(host or "", port)


async def lines(api: Api, target: str, longest: int) -> AsyncGenerator[bytes, None]:
    """The lines of the answer to `GET target`, as they come. Who calls it says how long that may take.

    Raises ApiError for statuses other than 200, OSError when there is no connection or it breaks, ValueError when a line is
    longer than `longest` or what comes is not HTTP.
    """
    async with _connection(api) as (reader, writer):
        writer.write(_request(api, target))
        async with aclosing(_body(reader, longest)) as body:
            async for line in body:
                yield line


async def whole(api: Api, target: str, largest: int) -> bytes:
    """The body of the answer to `GET target`, which is JSON: see `lines`."""
    async with aclosing(lines(api, target, largest)) as parts:
        return b"".join([part async for part in parts])


@asynccontextmanager
async def _connection(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = ssl.create_default_context(cafile=str(api.account / "ca.crt")) if api.account else None
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(api.host, api.port, ssl=context, limit=_READ_BYTES)
    try:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):  # macOS has other names
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        yield reader, writer
    finally:
        writer.transport.abort()  # a watch has no end of its own, and TLS would wait for one


def _request(api: Api, target: str) -> bytes:
    """The token is read each time: the kubelet replaces it before it expires."""
    token = f"Authorization: Bearer {(api.account / 'token').read_text().strip()}\r\n" if api.account else ""
    head = f"GET {target} HTTP/1.1\r\nHost: {joined(api.host, api.port)}\r\nAccept: application/json\r\nConnection: close\r\n"
    return f"{head}User-Agent: headrace-gateway\r\n{token}\r\n".encode("latin-1")


class _Answer:
    """What httptools tells of the answer while it is fed."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.headed = self.complete = False

    def on_headers_complete(self) -> None:
        self.headed = True

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.complete = True


async def _body(reader: asyncio.StreamReader, longest: int) -> AsyncGenerator[bytes, None]:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    searched = 0
    while not answer.complete:
        data = await reader.read(_READ_BYTES)
        if not data:
            break
        _feed(parser, data)
        if answer.headed and parser.get_status_code() != 200:
            raise ApiError(parser.get_status_code(), await _refusal(reader, parser, answer))
        while (end := answer.data.find(b"\n", searched)) >= 0:
            line = bytes(answer.data[:end])
            del answer.data[: end + 1]
            searched = 0
            if line:
                yield line
        searched = len(answer.data)
        if searched > longest:
            raise ValueError(f"the API server sent a line of more than {longest} bytes")
    if not answer.complete:
        raise ConnectionResetError("the API server closed the connection in the middle of an answer")
    if answer.data:
        yield bytes(answer.data)


async def _refusal(reader: asyncio.StreamReader, parser: httptools.HttpResponseParser, answer: _Answer) -> str:
    """The message of a Status object, or the beginning of whatever else it is."""
    while not answer.complete and len(answer.data) < 65536 and (data := await reader.read(65536)):
        _feed(parser, data)
    return message_of(bytes(answer.data))


def message_of(body: bytes) -> str:
    """What a Status object says; the beginning of the text where it is none."""
    import msgspec

    try:
        told = msgspec.json.decode(body)
        return str(told["message"])[:500]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace").strip()


def _feed(parser: httptools.HttpResponseParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserError as error:
        raise ValueError(f"the API server's answer is not HTTP: {error}") from error


def from_environment(url: str | None) -> Api:
    """The API server that `--api` names, else that of the cluster we are in. Raises UsageError."""
    return proxy(url) if url else in_cluster(os.environ)
