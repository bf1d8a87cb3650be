"""The next one's side of a handover: find the running one, and take its place when everything is ready."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from time import monotonic

from headrace.gateway.door import ListenError, addresses
from headrace.gateway.gateway import Gateway
from headrace.handover.line import HELLO_SECONDS, RESTART, Gone, HandoverError, Held, Kind, Line
from headrace.handover.place import path_for
from headrace.terminal import Terminal

_UNCHANGED = "Nothing has changed for it."
_CLOSING_SECONDS = 5.0
"""Longest that the kernel takes to close all that a killed process had open."""


class Predecessor:
    """The Headrace whose place is taken. `address` is where it listens, `held` what it had when asked; it is `gone` once that is
    free for others, and the one who frees it says so.
    """

    def __init__(self, line: Line, address: tuple[str, int], held: Held) -> None:
        self._line = line
        self._gave_way = self.gone = False
        self.address, self.held = address, held

    @property
    def pid(self) -> int | None:
        """Its process."""
        return self._line.pid

    @property
    def remains(self) -> str:
        """Why nothing can be planned yet, for it holds memory; empty when it is gone."""
        return "" if self.gone else f"the Headrace before (pid {self.pid}) still answers what it has, and its memory is not free"

    async def give_way(self, gateway: Gateway) -> None:
        """From now on `gateway` accepts the clients. Raises HandoverError, and ListenError when it is gone and the address is
        another's.
        """
        try:
            await self._line.send("sockets")
            answer, sockets = await self._line.receive("sockets", HELLO_SECONDS)
        except Gone:
            await _listen(gateway, self.address)
            return
        except TimeoutError:
            raise HandoverError(f"The running Headrace (pid {self.pid}) does not answer.", _UNCHANGED) from None
        if why := answer.get("refused"):
            raise HandoverError(f"The running Headrace (pid {self.pid}) does not give way: {why}.", _UNCHANGED)
        await gateway.listen_on(sockets)
        self._gave_way = True
        with contextlib.suppress(Gone, TimeoutError):  # gone by now: all the same, we listen
            await self._line.send("listening")
            await self._line.receive("listening", HELLO_SECONDS)

    async def end(self) -> None:
        """Until it is gone."""
        await self._line.end()

    def farewell(self) -> None:
        """This one is told to stop: one that gave way does not come back for that."""
        if self._gave_way:
            self._line.farewell()

    def close(self) -> None:
        """Hear of it no more."""
        self.farewell()
        self._line.close()


async def _listen(gateway: Gateway, address: tuple[str, int]) -> None:
    """Of a process that dies the line may be closed a moment before what it listened on. Raises ListenError."""
    until = monotonic() + _CLOSING_SECONDS
    while True:
        try:
            await gateway.listen(*address)
            return
        except ListenError:
            if monotonic() >= until:
                raise
            await asyncio.sleep(_CLOSING_SECONDS / 100)


async def predecessor(kind: Kind, host: str, port: int, terminal: Terminal) -> Predecessor | None:
    """The Headrace that listens at the address, willing to give way; None when there is none, which is said. Raises
    HandoverError.
    """
    try:
        hosts = [address for _, address, *_ in await addresses(host)]
    except OSError:  # a name that leads nowhere: whoever listens there next says so
        return None
    address = next((host for host in hosts if path_for(host, port).exists()), hosts[0]), port
    path = path_for(*address)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line = Line(connection)
    try:
        connection.connect(os.fspath(path))
        found_one = Predecessor(line, address, await _asked(line, kind, path))
    except (FileNotFoundError, ConnectionRefusedError):
        line.close()
        terminal.say(f"No Headrace at {address[0]}:{port} whose place could be taken: this is a start like any other.")
        return None
    except BaseException as error:
        line.close()
        if isinstance(error, OSError):
            raise HandoverError(f"{path} cannot be reached: {error.strerror or error}.") from None
        raise
    terminal.say(f"This one will take the place of Headrace (pid {line.pid}), which serves until all is ready here.")
    return found_one


async def _asked(line: Line, kind: Kind, path: Path) -> Held:
    if (uid := line.uid()) is not None and uid != os.getuid():
        raise HandoverError(f"What waits at {path} belongs to another user (uid {uid}).", "Start as that user.")
    try:
        await line.send("hello", kind=kind)
        answer, _ = await line.receive("hello", HELLO_SECONDS)
        if why := answer.get("refused"):
            raise HandoverError(f"The running Headrace (pid {line.pid}) does not give way: {why}.", _UNCHANGED)
        return Held(dict(answer["models"]), int(answer["planned"]), int(answer["resident"]))
    except (Gone, TimeoutError, KeyError, TypeError, ValueError):
        raise HandoverError(f"What waits at {path} does not answer as a running Headrace does.", RESTART) from None
