"""What the child servers of ours share: their spec, key and address, the drain on SIGTERM, their parent's life, their page.

A runner reads its `spec()`, loads its model (or `fail`s), and gives `serve` an ASGI application. It imports nothing of
Headrace but its neighbours here.
"""

import asyncio
import hmac
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.runners.child import CANNOT_LOAD, begin, cause, fail

__all__ = ["CANNOT_LOAD", "Counts", "Keyed", "begin", "cause", "error", "fail", "serve", "unless_left"]

OPEN_PATHS = ("/health", "/v2/health/live", "/v2/health/ready")
"""Asked by whoever wants to know whether it lives: without a key."""

DRAIN_SECONDS = 600
"""Longest that requests may run on after SIGTERM; whoever sent it has a shorter limit of their own."""

_KEEP_ALIVE_SECONDS = 600  # idle connections are the gateway's to close: a server that closes first races with a request

T = TypeVar("T")


class Counts:
    """What the metrics page says: the names are those that `engines/own.py` reads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.running = Gauge("headrace_engine_requests_running", "Requests computed now.", registry=self._registry)
        self.waiting = Gauge("headrace_engine_requests_waiting", "Requests not computed yet.", registry=self._registry)
        self.tokens_in = Counter("headrace_engine_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self.tokens_out = Counter("headrace_engine_generation_tokens", "Tokens generated.", registry=self._registry)
        self.cache_usage = Gauge("headrace_engine_cache_usage_ratio", "Part of the KV cache in use.", registry=self._registry)
        self.requests = Counter("headrace_engine_requests", "Requests by how they ended.", ["finish"], registry=self._registry)

    def page(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self._registry)


def error(status: int, message: str, code: str, kind: str = "invalid_request_error", param: str | None = None) -> JSONResponse:
    """An error in OpenAI's envelope."""
    body = {"error": {"message": message, "type": kind, "code": code, "param": param}}
    return JSONResponse(body, status)


async def unless_left(request: Request, work: Awaitable[T]) -> T | None:
    """What `work` gives; None when the client leaves first, and then `work` is cancelled. The body must have been read."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Keyed:
    """Refuses what comes without the key of the replica, but for the question whether it lives."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._knows(scope):
            refused: Response = error(401, "The key is missing or wrong.", "invalid_api_key", "authentication_error")
            return await refused(scope, receive, send)
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains: the door closes, what runs finishes. Ctrl-C is not for us."""
        if sig == signal.SIGTERM:
            self.should_exit = True

    before: Callable[[], Awaitable[None]] | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        if self.before is not None:
            await self.before()
        await super().startup(sockets)
        print("serving", flush=True)


def serve(
    app: ASGIApp,
    address: str,
    *,
    before: Callable[[], Awaitable[None]] | None = None,
    code: Callable[[], int] = lambda: 0,
) -> None:
    """Serve at `address` (`unix:/path.sock` or `http://host:port`) until SIGTERM and the last answer; then exit with 0, or
    what `code` says. `before` is awaited in the event loop before anybody can connect.

    The replica's key is taken out of the environment variable ENGINE_KEY; without one nobody is asked for it.
    """
    key = os.environ.pop("ENGINE_KEY", "")
    config = uvicorn.Config(
        Keyed(app, key) if key else app,
        **_listen(address),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config)
    server.before = before
    server.run()
    sys.stdout.flush()
    os._exit(code())  # threads of native libraries may not end; everything is answered


def _listen(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if os.path.exists(path):  # a socket left behind
            os.unlink(path)
        return {"uds": path}
    host, _, port = address.removeprefix("http://").rpartition(":")
    return {"host": host, "port": int(port)}
