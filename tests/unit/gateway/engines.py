"""Engines that say exactly the bytes that a test wants, over TCP or a Unix socket, and tell who left."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

WAIT_SECONDS = 10.0
"""The longest that a test waits for what it claims."""


async def eventually(true: Callable[[], Any], what: str, within: float = WAIT_SECONDS) -> None:
    """Return once `true()` is; fail the test when it is not `within` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within
    while not true():
        assert loop.time() < until, f"not within {within} s: {what}"
        await asyncio.sleep(0.002)


async def settled(value: Callable[[], Any], quiet: float = 0.25) -> Any:
    """`value()` once it has not changed for `quiet` seconds: the only way to see that nothing more happens."""
    loop = asyncio.get_running_loop()
    last, since = value(), loop.time()
    while loop.time() - since < quiet:
        await asyncio.sleep(0.01)
        if (now := value()) != last:
            last, since = now, loop.time()
    return last


class Asked:
    """One request as it reached an engine, and the way to answer it."""

    def __init__(self, line: "Line", head: bytes, body: bytes) -> None:
        self.line = line
        self.head = head
        self.body = body
        first, *fields = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = first.split(" ")
        self.fields = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        self.headers = dict(self.fields)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def model(self) -> str:
        return self.json["model"]

    def write(self, data: bytes) -> None:
        """Nothing is written to a gateway that has left, as a kernel would have it."""
        if not self.line.lost.is_set():
            self.line.transport.write(data)

    async def writes(self, *pieces: bytes) -> None:
        """Each piece arrives in a read of its own."""
        for number, piece in enumerate(pieces):
            for _ in range(3 * bool(number)):
                await asyncio.sleep(0)  # a round of the loop, in which the gateway reads
            self.write(piece)

    def close(self) -> None:
        """FIN, after what was written."""
        if not self.line.lost.is_set():
            self.line.transport.close()

    def reset(self) -> None:
        """RST where there is such a thing, at once."""
        if self.line.lost.is_set():
            return
        sock = self.line.transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.line.transport.abort()

    async def left(self) -> None:
        """Return when the gateway has closed its side."""
        await asyncio.wait_for(self.line.lost.wait(), WAIT_SECONDS)


Script = Callable[[Asked], Awaitable[None]]


class Line(asyncio.Protocol):
    """A connection from the gateway."""

    def __init__(self, engine: "ScriptedEngine") -> None:
        self.engine = engine
        self.lost = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.buffer = b""
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.engine.lines.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.writable.set()
        if self.task is not None and not self.task.done():
            self.engine.abandoned += 1

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            asked = Asked(self, self.buffer[:end], b"")
            length = int(asked.headers.get("content-length", "0"))
            if len(self.buffer) < end + 4 + length:
                return
            asked.body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self._answer(asked)

    def _answer(self, asked: Asked) -> None:
        engine = self.engine
        if self.task is not None and not self.task.done():
            engine.wrong.append("a request was sent while another was running on the same connection")
        engine.asked.append(asked)
        self.task = asyncio.get_running_loop().create_task(engine.run(asked))


class ScriptedEngine:
    """Runs `script` for each request. Everything that a test may ask about is counted."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.lines: list[Line] = []
        self.running = 0
        self.most = 0
        """Requests running at once, at most."""
        self.abandoned = 0
        """Connections that closed while a request was running."""
        self.wrong: list[str] = []
        self.address = ""
        self._server: asyncio.Server | None = None

    async def open(self, path: Path | None = None) -> None:
        loop = asyncio.get_running_loop()
        if path is not None:
            self._server = await loop.create_unix_server(lambda: Line(self), str(path))
            self.address = f"unix:{path}"
        else:
            self._server = await loop.create_server(lambda: Line(self), "127.0.0.1", 0)
            self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def run(self, asked: Asked) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.script(asked)
        except Exception as error:
            self.wrong.append(f"the script failed: {error!r}")
        finally:
            self.running -= 1

    async def was_asked(self, times: int = 1) -> Asked:
        """The last request, once `times` have come."""
        await eventually(lambda: len(self.asked) >= times, f"{times} requests at the engine")
        return self.asked[-1]

    @property
    def open_lines(self) -> int:
        return sum(not line.lost.is_set() for line in self.lines)

    def stop_listening(self) -> None:
        assert self._server is not None
        self._server.close()

    async def close(self) -> None:
        self.stop_listening()
        for line in self.lines:
            if line.task is not None:
                line.task.cancel()
            line.transport.abort()
        await eventually(lambda: not self.open_lines, "the engine's connections are closed")
        await asyncio.gather(*(line.task for line in self.lines if line.task), return_exceptions=True)


# ---- what engines say


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


LAST = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"there","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'  # noqa: E501


def whole(body: bytes = ANSWER, status: bytes = b"200 OK", *fields: bytes) -> bytes:
    """A complete answer in JSON."""
    lines = (b"Content-Type: application/json", b"Content-Length: %d" % len(body), *fields)
    return b"HTTP/1.1 %s\r\n%s\r\n\r\n%s" % (status, b"\r\n".join(lines), body)


def event(content: str = "Hi", finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat's stream."""
    delta = {"content": content} if content else {}
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "there",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(value | more, separators=(",", ":")).encode() + b"\n\n"


EVENTS = (
    event("H"),
    event("i"),
    event("", "stop"),
    event("", usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}, choices=[]),
    DONE,
)


async def answers(asked: Asked) -> None:
    """As engines do: a stream for those who asked for one, one answer for the others."""
    if asked.json.get("stream"):
        asked.write(STREAM + b"".join(chunk(each) for each in EVENTS) + LAST)
    else:
        asked.write(whole())


def says(*pieces: bytes, then: str = "wait") -> Script:
    """A script that writes the pieces, each arriving in a read of its own; `then` `close`s, `reset`s or waits."""

    async def script(asked: Asked) -> None:
        await asked.writes(*pieces)
        if then == "close":
            asked.close()
        elif then == "reset":
            asked.reset()

    return script


async def holds(asked: Asked) -> None:
    """Never answers: returns when the gateway has left."""
    await asked.left()


def streams_and_holds(*events: bytes) -> Script:
    """Sends the events and then nothing more until the gateway has left."""

    async def script(asked: Asked) -> None:
        asked.write(STREAM + b"".join(chunk(each) for each in events))
        await asked.left()

    return script


class Gate:
    """A script whose answers wait until they are let through."""

    def __init__(self, script: Script = answers) -> None:
        self._script = script
        self._open = asyncio.Semaphore(0)

    async def __call__(self, asked: Asked) -> None:
        await self._open.acquire()
        await self._script(asked)

    def let(self, count: int = 1) -> None:
        """Let `count` of the requests through that wait, or come later."""
        for _ in range(count):
            self._open.release()


def in_turn(*scripts: Script) -> Script:
    """One script for each request, the last for all that follow."""
    left = list(scripts)

    async def script(asked: Asked) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked)

    return script
