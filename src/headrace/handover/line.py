"""What a running Headrace and the next one say to each other: JSON in lines, one message at a time, sockets beside it."""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace import __version__
from headrace.errors import HeadraceError

PROTOCOL = 1
"""Of these messages; another one is refused. It changes only when they do, which no release should need."""
HELLO_SECONDS = 5.0
"""How long either side waits for an answer that takes no time."""
RESTART = "Stop it, and start this one without --takeover."
_LONGEST = 64 * 1024
_MOST_SOCKETS = 16

Kind = Literal["serve", "gateway"]
Step = Literal["hello", "sockets", "listening", "farewell"]
"""What the next one says, in this order, and what the running one answers each with; nothing is said to a farewell."""


class HandoverError(HeadraceError):
    """A running Headrace whose place cannot be taken. It goes on as before."""

    exit_code = 69


class Gone(Exception):
    """The other process is not there any more, or leaves."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a running Headrace has: each model's phase; bytes that its replicas may take by plan, and those that they take now."""

    models: dict[str, str] = field(default_factory=dict)
    planned_bytes: int = 0
    resident_bytes: int = 0


NOTHING = Held()
"""As where no Headrace runs."""


class Line:
    """One end of the connection. Make it inside the event loop."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._loop = connection, asyncio.get_running_loop()
        connection.setblocking(False)
        self._rest = b""  # read, and not yet received: one read may bring more than a message
        self.pid: int | None = None
        """The process at the other end, as it says."""

    def uid(self) -> int | None:
        """The user at the other end; None where the system does not say, and the folder alone must do."""
        option = getattr(socket, "SO_PEERCRED", None)
        if option is None:  # macOS
            return None
        _, uid, _ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
        return int(uid)

    async def send(self, step: Step, sockets: Sequence[socket.socket] = (), **more: Any) -> None:
        """Raises Gone."""
        data = _encoded(step, more)
        try:
            sent = socket.send_fds(self._socket, [data], [each.fileno() for each in sockets])
            await self._loop.sock_sendall(self._socket, data[sent:])
        except OSError:
            raise Gone from None

    async def receive(self, step: Step, seconds: float | None = None) -> tuple[dict[str, Any], list[socket.socket]]:
        """The next message, which must be this one. Raises Gone, TimeoutError, and HandoverError for what is none of ours."""
        sockets = list[socket.socket]()
        try:
            async with asyncio.timeout(seconds):
                while b"\n" not in self._rest and len(self._rest) < _LONGEST:
                    await self._readable()
                    part, descriptors = self._read()
                    sockets += [_own(each) for each in descriptors]
                    self._rest += part
            line, _, self._rest = self._rest.partition(b"\n")
            message = _message(line)
            self.pid = message.get("pid")
            if message.get("step") != step:
                raise Gone
            return message, sockets
        except BaseException:
            for each in sockets:
                each.close()
            raise

    async def end(self) -> bool:
        """Until the other process is gone, or says that it ends as it should: then True."""
        try:
            await self.receive("farewell")
        except (Gone, HandoverError):
            return False
        return True

    def farewell(self) -> None:
        """Say that this process ends as it should."""
        with contextlib.suppress(OSError):
            self._socket.send(_encoded("farewell", {}))

    def close(self) -> None:
        """The other side hears that this one is gone."""
        self._socket.close()

    def _read(self) -> tuple[bytes, list[int]]:
        try:
            part, descriptors, _, _ = socket.recv_fds(self._socket, _LONGEST, _MOST_SOCKETS)
        except BlockingIOError:
            return b"", []
        except OSError:
            raise Gone from None
        if not part:
            raise Gone
        return part, descriptors

    async def _readable(self) -> None:
        arrived = self._loop.create_future()
        self._loop.add_reader(self._socket, _arrive, arrived)
        try:
            await arrived
        finally:
            self._loop.remove_reader(self._socket)


def _arrive(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def _encoded(step: Step, more: dict[str, Any]) -> bytes:
    return json.dumps({"headrace": PROTOCOL, "step": step, "version": __version__, "pid": os.getpid(), **more}).encode() + b"\n"


def _message(data: bytes) -> dict[str, Any]:
    try:
        message: dict[str, Any] = json.loads(data)
        protocol = message["headrace"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HandoverError("What waits there does not answer as a running Headrace does.", RESTART) from None
    if protocol != PROTOCOL:
        said = f"Headrace {message.get('version')} there passes its sockets on in another way than {__version__} does."
        raise HandoverError(said, RESTART)
    return message


def _own(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)  # engines shall not have it
    made = socket.socket(fileno=descriptor)
    made.setblocking(False)
    return made
