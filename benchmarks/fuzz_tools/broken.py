"""Faults planted in the gateway, each of a kind that the fuzzer exists to find: one that finds none of them finds nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from headrace.gateway import http, letter, reading, wire


def _length() -> None:
    """The engine is told one byte less than it gets, sometimes."""
    right = letter.request_head

    def wrong(lines: bytes, own: bytes, length: int, request_id: bytes) -> bytes:
        return right(lines, own, length - (length % 7 == 0), request_id)

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

    def wrong(self: Any, now: float) -> None:
        soon, self.gateway.soon = self.gateway.soon, lambda *_: None
        right(self, now)
        self.gateway.soon = soon

    wire.Client.finished = wrong  # type: ignore[method-assign]


BREAKS: Mapping[str, Callable[[], None]] = {"": lambda: None, "length": _length, "memo": _memo, "leak": _leak, "hang": _hang}
