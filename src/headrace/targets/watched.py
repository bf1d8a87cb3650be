"""A replica that is not ours: a server at a URL that is only asked how it is."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from headrace.targets import probes
from headrace.targets.base import Replica, Start, State
from headrace.targets.timing import Timing
from headrace.traffic import Endpoint
from headrace.units import show_duration


class Watched:
    """Watches one server: READY while it answers, FAILED while it does not, for as long as it is wanted."""

    def __init__(
        self,
        start: Start,
        address: str,
        key: str | None,
        timing: Timing,
        clock: Callable[[], float],
        tell: Callable[[], None],
    ) -> None:
        self._address, self._key, self._timing, self._clock, self._tell = address, key, timing, clock, tell
        self._stop = asyncio.Event()
        self.replica = Replica(
            start.replica, start.model, address, State.STARTING, start.reason, since=clock(), slots=start.slots
        )
        self.task = asyncio.create_task(self._run())

    def drain(self, reason: str) -> None:
        """Publish that it is sent no new requests."""
        endpoint = self.replica.endpoint
        self._enter(State.DRAINING, reason, endpoint=replace(endpoint, slots=0) if endpoint else None)

    def stop(self, reason: str) -> None:
        """Watch it no longer."""
        self._enter(State.STOPPED, reason, endpoint=None)
        self._stop.set()

    async def _run(self) -> None:
        watch = asyncio.create_task(self._watch())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({watch, stop}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()  # it never ends but by a bug, which shall be seen
        finally:
            watch.cancel()
            stop.cancel()
            await asyncio.gather(watch, stop, return_exceptions=True)
            self._tell()

    async def _watch(self) -> None:
        failures = 0
        while True:
            health = await probes.any_health(self._address, self._timing.health_timeout, self._key)
            failures = 0 if health.ready else failures + (not health.unasked)
            if health.ready:
                await self._up()
            elif failures >= self._timing.health_failures:
                self._down(f"{self._address} is not usable: {health.trouble}")
            await asyncio.sleep(self._timing.health if health.ready else self._timing.watch)

    async def _up(self) -> None:
        if not self._unused():
            return
        name = await probes.model_there(self._address, self.replica.model, self._timing.health_timeout, self._key)
        if not self._unused():  # stopped while we asked
            return
        if not isinstance(name, str):
            self._down(f"{self._address} has no model {self.replica.model}: it has {', '.join(name)[:200]}; name the model so")
            return
        if self.replica.state is State.FAILED:
            self._enter(State.STARTING, "answers again", restarts=self.replica.restarts + 1)
        endpoint = Endpoint(
            self.replica.name, self.replica.model, self._address, self.replica.slots, name, folds=False, key=self._key
        )
        waited = show_duration(self._clock() - self.replica.since)
        self._enter(State.READY, f"answered after {waited}, calls the model {name}", endpoint=endpoint)

    def _unused(self) -> bool:
        return self.replica.state in (State.STARTING, State.FAILED)

    def _down(self, reason: str) -> None:
        if self.replica.state in (State.STARTING, State.READY):
            self._enter(State.FAILED, reason, endpoint=None)

    def _enter(self, state: State, reason: str, **facts: object) -> None:
        self.replica = self.replica.entered(state, self._clock(), reason, **facts)
        self._tell()
