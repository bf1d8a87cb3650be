"""The access log: a line of JSON for each request, who asked what of whom and how it ended, and nothing of what was said."""

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from headrace.errors import UsageError
from headrace.gateway.line_writer import LineWriter

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange
    from headrace.gateway.gateway import Gateway
    from headrace.gateway.http import Request, RequestHead
    from headrace.gateway.openai import Ask, Refusal
    from headrace.gateway.wire import Client
    from headrace.traffic import Finished

End = Literal["done", "resumed", "refused", "broken", "left"]
"""How a request ended: answered; answered, over more than one replica; an error; an answer that broke off; its client left."""
LONGEST = 256
"""Characters of a path or a name that are kept."""
TOGETHER = 32
"""Entries that are made lines at once: together they cost half of what they cost one by one, between other work."""
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE = b"0" * 32


class Entry(msgspec.Struct):
    """One line. Durations in seconds; None is unknown, or nothing."""

    time: str
    """When it was over, UTC."""
    id: str
    client: str
    """The address that is connected: a proxy's, where there is one."""
    key: str | None
    method: str | None
    path: str | None
    """Without its query."""
    model: str | None
    asked: str | None
    """The name that was asked for, where it is not the model's: an alias, an adapter, or nothing that is here."""
    replica: str | None
    status: int
    end: End
    code: str | None
    """Of the error."""
    seconds: float
    queue_seconds: float | None
    ttft_seconds: float | None
    tokens_in: int | None
    tokens_out: int | None
    bytes_in: int
    """Of the body."""
    bytes_out: int
    """With the head."""
    retries: int
    trace: str | None


class AccessLog:
    """`where` is a path or `stdout`; `say` is told of trouble. Raises UsageError."""

    def __init__(self, where: str, say: Callable[[str], None]) -> None:
        try:
            self._writer = LineWriter(where, say, "access log")
        except OSError as error:
            raise UsageError(
                f"gateway.log: {where} cannot be written: {error.strerror or error}.",
                "Name a file in a folder that is there and may be written, or stdout.",
            ) from None
        self._entries: list[tuple[float, Entry]] = []
        self._at = 0
        self._stamp = ""
        self.reopen = self._writer.reopen

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._writer.lost

    def exchanged(self, exchange: "Exchange", over: "Finished", end: End, refusal: "Refusal | None") -> None:
        """A request of the data path is over."""
        client, request, asked = exchange.client, exchange.request, exchange.ask.model
        head = request.head
        entry = Entry(
            "", exchange.request_id.decode(), client.address, over.key, head.method, head.path[:LONGEST],
            over.model, None if asked == over.model else asked[:LONGEST], over.replica or None,
            over.status, end, refusal.code[:LONGEST] if refusal is not None else None,
            over.seconds, over.waited, over.ttft, over.tokens_in, over.tokens_out, len(request.body), client.sent,
            exchange.retries, exchange.trace.id if exchange.trace is not None else trace_id(head),
        )  # fmt: skip
        self._write(entry)

    def answered(
        self, client: "Client", head: "RequestHead | None", request_id: bytes, status: int, end: End, seconds: float = 0.0,
        *, code: str | None = None, model: str | None = None, asked: str | None = None, bytes_in: int = 0,
    ) -> None:  # fmt: skip
        """Any other request is over; `head` is None where it was none."""
        method, path = (head.method, head.path[:LONGEST]) if head is not None else (None, None)
        key, trace = (key_name(head), trace_id(head)) if head is not None else (None, None)
        asked = asked[:LONGEST] if asked else None
        entry = Entry(
            "", request_id.decode(), client.address, key, method, path, model, asked, None, status, end, code,
            seconds, None, None, None, None, bytes_in, client.sent, 0, trace,
        )  # fmt: skip
        self._write(entry)

    def flush(self) -> None:
        """Hand over what there is; returns at once."""
        self._make()
        self._writer.flush()

    def _make(self) -> None:
        """Make lines of the entries."""
        for at, entry in self._entries:
            entry.time, entry.seconds = self._stamped(at), round(entry.seconds, 6)
            if entry.queue_seconds is not None:
                entry.queue_seconds = round(entry.queue_seconds, 6)
            if entry.ttft_seconds is not None:
                entry.ttft_seconds = round(entry.ttft_seconds, 6)
            self._writer.write(line(entry))
        self._entries.clear()

    def close(self) -> None:
        """Write what is left; waits a few seconds at most."""
        self.flush()
        self._writer.close()

    def _write(self, entry: Entry) -> None:
        self._entries.append((time.time(), entry))
        if len(self._entries) >= TOGETHER:
            self._make()

    def _stamped(self, at: float) -> str:
        now = int(at * 1000)
        if now != self._at:
            self._at = now
            self._stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 1000))}.{now % 1000:03d}Z"
        return self._stamp


def tell(exchange: "Exchange", over: "Finished", end: End, refusal: "Refusal | None") -> None:
    """A request of the data path is over: its trace ends, the access log has a line of it."""
    if exchange.trace is not None:
        exchange.trace.over(exchange, over, end, refusal)
    if exchange.client.log is not None:
        exchange.client.log.exchanged(exchange, over, end, refusal)


def tell_refused(
    gateway: "Gateway", client: "Client", head: "RequestHead | None", request_id: bytes, refusal: "Refusal",
    ask: "Ask | None" = None, size: int = 0,
) -> None:  # fmt: skip
    """A request was refused before it had a place in a queue; `size` is that of its body, as far as it was read."""
    if gateway.tracing is None and gateway.log is None:
        return
    asked = ask.model if ask is not None else ""
    model = gateway.names[asked].name if asked in gateway.names else None
    if gateway.tracing is not None and head is not None:
        gateway.tracing.refused(head, refusal, model, gateway.now())
    if gateway.log is not None:
        asked = asked if asked != model else ""
        gateway.log.answered(
            client, head, request_id, refusal.status, "refused", code=refusal.code, model=model, asked=asked, bytes_in=size
        )


def tell_left(gateway: "Gateway", client: "Client", request: "Request") -> None:
    """Its client left before it was known whether it may be asked."""
    if gateway.log is not None:
        request_id = gateway.request_id(request.head)
        gateway.log.answered(client, request.head, request_id, 499, "left", bytes_in=len(request.body))


def line(entry: Entry) -> bytes:
    """The entry as one line of printable ASCII, whatever clients wrote: nothing can end it early or steer a terminal."""
    try:
        encoded = msgspec.json.encode(entry)
    except UnicodeEncodeError:
        encoded = b"\x7f"
    if not encoded.isascii() or b"\x7f" in encoded:
        encoded = json.dumps(msgspec.structs.asdict(entry), separators=(",", ":")).replace("\x7f", "\\u007f").encode()
    return encoded + b"\n"


def key_name(head: "RequestHead") -> str | None:
    """The name of the key that a request came with."""
    _, account = head.holder
    return account.key.name if account is not None else None


def trace_id(head: "RequestHead") -> str | None:
    """Of the W3C `traceparent` that a request came with, if it is one."""
    given = head.known.get(b"traceparent")
    match = _TRACE.fullmatch(given) if given is not None else None
    return match[1].decode() if match and match[1] != _NO_TRACE else None
