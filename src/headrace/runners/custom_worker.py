"""Runs a user's code: what is plain in one thread, what is async in the event loop; every call within a limit.

One thread for the constructor, `load` and every plain call after them, one at a time: libraries that tie their objects to a
thread work, and code needs no locks. A call that hangs there cannot be ended: the worker says so and takes no more.
"""

import asyncio
import contextlib
import inspect
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from headrace.runners.custom_failure import Failure, log, raised


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a call came to. A value, because StopIteration and SystemExit do not travel well through futures and tasks."""

    value: Any = None
    error: BaseException | None = None


_END = object()


class Worker:
    """`hung(message)` is told, once, of a plain call that did not return within `limit_seconds`."""

    def __init__(self, limit_seconds: float, hung: Callable[[str], None]) -> None:
        self._limit, self._tell = limit_seconds, hung
        self._thread = ThreadPoolExecutor(1, "model")
        self._free = asyncio.Lock()
        self._hung = ""

    def first(self, function: Callable[..., Any]) -> Any:
        """Call it in the thread and wait, without a limit; for the time before there is an event loop. Raises what it does."""
        outcome = self._thread.submit(_outcome, function, (), {}).result()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    async def call(self, where: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What `function`, plain or async, returns. Raises Failure, which names it by `where`."""
        if inspect.iscoroutinefunction(function):
            return await self._in_loop(where, function(*arguments, **named))
        value = await self._in_thread(where, function, *arguments, **named)
        return await self._in_loop(where, value) if inspect.iscoroutine(value) else value

    async def items(self, where: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> AsyncGenerator[Any]:
        """What the generator `function`, plain or async, yields, or the one thing that it returns when it is none.

        Raises Failure. The limit is for each item. When this is closed, the user's generator is, too.
        """
        queue: asyncio.Queue[_Outcome] = asyncio.Queue(1)
        # A task of its own from the first item to the last: libraries' cancel scopes must be left in the task that entered.
        pump = asyncio.create_task(self._pump(queue, where, function, arguments, named))
        try:
            while (outcome := await queue.get()).value is not _END:
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.value
        finally:
            pump.cancel()

    async def _pump(
        self, queue: asyncio.Queue[_Outcome], where: str, function: Callable[..., Any], arguments: Any, named: Any
    ) -> None:
        try:
            async with contextlib.aclosing(self._each(where, function, arguments, named)) as each:
                async for item in each:
                    await queue.put(_Outcome(item))
            await queue.put(_Outcome(_END))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            await queue.put(_Outcome(error=_cancelled(where)))
        except Exception as error:  # a Failure, or a bug of ours: nobody must wait for ever
            await queue.put(_Outcome(error=error))

    async def _each(self, where: str, function: Callable[..., Any], arguments: Any, named: Any) -> AsyncGenerator[Any]:
        if inspect.isasyncgenfunction(function):
            given = _known(where, _outcome(function, arguments, named))
        else:
            given = await self.call(where, function, *arguments, **named)
        if inspect.isasyncgen(given):
            async with contextlib.aclosing(self._from_loop(where, given)) as each:
                async for item in each:
                    yield item
        elif inspect.isgenerator(given):
            try:
                while (item := await self._in_thread(where, next, given, _END)) is not _END:
                    yield item
            finally:
                with contextlib.suppress(Failure):
                    await self._in_thread(where, given.close)
        else:
            yield given

    async def _from_loop(self, where: str, given: Any) -> AsyncGenerator[Any]:
        async with contextlib.aclosing(given):
            while True:
                limit = asyncio.timeout(self._limit)
                try:
                    async with limit:
                        outcome = await _awaited(anext(given))
                except TimeoutError:
                    raise self._too_long(where, "yield") from None
                if isinstance(outcome.error, StopAsyncIteration):
                    return
                yield _known(where, outcome)

    async def _in_loop(self, where: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(_awaited(coroutine))
        try:
            await asyncio.wait({task}, timeout=self._limit)
            if not task.done():
                raise self._too_long(where, "return")
            if task.cancelled():
                raise _cancelled(where)
            return _known(where, task.result())
        finally:
            task.cancel()

    def _too_long(self, where: str, verb: str) -> Failure:
        return Failure(504, f"{where} did not {verb} within {self._limit:g}s and was cancelled", "model_timeout", final=True)

    async def _in_thread(self, where: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """In the thread, once it is free. Whoever waits may be cancelled: a call that runs holds the thread to its end."""
        await self._free.acquire()
        if self._hung:
            self._free.release()
            raise Failure(503, f"Not run: {self._hung}, and this replica restarts", "model_restarting", final=True)
        return await asyncio.shield(asyncio.create_task(self._holding(where, function, arguments, named)))

    async def _holding(self, where: str, function: Callable[..., Any], arguments: Any, named: Any) -> Any:
        try:
            call = asyncio.get_running_loop().run_in_executor(self._thread, _outcome, function, arguments, named)
            await asyncio.wait({call}, timeout=self._limit)
            if not call.done():
                raise self._hang(where)
            return _known(where, call.result())
        finally:
            self._free.release()

    def _hang(self, where: str) -> Failure:
        self._hung = f"{where} did not return within {self._limit:g}s"
        print(f"{where} is here:\n{self._stack()}{self._hung}: the process ends", file=sys.stderr, flush=True)
        self._tell(self._hung)
        return Failure(504, self._hung, "model_timeout", final=True)

    def _stack(self) -> str:
        """Where the thread is now, in the user's code and below."""
        threads = {thread.ident for thread in threading.enumerate() if thread.name.startswith("model")}
        frames = [frame for ident, frame in sys._current_frames().items() if ident in threads]
        lines = [line for frame in frames for line in traceback.extract_stack(frame)]
        below = max((at for at, line in enumerate(lines) if line.filename == __file__), default=-1)
        return "".join(traceback.format_list(lines[below + 1 :]))


def _outcome(function: Callable[..., Any], arguments: Any, named: Any) -> _Outcome:
    try:
        return _Outcome(function(*arguments, **named))
    except BaseException as error:
        return _Outcome(error=error)


async def _awaited(coroutine: Any) -> _Outcome:
    try:
        return _Outcome(await coroutine)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return _Outcome(error=error)


def _cancelled(where: str) -> Failure:
    return Failure(500, f"{where} raised CancelledError", "model_error")


def _known(where: str, outcome: _Outcome) -> Any:
    """The value, or a Failure in place of the user's exception, which is logged."""
    if outcome.error is None:
        return outcome.value
    log(outcome.error)
    raise raised(where, outcome.error)
