"""A fake TGI by its contract (facts of its source, 3.3.7): its routes, limits, errors and metrics without a model.

`FakeTgi` is an async context manager for tests; `python -m headrace.testing.tgi` takes the launcher's flags, so that a target
can start it as `fake_tgi()`.
"""

import argparse
import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from headrace.engines import tgi
from headrace.engines.base import Engine, Launch, Placement
from headrace.targets.addresses import free_port
from headrace.testing import tgi_answers as answers
from headrace.testing.connection import Connection, Received
from headrace.testing.fake import FakeEngine
from headrace.testing.tgi_requests import Asked, Limits, Refused, chat, completion, generate


def fake_tgi(*flags: str) -> Engine:
    """The TGI engine, whose launcher is this program; `flags` are further ones of it."""

    def launch(placement: Placement, address: str) -> Launch:
        real = tgi.launch(placement, address)
        return replace(real, argv=("python", "-P", "-m", "headrace.testing.tgi", *real.argv[1:], *flags))

    return replace(tgi.ENGINE, launch=launch, local=True, grace_seconds=5.0)


@dataclass(frozen=True, slots=True)
class Route:
    """How a route reads a request and answers it."""

    read: Callable[[dict[str, Any]], Asked]
    streams: Callable[[dict[str, Any]], bool]
    whole: Callable[[Asked], Any]
    events: Callable[[Asked], list[bytes]]
    chat: bool = False


class FakeTgi(FakeEngine):
    """As FakeEngine, over TCP; `cold` refuses connections until `warm`; `healthy` is what `/health` says.

    Beyond `concurrent` requests in flight it is overloaded. `failures` counts refusals by their label on the metrics page.
    """

    def __init__(
        self,
        address: str = "",
        *,
        model: str = "fake/model",
        limits: Limits | None = None,
        concurrent: int = 128,
        template: bool = True,
        cold: bool = False,
        key: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(address or f"http://127.0.0.1:{free_port()}", model=model, key=key, **more)
        self.limits, self.concurrent, self.template, self.cold = limits or Limits(), concurrent, template, cold
        self.healthy = True
        self.asked = 0
        self.failures: Counter[str] = Counter()
        self._texts = self._text_routes()

    async def __aenter__(self) -> Self:
        return self if self.cold else await super().__aenter__()

    async def warm(self) -> None:
        """The model is loaded: listen."""
        self.cold = False
        await super().__aenter__()

    async def drain(self) -> None:
        """As on SIGTERM: nobody is let in, and it returns when nothing runs any more."""
        await self.close_door()
        while self.running or self.waiting:
            await asyncio.sleep(0.005)

    async def __aexit__(self, *_: object) -> None:
        if not self.cold:
            await super().__aexit__()

    async def _answer(self, to: Connection, request: Received) -> None:
        to.every = {}
        self.received.append(request)
        path = request.path.partition("?")[0]
        if request.method == "GET":
            return await self._get(to, path)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return await to.reply(401, b"", "text/plain")
        if path in ("/tokenize", "/chat_tokenize"):
            return await to.reply_json(200, _tokens(request))
        if path not in self._texts:
            return await to.reply(404, b"", "text/plain")
        await self._asked(to, request, self._texts[path])

    async def _get(self, to: Connection, path: str) -> None:
        match path:
            case "/health" | "/ping" if self.healthy:
                await to.reply(200, b"", "text/plain")
            case "/health" | "/ping":
                await to.reply_json(503, answers.error("healthcheck", "unhealthy"))
            case "/" | "/info":
                await to.reply_json(200, answers.info(self.model, self.limits, self.concurrent))
            case "/v1/models":
                await to.reply_json(200, answers.models(self.model))
            case "/metrics":
                await to.reply(200, self._page().encode(), "text/plain; charset=utf-8")
            case _:
                await to.reply(405 if path in self._texts else 404, b"", "text/plain")

    def _text_routes(self) -> Mapping[str, Route]:
        def native(stream: bool | None, whole: Callable[[Asked], Any] = answers.generated) -> Route:
            def streams(body: dict[str, Any]) -> bool:
                return bool(body.get("stream")) if stream is None else stream

            def read(body: dict[str, Any]) -> Asked:
                return generate(body, self.limits, self.tokens, self.model, streams(body))

            return Route(read, streams, whole, answers.generate_events)

        def openai(read: Callable[..., Asked], is_chat: bool) -> Route:
            return Route(
                lambda body: read(body, self.limits, self.tokens, self.model),
                lambda body: bool(body.get("stream")),
                answers.whole,
                answers.events,
                is_chat,
            )

        return {
            "/": native(None, lambda asked: [answers.generated(asked)]),
            "/generate": native(False),
            "/generate_stream": native(True),
            "/v1/chat/completions": openai(chat, True),
            "/v1/completions": openai(completion, False),
        }

    async def _asked(self, to: Connection, request: Received, route: Route) -> None:
        self.asked += 1
        streams = False
        try:
            body = _body(request)
            streams = route.streams(body)
            if route.chat and not self.template:
                raise Refused("template_error", "Template error: template not found")
            asked = self._admitted(route, body)
        except Refused as refused:
            return await self._refuse(to, refused, streams and refused.kind in ("validation", "overloaded"), route.chat)
        async with self._slot():
            await (self._streamed(to, asked, route) if streams else self._at_once(to, asked, route))

    def _admitted(self, route: Route, body: dict[str, Any]) -> Asked:
        """One of the permits comes first: with none left nothing is validated."""
        if self.running + self.waiting >= self.concurrent:
            raise Refused("overloaded", "Model is overloaded")
        return route.read(body)

    async def _refuse(self, to: Connection, refused: Refused, in_stream: bool, is_chat: bool) -> None:
        self.failures[{"plain": "validation", "template_error": "template"}.get(refused.kind, refused.kind)] += 1
        if refused.kind == "plain":
            return await to.reply(refused.status, refused.message.encode(), "text/plain; charset=utf-8")
        if not in_stream:
            return await to.reply_json(refused.status, answers.error(refused.kind, refused.message))
        to.begin_stream(headers=answers.STREAM_HEADERS)
        for event in answers.error_events(refused.kind, refused.message, is_chat):
            await to.send(event)
        await to.end_stream()

    async def _at_once(self, to: Connection, asked: Asked, route: Route) -> None:
        await self.gate.wait()
        await asyncio.sleep(asked.ask.tokens * self.token_seconds)
        self._count(asked.ask)
        await to.reply_json(200, route.whole(asked), answers.timings(asked.ask))

    async def _streamed(self, to: Connection, asked: Asked, route: Route) -> None:
        to.begin_stream(headers=answers.STREAM_HEADERS)
        for number, event in enumerate(route.events(asked)):
            if number >= self.gate_after:
                await self._pause(to, begun=True)
            if to.left.is_set():
                self.aborted += 1
                return
            await to.send(event)
        self._count(asked.ask)
        await to.end_stream()

    def _page(self) -> str:
        """What was used so far: without a request there is no series at all."""
        if not self.asked:
            return ""
        values = {
            "tgi_request_count": self.asked,
            "tgi_request_success": self.finished,
            "tgi_queue_size": self.waiting,
            "tgi_batch_current_size": self.running,
            "tgi_request_input_length_sum": self.tokens_in,
            "tgi_request_generated_tokens_sum": self.tokens_out,
            **{f'tgi_request_failure{{err="{kind}"}}': count for kind, count in self.failures.items()},
        }
        return "".join(f"{name} {value}\n" for name, value in values.items())


def _body(request: Received) -> dict[str, Any]:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refused("plain", "Expected request with `Content-Type: application/json`", 415)
    try:
        found = request.json()
    except ValueError as error:
        raise Refused("plain", f"Failed to parse the request body as JSON: {error}", 400) from None
    if not isinstance(found, dict):
        raise Refused("plain", "Failed to deserialize the JSON body into the target type: invalid type", 422)
    return found


def _tokens(request: Received) -> list[dict[str, Any]]:
    words = str(_body(request).get("inputs", "")).split()
    return [{"id": number, "text": word, "start": 0, "stop": 0} for number, word in enumerate(words)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve with the launcher's flags until SIGTERM, then drain."""
    asyncio.run(_serve(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.tgi", description=main.__doc__, allow_abbrev=False)
    for name in ("hostname", "model-id", "quantize", "dtype", "lora-adapters", "cuda-memory-fraction", "cuda-graphs"):
        parser.add_argument(f"--{name}", default="")
    for name, default in {
        "port": 3000,
        "max-concurrent-requests": 128,
        "max-input-tokens": 1024,
        "max-total-tokens": 2048,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("max-batch-size", "num-shard", "max-batch-prefill-tokens", "graceful-termination-timeout", "speculate"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--tokens", type=int, default=16, help="of the fake: words of the longest answer")
    parser.add_argument("--token-seconds", type=float, default=0.0, help="of the fake: time of one word")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="of the fake: how long it refuses connections")
    return parser


async def _serve(asked: argparse.Namespace) -> None:
    limits = Limits(asked.max_input_tokens, asked.max_total_tokens)
    speed = {"tokens": asked.tokens, "token_seconds": asked.token_seconds, "slots": asked.max_batch_size or 4}
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    fake = FakeTgi(
        f"http://{asked.hostname or '127.0.0.1'}:{asked.port}",
        model=asked.model_id,
        limits=limits,
        concurrent=asked.max_concurrent_requests,
        cold=True,
        key=os.environ.pop("API_KEY", None),
        **speed,
    )
    async with fake:
        await asyncio.sleep(asked.load_seconds)
        await fake.warm()
        await told.wait()
        await fake.drain()


if __name__ == "__main__":
    main()
