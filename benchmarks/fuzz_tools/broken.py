"""Faults planted in the gateway, each of a kind that the fuzzer exists to find: one that finds none of them finds nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from headrace.gateway import http, letter, reading, wire


def _length() -> None:
    """The engine is told one byte less than it gets, sometimes."""
    right = http.request_head

    def wrong(lines: bytes, host: bytes, length: int, request_id: bytes, key: str | None) -> bytes:
        return right(lines, host, length - (length % 7 == 0), request_id, key)

    letter.request_head = wrong


def _memo() -> None:
    """A known head is taken with whatever length its body has."""

    def wrong(self: Any, data: bytes, body_limit: int) -> Any:
        if not data.startswith(self.before):
            return None
        end = data.find(b"\r", len(self.before))
        return http.Request(self.head, data[end + len(self.after) :]) if data.startswith(self.after, end) else None

    reading.KnownHead.request = wrong  # type: ignore[method-assign]


def _leak() -> None:
    """A client that leaves stays among the clients."""

    def wrong(self: Any, exc: Exception | None) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.cancel()

    wire.Client.connection_lost = wrong  # type: ignore[method-assign]


def _hang() -> None:
    """What was pipelined is not looked at again."""
    right = wire.Client.finished

    def wrong(self: Any) -> None:
        soon, self._gateway.soon = self._gateway.soon, lambda *_: None
        right(self)
        self._gateway.soon = soon

    wire.Client.finished = wrong  # type: ignore[method-assign]


BREAKS: Mapping[str, Callable[[], None]] = {"": lambda: None, "length": _length, "memo": _memo, "leak": _leak, "hang": _hang}
