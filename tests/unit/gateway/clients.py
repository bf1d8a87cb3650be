"""A client that sends raw bytes and reads answers strictly: what is not legal HTTP/1.1 fails the test."""

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import Any

from .engines import WAIT_SECONDS

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Say hi"}]


@dataclass
class Answer:
    """What a client got. `whole` is False when the connection ended before the answer did, `rest` what came of an open chunk."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes
    whole: bool
    chunks: list[bytes] = field(default_factory=list)
    rest: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fields)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert set(error) == {"message", "type", "code", "param", "source"}
        assert error["message"]
        assert error["type"]
        return error

    @property
    def events(self) -> list[bytes]:
        """The contents of the data lines of a stream."""
        assert self.headers["content-type"].startswith("text/event-stream")
        return [line[5:].strip() for line in self.body.split(b"\n") if line.startswith(b"data:")]


class Ended(Exception):
    """The connection ended."""


class Client:
    """One connection; every wait is bounded."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self.sock = sock
        self._buffer = b""
        self.ended = False

    # ---- sending

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(self._loop.sock_sendall(self.sock, data), WAIT_SECONDS)

    async def send_bytes_alone(self, data: bytes) -> None:
        """Each byte arrives in a read of its own."""
        for at in range(len(data)):
            await self.send(data[at : at + 1])
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def finish_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    # ---- reading

    async def more(self) -> None:
        """Read something into the buffer. Raises Ended."""
        try:
            data = await asyncio.wait_for(self._loop.sock_recv(self.sock, 65536), WAIT_SECONDS)
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            raise Ended
        self._buffer += data

    async def until(self, mark: bytes) -> bytes:
        """Everything up to `mark`, which is taken as well."""
        while (at := self._buffer.find(mark)) < 0:
            await self.more()
        taken, self._buffer = self._buffer[: at + len(mark)], self._buffer[at + len(mark) :]
        return taken

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self.more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def rest(self) -> bytes:
        """Everything until the connection's end."""
        try:
            while True:
                await self.more()
        except Ended:
            taken, self._buffer = self._buffer, b""
            return taken

    async def gone(self) -> None:
        """The gateway must close, and say nothing more."""
        assert await self.rest() == b""

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer, its framing checked byte by byte. Raises Ended when there is none."""
        head = (await self.until(b"\r\n\r\n"))[:-4].decode("latin-1")
        first, *lines = head.split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        assert "\n" not in head.replace("\r\n", "")
        assert "\r" not in head.replace("\r\n", "")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        answer = Answer(int(status), reason, fields, b"", whole=True)
        names = [name for name, _ in fields]
        for name in ("content-length", "transfer-encoding", "connection", "content-type", "x-request-id"):
            assert names.count(name) <= 1, f"{name} is there more than once"
        assert not {"content-length", "transfer-encoding"} <= set(names), "two framings"
        if not to_head and answer.status >= 200 and answer.status not in (204, 304):
            await self._body(answer)
        return answer

    async def _body(self, answer: Answer) -> None:
        headers = answer.headers
        try:
            if headers.get("transfer-encoding") == "chunked":
                await self._chunks(answer)
            elif "content-length" in headers:
                wanted = int(headers["content-length"])
                while len(self._buffer) < wanted:
                    await self.more()
                answer.body = await self.exactly(wanted)
            else:
                assert headers.get("connection") == "close", "only the connection's end can end this body"
                answer.body = await self.rest()
        except Ended:
            answer.whole = False
            answer.rest, self._buffer = self._buffer, b""
            if "content-length" in headers:
                answer.body = answer.rest

    async def _chunks(self, answer: Answer) -> None:
        while True:
            if b"\r\n" not in self._buffer:
                await self.more()
                continue
            line = self._buffer.partition(b"\r\n")[0]
            size = line.partition(b";")[0]
            assert size, f"an empty size line: {self._buffer[:40]!r}"
            assert set(size) <= set(b"0123456789abcdefABCDEF"), f"not a size line: {line[:40]!r}"
            count = int(size, 16)
            while len(self._buffer) < len(line) + 2 + count + 2:
                await self.more()
            taken = await self.exactly(len(line) + 2 + count + 2)
            assert taken.endswith(b"\r\n"), f"a chunk does not end: {taken[-40:]!r}"
            if not count:
                return
            answer.chunks.append(taken[len(line) + 2 : -2])
            answer.body += answer.chunks[-1]


def request(
    body: bytes = b"",
    *fields: str,
    method: str = "POST",
    target: str = CHAT,
    version: str = "HTTP/1.1",
    host: str | None = "localhost",
    length: bool = True,
) -> bytes:
    """A request, as any client would send it."""
    lines = [f"{method} {target} {version}"]
    lines += [f"Host: {host}"] if host is not None else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if length and (body or method == "POST") else []
    return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1") + body


def get(target: str, *fields: str, method: str = "GET", host: str = "localhost") -> bytes:
    return request(b"", *fields, method=method, target=target, host=host)


def asking(model: str = "chat", **more: Any) -> bytes:
    """The body of a chat."""
    return json.dumps({"model": model, "messages": MESSAGES} | more, separators=(",", ":")).encode()


def chat(*fields: str, model: str = "chat", version: str = "HTTP/1.1", **more: Any) -> bytes:
    """A whole chat request."""
    return request(asking(model, **more), *fields, version=version)
