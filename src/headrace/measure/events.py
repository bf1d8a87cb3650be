"""The events of a stream, looked at as cheaply as they can be: which carry content, how it ended, what usage says.

No event is parsed as JSON unless it says something other than content. A key is found by its bytes: inside a JSON string every
quote is escaped, so `"content":"` cannot be part of a text.
"""

import json
import re
from array import array

from headrace.gateway.openai import usage_in

_CONTENT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments)": ?"(?!")')
_FINISH = re.compile(rb'"finish_reason": ?"([a-z_]{1,40})"')
_CACHED = re.compile(rb'"cached_tokens": ?([0-9]{1,12})')
_LONGEST_EVENT = 4 << 20
_LONGEST_MESSAGE = 300


class TooLong(Exception):
    """An event without end."""


class Events:
    """One stream. `feed` it the body as it comes; `stamps` gets the time of each event with content."""

    __slots__ = ("_last", "_marker", "_rest", "cached", "done", "error", "finish", "stamps", "tokens_in", "tokens_out")

    def __init__(self, stamps: "array[float]") -> None:
        self.stamps = stamps
        self._rest = b""
        self._last = b""
        self._marker = b"\0"
        self.done = False
        self.error = ""
        self.finish = ""
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.cached = 0

    def feed(self, data: bytes, now: float) -> None:
        """Bytes of the body without framing, which arrived at `now`. Raises TooLong."""
        if not self._rest:
            at = data.find(self._marker)  # the spelling of this server's last content: nearly always the only event
            if at >= 0 and data.find(b"\n\n") == len(data) - 2 and data[at + len(self._marker)] != 34:
                self.stamps.append(now)
                self._last = data
                return
        self._several(self._rest + data, now)

    def close(self) -> None:
        """No more comes: what the last events said beside their content."""
        if self._rest.strip():
            self._event(self._rest, 0.0)
        if self.tokens_out is None:
            self._read_usage(self._last)
        self._read_finish(self._last)

    def _several(self, data: bytes, now: float) -> None:
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *whole, self._rest = data.split(b"\n\n")
        if len(self._rest) > _LONGEST_EVENT:
            raise TooLong
        for event in whole:
            self._event(event, now)

    def _event(self, event: bytes, now: float) -> None:
        payload = b"".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not payload:
            return  # a comment, which keeps the connection alive
        if payload == b"[DONE]":
            self.done = True
        elif found := _CONTENT.search(payload):
            self.stamps.append(now)
            self._marker, self._last = found[0], payload
        else:
            self._other(payload)

    def _other(self, payload: bytes) -> None:
        if b'"error"' in payload and (message := error_in(payload)):
            self.error = self.error or message
        self._read_usage(payload)
        self._read_finish(payload)

    def _read_usage(self, payload: bytes) -> None:
        if b'"usage"' in payload and (usage := usage_in(payload)):
            self.tokens_in, self.tokens_out = usage.tokens_in, usage.tokens_out
            self.cached = int(found[1]) if (found := _CACHED.search(payload)) else 0

    def _read_finish(self, payload: bytes) -> None:
        if found := _FINISH.search(payload):
            self.finish = found[1].decode()


def error_in(body: bytes) -> str:
    """The message of an error in OpenAI's envelope or one of its many likenesses; empty when it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error = value.get("error") if isinstance(value, dict) else None
    if not error:
        return ""
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or error).split())[:_LONGEST_MESSAGE]


def whole(body: bytes) -> Events | None:
    """An answer that came in one piece, as JSON; None when it is no answer of the API."""
    found = Events(array("d"))
    if not body.lstrip().startswith(b"{") or b'"choices"' not in body:
        return None
    found._last = body
    found.done = bool(_CONTENT.search(body))
    found.close()
    return found
