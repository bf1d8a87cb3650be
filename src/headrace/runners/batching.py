"""Dynamic batching: requests' inputs are put together into calls of bounded size, and each request gets its own outputs."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.runners.custom_failure import Failure

Call = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]


class Patience:
    """How long a call that could begin should wait for more inputs. Times are in seconds of one clock.

    When nothing ran a moment ago, not at all: a lone request is never delayed. After a call, those who were just answered
    often ask again within a millisecond, and beginning with the first of them would split clients in step into a batch of
    one and a batch of the rest for ever. So the next call waits until as many inputs are there as were a moment ago; never
    longer than `limit`, nor than the last call took, which is all that beginning at once would cost the others. Where
    clients do not come back in step, waiting is in vain: each time it was, it is left out for twice as many calls.
    """

    def __init__(self, batch: int, limit: float) -> None:
        self._batch, self._limit = batch, limit
        self._expected, self._until = 0, float("-inf")
        self._began, self._waited = 0.0, False
        self._in_vain = self._left_out = 0

    def wait(self, there: int, now: float) -> float:
        """How long from `now`, with `there` inputs waiting; 0 or less: begin."""
        left = 0.0 if there >= self._expected else self._until - now
        self._waited |= left > 0
        return left

    def began(self, there: int, now: float) -> None:
        """A call begins, `there` inputs were waiting."""
        if self._waited:
            self._in_vain = 0 if there >= self._expected else min(self._in_vain + 1, _MOST_DOUBLINGS)
            self._left_out = 2**self._in_vain - 1
        self._began, self._waited = now, False

    def ended(self, answered: int, there: int, now: float) -> None:
        """The call ends, with its inputs `answered` and `there` more waiting."""
        self._expected = min(answered + there, self._batch)
        if self._left_out:
            self._left_out -= 1
            self._expected = 0
        self._until = now + min(self._limit, now - self._began)


_MOST_DOUBLINGS = 6


@dataclass(eq=False, slots=True)
class Job:
    """Inputs that stay together: a request, or a part of one that is larger than a batch."""

    inputs: Sequence[Any]
    key: Hashable
    first: bool
    """The first part of its request."""
    answer: asyncio.Future[Sequence[Any]] = field(repr=False)


class Batcher:
    """Puts requests together, first come first served, and answers each with its own outputs, in its own order.

    `call(inputs)` gives as many outputs in the same order, or raises Failure; an output that is itself a Failure fails its
    request only. There is one call at a time, of at most `batch` inputs with the same key: a request with more is cut
    into several calls, any other stays whole. When a call for several requests fails and `isolate` is set, each request
    is run once by itself, so that one bad input does not fail its neighbours. `told(inputs)` hears of each call's size.
    """

    def __init__(
        self,
        call: Call,
        batch: int,
        delay_seconds: float,
        *,
        isolate: bool = True,
        told: Callable[[int], None] = lambda inputs: None,
    ) -> None:
        self._call, self._batch, self._isolate, self._told = call, batch, isolate, told
        self._patience = Patience(batch, delay_seconds)
        self._waiting: deque[Job] = deque()
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests of which nothing runs yet."""
        return sum(job.first for job in self._waiting)

    async def outputs(self, inputs: Sequence[Any], key: Hashable = None) -> list[Any]:
        """As many outputs as inputs, in order. Raises Failure. When cancelled, what does not run yet is never run."""
        if not inputs:
            return []
        loop = asyncio.get_running_loop()
        starts = range(0, len(inputs), self._batch)
        jobs = [Job(inputs[at : at + self._batch], key, at == 0, loop.create_future()) for at in starts]
        self._waiting.extend(jobs)
        self._consider()
        try:
            return [output for part in await asyncio.gather(*(job.answer for job in jobs)) for output in part]
        finally:
            self._leave(jobs)

    def _leave(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more: take them out of the queue, and let no failure of theirs go unseen."""
        for job in jobs:
            if job in self._waiting:
                self._waiting.remove(job)
            if not job.answer.cancel() and not job.answer.cancelled():
                job.answer.exception()

    def _consider(self) -> None:
        """Begin the next call, or see to it that it begins in time."""
        self._disarm()
        if self._running is not None or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        wait = 0.0 if self._group()[1] else self._patience.wait(self._there, loop.time())
        if wait > 0:
            self._timer = loop.call_later(wait, self._begin)
        else:
            self._begin()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _there(self) -> int:
        return sum(len(job.inputs) for job in self._waiting)

    def _group(self) -> tuple[int, bool]:
        """(how many jobs at the head of the queue go into one call, whether none that comes later can join them)."""
        count, room = 0, self._batch
        for job in self._waiting:
            if job.key != self._waiting[0].key or len(job.inputs) > room:
                return count, True
            count, room = count + 1, room - len(job.inputs)
        return count, room == 0

    def _begin(self) -> None:
        self._disarm()
        if not self._waiting:  # those it waited with have left
            return
        loop = asyncio.get_running_loop()
        self._patience.began(self._there, loop.time())
        jobs = [self._waiting.popleft() for _ in range(self._group()[0])]
        self._running = loop.create_task(self._run(jobs))
        self._running.add_done_callback(lambda task: self._over(jobs))

    def _over(self, jobs: Sequence[Job]) -> None:
        self._running = None
        answered = sum(len(job.inputs) for job in jobs)
        self._patience.ended(answered, self._there, asyncio.get_running_loop().time())
        self._consider()

    async def _run(self, jobs: Sequence[Job]) -> None:
        """One call, and when it fails for several requests, one for each."""
        jobs = [job for job in jobs if not job.answer.done()]
        if not jobs:
            return
        inputs = [each for job in jobs for each in job.inputs]
        self._told(len(inputs))
        try:
            outputs = await self._call(inputs)
        except Failure as failure:
            if len(jobs) > 1 and self._isolate and not failure.final:
                for job in jobs:
                    await self._run([job])
            else:
                _fail(jobs, failure)
        except Exception as bug:  # ours: the requests must not wait for ever
            _fail(jobs, bug)
        else:
            _answer(jobs, outputs)


def _answer(jobs: Sequence[Job], outputs: Sequence[Any]) -> None:
    start = 0
    for job in jobs:
        own = outputs[start : start + len(job.inputs)]
        start += len(job.inputs)
        failure = next((output for output in own if isinstance(output, Failure)), None)
        if failure is not None:
            _fail([job], failure)
        elif not job.answer.done():
            job.answer.set_result(own)


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(error)
