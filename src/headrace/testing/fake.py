"""A fake llama.cpp: its wire format without a model, and the faults that real ones have, on demand.

`FakeEngine` is an async context manager for tests; headrace.testing.engine makes a program of it. A request asks for a
fault with its `user` field, `"fault:hang"`; `-once` after the name makes it happen to the first such request only.
"""

import asyncio
import contextlib
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Self

from headrace.testing import answers
from headrace.testing.answers import Wanted
from headrace.testing.connection import Connection, Received, accept, knock, listener

FAULTS = (
    "die-before-head",  # the connection is reset, no byte of an answer was sent
    "die-mid-stream",  # reset after half of the words
    "cut-without-done",  # the stream ends well as HTTP, half of the words and [DONE] are missing
    "error-event",  # after half of the words comes an error event, then the end without [DONE]
    "hang",  # never answers
    "500",
    "503",
    "garbage-head",  # what comes is not HTTP
    "reset-on-keepalive",  # the second request on a connection finds it reset
    "slow-head",  # answers after `slow_seconds`
)


class FakeEngine:
    """A server at `address`, a Unix socket of its own unless one is given (`unix:/path`, `http://127.0.0.1:0`).

    It says `tokens` words at most, one each `token_seconds`. Before word number `gate_after` of an answer (0: before
    the head) it waits for `gate`, which is set unless a test clears it. It counts requests for text and embeddings:
    `running` hold one of the `slots`, `waiting` wait for one; of those that got one, `started`, `finished` and
    `aborted` (their client left a stream). As llama.cpp, it notices a lost client only while it streams. `once` can be
    shared between engines.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        model: str = "fake",
        slots: int = 4,
        context: int = 4096,
        tokens: int = 16,
        token_seconds: float = 0.0,
        slow_seconds: float = 0.2,
        ping_seconds: float = 1.0,
        dimensions: int = 8,
        key: str | None = None,
        fault: str | None = None,
        fault_every: int = 1,
        gate_after: int = 0,
        once: set[str] | None = None,
    ) -> None:
        self.address = address or ""
        self.model, self.slots, self.context, self.tokens = model, slots, context, tokens
        self.token_seconds, self.slow_seconds, self.ping_seconds = token_seconds, slow_seconds, ping_seconds
        self.dimensions, self.key, self.fault, self.gate_after = dimensions, key, fault, gate_after
        self.gate, self.loading, self.hanging = asyncio.Event(), False, False
        self.gate.set()
        self.on_health: Callable[[], None] = lambda: None
        self.received: deque[Received] = deque(maxlen=1000)
        self.connections = self.started = self.finished = self.aborted = 0
        self.running = self.max_running = self.waiting = self.tokens_in = self.tokens_out = 0
        self.fault_every = fault_every
        self._once = set() if once is None else once
        self._free = asyncio.Semaphore(slots)
        self._closed = asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()
        self._exit = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        if not self.address:
            folder = self._exit.enter_context(tempfile.TemporaryDirectory(prefix="fake-"))
            self.address = f"unix:{folder}/engine.sock"
        found = self._exit.enter_context(listener(self.address))
        if self.address.startswith("http://"):
            self.address = "http://{}:{}".format(*found.getsockname())
        self._listener = found
        self._accepting = asyncio.create_task(accept(found, self._serve, self._closed))
        return self

    async def close_door(self) -> None:
        """Let nobody in any more; what runs goes on."""
        if not self._closed.is_set():
            self._closed.set()
            knock(self._listener)
            await self._accepting
            self._listener.close()
            await asyncio.sleep(0)  # the last connection becomes a task

    async def __aexit__(self, *_: object) -> None:
        await self.close_door()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn
        self._exit.close()

    async def _serve(self, connection: Connection) -> None:
        if self._closed.is_set():  # it came when we were leaving
            return connection.die(reset=True)
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            await connection.requests(self._answer)
        except asyncio.CancelledError:  # only __aexit__ does that, and it is over here
            return
        finally:
            self._open.discard(task)

    async def _answer(self, to: Connection, request: Received) -> None:
        self.received.append(request)
        path = request.path.partition("?")[0]
        health = path in ("/health", "/v1/health")
        if health:
            self.on_health()
        if self.hanging:
            await to.left.wait()
        if health and not self.loading:
            return await to.reply_json(200, {"status": "ok"})
        if self.loading:
            return await to.reply_json(503, answers.error(503, "Loading model", "unavailable_error"))
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return await to.reply_json(401, answers.error(401, "Invalid API Key", "authentication_error"))
        route = self._routes().get((request.method, path))
        if not route:
            return await to.reply_json(404, answers.error(404, "File Not Found", "not_found_error"))
        await route(to, request)

    def _routes(self) -> dict[tuple[str, str], Callable[[Connection, Received], Coroutine[Any, Any, None]]]:
        return {
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/v1/chat/completions"): self._text,
            ("POST", "/v1/completions"): self._text,
            ("POST", "/v1/embeddings"): self._embeddings,
        }

    async def _models(self, to: Connection, request: Received) -> None:
        await to.reply_json(200, answers.models(self.model, self.context))

    async def _metrics(self, to: Connection, request: Received) -> None:
        page = answers.metrics(self.running, self.waiting, self.tokens_in, self.tokens_out)
        await to.reply(200, page.encode(), "text/plain; version=0.0.4")

    async def _text(self, to: Connection, request: Received) -> None:
        body = await self._body(to, request)
        chat = "chat" in request.path
        if body is None:
            return
        if chat and not isinstance(body.get("messages"), list):
            return await to.reply_json(400, answers.error(400, "'messages' is required", "invalid_request_error"))
        ask = answers.wanted(body, chat, self.tokens, self.model, self.started)
        if ask.prompt_tokens > self.context:
            return await to.reply_json(400, answers.too_long(ask, self.context))
        kept = "x-conversation-id" in request.headers  # llama.cpp keeps such a stream going for a client that left
        async with self._slot():
            fault = self._fault(body)
            if not await self._failed_early(to, fault):
                await (self._stream(to, ask, fault, kept) if ask.stream else self._whole(to, ask))

    async def _embeddings(self, to: Connection, request: Received) -> None:
        body = await self._body(to, request)
        if body is None:
            return
        async with self._slot():
            if not await self._failed_early(to, self._fault(body)):
                await self.gate.wait()
                answer = answers.embeddings(body, self.dimensions, self.model)
                self.tokens_in += answer["usage"]["prompt_tokens"]
                self.finished += 1
                await to.reply_json(200, answer)

    async def _body(self, to: Connection, request: Received) -> dict[str, Any] | None:
        try:
            body = request.json()
        except ValueError as error:
            body = str(error)
        if isinstance(body, dict):
            return body
        await to.reply_json(400, answers.error(400, f"not an object in JSON: {body}", "invalid_request_error"))
        return None

    @contextlib.asynccontextmanager
    async def _slot(self) -> Any:
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.started += 1
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()

    def _fault(self, body: dict[str, Any]) -> str | None:
        asked = body.get("user")
        always = self.fault if self.started % self.fault_every == 0 else None
        fault = asked.removeprefix("fault:") if isinstance(asked, str) and asked.startswith("fault:") else always
        if fault and fault.endswith("-once"):
            if fault in self._once:
                return None
            self._once.add(fault)
            fault = fault.removesuffix("-once")
        if fault is not None and fault not in FAULTS:
            raise AssertionError(f"{fault} is not a fault; there are {', '.join(FAULTS)}")
        return fault

    async def _failed_early(self, to: Connection, fault: str | None) -> bool:
        """Carry out a fault that takes the place of the answer; False if there is none."""
        match fault:
            case "die-before-head":
                to.die(reset=True)
            case "reset-on-keepalive" if to.served:
                to.die(reset=True)
            case "hang":
                await to.left.wait()
            case "garbage-head":
                to.raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                to.die()
            case "500" | "503":
                kind = "server_error" if fault == "500" else "unavailable_error"
                await to.reply_json(int(fault), answers.error(int(fault), "fault asked for", kind))
            case _:
                if fault == "slow-head":
                    await asyncio.sleep(self.slow_seconds)
                return False
        return True

    async def _whole(self, to: Connection, ask: Wanted) -> None:
        await self.gate.wait()
        await asyncio.sleep(ask.tokens * self.token_seconds)
        self._count(ask)
        await to.reply_json(200, answers.whole(ask))

    async def _stream(self, to: Connection, ask: Wanted, fault: str | None, kept: bool) -> None:
        begun = False
        for word, event in enumerate(answers.events(ask), start=-int(ask.chat)):
            if word >= self.gate_after or (word < 0 and not self.gate_after):
                await self._pause(to, begun)
            if to.left.is_set() and not kept:
                self.aborted += 1
                return
            if to.left.is_set():
                continue
            if not begun:
                to.begin_stream()
                begun = True
            if word == ask.tokens // 2 and await self._failed_midway(to, fault):
                return
            await to.send(event)
        self._count(ask)
        if not to.left.is_set():
            await to.end_stream()

    async def _pause(self, to: Connection, begun: bool) -> None:
        """Until the gate is open and the time of a word is over, or the client has left; says `:` in long silence."""
        if self.token_seconds:
            await _either(to.left, timeout=self.token_seconds)
        while not self.gate.is_set() and not to.left.is_set():
            await _either(to.left, self.gate, timeout=self.ping_seconds)
            if begun and not self.gate.is_set() and not to.left.is_set():
                await to.send(b":\n\n")
        await asyncio.sleep(0)

    async def _failed_midway(self, to: Connection, fault: str | None) -> bool:
        if fault == "error-event":
            await to.send(answers.event(answers.error(500, "fault asked for", "server_error")))
        if fault in ("error-event", "cut-without-done"):
            await to.end_stream()
        if fault == "die-mid-stream":
            await asyncio.sleep(0)
            to.die()
        return fault in ("error-event", "cut-without-done", "die-mid-stream")

    def _count(self, ask: Wanted) -> None:
        self.finished += 1
        self.tokens_in += ask.prompt_tokens
        self.tokens_out += ask.tokens


async def _either(*events: asyncio.Event, timeout: float) -> None:
    """Until one of `events` is set, at the latest after `timeout` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
