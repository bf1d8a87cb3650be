"""One load carried out: requests sent when they are due, until the time or the number is over; then what runs may end."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from time import monotonic, process_time
from typing import Any

from headrace.measure.base import Load, Outcome
from headrace.measure.client import Client
from headrace.measure.summary import Window

_AFTER_FAILURE_SECONDS = 0.1
"""A user of a closed loop waits so long after a failure: a server that refuses at once would be asked without end."""
_MOST_OPEN = 20_000
_TICK_SECONDS = 1.0

Asked = tuple[bytes, int]
"""A body, and the output tokens that it asks for."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a load lasts, in seconds: `warmup` is not measured; `requests` are enough before `duration` is over; what is not
    answered `drain` after the end is given up.
    """

    warmup: float
    duration: float
    requests: int | None
    drain: float


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it. `cpu`: this process's own, as a share of one core."""

    outcomes: list[Outcome]
    window: Window
    cpu: float


class Run:
    """One load against one client. `stop` ends it early, and keeps what there is."""

    def __init__(self, client: Client, load: Load, length: Length, stop: asyncio.Event, tick: Callable[["Run"], None]) -> None:
        self._client, self._load, self._length, self._stop, self._tick = client, load, length, stop, tick
        self.outcomes: list[Outcome] = []
        self._begin()
        self._counted = 0
        self._enough = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def seconds(self) -> tuple[float, float]:
        """How much of how much has passed."""
        return monotonic() - self.began, self._end - self.began

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self._client.in_flight

    async def run(self, bodies: Iterator[Asked], times: Iterator[float] | None) -> Ran:
        """Send all, wait for the answers. `times` are seconds from the start; None: as the answers come."""
        gc.collect()  # a heap that is not looked at again does not stop the clock later
        gc.freeze()
        self._begin()
        spent = process_time()
        sending = asyncio.create_task(self._open(bodies, times) if times else self._closed(bodies))
        try:
            await self._until(sending)
            end = min(self._end, monotonic())
            self._client.settle()
            cpu = (process_time() - spent) / max(1e-9, monotonic() - self.began)
            await self._drain(sending)
        finally:
            for task in (sending, *self._tasks):
                task.cancel()
            await asyncio.gather(sending, *self._tasks, return_exceptions=True)
            gc.unfreeze()
        return Ran([one for one in self.outcomes if one.ended], Window(self.began, min(self.start, end), end), cpu)

    def _begin(self) -> None:
        self.began = monotonic()
        self.start = self.began + self._length.warmup
        self._end = self.start + self._length.duration

    async def _until(self, sending: asyncio.Task[None]) -> None:
        """To the end of the time, the number, the trace, or until it is stopped."""
        waits = [asyncio.create_task(event.wait()) for event in (self._stop, self._enough)]
        try:
            while (left := self._end - monotonic()) > 0:
                done, _ = await asyncio.wait((*waits, sending), timeout=min(left, _TICK_SECONDS), return_when="FIRST_COMPLETED")
                if done:
                    break
                self._client.settle()
                self._tick(self)
        finally:
            for wait in waits:
                wait.cancel()
            self._enough.set()
        if sending.done():
            sending.result()

    async def _drain(self, sending: asyncio.Task[None]) -> None:
        until = monotonic() + self._length.drain
        while (self._tasks or self._client.in_flight) and monotonic() < until and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), min(0.05, self._length.drain))
        why = "stopped" if self._stop.is_set() else f"not complete {self._length.drain:g} s after the end"
        self._client.give_up(f"Given up: {why}.")
        await asyncio.sleep(0)

    async def _closed(self, bodies: Iterator[Asked]) -> None:
        for _ in range(int(self._load.level)):
            self._start(self._user(bodies))
        await asyncio.gather(*self._tasks)

    async def _user(self, bodies: Iterator[Asked]) -> None:
        while not self._enough.is_set():
            body, asked = next(bodies)
            now = monotonic()
            outcome = Outcome(now, now, asked)
            await self._ask(body, outcome)
            if outcome.kind != "ok" and not self._enough.is_set():
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)

    async def _open(self, bodies: Iterator[Asked], times: Iterator[float]) -> None:
        for at in times:
            due = self.began + at
            if due >= self._end:
                break
            body, asked = next(bodies)  # made before it is due
            while (now := monotonic()) < due and not self._enough.is_set():
                await asyncio.sleep(due - now)
            if self._enough.is_set():
                return
            outcome = Outcome(due, monotonic(), asked)
            if len(self._tasks) >= _MOST_OPEN:
                outcome.kind, outcome.detail, outcome.ended = "unfinished", f"{_MOST_OPEN} were open already.", monotonic()
                self.outcomes.append(outcome)
            else:
                self._start(self._ask(body, outcome))
        await self._enough.wait() if self._load.kind == "open" else await asyncio.gather(*self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, body: bytes, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.intended >= self.start:
            self._counted += 1
            if self._counted == self._length.requests:
                self._enough.set()
        await self._client.ask(body, outcome)
