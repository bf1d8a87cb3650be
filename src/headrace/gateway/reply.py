"""What the gateway itself writes into a stream: its head, its events, what it waits for, that it broke off, its end."""

import math
from typing import TYPE_CHECKING

from headrace.gateway.http import CHUNKED, LAST_CHUNK, chunk, response_head
from headrace.gateway.letter import Letter, last_event
from headrace.gateway.openai import Refusal
from headrace.units import show_duration

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange
    from headrace.gateway.relay import Relay

_LONGEST_LINE = 300
_STATUS = b"HTTP/1.1 200 OK\r\n"
_LINES = b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"


def open_stream(exchange: "Exchange") -> None:
    """Send the head of a stream, unless it was sent."""
    if exchange.opened:
        return
    exchange.opened = True
    http10 = exchange.request.head.http10
    if http10:
        exchange.client.close_after()
    framing = b"" if http10 else CHUNKED
    exchange.client.write(response_head(_STATUS, _LINES, framing, exchange.request_id, exchange.client.own_lines()))


def write_events(exchange: "Exchange", events: bytes) -> None:
    """Whole events, behind the stream's head."""
    open_stream(exchange)
    exchange.client.write(framed(exchange, events))


def framed(exchange: "Exchange", events: bytes) -> bytes:
    """`events` in the framing that this client understands."""
    return events if exchange.request.head.http10 else chunk(events)


def progress(exchange: "Exchange", waited: float) -> None:
    """Say in a comment line, which clients skip, what the stream waits for."""
    model = exchange.model
    left = model.status.ready_in
    expected = f", ready in about {show_duration(math.ceil(left))}" if left else ""
    line = f"{model.name} is {model.status.phase}, waited {show_duration(waited)}{expected}; {model.status.reason}"
    write_events(exchange, f": {' '.join(line.split())[:_LONGEST_LINE]}\n\n".encode())


def close_stream(exchange: "Exchange") -> None:
    """The stream is complete."""
    if not exchange.request.head.http10:
        exchange.client.write(LAST_CHUNK)


def break_off(exchange: "Exchange", refusal: Refusal, relay: "Relay | None", sent: Letter | None) -> None:
    """End the stream with an error event and without its end, where it can take one; the connection ends with it."""
    seam = exchange.seam
    if seam is not None and seam.why not in refusal.message:
        refusal.message = f"The answer broke off: {seam.why}; it could not be continued: {refusal.message}"
    event = last_event(refusal, exchange.route, sent)
    exchange.client.write(relay.farewell(event) if relay is not None and relay.begun else framed(exchange, event))
    exchange.client.close_after()
