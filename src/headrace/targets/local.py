"""This machine as a target: replicas are child processes, or servers elsewhere that are only watched."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headrace.engines.base import Engine
from headrace.targets.addresses import Addresses, short_name
from headrace.targets.base import Adapt, Change, Drain, Replica, Sleep, Start, StartTimes, State, Stop, Wake
from headrace.targets.logs import Log
from headrace.targets.memory import resident
from headrace.targets.started import Started
from headrace.targets.timing import Timing
from headrace.targets.watched import Watched


class LocalTarget:
    """A Target whose replicas end with it. `run_dir` gets the sockets, `logs` (default: a folder in it) what replicas write.

    `keys` are the API keys of servers that are not ours, by model; `clock` gives monotonic seconds; `compiled` is the folder
    where engines may keep what they compile; `learned` is told how long each start took. Make it inside the event loop, in the
    main thread.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        run_dir: Path,
        keys: Mapping[str, str] | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        logs: Path | None = None,
        compiled: Path | None = None,
        learned: Callable[[StartTimes], None] = lambda times: None,
    ) -> None:
        self._learned = learned
        self._compiled = str(compiled or "")
        self._engines, self._keys, self._clock = engines, keys or {}, clock
        self._timing = timing or Timing()
        self._logs = logs or run_dir / "logs"
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._addresses = Addresses(run_dir)
        self._members: dict[str, Started | Watched] = {}
        self._changed = asyncio.Event()
        self._memory_at = float("-inf")

    async def observe(self) -> tuple[Replica, ...]:
        """Every replica, as it is now. Raises what a replica's task failed with, which is a bug of ours."""
        self._forget()
        if self._clock() - self._memory_at >= self._timing.memory:
            self._memory_at = self._clock()
            await self._measure()
        return tuple(member.replica for member in self._members.values())

    async def apply(self, changes: Sequence[Change]) -> None:
        """Get the changes under way. One that is done already, or whose replica is gone, changes nothing."""
        self._forget()
        for change in changes:
            match change:
                case Start():
                    self._start(change)
                case Adapt():
                    self._adapt(change)
                case Drain():
                    self._drain(change)
                case Sleep() | Wake():
                    self._rest(change)
                case Stop():
                    self._stop(change)

    async def changed(self, timeout: float) -> None:
        """Return when a replica changed its state since the last call, at the latest after `timeout` seconds (for one
        caller).
        """
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines of a replica of ours; none for others."""
        member = self._members.get(replica)
        return member.log.last(lines) if isinstance(member, Started) else []

    async def close(self) -> None:
        """Stop every replica at once and wait until they are gone, with their sockets."""
        members = list(self._members.values())
        for member in members:
            if member.replica.state is not State.STOPPED:
                member.stop("Headrace stops")
        try:
            await asyncio.gather(*(member.task for member in members), return_exceptions=True)
        finally:
            self._members.clear()
            self._addresses.close()

    def _start(self, change: Start) -> None:
        member = self._members.get(change.replica)
        if member is None:
            self._members[change.replica] = self._member(change)
            self._changed.set()
        elif isinstance(member, Started) and member.replica.state is State.FAILED and member.task.done():
            member.again(change.reason)

    def _member(self, change: Start) -> Started | Watched:
        if isinstance(change.runs, str):
            key = self._keys.get(change.model)
            return Watched(change, change.runs, key, self._timing, self._clock, self._changed.set)
        engine = self._engines[change.runs.engine]
        log = Log(self._logs / f"{short_name(change.replica)}.log")
        return Started(
            change,
            change.runs,
            engine,
            self._addresses,
            log,
            self._timing,
            self._clock,
            self._changed.set,
            self._compiled,
            self._learned,
        )

    def _adapt(self, change: Adapt) -> None:
        member = self._members.get(change.replica)
        if isinstance(member, Started) and member.replica.state is State.READY:
            member.adapt(change.runs)

    def _drain(self, change: Drain) -> None:
        member = self._members.get(change.replica)
        if member and member.replica.state in (State.LOADING, State.READY):
            member.drain(change.reason)

    def _rest(self, change: Sleep | Wake) -> None:
        member = self._members.get(change.replica)
        if isinstance(member, Started) and isinstance(change, Sleep):
            member.sleep(change.level)
        elif isinstance(member, Started):
            member.wake(change.reason)

    def _stop(self, change: Stop) -> None:
        member = self._members.get(change.replica)
        if member and member.replica.state is not State.STOPPED:
            member.stop(change.reason)

    def _forget(self) -> None:
        """Drop the replicas that were stopped and are gone."""
        for name, member in list(self._members.items()):
            if member.task.done() and member.replica.state is State.STOPPED:
                del self._members[name]
            if member.task.done():
                member.task.result()

    async def _measure(self) -> None:
        members = [member for member in self._members.values() if isinstance(member, Started)]
        pids = {member.replica.pid for member in members} - {None}
        # In a thread: it reads all of /proc, which on a full machine takes longer than a token.
        memory = await asyncio.to_thread(resident, [pid for pid in pids if pid is not None])
        for member in members:
            member.refresh(memory.get(member.replica.pid or 0))
