"""One request to a user's code: read, counted, answered or refused, and given up when its client leaves."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pydantic_core
from prometheus_client import Histogram
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from headrace.runners.batching import Batcher
from headrace.runners.custom_failure import Failure
from headrace.runners.openai import Events, Refused
from headrace.runners.serving import Counts, unless_left

LINGER_SECONDS = 5.0
"""How long the process of a hung call finishes other answers: each second is one without a replica."""

_GONE = 499


class CustomCounts(Counts):
    """The page, with the sizes of batches; what waits is asked of the queues. There is no cache to tell of."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._registry.unregister(self.cache_usage)
        sizes = sorted({2**power for power in range(batch.bit_length()) if 2**power < batch} | {batch})
        self.batch = Histogram("headrace_engine_batch_size", "Inputs of a call.", registry=self._registry, buckets=sizes)
        self._under_way = 0
        self.queues: list[Batcher] = []
        self.running.set_function(lambda: self._under_way - self._queued())
        self.waiting.set_function(self._queued)

    def begin(self) -> None:
        """A request is under way."""
        self._under_way += 1

    def end(self, finish: str) -> None:
        """It is over: done, error or left."""
        self._under_way -= 1
        self.requests.labels(finish).inc()

    def _queued(self) -> int:
        return sum(queue.waiting for queue in self.queues)


class Life:
    """Whether the process can serve. A plain call that hangs ends it, because a thread cannot be ended."""

    trouble = ""

    def hung(self, message: str) -> None:
        """Refuse from now on, finish what can be finished, exit."""
        self.trouble = message
        timer = threading.Timer(LINGER_SECONDS, os._exit, (self.code,))
        timer.daemon = True
        timer.start()
        os.kill(os.getpid(), signal.SIGTERM)

    @property
    def code(self) -> int:
        """The exit code."""
        return 1 if self.trouble else 0


class Stream(Events):
    """Events of a user's generator; `over(finish)` is called once, when it has ended, failed or been left."""

    def __init__(self, events: AsyncGenerator[bytes], over: Callable[[str], None] = lambda finish: None) -> None:
        self.over, self.finish = over, "left"
        self._events = events
        super().__init__(self._told())

    async def _told(self) -> AsyncGenerator[bytes]:
        try:
            async for event in self._events:
                yield event
            self.finish = "done"
        except Refused as refused:  # too late for a status; that no [DONE] follows says that it is not whole
            self.finish = "error"
            yield refused.event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.over(self.finish)
            await self._events.aclose()


async def begun(events: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """The same, once the first is there: what fails before it can still have a status."""
    first = await anext(events, None)

    async def all_of_them() -> AsyncGenerator[Any]:
        try:
            if first is not None:
                yield first
            async for event in events:
                yield event
        finally:
            await events.aclose()

    return all_of_them()


async def answered(
    request: Request,
    counts: CustomCounts,
    life: Life,
    work: Callable[[bytes], Awaitable[Response]],
    refuse: Callable[[Refused], Response],
) -> Response:
    """What `work(body)` answers, or `refuse` of what it raises. It is cancelled when the client leaves."""
    counts.begin()
    finish = "error"
    try:
        body = await request.body()
        if life.trouble:
            raise Failure(503, f"Not run: {life.trouble}, and this replica restarts", "model_restarting")
        response = await unless_left(request, work(body))
        finish = "left" if response is None else "done"
        if isinstance(response, Stream):
            response.over, finish = counts.end, ""
        return response or Response(status_code=_GONE)
    except ClientDisconnect:
        finish = "left"
        return Response(status_code=_GONE)
    except Refused as refused:
        return once_only(refused, refuse(refused))
    finally:
        if finish:
            counts.end(finish)


def once_only(refused: Refused, response: Response) -> Response:
    """A call that took too long would take another replica down as well: whoever tries again elsewhere must not."""
    if refused.status == 504:
        response.headers["X-Should-Retry"] = "false"
    return response


def oip_error(refused: Refused) -> Response:
    """An error as KServe's protocols have it."""
    return JSONResponse({"error": str(refused)}, refused.status)


def openai_error(refused: Refused) -> Response:
    """An error in OpenAI's envelope."""
    return refused.response


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Failure."""
    try:
        given = pydantic_core.from_json(body)
    except ValueError as error:
        raise Failure(400, f"The body is not JSON: {error}", "invalid_json") from None
    if not isinstance(given, dict):
        raise Failure(400, "The body must be a JSON object.", "invalid_json")
    return given


async def collected(events: AsyncGenerator[Any]) -> list[Any]:
    """All of them."""
    try:
        return [event async for event in events]
    except asyncio.CancelledError:
        await events.aclose()
        raise
