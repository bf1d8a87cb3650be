"""The load of a soak: clients of every kind, each request with an outcome that is named, or that is wrong."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

WAIT_SECONDS = 60.0
"""The longest that any request may take, waiting for a replica that was killed included."""


class Wrong(Exception):
    """An answer that must not be: cut without an error, another's, of a status that nothing explains."""


class Clients:
    """Sends requests, and counts how they ended: `outcomes` by kind and end, `valid` those that the gateway must count."""

    def __init__(self, port: int, draw: Random) -> None:
        self.port, self.draw = port, draw
        self.keys: list[str] = []
        """Those in force, the newest last."""
        self.revoked: dict[str, float] = {}
        self.outcomes: Counter[str] = Counter()
        self.valid = 0
        self.wrong: list[str] = []
        self._serial = 0

    async def work(self, until: float) -> None:
        """One client: request after request, of a kind that is drawn."""
        kinds: list[Callable[[], Awaitable[str]]] = [
            *(self.whole,) * 4, *(self.streamed,) * 5, *(self.embedded,) * 3, *(self.messages,) * 2, self.bad, self.unknown,
            self.slow, self.leaves, self.half_a_head, self.garbage, self.pipelined, self.faulty, self.without_key,
        ]  # fmt: skip
        while time.monotonic() < until:
            kind = self.draw.choice(kinds)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    self.outcomes[f"{kind.__name__}: {await kind()}"] += 1
            except (Wrong, TimeoutError, OSError, ValueError, EOFError) as error:
                self.outcomes[f"{kind.__name__}: WRONG"] += 1
                self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}"[:300])

    # ---- kinds of requests

    async def whole(self) -> str:
        return await self._asked("/v1/chat/completions", self._chat(), _said)

    async def streamed(self) -> str:
        return await self._asked("/v1/chat/completions", self._chat(stream=True), _streamed)

    async def embedded(self) -> str:
        return await self._asked("/v1/embeddings", {"model": "vectors", "input": "a b c"}, _vector)

    async def messages(self) -> str:
        return await self._asked("/v1/messages", self._chat(max_tokens=8), _message)

    async def bad(self) -> str:
        """A body that is no JSON, is refused, and its connection serves on."""
        async with self._connection() as (reader, writer):
            self._send(writer, "/v1/chat/completions", b'{"model": "chat", ', self.keys[-1])
            status, _, _ = await _answer(reader)
            return self._status(status, {400}, self.keys[-1])

    async def unknown(self) -> str:
        async with self._connection() as (reader, writer):
            self._send(writer, "/v1/chat/completions", _json(self._chat(model="nobody")), self.keys[-1])
            status, _, _ = await _answer(reader)
            return self._status(status, {404}, self.keys[-1])

    async def without_key(self) -> str:
        async with self._connection() as (reader, writer):
            self._send(writer, "/v1/chat/completions", _json(self._chat()), "sk-not-a-key")
            status, _, _ = await _answer(reader)
            return self._status(status, {401}, "")

    async def slow(self) -> str:
        """Reads a byte now and then."""
        return await self._asked("/v1/chat/completions", self._chat(stream=True), _streamed, slowly=True)

    async def leaves(self) -> str:
        """Hangs up in the middle of its answer."""
        async with self._connection() as (reader, writer):
            self._send(writer, "/v1/chat/completions", _json(self._chat(stream=True)), key := self.keys[-1])
            head = await reader.readuntil(b"\r\n\r\n")
            if (status := int(head[9:12])) != 200:
                return self._status(status, set(), key)
            await reader.read(20)
            self.valid += 1
            writer.transport.abort()
            return "left"

    async def half_a_head(self) -> str:
        async with self._connection() as (_, writer):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
            await writer.drain()
            await asyncio.sleep(self.draw.random() * 0.2)
            writer.transport.abort()
            return "left"

    async def garbage(self) -> str:
        """Bytes that are no HTTP are refused and the connection closed."""
        async with self._connection() as (reader, writer):
            writer.write(self.draw.randbytes(60) + b"\r\n\r\n")
            data = await reader.read()
            if b" 400 " not in data[:30]:
                raise Wrong(f"garbage was answered {data[:80]!r}")
            return "refused"

    async def pipelined(self) -> str:
        """Three at once on one connection, answered in order."""
        async with self._connection() as (reader, writer):
            asked, key = [self._chat() for _ in range(3)], self.keys[-1]
            for body in asked:
                self._send(writer, "/v1/chat/completions", _json(body), key)
            for body in asked:
                status, _, answer = await _answer(reader)
                if (ended := self._judged(status, answer, body, _said, key)) != "whole":
                    return ended
            return "whole"

    async def faulty(self) -> str:
        """An engine that dies or errs at it: another one answers, or an error says so."""
        fault = self.draw.choice(("die-before-head", "500", "503", "garbage-head", "die-mid-stream", "cut-without-done"))
        body = self._chat(stream=self.draw.random() < 0.7) | {"user": f"fault:{fault}"}
        return await self._asked("/v1/chat/completions", body, _streamed if body["stream"] else _said)

    # ---- how they are sent and judged

    def _chat(self, *, stream: bool = False, **more: Any) -> dict[str, Any]:
        self._serial += 1
        said = [{"role": "user", "content": f"question {self._serial} " + "word " * self.draw.randrange(30)}]
        return {"model": "chat", "messages": said, "stream": stream, "max_tokens": self.draw.choice((4, 16, 60))} | more

    async def _asked(self, path: str, body: dict[str, Any], right: Callable[[bytes], bool], *, slowly: bool = False) -> str:
        async with self._connection() as (reader, writer):
            self._send(writer, path, _json(body), key := self.keys[-1])
            status, whole, answer = await _answer(reader, slowly=slowly)
            if not whole and b'"error"' not in answer:
                raise Wrong(f"cut without an error: {answer[-200:]!r}")
            return self._judged(status, answer, body, right, key)

    def _judged(self, status: int, answer: bytes, body: dict[str, Any], right: Callable[[bytes], bool], key: str) -> str:
        if status == 401:
            return self._status(status, set(), key)
        self.valid += 1
        if status == 200 and b'"error"' not in answer:
            if not right(answer):
                raise Wrong(f"not the answer to {body}: {answer[:300]!r}")
            return "whole"
        if status == 200:
            return "an error in the stream"
        return self._status(status, {429, 500, 502, 503}, key)

    def _status(self, status: int, wanted: set[int], key: str) -> str:
        if status in wanted:
            return f"{status}"
        if status == 401 and key in self.revoked:
            return "401 after its key was revoked"
        if status == 401 and key == self.keys[-1]:
            return "401 before its key was known"
        raise Wrong(f"status {status}")

    def _send(self, writer: asyncio.StreamWriter, path: str, body: bytes, key: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    @contextlib.asynccontextmanager
    async def _connection(self) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def _answer(reader: asyncio.StreamReader, *, slowly: bool = False) -> tuple[int, bool, bytes]:
    """Status, whether it is whole, and the body without framing."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    except asyncio.IncompleteReadError as error:
        raise Wrong(f"no answer: {error.partial[:100]!r}") from None
    status = int(head[9:12])
    length = head.partition(b"\ncontent-length:")[2].partition(b"\r")[0].strip()
    body = b""
    try:
        if length:
            return status, True, await reader.readexactly(int(length))
        while True:
            if slowly:
                await asyncio.sleep(0.02)
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
            data = await reader.readexactly(size + 2)
            body += data[:-2]
            if not size:
                return status, True, body
    except asyncio.IncompleteReadError as error:
        return status, False, body + error.partial
    except ConnectionError:
        return status, False, body


def _said(answer: bytes) -> bool:
    return bool(json.loads(answer)["choices"][0]["message"]["content"])


def _streamed(answer: bytes) -> bool:
    return answer.rstrip().endswith(b"data: [DONE]") and b'"content"' in answer


def _vector(answer: bytes) -> bool:
    return len(json.loads(answer)["data"][0]["embedding"]) > 0


def _message(answer: bytes) -> bool:
    return json.loads(answer)["type"] == "message"
