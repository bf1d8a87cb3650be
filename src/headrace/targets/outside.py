"""Servers that run elsewhere, all of them: watched while they are wanted, replaced by what is wanted next."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from headrace.targets.base import Replica, Start
from headrace.targets.timing import Timing
from headrace.targets.watched import Watched


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a model: its address, the requests it takes at once, and its key."""

    model: str
    address: str
    slots: int
    key: str | None = field(default=None, repr=False)


class Outside:
    """`replicas` is how all of them are; `changed` is called when that changes."""

    def __init__(self, changed: Callable[[], None], timing: Timing | None = None) -> None:
        self._changed, self._timing = changed, timing or Timing()
        self._watched: dict[Server, Watched] = {}
        self._numbers: dict[str, int] = {}

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(watched.replica for watched in self._watched.values())

    def want(self, servers: Mapping[str, list[Server]]) -> None:
        """Watch these servers, by model, and no others. Those that stay are not disturbed; what runs at others may end there."""
        wanted = [server for each in servers.values() for server in each]
        for server in [server for server in self._watched if server not in wanted]:
            self._watched.pop(server).stop("it is wanted no more")
        for server in wanted:
            if server not in self._watched:
                self._watched[server] = self._watch(server)
        self._changed()

    async def close(self) -> None:
        """Watch none."""
        tasks = [watched.task for watched in self._watched.values()]
        self.want({})
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, server: Server) -> Watched:
        number = self._numbers[server.model] = self._numbers.get(server.model, 0) + 1
        start = Start(f"{server.model}-{number}", server.model, server.address, server.slots, "the file names it")
        return Watched(start, server.address, server.key, self._timing, time.monotonic, self._changed)
