"""The running one's side of a handover: who may have its place, what is passed on, and the way back."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from headrace.foreground import Stop
from headrace.gateway.accepting import Accepting
from headrace.gateway.gateway import Gateway
from headrace.handover.line import HELLO_SECONDS, Gone, HandoverError, Held, Kind, Line
from headrace.handover.place import Place, path_for
from headrace.terminal import Terminal


class Offer:
    """Waits for a next one from `open` on. `taken` is set once that listens in this one's place: then call `leave`.

    `held` says what this one has at the moment, `busy` what keeps it from being replaced now (nothing: "").
    """

    def __init__(
        self, kind: Kind, gateway: Gateway, terminal: Terminal, held: Callable[[], Held], busy: Callable[[], str] = lambda: ""
    ) -> None:
        self._kind, self._gateway, self._terminal, self._held, self._busy = kind, gateway, terminal, held, busy
        self._place: Place | None = None
        self._accepting = Accepting(self._begin)
        self._talks: set[asyncio.Task[None]] = set()
        self._next: Line | None = None
        self.taken = asyncio.Event()

    def open(self) -> None:
        """Wait for whoever wants the place of this one. Where that cannot be it is said, and serving goes on without."""
        try:
            self._place = Place(path_for(*self._gateway.door.address))
        except (OSError, HandoverError) as error:
            self._terminal.say(f"No other Headrace can take this one's place: {error}")
        else:
            self._accepting.start([self._place.socket])

    async def until_over(self, stop: Stop, seconds: float, task: asyncio.Task[None], *others: asyncio.Event) -> None:
        """As `stop.first`; returns as well when another Headrace serves in this one's place, and all is answered here."""
        while True:
            await stop.first(task, self.taken, *others)
            if stop.asked or not self.taken.is_set() or await stop.unless(self.leave(seconds)) is not False:
                return

    async def leave(self, seconds: float) -> bool:
        """Answer what there is, at most `seconds`, while the next one takes what comes. False when that died before, and
        clients are accepted here again.
        """
        assert self._next is not None
        self._terminal.say(f"Headrace (pid {self._next.pid}) accepts the clients now; this one answers what it has.")
        leaving, gone = asyncio.ensure_future(self._gateway.leave(seconds)), asyncio.ensure_future(self._missed(self._next))
        try:
            await asyncio.wait((leaving, gone), return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self._terminal.say(f"Stopped; Headrace (pid {self._next.pid}) serves in this one's place.")
                return True
        finally:
            leaving.cancel()
            gone.cancel()
            await asyncio.gather(leaving, gone, return_exceptions=True)
        await self._back()
        return False

    def close(self) -> None:
        """Wait for nobody any more. To the next one that is the end of this one."""
        if self._place is not None:
            self._accepting.stop()
            self._place.close()
            self._place = None
        for task in self._talks:
            task.cancel()
        if self._next is not None:
            self._next.close()
            self._next = None

    async def _missed(self, line: Line) -> None:
        """Until the next one is missed: for ever when it ends as it should. Then nobody is to wait at the door."""
        if await line.end():
            self._gateway.door.close()
            await asyncio.get_running_loop().create_future()

    async def _back(self) -> None:
        self._terminal.say(f"Headrace (pid {self._next and self._next.pid}) died in this one's place: serving goes on here.")
        await self._gateway.come_back()
        self.taken.clear()
        self.close()
        self.open()

    def _begin(self, connection: socket.socket, _: str) -> None:
        task = asyncio.get_running_loop().create_task(self._talk(Line(connection)))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _talk(self, line: Line) -> None:
        try:
            await self._hand_over(line)
        except (Gone, TimeoutError, HandoverError):
            if self._next is line:
                self._terminal.say(f"Headrace (pid {line.pid}) did not take this one's place: nothing has changed here.")
        finally:
            if self._next is line and not self.taken.is_set():
                self._next = None
            if self._next is not line:
                line.close()

    async def _hand_over(self, line: Line) -> None:
        asked, _ = await line.receive("hello", HELLO_SECONDS)
        if why := self._refusal(asked, line):
            await line.send("hello", refused=why)
            return
        self._next = line
        self._terminal.say(f"Headrace {asked.get('version')} (pid {line.pid}) starts beside this one, to take its place.")
        held = self._held()
        await line.send("hello", models=held.models, planned=held.planned_bytes, resident=held.resident_bytes)
        await line.receive("sockets")  # minutes later, when its models are ready
        if why := self._busy():
            await line.send("sockets", refused=why)
            raise Gone
        await line.send("sockets", self._gateway.door.sockets)
        await line.receive("listening")
        await line.send("listening")
        self.taken.set()

    def _refusal(self, asked: dict[str, Any], line: Line) -> str:
        if (uid := line.uid()) is not None and uid != os.getuid():
            return "it belongs to another user"
        if self._next is not None:
            return f"Headrace (pid {self._next.pid}) is taking its place already"
        if asked.get("kind") != self._kind:
            return f"it is a `headrace {self._kind}`"
        return self._busy()
