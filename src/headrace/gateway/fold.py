"""Put a stream together again: server-sent events of a chat or a completion → the one JSON answer that the client asked for.

Engines that notice a lost client only while they stream are always asked for a stream; see `Endpoint.folds`.
"""

from typing import Annotated, Any

import msgspec

from headrace.gateway.engine_errors import event_error
from headrace.gateway.openai import Refusal

EVENT_LIMIT = 16 * 1024 * 1024
"""Bytes of one event; a longer one is a broken answer."""
GAVE_UP = frozenset(("abort", "error"))
"""Reasons to finish with which an engine says that it did not finish (vLLM, SGLang)."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode

Index = Annotated[int, msgspec.Meta(ge=0, lt=1024)]
Text = str | None


class _Function(msgspec.Struct):
    name: Text = None
    arguments: Text = None


class _Call(msgspec.Struct):
    index: Index = 0
    id: Text = None
    type: Text = None
    function: _Function | None = None


class _Choice(msgspec.Struct):
    index: Index = 0
    finish_reason: Text = None
    delta: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    logprobs: dict[str, Any] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0


class BrokenStream(Exception):
    """The stream is not one that can be put together."""


class Fold:
    """Collects events; `answer` is the whole once `done`. `events` counts those with content, about one a token."""

    __slots__ = ("_choices", "_head", "_rest", "_so_far", "_usages", "done", "error", "events")

    def __init__(self) -> None:
        self._rest = b""
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usages: list[dict[str, Any]] = []  # of what has ended
        self._so_far: dict[str, Any] | None = None
        self.done = False
        self.error: Refusal | None = None
        self.events = 0

    def feed(self, data: bytes) -> None:
        """More of the stream, split anywhere. Raises BrokenStream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > EVENT_LIMIT:
            raise BrokenStream("an event does not end")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def answer(self, *, choices: int = 1) -> bytes:
        """The answer as one JSON object; `choices` is the `n` of the request."""
        whole = dict(self._head)
        whole["choices"] = [_finished(choice) for _, choice in sorted(self._choices.items())]
        whole["usage"] = self.usage(choices)
        return msgspec.json.encode(whole)

    def usage(self, choices: int = 1) -> dict[str, Any] | None:
        """Tokens as the engine counted them. llama.cpp counts each choice of each prompt by itself, with its prompt."""
        if len(self._usages) <= 1:
            return self._usages[0] if self._usages else self._so_far
        prompt = sum(usage["prompt_tokens"] for usage in self._usages) // choices
        completion = sum(usage["completion_tokens"] for usage in self._usages)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _event(self, text: bytes) -> None:
        if text == b"[DONE]":
            self.done = True
            return
        if text == b"null":  # llama.cpp begins so when there are several prompts
            return
        try:
            event = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BrokenStream(f"an event is not JSON: {text[:60]!r}") from None
        try:
            self._take(event, text)
        except msgspec.ValidationError as error:
            raise BrokenStream(f"an event has an unknown shape ({error}): {text[:60]!r}") from None

    def _take(self, event: dict[str, Any], text: bytes) -> None:
        if "error" in event:
            self.error = event_error(text)
            return
        if usage := event.get("usage"):
            counted = msgspec.convert(usage, _Usage)
            details = {key: usage[key] for key in usage if key.endswith("_details")}
            total = counted.prompt_tokens + counted.completion_tokens
            self._so_far = {
                "prompt_tokens": counted.prompt_tokens,
                "completion_tokens": counted.completion_tokens,
                "total_tokens": total,
                **details,
            }
        self._keep_head(event)
        parts = msgspec.convert(event.get("choices") or [], list[_Choice])
        for part in parts:
            if part.finish_reason in GAVE_UP:
                raise BrokenStream(f"the engine gave up ({part.finish_reason})")
            self._merge(part)
        if usage and self._so_far and (not parts or any(part.finish_reason for part in parts)):
            self._usages.append(self._so_far)

    def _keep_head(self, event: dict[str, Any]) -> None:
        if self._head:
            return
        kept = {key: value for key, value in event.items() if key not in ("choices", "usage", "timings")}
        if kept.get("object") == "chat.completion.chunk":
            kept["object"] = "chat.completion"
        self._head = kept

    def _merge(self, part: _Choice) -> None:
        choice = self._choices.setdefault(part.index, {"index": part.index, "finish_reason": None})
        if part.finish_reason:
            choice["finish_reason"] = part.finish_reason
        if part.logprobs:
            _join_logprobs(choice, part.logprobs)
        if part.delta is not msgspec.UNSET:
            self.events += any(part.delta.get(key) for key in ("content", "reasoning_content", "tool_calls"))
            _join(choice.setdefault("message", {}), part.delta)
        elif part.text is not msgspec.UNSET:
            self.events += bool(part.text)
            choice["text"] = choice.get("text", "") + part.text


def _join(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Texts grow; tool calls grow by their index; anything else is set once."""
    for key, value in delta.items():
        if key == "tool_calls":
            if value:  # engines also send null
                _join_calls(message.setdefault("tool_calls", {}), msgspec.convert(value, list[_Call]))
        elif isinstance(value, str) and isinstance(message.get(key), str) and key != "role":
            message[key] += value
        elif value is not None or key not in message:
            message[key] = value


def _join_calls(calls: dict[int, dict[str, Any]], parts: list[_Call]) -> None:
    for part in parts:
        new = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call, function = calls.setdefault(part.index, new), part.function or _Function()
        call["id"] = part.id or call["id"]
        call["type"] = part.type or call["type"]
        call["function"]["name"] += function.name or ""
        call["function"]["arguments"] += function.arguments or ""


def _join_logprobs(choice: dict[str, Any], logprobs: dict[str, Any]) -> None:
    kept = choice.setdefault("logprobs", {})
    for key, value in logprobs.items():
        if isinstance(value, list):
            kept[key] = [*(kept.get(key) or ()), *value]
        elif value is not None or key not in kept:
            kept[key] = value


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    choice.setdefault("logprobs", None)
    if "message" in choice:
        message = choice["message"]
        if message.get("tool_calls"):
            message["tool_calls"] = [call for _, call in sorted(message["tool_calls"].items())]
        message.setdefault("content", None)
        message.setdefault("role", "assistant")
    elif "text" not in choice:
        choice["text"] = ""
    return choice
