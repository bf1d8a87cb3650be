"""What an answer to a chat says, piece by piece: an engine's bytes → a Writer, which says it in its own client's protocol."""

from typing import Any, Protocol

import msgspec

from headrace.gateway.engine_errors import event_error
from headrace.gateway.fold import GAVE_UP
from headrace.gateway.http import BrokenAnswer
from headrace.gateway.openai import Refusal, Usage

EVENT_LIMIT = 16 * 1024 * 1024
"""Bytes of one event; a longer one is a broken answer."""
TEXT_LIMIT = 64 * 1024 * 1024
"""Characters of one answer."""


class Counted(msgspec.Struct, frozen=True):
    """Tokens of an answer: of the prompt, how many of these were in a cache, of the answer, how many of these were thoughts."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    reasoning: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(self.tokens_in, self.tokens_out)


class Writer(Protocol):
    """Says one answer in a client's protocol. `text`, `thought` and `call` are called with pieces, in their order."""

    def text(self, piece: str) -> None:
        """More of what is said."""

    def thought(self, piece: str) -> None:
        """More of what is thought."""

    def call(self, index: int, identity: str, name: str, piece: str) -> None:
        """More of the arguments of the tool call `index`; `identity` and `name` are there with its first piece."""

    def pulse(self) -> None:
        """The engine is at work, and says nothing yet."""

    def take(self) -> bytes:
        """The events that a stream's client may have now; empty for an answer that is no stream."""

    def end(self, finish: str, stop: str | None, counted: Counted) -> bytes:
        """The rest of a stream, or the whole answer. `finish` is the chat's reason, `stop` the string that ended it, if known."""

    def broken(self, refusal: Refusal) -> bytes:
        """What ends a stream that cannot be completed."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # vLLM's word for it since 0.12
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None  # vLLM: the string, or the token


class _InDetail(msgspec.Struct):
    cached_tokens: int | None = None


class _OutDetail(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InDetail | None = None
    completion_tokens_details: _OutDetail | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Event).decode


class Reader:
    """Reads one answer of one choice and tells `writer`. Raises Refusal for an engine's error, BrokenAnswer for what is none."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._rest = b""
        self._known: set[int] = set()  # tool calls that have begun
        self._size = 0
        self._pieces = 0
        self._done = False
        self._usage: _Usage | None = None
        self.finish = ""
        self.stop: str | None = None

    def feed(self, data: bytes) -> None:
        """More of a stream of events, split anywhere."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > EVENT_LIMIT:
            raise BrokenAnswer("an event does not end")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())
            elif line.startswith(b":"):
                self._writer.pulse()

    def whole(self, body: bytes) -> None:
        """An answer that is no stream."""
        self._take(body)
        if not self.finish:
            raise BrokenAnswer(f"its answer holds no choice: {body[:60]!r}")
        self._done = True

    def counted(self) -> Counted:
        """The tokens, once the answer is complete. Raises BrokenAnswer when it is not.

        An engine that does not count has about one token in each piece.
        """
        if not self._done:
            raise BrokenAnswer("its stream ended without [DONE]")
        if self._usage is None or self._usage.prompt_tokens is None:
            return Counted(0, self._pieces)
        before, after = self._usage.prompt_tokens_details, self._usage.completion_tokens_details
        return Counted(
            self._usage.prompt_tokens,
            self._usage.completion_tokens or 0,
            min(self._usage.prompt_tokens, (before and before.cached_tokens) or 0),
            (after and after.reasoning_tokens) or 0,
        )

    def _event(self, data: bytes) -> None:
        if self._done or data == b"null":
            return
        if data == b"[DONE]":
            self._done = True
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if b'"error"' in data[:64]:  # whatever its shape
                raise event_error(data) from None
            raise BrokenAnswer(f"an event is not a chat's ({str(error)[:80]}): {data[:60]!r}") from None
        if event.error is not msgspec.UNSET and bytes(event.error) != b"null":
            raise event_error(data)
        self._usage = event.usage or self._usage
        for choice in event.choices or ():
            if choice.index == 0:
                self._choice(choice)

    def _choice(self, choice: _Choice) -> None:
        said = choice.delta or choice.message
        if said is not None:
            self._say(said)
        if choice.finish_reason in GAVE_UP:
            raise BrokenAnswer(f"the engine gave up ({choice.finish_reason})")
        self.finish = choice.finish_reason or self.finish
        if isinstance(choice.stop_reason, str):
            self.stop = choice.stop_reason

    def _say(self, said: _Said) -> None:
        if thought := said.reasoning_content or said.reasoning:
            self._count(thought)
            self._writer.thought(thought)
        for text in (said.content, said.refusal):
            if text:
                self._count(text)
                self._writer.text(text)
        for place, call in enumerate(said.tool_calls or ()):
            self._call(place if call.index is None else call.index, call)

    def _call(self, index: int, call: _Call) -> None:
        function = call.function or _Function()
        piece = function.arguments or ""
        if index in self._known:
            if piece:
                self._count(piece)
                self._writer.call(index, "", "", piece)
            return
        if not function.name:
            raise BrokenAnswer("a tool call begins without the name of its tool")
        if len(self._known) >= 1024:
            raise BrokenAnswer("it calls more than 1,024 tools")
        self._known.add(index)
        self._count(piece)
        self._writer.call(index, call.id or "", function.name, piece)

    def _count(self, piece: str) -> None:
        self._pieces += 1
        self._size += len(piece)
        if self._size > TEXT_LIMIT:
            raise BrokenAnswer(f"its answer is longer than {TEXT_LIMIT} characters")


def event(name: str, data: dict[str, Any]) -> bytes:
    """A server-sent event with a name, its type."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode({"type": name} | data))
