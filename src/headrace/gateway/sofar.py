"""What a stream has given of its answer so far: kept as it came, read only when there is much of it or when the stream breaks."""

import re
from typing import Any

import msgspec

from headrace.gateway.http import BrokenAnswer, Chunks
from headrace.gateway.openai import Ask
from headrace.gateway.paths import Route

TEXT_LIMIT = 1024 * 1024
"""Characters of an answer that can still be continued."""

_BARRED = frozenset((
    "tools", "functions", "response_format", "grammar", "json_schema", "structured_outputs", "structural_tag", "regex", "ebnf",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "logprobs", "top_logprobs",
    "prompt_logprobs", "n_probs", "echo", "suffix", "audio", "modalities", "return_token_ids", "return_tokens",
    "prompt_embeds", "add_generation_prompt", "continue_final_message",
))  # fmt: skip
"""Fields whose answers are more than text, or not determined by the text so far."""
_ZERO_ASKS = ("logprobs", "prompt_logprobs")
"""Of 0 others: that of the token itself is asked for (completions)."""
_NOTHING = frozenset((b"null", b"false", b"0", b"[]", b"{}", b'""', b'{"type":"text"}', b'{"type": "text"}', b'["text"]'))
_ABORTED = re.compile(rb'"finish_reason"\s*:\s*"abort"')  # in a text its quotes would be escaped
# What stands in a line of its own: sizes of chunks, fields of events, comments.
_LINE = re.compile(rb"data:|event:|id:|retry:|:|\s*$|[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r]*)?\r$")
_STAMP = ("id", "object", "created", "model", "system_fingerprint")


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(list[_Event]).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


def is_text(ask: Ask, route: Route) -> bool:
    """Whether the answer is one stream of plain text, as far as the names and values of the request's fields tell."""
    if not ask.stream or ask.choices != 1 or route.kind not in ("chat", "completions"):
        return False
    fields = ask.fields
    return _BARRED.isdisjoint(fields) or all(_is_nothing(name, bytes(fields[name])) for name in _BARRED & fields.keys())


def _is_nothing(name: str, value: bytes) -> bool:
    return value in _NOTHING and (value != b"0" or name not in _ZERO_ASKS)


def gave_up(events: bytes) -> bool:
    """Whether the engine aborted the answer, which it says as the reason why it is finished (vLLM, SGLang)."""
    return b'"abort"' in events and _ABORTED.search(events) is not None


def _is_more(delta: _Delta) -> Any:
    """Than text."""
    called = delta.tool_calls or delta.function_call
    return called or delta.reasoning or delta.reasoning_content or delta.refusal or delta.audio


class SoFar:
    """The text of an answer, about how many tokens it has, how it calls itself. `intact` is False once it cannot be continued."""

    __slots__ = ("_texts", "blank", "done", "finish", "given", "intact", "size", "stamp", "usage")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.size = 0
        self.given = 0
        """Events with text: about one a token."""
        self.blank = 0
        """Those at the end that are only spaces and line ends."""
        self.finish: str | None = None
        """Why the text ended, when it has."""
        self.stamp: dict[str, Any] = {}
        """What all events say of the answer: its id, when it was made, by which model."""
        self.usage: dict[str, Any] | None = None
        self.done = False
        """[DONE] was given."""
        self.intact = True

    @property
    def text(self) -> str:
        """All of it."""
        self._texts = ["".join(self._texts)]
        return self._texts[0]

    def read(self, raw: bytes, *, chunked: bool) -> None:
        """More of the stream: whole events, in whole chunks when it is `chunked`."""
        if not self.intact:
            return
        try:
            self._read(raw)  # chunks mostly hold whole events, and then their sizes stand in lines of their own
        except (BrokenAnswer, msgspec.DecodeError):
            self._reread(raw, chunked=chunked)
        except (UnicodeDecodeError, RecursionError):
            self.intact = False

    def add(self, text: str) -> None:
        """More text, of one event."""
        if text:
            self._texts.append(text)
            self.given += 1
            self.blank = self.blank + 1 if text.isspace() else 0
            self.size += len(text)
            self.intact = self.intact and self.size <= TEXT_LIMIT

    def named(self, event: dict[str, Any]) -> None:
        """The answer is called as this event of it says."""
        self.stamp = {key: event[key] for key in _STAMP if key in event}

    def _reread(self, raw: bytes, *, chunked: bool) -> None:
        """A chunk ends inside of an event."""
        payload: list[bytes] = []
        try:
            Chunks().walk(raw if chunked else b"", payload)
            self.intact = self.intact and chunked
            self._read(b"".join(payload))
        except (BrokenAnswer, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.intact = False

    def _read(self, raw: bytes) -> None:
        """Nothing is taken unless all of it can be read. Raises BrokenAnswer where a line is part of one."""
        raw_lines = raw.split(b"\n")
        if not all(map(_LINE.match, raw_lines)):
            raise BrokenAnswer("a line is no field of an event")
        lines = [line[5:].strip() for line in raw_lines if line.startswith(b"data:")]
        self.done = self.done or b"[DONE]" in lines[-1:]
        texts = [line for line in lines if line not in (b"[DONE]", b"null", b"")]
        events = _decode(b"[%s]" % b",".join(texts))
        if events and not self.stamp:
            self.named(_decode_any(texts[0]))
        for event in events:
            self._take(event)

    def _take(self, event: _Event) -> None:
        self.usage = event.usage or self.usage
        if event.error is not None or len(event.choices or ()) > 1:
            self.intact = False
        for choice in event.choices or ():
            delta = choice.delta
            self.add((choice.text if delta is None else delta.content) or "")
            if choice.index or (delta is not None and _is_more(delta)):
                self.intact = False
            self.finish = choice.finish_reason or self.finish
