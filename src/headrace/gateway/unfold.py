"""An answer that came whole → the stream of events that it should have been: the other way round than `fold.py`."""

from typing import Any

import msgspec

from headrace.gateway.engine_errors import event_error
from headrace.gateway.openai import Refusal
from headrace.gateway.paths import Kind

DONE = b"data: [DONE]\n\n"
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.encode


def event(value: Any) -> bytes:
    """`value` as a server-sent event."""
    return b"data: " + _encode(value) + b"\n\n"


def unfolded(body: bytes, kind: Kind) -> bytes:
    """The events of the answer `body`, all its text in the first. Raises Refusal when it is an error, or no answer."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _no_stream(body) from None
    if "error" in answer:
        raise event_error(body)
    if kind == "generate_stream":
        return event(answer)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _no_stream(body)
    if kind == "chat":
        answer |= {"object": "chat.completion.chunk", "choices": [_chunk(choice) for choice in choices]}
    return event(answer) + DONE


def _chunk(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": index} | call for index, call in enumerate(calls) if isinstance(call, dict)]
    return {key: value for key, value in choice.items() if key != "message"} | {"delta": delta}


def _no_stream(body: bytes) -> Refusal:
    shown = body[:60].decode("utf-8", "replace")
    return Refusal(502, f"The engine answered a stream with something else: {shown!r}.", "engine_no_stream", "server_error")
