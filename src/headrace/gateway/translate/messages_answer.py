"""Answers as Anthropic's Messages API gives them: its events in their order, or one message.

Shapes after the API's reference (docs.anthropic.com: Messages, Streaming Messages), as its own Python client reads them.
"""

from typing import Any

import msgspec

from headrace.gateway.envelope import error_event
from headrace.gateway.http import BrokenAnswer
from headrace.gateway.openai import Refusal
from headrace.gateway.paths import ROUTES
from headrace.gateway.translate.chat import Counted, event

_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use", "function_call": "tool_use"}
_NEW: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
_PING = event("ping", {})


class MessageAnswer:
    """A Writer of one message. A stream keeps nothing of what was said."""

    __slots__ = ("_begun", "_blocks", "_calls", "_head", "_open", "_out", "_parts", "_stream")

    def __init__(self, identity: str, model: str, *, stream: bool) -> None:
        self._head = {"id": f"msg_{identity}", "type": "message", "role": "assistant", "model": model}
        self._stream = stream
        self._begun = False
        self._out: list[bytes] = []
        self._blocks: list[dict[str, Any]] = []  # one for each that has begun; those of a stream stay empty
        self._open: tuple[str, int] | None = None  # its kind, and the number of its tool call
        self._parts: list[str] = []  # of the open one, when it is no stream
        self._calls: set[int] = set()

    def text(self, piece: str) -> None:
        self._more("text", piece)

    def thought(self, piece: str) -> None:
        self._more("thinking", piece)

    def call(self, index: int, identity: str, name: str, piece: str) -> None:
        if index in self._calls and self._open != ("tool_use", index):
            raise BrokenAnswer("it goes on with a tool call after another has begun")
        new = {"type": "tool_use", "id": identity or f"toolu_{self._head['id'][4:]}_{index}", "name": name, "input": {}}
        self._more("tool_use", piece, index, new)

    def pulse(self) -> None:
        if self._blocks:
            self._out.append(_PING)

    def take(self) -> bytes:
        if not self._stream:
            return b""
        out, self._out = b"".join(self._out), []
        return out

    def end(self, finish: str, stop: str | None, counted: Counted) -> bytes:
        self._begin()
        self._close()
        reason = "stop_sequence" if finish == "stop" and stop is not None else _STOP_REASONS.get(finish, "end_turn")
        if self._calls and reason == "end_turn":  # some engines say so of an answer that calls tools
            reason = "tool_use"
        stopped = {"stop_reason": reason, "stop_sequence": stop if reason == "stop_sequence" else None}
        if not self._stream:
            return msgspec.json.encode(self._head | {"content": self._blocks} | stopped | {"usage": _usage(counted)})
        self._out.append(event("message_delta", {"delta": stopped, "usage": _usage(counted)}) + event("message_stop", {}))
        return self.take()

    def broken(self, refusal: Refusal) -> bytes:
        return self.take() + error_event(refusal, ROUTES["/v1/messages"])

    def _more(self, kind: str, piece: str, call: int = 0, new: dict[str, Any] | None = None) -> None:
        if self._open != (kind, call):
            self._begin()
            self._close()
            self._start(kind, call, new or dict(_NEW[kind]))
        if not self._stream:
            self._parts.append(piece)
        elif piece:
            self._delta(*_DELTAS[kind], piece)

    def _begin(self) -> None:
        if self._stream and not self._begun:
            self._begun = True
            message: dict[str, Any] = self._head | {
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": _usage(Counted()),
            }
            self._out.append(event("message_start", {"message": message}))

    def _start(self, kind: str, call: int, new: dict[str, Any]) -> None:
        if kind == "tool_use":
            self._calls.add(call)
        self._open, self._parts = (kind, call), []
        self._blocks.append(new)
        if self._stream:
            index = len(self._blocks) - 1
            self._out.append(event("content_block_start", {"index": index, "content_block": new}))
            self._out += [] if index else [_PING]

    def _delta(self, kind: str, key: str, piece: str) -> None:
        self._out.append(event("content_block_delta", {"index": len(self._blocks) - 1, "delta": {"type": kind, key: piece}}))

    def _close(self) -> None:
        if self._open is None:
            return
        (kind, _), self._open = self._open, None
        if not self._stream:
            text = "".join(self._parts)
            self._blocks[-1]["input" if kind == "tool_use" else kind] = _arguments(text) if kind == "tool_use" else text
            return
        if kind == "thinking":
            self._delta("signature_delta", "signature", "")
        self._out.append(event("content_block_stop", {"index": len(self._blocks) - 1}))


def _arguments(text: str) -> dict[str, Any]:
    """Of a tool's call. What is no JSON object, cut at the limit of tokens for one, is wrapped as Anthropic's own API does it."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"INVALID_JSON": text}


def _usage(counted: Counted) -> dict[str, Any]:
    """`input_tokens` are those that no cache had."""
    return {
        "input_tokens": counted.tokens_in - counted.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached,
        "output_tokens": counted.tokens_out,
    }
