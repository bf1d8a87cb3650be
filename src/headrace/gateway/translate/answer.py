"""Write OpenAI's answers from pieces of text: the events of a stream, or one object."""

from typing import Any, NamedTuple

import msgspec

from headrace.gateway.openai import Usage

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class Counted(NamedTuple):
    """Tokens of an answer; `estimated` where the engine did not say."""

    usage: Usage
    estimated: bool


class Answer:
    """One answer in the making, of one choice. `chat` or a completion; `usage_wanted` as a stream's client asked."""

    __slots__ = ("_begun", "_chat", "_head", "_texts", "_usage_wanted")

    def __init__(self, identity: str, model: str, created: int, *, chat: bool, usage_wanted: bool) -> None:
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{identity}", "created": created, "model": model}
        self._chat = chat
        self._usage_wanted = usage_wanted
        self._begun = False
        self._texts: list[str] = []

    def keep(self, text: str) -> None:
        """More of an answer that is no stream."""
        self._texts.append(text)

    def events(self, text: str) -> bytes:
        """More of a stream; the role comes first."""
        begin = b"" if self._begun or not self._chat else self._event({"role": "assistant", "content": ""})
        self._begun = True
        return begin + (self._event(text) if text else b"")

    def last_events(self, finish: str, counted: Counted) -> bytes:
        """What ends a stream."""
        usage = b""
        if self._usage_wanted:
            usage = _sent(self._head | {"object": self._object("chat.completion.chunk"), "choices": [], "usage": _usage(counted)})
        return self.events("") + self._event({} if self._chat else "", finish) + usage + DONE

    def whole(self, finish: str, counted: Counted) -> bytes:
        """All that was kept, as one object."""
        text = "".join(self._texts)
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return _encode(self._head | {"object": self._object("chat.completion"), "choices": [choice], "usage": _usage(counted)})

    def _event(self, said: str | dict[str, Any], finish: str | None = None) -> bytes:
        delta = {"content": said} if isinstance(said, str) else said
        said = {"delta": delta} if self._chat else {"text": said}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return _sent(self._head | {"object": self._object("chat.completion.chunk"), "choices": [choice]})

    def _object(self, chat: str) -> str:
        return chat if self._chat else "text_completion"


def _sent(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _usage(counted: Counted) -> dict[str, Any]:
    tokens_in, tokens_out = counted.usage.tokens_in, counted.usage.tokens_out
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    return usage | {"estimated": True} if counted.estimated else usage
