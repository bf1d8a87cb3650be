"""A replica that is ours: its process from start to end, again and again, as states with reasons."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from headrace.engines.base import Engine, Launch, Placement, Probe
from headrace.targets import probes
from headrace.targets.addresses import Addresses, free_port
from headrace.targets.base import Replica, Start, StartTimes, State
from headrace.targets.endings import exited, with_last_words
from headrace.targets.logs import Log
from headrace.targets.process import KILL_SECONDS, Process, started
from headrace.targets.timing import ADAPT_AGAIN_SECONDS, ADAPT_SECONDS, REST_SECONDS, Timing
from headrace.traffic import Endpoint
from headrace.units import show_bytes, show_duration

_LINES_OF_A_CAUSE = 200
"""How far back engines look for why they ended: vLLM's tracebacks are long."""


class Started:
    """Runs one replica. `replica` is how it is now; `tell` is called when that changes its state; `compiled` is where
    engines may keep what they compile; `learned` is told how long a start took.

    One task owns the process: it starts it, watches it, ends it and only then says FAILED, or completes after a stop.
    """

    def __init__(
        self,
        start: Start,
        placement: Placement,
        engine: Engine,
        addresses: Addresses,
        log: Log,
        timing: Timing,
        clock: Callable[[], float],
        tell: Callable[[], None],
        compiled: str = "",
        learned: Callable[[StartTimes], None] = lambda times: None,
    ) -> None:
        self.log = log
        self._compiled, self._learned, self._metrics = compiled, learned, ""
        self._ready_path = engine.ready(placement)
        self._loaded_at: float | None = None
        self._placement, self._engine, self._addresses = placement, engine, addresses
        self._timing, self._clock, self._tell = timing, clock, tell
        self._failures = 0
        self._begun = clock()
        self._ready_at: float | None = None
        self._stop = asyncio.Event()
        self._adapting: asyncio.Task[None] | None = None
        self._resting: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._where, self._trouble = ("", ""), ""
        self.replica = Replica(
            start.replica, start.model, placement, State.STARTING, start.reason,
            since=self._begun, slots=start.slots, begun=self._begun,
        )  # fmt: skip
        self.task = asyncio.create_task(self._run())

    def again(self, reason: str) -> None:
        """Start it again after a failure."""
        self._stop.clear()
        self._enter(State.STARTING, reason, exit_code=None, retry_at=None, restarts=self.replica.restarts + 1)
        self.task = asyncio.create_task(self._run())

    def drain(self, reason: str) -> None:
        """Publish that it takes no new requests."""
        endpoint = self.replica.endpoint
        self._enter(State.DRAINING, reason, endpoint=replace(endpoint, slots=0) if endpoint else None)

    def adapt(self, wanted: Placement) -> None:
        """Make it run `wanted` without a restart: names that go are known no more, those that come are once they are there."""
        endpoint, steps = self.replica.endpoint, self._engine.adapt(self._placement, wanted)
        if endpoint is None or steps is None or (self._adapting and not self._adapting.done()):
            return
        left = replace(endpoint, also=endpoint.also & frozenset(wanted.also))
        self.replica = replace(self.replica, adapting=wanted, retry_at=None, endpoint=left)
        self._adapting = asyncio.create_task(self._adapt(wanted, steps, endpoint))
        self._tell()

    def sleep(self, level: int) -> None:
        """Put it to sleep in place, once it has drained; where that fails, it is stopped."""
        if self.replica.state is State.DRAINING and (self._resting is None or self._resting.done()):
            self.replica = replace(self.replica, level=level)
            self._resting = asyncio.create_task(self._to_sleep(level))

    def wake(self, reason: str) -> None:
        """Wake it; where that fails, its process is killed and it has failed."""
        if self.replica.state is State.ASLEEP:
            self._begun = self._clock()
            self._enter(State.LOADING, reason)
            self._resting = asyncio.create_task(self._woken(self.replica.level))

    def stop(self, reason: str) -> None:
        """End it; `task` is done when it is gone. One that has closed its door by itself has failed then."""
        self._enter(State.STOPPED, reason, endpoint=None, retry_at=None)
        self._stop.set()

    def refresh(self, memory_bytes: int | None) -> None:
        """Note what memory it takes."""
        self.replica = replace(self.replica, memory_bytes=memory_bytes)

    async def _run(self) -> None:
        key = secrets.token_urlsafe(32)
        self.log.hide(key)
        self._begun, self._loaded_at = self._clock(), None
        self._lost = asyncio.get_running_loop().create_future()
        try:  # no port, socket, file or process to be had is this replica's failure, not Headrace's
            address, socket = self._address()
            launch = self._engine.launch(self._placement, address)
            self._metrics, self._where = launch.metrics_address or address, (address, key)
            environment = _environment(launch, key, self._compiled)
            process = await started(launch.argv, environment, self.log, launch.folder, launch.tree)
        except OSError as error:
            return self._over(f"could not be started: {error.strerror or error}", None)
        self.replica = replace(self.replica, pid=process.pid)
        try:
            verdict = await self._until_over(process, address, key)
            if verdict:
                self._offer(0, verdict)
            code = await process.end(self._engine.grace_seconds if self._stop.is_set() else 0)
            if code is None:
                return await self._until_dead(process, verdict or "was told to end")
        except BaseException:  # this task is cancelled or has a bug: the process still must not outlive it
            process.kill()
            raise
        finally:
            if socket:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(socket)
        self._over(verdict or exited(code, self._clock() - self._begun), code)

    async def _until_dead(self, process: Process, why: str) -> None:
        """What SIGKILL does not end has failed, and takes its memory; it is not started again before it is gone."""
        retry_at, code = None, None
        if self.replica.state is not State.STOPPED:
            self._fail(f"{why}; it could not be killed within {show_duration(KILL_SECONDS)}: it waits in the kernel", None)
            retry_at = self.replica.retry_at
        while code is None:
            if self.replica.state is State.FAILED:
                self.replica = replace(self.replica, pid=process.pid, retry_at=self._clock() + 3 * KILL_SECONDS)
            code = await process.end(0)
        if self.replica.state is State.FAILED:
            self.replica = replace(self.replica, pid=None, exit_code=code, retry_at=retry_at)
            return self._tell()
        self._over(why, code)

    def _address(self) -> tuple[str, str | None]:
        """(where the replica shall listen, its socket's path if that is one)."""
        if not self._engine.sockets(self._placement):
            return f"http://127.0.0.1:{free_port(self._engine.ports)}", None
        path = str(self._addresses.socket(self.replica.name))
        return f"unix:{path}", path

    async def _until_over(self, process: Process, address: str, key: str) -> str | None:
        """Until the process is gone or asked to stop (None), or found to be beyond help (why)."""
        attend = asyncio.create_task(self._attend(address, key))
        stop = asyncio.create_task(self._stop.wait())
        try:
            ends: set[asyncio.Future[Any]] = {process.gone, attend, stop, self._lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return self._lost.result() if self._lost.done() else attend.result() if attend.done() else None
        finally:
            await _cancelled(attend, stop, *filter(None, (self._adapting, self._resting)))

    async def _attend(self, address: str, key: str) -> str:
        """Bring it to READY, then keep asking; returns only when it must be killed, with the reason."""
        try:
            async with asyncio.timeout(self._timing.load_limit):
                await self._until_ready(address, key)
        except TimeoutError:
            return f"was not ready after {show_duration(self._timing.load_limit)}: {self._trouble}"
        self._publish(address, key)
        scrape = asyncio.create_task(self._scrape(address, key))
        try:
            return await self._until_hung(address, key)
        finally:
            await _cancelled(scrape)

    async def _until_ready(self, address: str, key: str) -> None:
        warm, self._trouble = self._engine.warm(self._placement), "it said nothing"
        while True:
            health = await probes.health(address, self._ready_path, self._timing.health_timeout, key)
            if health.ready and self._loaded_at is None:
                self._loaded_at = self._clock()
            self._trouble = health.trouble or "its first answer did not come"
            if health.ready:
                self._trouble = await probes.refusal(address, warm, self._timing.load_limit, key) if warm else ""
                if not self._trouble:
                    return
            if health.loading and self.replica.state is State.STARTING:
                self._enter(State.LOADING, "the engine loads the model")
            await asyncio.sleep(self._timing.watch if health.ready else self._timing.load_probe)  # a request is more than a look

    def _publish(self, address: str, key: str) -> None:
        if self.replica.state not in (State.STARTING, State.LOADING):
            return  # drained or stopped in the meantime
        placement, engine = self._placement, self._engine
        endpoint = Endpoint(
            self.replica.name,
            placement.model,
            address,
            placement.slots,
            placement.model,
            engine.folds,
            key,
            engine.speaks(placement),
            placement.template,
            frozenset(placement.also),
            engine.continues,
            engine.caches,
        )
        self._ready_at, level = self._clock(), self.replica.level
        loaded = self._loaded_at or self._ready_at
        times = StartTimes(placement.engine, placement.weights, loaded - self._begun, self._ready_at - loaded, level)
        self._learned(times)
        warmed = f" (loaded after {show_duration(times.load_seconds)}, warm {show_duration(times.warm_seconds)} later)"
        first = warmed if engine.warm(placement) else ""
        how = "awake" if level else "ready"
        after = show_duration(self._ready_at - self._begun)
        self._enter(State.READY, f"{how} after {after}{first}", endpoint=endpoint, level=0)

    async def _to_sleep(self, level: int) -> None:
        address, key = self._where
        for request in self._engine.sleep(self._placement, level):
            why = await probes.refusal(address, request, REST_SECONDS, key)
            if self.replica.state is not State.DRAINING:
                return  # stopped in the meantime
            if why:
                return self.stop(f"it could not sleep in place: {why}")
        held = next((bed.memory_bytes for bed in self._placement.beds if bed.level == level), 0)
        reason = f"sleeps in place at level {level}, with {show_bytes(held)} of memory"
        self._enter(State.ASLEEP, reason, endpoint=None, level=level)

    async def _woken(self, level: int) -> None:
        address, key = self._where
        for request in self._engine.wake(self._placement, level):
            if why := await probes.refusal(address, request, REST_SECONDS, key):
                return self._lose(f"could not be woken: {why}")
        self._loaded_at, warm = self._clock(), self._engine.warm(self._placement)
        if warm and (why := await probes.refusal(address, warm, REST_SECONDS, key)):
            return self._lose(f"did not answer once it was awake: {why}")
        self._publish(address, key)

    def _lose(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)

    async def _adapt(self, wanted: Placement, steps: Sequence[tuple[Probe, Placement]], endpoint: Endpoint) -> None:
        for request, after in steps:
            if why := await probes.refusal(endpoint.address, request, ADAPT_SECONDS, endpoint.key or ""):
                again = self._clock() + ADAPT_AGAIN_SECONDS
                self._now_runs(self._placement, self._placement.also)
                self.replica = replace(self.replica, reason=f"it keeps the adapters it has: {why}", retry_at=again)
                return self._tell()
            self._now_runs(after, wanted.also)
        self._now_runs(wanted, wanted.also)
        self.replica = replace(self.replica, adapting=None, reason=f"adapters: {', '.join(wanted.adapters) or 'none'}")
        self._tell()

    def _now_runs(self, placement: Placement, names: Sequence[str]) -> None:
        """It runs this, of which clients may ask for `names`."""
        self._placement, endpoint = placement, self.replica.endpoint
        known = replace(endpoint, also=frozenset(placement.also) & frozenset(names)) if endpoint else None
        self.replica = replace(self.replica, placement=placement, endpoint=known)

    async def _until_hung(self, address: str, key: str) -> str:
        failures, first, closed = 0, self._clock(), 0
        while failures < self._timing.health_failures:
            await asyncio.sleep(self._timing.watch if closed else self._timing.health)
            asked = self._clock()
            health = await probes.health(address, self._ready_path, self._timing.health_timeout, key)
            closed = closed if health.unasked else closed + 1 if health.closed else 0
            self._look_at_door(closed)
            if not health.unasked and not health.closed:
                failures, first = (0, asked) if health.ready else (failures + 1, first if failures else asked)
        return f"did not answer {self._ready_path} for {show_duration(self._clock() - first)}: {health.trouble}"

    def _look_at_door(self, closed: int) -> None:
        """Whoever told it to end did not tell us: nothing new is sent, and what runs there may finish. One look may be wrong, as
        at a connection that was reset; what stays closed (for so many looks in a row) has left, and its end is its failure.
        """
        endpoint = self.replica.endpoint
        if self.replica.state is not State.READY or endpoint is None:
            return
        if closed >= self._timing.health_failures:
            self.replica = replace(self.replica, shut=True)
            self.drain("it closed its door while it runs: it was told to end, and finishes what it has")
        elif closed and endpoint.slots:
            self._offer(0, "it takes no connections")
        elif not closed and not endpoint.slots:
            self._offer(self._placement.slots, "it takes connections again")

    def _offer(self, slots: int, reason: str) -> None:
        """So many requests at once may be sent."""
        endpoint = self.replica.endpoint
        self.replica = replace(self.replica, reason=reason, endpoint=replace(endpoint, slots=slots) if endpoint else None)
        self._tell()

    async def _scrape(self, address: str, key: str) -> None:
        while True:
            model, timeout = self._placement.model, self._timing.health_timeout
            reading = await probes.reading(self._engine, self._metrics, model, timeout, key)
            self.replica = replace(self.replica, reading=reading)
            await asyncio.sleep(self._timing.scrape)

    def _over(self, reason: str, code: int | None) -> None:
        if self.replica.shut:
            self._fail(f"closed its door, and then {reason}", code)
        elif self._stop.is_set():
            self.replica = replace(self.replica, pid=None, exit_code=code, memory_bytes=None, reading=None)
            self._tell()
        else:
            self._fail(reason, code)

    def _fail(self, what: str, code: int | None) -> None:
        """FAILED, with when to try again and the last that it said; with more of it when that was the last try."""
        now, policy = self._clock(), self._timing.restarts
        ready_seconds = 0.0 if self._ready_at is None else now - self._ready_at
        self._failures, self._ready_at = policy.failures(self._failures, ready_seconds), None
        retry_at = policy.retry_at(self._failures, now)
        if retry_at is None:
            what = f"failed {self._failures} times in a row and is not started again: {what}"
        why = self._engine.cause(self.log.last(_LINES_OF_A_CAUSE))
        reason = with_last_words(what, why, self.log.last(5 if retry_at is None else 1))
        gone = {"endpoint": None, "pid": None, "memory_bytes": None, "reading": None, "adapting": None, "level": 0, "shut": False}
        self._enter(State.FAILED, reason, exit_code=code, retry_at=retry_at, **gone)

    def _enter(self, state: State, reason: str, **facts: object) -> None:
        self.replica = self.replica.entered(state, self._clock(), reason, **facts)
        self._tell()


def _environment(launch: Launch, key: str, compiled: str) -> dict[str, str | None]:
    secret = {launch.key_variable: key} if launch.key_variable else {}
    cache = {launch.cache_variable: compiled} if compiled else {}
    return {**launch.environment, **cache, **secret}


async def _cancelled(*tasks: asyncio.Task[str] | asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """Cancel `tasks` and wait until they are done; what they failed with is raised by whoever asked for it before."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
