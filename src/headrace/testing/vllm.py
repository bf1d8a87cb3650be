"""A fake vLLM: what 0.32.0 was seen to do, without a model and without its start of a minute.

`FakeVllm` is an async context manager for tests; `python -m headrace.testing.vllm serve MODEL` takes vLLM's flags, so that a
target can start it as `fake_vllm()`.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.engines import vllm
from headrace.engines.base import Engine, Launch, Placement
from headrace.testing import vllm_answers as answers
from headrace.testing.answers import Wanted, embeddings, wanted
from headrace.testing.connection import Connection, Received
from headrace.testing.fake import FakeEngine

BLOCK = 128


def fake_vllm(*flags: str) -> Engine:
    """The vLLM engine, whose program is this one; `flags` are further ones of it."""

    def launch(placement: Placement, address: str) -> Launch:
        real = vllm.launch(placement, address)
        arguments = real.argv[real.argv.index("serve") :]
        return replace(real, argv=("python", "-P", "-m", "headrace.testing.vllm", *arguments, *flags))

    return replace(vllm.ENGINE, launch=launch, grace_seconds=5.0)


class FakeVllm(FakeEngine):
    """As FakeEngine, in vLLM's words. `blocks` are those of its cache, `adapters` the names of loaded ones, which can change
    while it runs where it `updates`. Where it `sleeps` (--enable-sleep-mode in dev mode) `level` is that at which it does.

    With `queued` given it takes in as many requests at once and no more; `late` says that a stream is refused after its head.
    `per_event` words come in one event. A request notices its client's leave whether it streams or not.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        blocks: int = 91,
        queued: int | None = None,
        late: bool = False,
        per_event: int = 1,
        adapters: Sequence[str] = (),
        pooling: bool = False,
        updates: bool = True,
        sleeps: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(address, **more)
        self.blocks, self.queued, self.late, self.per_event = blocks, queued, late, per_event
        self.adapters, self.pooling, self.updates = list(adapters), pooling, updates
        self.draining = self.crashed = self.silent = False
        self.sleeps, self.level, self.weights = sleeps, 0, True
        self._awake = asyncio.Event()
        self._awake.set()
        self._used: dict[int, int] = {}

    async def drain(self) -> None:
        """As on SIGTERM with `--shutdown-timeout`: what runs goes on, who comes gets 500, and `/health` says 200."""
        self.draining = True
        while self.running or self.waiting:
            await asyncio.sleep(0.005)

    async def abort(self) -> None:
        """As on SIGTERM without it: the door closes, and whoever is inside hears nothing any more, not even an end."""
        self.silent = True
        await self.close_door()

    def crash(self) -> None:
        """As when a worker dies: it says so, to everybody, until its process ends."""
        self.crashed = True

    async def _answer(self, to: Connection, request: Received) -> None:
        to.every = {"server": "uvicorn"}
        self.received.append(request)
        path = request.path.partition("?")[0]
        if self.silent or self.hanging:
            await to.left.wait()
        if path == "/health":
            self.on_health()
            return await to.reply(503 if self.crashed else 200, b"")
        if path.startswith(("/v1", "/v2")) and self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return await to.reply_json(401, {"error": "Unauthorized"})
        routes = self._routes()
        if route := routes.get((request.method, path)):
            await route(to, request)
            return
        known = any(path == other for _, other in routes)
        status, detail = (405, "Method Not Allowed") if known else (404, "Not Found")
        await to.reply_json(status, {"detail": detail})

    def _routes(self) -> Any:
        common = {("GET", "/v1/models"): self._models, ("GET", "/metrics"): self._metrics}
        if self.pooling:
            return common | {("POST", "/v1/embeddings"): self._embeddings}
        texts = {("POST", f"/v1/{name}"): self._text for name in ("chat/completions", "completions")}
        verbs = ("load", "unload") if self.updates else ()
        return common | texts | self._rest() | {("POST", f"/v1/{verb}_lora_adapter"): self._adapter for verb in verbs}

    def _rest(self) -> Any:
        """What puts it to sleep and wakes it: without a key, all of them."""
        asks = {"/sleep": self._sleep, "/wake_up": self._wake, "/collective_rpc": self._call}
        return {("POST", path): answer for path, answer in asks.items() if self.sleeps}

    async def _sleep(self, to: Connection, request: Received) -> None:
        self.level = int(request.path.partition("level=")[2] or 1)
        self.weights = self.weights and self.level == 1
        self._awake.clear()
        await to.reply(200, b"")

    async def _wake(self, to: Connection, request: Received) -> None:
        if "tags=weights" not in request.path:  # its cache is there as well
            self.level = 0
            self._awake.set()
        await to.reply(200, b"")

    async def _call(self, to: Connection, request: Received) -> None:
        """Read the weights again that level 2 threw away."""
        self.weights = self.weights or request.json().get("method") == "reload_weights"
        await to.reply_json(200, {"results": [None]})

    async def _models(self, to: Connection, request: Received) -> None:
        await to.reply_json(200, answers.models(self.model, self.adapters, self.context))

    async def _metrics(self, to: Connection, request: Received) -> None:
        """Usage in whole blocks; one of them is nobody's."""
        usage = sum(self._used.values()) / (self.blocks - 1)
        counts = (self.running, self.waiting, usage, self.tokens_in, self.tokens_out)
        page = answers.metrics(self.model, *counts, self.blocks, BLOCK)
        await to.reply(200, page.encode(), "text/plain; version=1.0.0; charset=utf-8")

    async def _adapter(self, to: Connection, request: Received) -> None:
        """Load or unload by name; what is there already or is not is a 400 or 404, and so is one whose folder is not there."""
        name, path = (str(request.json().get(key, "")) for key in ("lora_name", "lora_path"))
        loads, there = "unload" not in request.path, name in self.adapters
        if loads == there:
            status = 400 if there else 404
            return await to.reply_json(status, answers.error(status, f"adapter {name}", "InvalidUserInput"))
        if loads and not _is_there(path):
            message = f"Loading lora {name} failed: No adapter found for {path}"
            return await to.reply_json(404, answers.error(404, message, "NotFoundError"))
        self.adapters = [*self.adapters, name] if loads else [each for each in self.adapters if each != name]
        await to.reply(200, b"Success", "text/plain")

    async def _embeddings(self, to: Connection, request: Received) -> None:
        async with self._slot():
            answer = embeddings(request.json(), self.dimensions, self.model)
            self.tokens_in += answer["usage"]["prompt_tokens"]
            self.finished += 1
            await to.reply_json(200, answer)

    async def _text(self, to: Connection, request: Received) -> None:
        await self._awake.wait()  # requests hang while it sleeps, and /health says 200
        if not self.weights:  # the real one says anything: here it is an error, for tests
            return await to.reply_json(500, answers.error(500, "weights were never read again", "InternalServerError"))
        refused, body = self._checked(request)
        if refused:
            return await to.reply_json(refused["error"]["code"], refused)
        is_chat = "chat" in request.path
        ask = wanted(dict(body), is_chat, self.tokens, str(body.get("model") or self.model), self.started)
        if ask.prompt_tokens > self.context:
            return await to.reply_json(400, answers.too_long(ask, self.context))
        if self.queued is not None and self.running + self.waiting >= self.queued:
            return await self._busy(to, ask)
        async with self._slot():
            number = self.started
            self._used[number] = -(-(ask.prompt_tokens + ask.tokens) // BLOCK)
            try:
                await (self._streamed(to, ask, self._fault(dict(body))) if ask.stream else self._at_once(to, ask))
            finally:
                del self._used[number]

    def _checked(self, request: Received) -> tuple[dict[str, Any] | None, Mapping[str, Any]]:
        """(the error, if there is one; the body)."""
        if self.crashed or self.draining:
            return answers.error(500, answers.DEAD if self.crashed else answers.SHUT_DOWN, "InternalServerError"), {}
        try:
            body = request.json()
        except ValueError:
            return answers.invalid("body.0", "json_invalid", "JSON decode error"), {}
        if "chat" in request.path and "messages" not in body:
            return answers.invalid("body.messages", "missing", "Field required"), {}
        if "chat" in request.path and not body["messages"]:
            message = "Cannot apply chat template to an empty conversation. Provide at least one message."
            return answers.error(400, message, "BadRequestError"), {}
        known = [self.model, *self.adapters]
        if (model := body.get("model")) and model not in known:
            return answers.unknown(model, known), {}
        if (limit := body.get("max_tokens") or 0) > self.context:
            message = (
                f"max_tokens={limit} cannot be greater than max_model_len={self.context}. Please request fewer output tokens."
            )
            return answers.error(400, message, "BadRequestError", "max_tokens"), {}
        return None, body

    async def _busy(self, to: Connection, ask: Wanted) -> None:
        if not (ask.stream and self.late):
            return await to.reply_json(503, answers.error(503, answers.BUSY, "ServiceUnavailableError"))
        self._begin(to)
        for event in answers.error_events(503, answers.BUSY, "ServiceUnavailableError"):
            await to.send(event)
        await to.end_stream()

    async def _at_once(self, to: Connection, ask: Wanted) -> None:
        for _ in range(ask.tokens):
            await self._pause(to, begun=False)
            if to.left.is_set():
                self.aborted += 1
                return
        self._count(ask)
        await to.reply_json(200, answers.whole(ask))

    async def _streamed(self, to: Connection, ask: Wanted, fault: str | None) -> None:
        self._begin(to)
        events = answers.events(ask, self.per_event)
        for number, event in enumerate(events):
            if number >= self.gate_after:
                await self._pause(to, begun=False)  # no comments in silence
            if self.silent:
                await to.left.wait()
            if to.left.is_set():
                self.aborted += 1
                return
            if self.crashed:
                events = answers.error_events(500, answers.DEAD, "InternalServerError")
                for each in events:  # as if all were well
                    await to.send(each)
                return await to.end_stream()
            if number == len(events) // 2 and await self._failed_midway(to, fault):
                return
            await to.send(event)
        self._count(ask)
        await to.end_stream()

    def _begin(self, to: Connection) -> None:
        to.begin_stream("text/event-stream; charset=utf-8", {"vary": "Origin"})


def _is_there(folder: str) -> bool:
    return os.path.isdir(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve with vLLM's flags until SIGTERM, then drain or abort, as `--shutdown-timeout` says."""
    asyncio.run(_serve(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.vllm", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("weights")
    for name in ("uds", "host", "dtype", "quantization", "runner", "convert", "served-model-name"):
        parser.add_argument(f"--{name}", default="")
    for name in ("port", "kv-cache-memory-bytes", "tensor-parallel-size", "max-loras", "max-lora-rank", "max-num-queued-reqs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    for name, default in {"max-model-len": 8192, "max-num-seqs": 256, "shutdown-timeout": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("disable-uvicorn-access-log", "disable-fastapi-docs", "enforce-eager", "enable-lora", "enable-sleep-mode"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")
    parser.add_argument("--lora-modules", nargs="*", default=[])
    parser.add_argument("--tokens", type=int, default=16, help="of the fake: words of the longest answer")
    parser.add_argument("--token-seconds", type=float, default=0.0, help="of the fake: time of one word")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="of the fake: how long there is no answer")
    return parser


async def _serve(asked: argparse.Namespace) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    fake = FakeVllm(
        f"unix:{asked.uds}" if asked.uds else f"http://{asked.host}:{asked.port}",
        model=asked.served_model_name,
        slots=asked.max_num_seqs,
        context=asked.max_model_len,
        queued=asked.max_num_queued_reqs,
        adapters=[module.partition("=")[0] for module in asked.lora_modules],
        pooling=asked.runner == "pooling",
        updates=asked.enable_lora and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1",
        sleeps=asked.enable_sleep_mode and os.environ.get("VLLM_SERVER_DEV_MODE") == "1",
        key=os.environ.pop("VLLM_API_KEY", None),
        tokens=asked.tokens,
        token_seconds=asked.token_seconds,
    )
    await asyncio.sleep(asked.load_seconds)
    async with fake:
        await told.wait()
        await (fake.drain() if asked.shutdown_timeout else fake.abort())
        if not asked.shutdown_timeout:
            await asyncio.Event().wait()  # it lives on until its clients give up, or somebody kills it


if __name__ == "__main__":
    main()
