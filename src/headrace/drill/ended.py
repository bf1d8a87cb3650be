"""What an answer comes to, by all of its bytes."""

import json

from headrace.drill.base import End

_LONGEST = 120


def ended(status: int, body: bytes, *, stream: bool) -> tuple[End, str]:
    """How a request ended, and in which words when it is not whole."""
    if status == 200 and stream and b'data: {"error"' in body:
        if b"data: [DONE]" in body:  # clients take it for whole
            return "dropped", "a stream with an error that ends with [DONE]"
        return "told", f"a stream's last event: {_message(body.rpartition(b'data: ')[2])}"
    if status == 200:
        whole = b"data: [DONE]" in body if stream else b'"choices"' in body and body.rstrip().endswith(b"}")
        return ("whole", "") if whole else ("dropped", f"cut after {len(body)} bytes")
    message = _message(body)
    return ("told", f"{status}: {message}") if message else ("dropped", f"{status} without a word")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])[:_LONGEST]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
