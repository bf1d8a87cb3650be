"""OpenAI's answers as data: whole ones and the events of streams, for chats and plain completions; bodies and refusals."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from headrace.runners.serving import error

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"
"""The end of a stream that is complete; one that broke has none."""


class Refused(Exception):
    """A request that gets an error and no answer; `response` is the error in OpenAI's envelope."""

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.kind = status, code, param, kind

    @property
    def response(self) -> JSONResponse:
        """What the client gets, where nothing was sent yet."""
        return error(self.status, str(self), self.code, self.kind, self.param)

    @property
    def event(self) -> bytes:
        """What the client gets, where a stream runs: its last event, with no `DONE` after it."""
        return event({"error": {"message": str(self), "type": self.kind, "code": self.code, "param": self.param}})


async def body(request: Request) -> Json:
    """The request's JSON object. Raises Refused where it is none, also when the client leaves before its end."""
    try:
        given = json.loads(await request.body())
    except (ValueError, RecursionError) as cause:
        raise Refused(400, f"The body is not JSON: {cause}", "invalid_json") from cause
    except ClientDisconnect as cause:
        raise Refused(400, "The client left.", "client_closed_request") from cause
    if not isinstance(given, dict):
        raise Refused(400, "The body must be a JSON object.", "invalid_json")
    return given


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n\n"


class Events(StreamingResponse):
    """A stream of server-sent events. When the client leaves, the iterator is cancelled where it waits, and closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._source = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()  # cancelled while it sent, the iterator is left as it was


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """What a request took."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream shall end with its usage (`stream_options.include_usage`)."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


@dataclass(frozen=True, slots=True)
class Choice:
    """A finished choice. `finish` is why it ended: stop, length, tool_calls; `logprobs` and `tool_calls` as OpenAI has them."""

    text: str
    finish: str
    logprobs: Any = None
    tool_calls: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer under way: makes its chunks and its whole, which share an id, a time and the model's name.

    A stream is, for each choice, `opening`, any number of `piece`s and `ending`; then `closing` where usage is wanted; then
    `DONE`. Give each to `event`.
    """

    kind: Literal["chat", "text"]
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self, index: int = 0) -> Json | None:
        """The first chunk of a chat's choice, which says who speaks; None for plain completions, which have none."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self.kind == "chat" else None

    def piece(self, text: str, index: int = 0, logprobs: Any = None) -> Json:
        """A chunk with more text."""
        return self._chunk(index, {"content": text} if self.kind == "chat" else text, logprobs=logprobs)

    def tools(self, calls: Sequence[Json], index: int = 0) -> Json:
        """A chunk with a chat's calls of tools, whole ones."""
        return self._chunk(index, {"tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]})

    def ending(self, finish: str, index: int = 0) -> Json:
        """The last chunk of a choice."""
        return self._chunk(index, {} if self.kind == "chat" else "", finish)

    def closing(self, usage: Json) -> Json:
        """The chunk with the usage, which has no choices."""
        return {**self._head(chunk=True), "choices": [], "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: Json) -> Json:
        """The answer to a request that is no stream."""
        listed = [{"index": index, **self._finished(choice)} for index, choice in enumerate(choices)]
        return {**self._head(chunk=False), "choices": listed, "usage": usage}

    def _finished(self, choice: Choice) -> Json:
        ended = {"logprobs": choice.logprobs, "finish_reason": choice.finish}
        if self.kind == "text":
            return {"text": choice.text, **ended}
        calls = {"tool_calls": list(choice.tool_calls)} if choice.tool_calls else {}
        content = choice.text if choice.text or not calls else None
        return {"message": {"role": "assistant", "content": content, **calls}, **ended}

    def _chunk(self, index: int, content: Json | str, finish: str | None = None, logprobs: Any = None) -> Json:
        name = "delta" if self.kind == "chat" else "text"
        choice = {"index": index, name: content, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head(chunk=True), "choices": [choice]}

    def _head(self, *, chunk: bool) -> Json:
        if self.kind == "text":
            prefix, name = "cmpl", "text_completion"
        else:
            prefix, name = "chatcmpl", "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}


def models(names: Sequence[str], created: int) -> Json:
    """The list of models."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "headrace"} for name in names],
    }
