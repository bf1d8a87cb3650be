"""Other clients' protocols by way of a chat: what was asked becomes a chat's body, and a Writer says the chat's answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from headrace.gateway.openai import Ask, Refusal, Usage, rewritten
from headrace.gateway.translate import generate
from headrace.gateway.translate.base import Asked, Translation
from headrace.gateway.translate.chat import Reader, Writer

CHAT = b"/v1/chat/completions"
_USAGE = msgspec.Raw(b'{"include_usage":true}')


@dataclass(slots=True)
class Spoken(Ask):
    """A request of another protocol. `fields` are the chat's that it asks for, `stream` is what its client wants."""

    writer: Callable[[str, int], Writer]
    """A new Writer for an answer with this identity, made at this second."""


def spoken(ask: Ask, fields: dict[str, Any], writer: Callable[[str, int], Writer]) -> Spoken:
    """`ask` as a chat with `fields`; values that are Raw keep their bytes."""
    raw = {
        name: value if isinstance(value, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(value))
        for name, value in fields.items()
    }
    return Spoken(ask.model, ask.stream, 1, raw, True, writer)


def chat(asked: Asked) -> "Through":
    """For an engine that answers chats itself. It is always asked for a stream, so that it notices clients that leave."""
    return Through(asked, CHAT, rewritten(asked.ask, asked.there, fold=True), None)


def generated(asked: Asked) -> "Through":
    """For an engine that completes text. Raises Refusal for what it cannot do."""
    ask = asked.ask
    streamed = Ask(ask.model, True, 1, ask.fields | {"stream_options": _USAGE}, True)
    inner = generate.translated(replace(asked, kind="chat", ask=streamed))
    return Through(asked, inner.target, inner.body, inner)


class Through:
    """A Translation: the engine's answer, made a chat's by `inner` where it is none, said by a Writer."""

    def __init__(self, asked: Asked, target: bytes, body: bytes, inner: Translation | None) -> None:
        assert isinstance(asked.ask, Spoken)
        self.target = target
        self.body = body
        self.streams = asked.ask.stream
        self.usage: Usage | None = None
        self._writer = asked.ask.writer(asked.identity, int(asked.now().timestamp()))
        self._reader = Reader(self._writer)
        self._inner = inner

    def feed(self, data: bytes) -> bytes:
        self._reader.feed(data if self._inner is None else self._inner.feed(data))
        return self._writer.take()

    def end(self) -> bytes:
        self._reader.feed(b"\n" if self._inner is None else self._inner.end())  # an end of line may be missing
        return self._end()

    def whole(self, body: bytes) -> bytes:
        if self._inner is None:
            self._reader.whole(body)
        else:
            self._reader.feed(self._inner.whole(body))
        return self._end()

    def broken(self, refusal: Refusal) -> bytes:
        """What ends a stream that has begun and cannot be completed."""
        return self._writer.broken(refusal)

    def _end(self) -> bytes:
        counted = self._reader.counted()
        self.usage = counted.usage
        return self._writer.end(self._reader.finish, self._reader.stop, counted)
