"""Answers as OpenAI's Responses API gives them: its events in their order, or one response.

Shapes after the API reference (platform.openai.com/docs/api-reference/responses), as its own Python client reads them.
"""

from typing import Any

import msgspec

from headrace.gateway.envelope import response_error
from headrace.gateway.http import BrokenAnswer
from headrace.gateway.openai import Refusal
from headrace.gateway.translate.chat import Counted, event

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_TEXTS = {"message": ("output_text", "response.output_text"), "reasoning": ("reasoning_text", "response.reasoning_text")}


class ResponseAnswer:
    """A Writer of one response; `said` is what it repeats of its request. The last event of a stream holds all of it."""

    __slots__ = ("_begun", "_calls", "_head", "_identity", "_items", "_number", "_open", "_out", "_parts", "_stream")

    def __init__(self, identity: str, now: int, said: dict[str, Any], *, stream: bool) -> None:
        head = {"id": f"resp_{identity}", "object": "response", "created_at": now, "status": "in_progress"}
        self._head = head | {"error": None, "incomplete_details": None} | said
        self._identity = identity
        self._stream = stream
        self._begun = False
        self._number = 0  # of the next event
        self._out: list[bytes] = []
        self._items: list[dict[str, Any]] = []
        self._open: tuple[str, int] | None = None  # the kind of the last item, and the number of its tool call
        self._parts: list[str] = []  # of the open item
        self._calls: set[int] = set()

    def text(self, piece: str) -> None:
        self._more("message", piece)

    def thought(self, piece: str) -> None:
        self._more("reasoning", piece)

    def call(self, index: int, identity: str, name: str, piece: str) -> None:
        if index in self._calls and self._open != ("function_call", index):
            raise BrokenAnswer("it goes on with a tool call after another has begun")
        self._calls.add(index)
        call_id = identity or f"call_{self._identity}_{index}"
        self._more("function_call", piece, index, {"call_id": call_id, "name": name, "arguments": ""})

    def pulse(self) -> None:
        if self._begun:
            self._out.append(b": \n\n")  # this API has no event for it

    def take(self) -> bytes:
        if not self._stream:
            return b""
        out, self._out = b"".join(self._out), []
        return out

    def end(self, finish: str, stop: str | None, counted: Counted) -> bytes:
        self._begin()
        reason = _INCOMPLETE.get(finish)
        status = "incomplete" if reason else "completed"
        self._close(status)
        details = {"reason": reason} if reason else None
        whole = self._whole(status) | {"incomplete_details": details, "usage": _usage(counted)}
        if not self._stream:
            return msgspec.json.encode(whole)
        self._event(f"response.{status}", response=whole)
        return self.take()

    def broken(self, refusal: Refusal) -> bytes:
        self._out.append(response_error(refusal, self._number))
        self._number += 1
        if self._begun:
            failed = self._whole("failed") | {"error": {"code": "server_error", "message": refusal.message}, "usage": None}
            self._event("response.failed", response=failed)
        return self.take()

    def _whole(self, status: str) -> dict[str, Any]:
        return self._head | {"status": status, "output": self._items}

    def _more(self, kind: str, piece: str, call: int = 0, new: dict[str, Any] | None = None) -> None:
        if self._open != (kind, call):
            self._begin()
            self._close("completed")
            self._start(kind, call, new)
        self._parts.append(piece)
        if piece and self._stream:
            name = _TEXTS[kind][1] if kind in _TEXTS else "response.function_call_arguments"
            self._event(f"{name}.delta", **self._place(kind), **({"logprobs": []} if kind == "message" else {}), delta=piece)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        started = self._whole("in_progress") | {"output": [], "usage": None}
        self._event("response.created", response=started)
        self._event("response.in_progress", response=started)

    def _start(self, kind: str, call: int, new: dict[str, Any] | None) -> None:
        self._open, self._parts = (kind, call), []
        item = {"id": f"{_PREFIXES[kind]}_{self._identity}_{len(self._items)}", "type": kind, "status": "in_progress"}
        more: dict[str, dict[str, Any]] = {
            "message": {"role": "assistant", "content": []},
            "reasoning": {"summary": [], "content": []},
        }
        self._items.append(item | (new or more[kind]))
        self._event("response.output_item.added", output_index=len(self._items) - 1, item=self._items[-1])
        if kind in _TEXTS:
            self._event("response.content_part.added", **self._place(kind), part=_part(kind, ""))

    def _close(self, status: str) -> None:
        """The open item is over; `status` is that of its end, whole or not."""
        if self._open is None:
            return
        (kind, _), self._open = self._open, None
        text, item = "".join(self._parts), self._items[-1]
        item["status"] = status
        if kind in _TEXTS:
            self._event(
                f"{_TEXTS[kind][1]}.done", **self._place(kind), **({"logprobs": []} if kind == "message" else {}), text=text
            )
            self._event("response.content_part.done", **self._place(kind), part=_part(kind, text))
            item["content"] = [_part(kind, text)]
        else:
            item["arguments"] = text
            self._event("response.function_call_arguments.done", **self._place(kind), arguments=text)
        self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _place(self, kind: str) -> dict[str, Any]:
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return place | ({"content_index": 0} if kind in _TEXTS else {})

    def _event(self, name: str, **data: Any) -> None:
        if self._stream:
            self._out.append(event(name, {"sequence_number": self._number} | data))
            self._number += 1


def _part(kind: str, text: str) -> dict[str, Any]:
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "message" else {}
    return {"type": _TEXTS[kind][0], "text": text} | more


def _usage(counted: Counted) -> dict[str, Any]:
    return {
        "input_tokens": counted.tokens_in,
        "input_tokens_details": {"cached_tokens": counted.cached, "cache_write_tokens": 0},
        "output_tokens": counted.tokens_out,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning},
        "total_tokens": counted.tokens_in + counted.tokens_out,
    }
