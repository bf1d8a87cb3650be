"""Connections accepted from listening sockets, a few at a time; without descriptors, none until there may be some again."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any

_AT_ONCE = 64
_FULL_SECONDS = 0.25
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Accepting:
    """`take` gets each connection, which it owns then, and its address. Make it inside the event loop."""

    def __init__(self, take: Callable[[socket.socket, Any], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._listening: list[socket.socket] = []

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these, which do not block and stay their owner's."""
        self._listening = list(sockets)
        for listening in sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accept no more."""
        for listening in self._listening:
            self._loop.remove_reader(listening)
        self._listening = []

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._loop.remove_reader(listening)  # it stays readable: the loop would do nothing else
                self._loop.call_later(_FULL_SECONDS, self._again, listening)
                return
            self._take(connection, address)

    def _again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)
