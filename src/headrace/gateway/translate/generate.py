"""OpenAI's chats and completions ⇄ Triton's `generate_stream`, which every text model of Triton answers.

`generate` wants exactly one response and refuses models that may send several; `generate_stream` takes either kind. Its
stream has no [DONE]: it is complete when its framing is. Sources: Triton's generate extension; for the dialects
vllm_backend `src/utils/request.py` and TensorRT-LLM `triton_backend/all_models/llmapi`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from headrace.gateway.engine_errors import event_error
from headrace.gateway.http import BrokenAnswer
from headrace.gateway.openai import Usage
from headrace.gateway.paths import quoted
from headrace.gateway.translate.answer import Answer, Counted
from headrace.gateway.translate.base import Asked, Translation
from headrace.gateway.translate.request import SAMPLING, Wanted, wanted

EVENT_LIMIT = 16 * 1024 * 1024
"""Bytes of one event; a longer one is a broken answer."""
BYTES_PER_TOKEN = 4
"""Of a prompt whose tokens the engine does not count."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.encode


class Dialect(NamedTuple):
    """How a back end wants to be asked, and how it answers."""

    body: Callable[[Wanted, bool], dict[str, Any]]
    sampling: tuple[str, ...]
    """The fields of a request that it knows."""
    cumulative: bool
    """Each event has all of the text so far, and not only what is new."""


def _vllm(want: Wanted, stream: bool) -> dict[str, Any]:
    return {
        "text_input": want.prompt,
        "stream": stream,
        "exclude_input_in_output": True,
        "sampling_parameters": _encode({**want.sampling, "max_tokens": want.max_tokens}).decode(),
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }


_LLMAPI_KNOWS = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


def _llmapi(want: Wanted, stream: bool) -> dict[str, Any]:
    sampling = {**want.sampling, "max_tokens": want.max_tokens, "exclude_input_from_output": True}
    named = {f"sampling_param_{name}": value for name, value in sampling.items()}
    return {"text_input": want.prompt, "streaming": stream, "return_finish_reason": True, **named}


VLLM = Dialect(_vllm, SAMPLING, cumulative=False)
LLMAPI = Dialect(_llmapi, _LLMAPI_KNOWS, cumulative=True)
DIALECTS: Mapping[str, Dialect] = {"tensorrt_llm": LLMAPI}
"""By the name that the back end's own layout gives its model. All others, the models that Headrace writes included, speak as
the vLLM back end does.
"""


def translated(asked: Asked) -> Translation:
    """The translation of a chat or a completion. Raises Refusal for what cannot be said in `generate`."""
    dialect = DIALECTS.get(asked.there, VLLM)
    return _Generate(asked, wanted(asked, dialect.sampling), dialect)


def checked(asked: Asked) -> Translation:
    """`generate` as its own clients ask for it: an error in an answer of status 200 becomes one with a status."""
    return _Checked()


class _Generate:
    def __init__(self, asked: Asked, want: Wanted, dialect: Dialect) -> None:
        self.target = b"/v2/models/" + quoted(asked.there) + b"/generate_stream"
        self.streams = asked.ask.stream
        self.body = _encode(dialect.body(want, self.streams))
        self.usage: Usage | None = None
        created = int(asked.now().timestamp())
        chat = asked.kind == "chat"
        self._answer = Answer(asked.identity, asked.ask.model, created, chat=chat, usage_wanted=want.usage)
        self._cumulative = dialect.cumulative
        self._prompt_bytes = len(want.prompt.encode())
        self._limit = want.max_tokens
        self._rest = b""
        self._length = 0  # of the text so far, where each event has all of it
        self._events = 0
        self._pieces = 0  # of text, each about one token
        self._finish = ""
        self._tokens_in: int | None = None
        self._tokens_out: int | None = None

    def feed(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > EVENT_LIMIT:
            raise BrokenAnswer("an event does not end")
        return b"".join([self._event(line[5:].strip()) for line in lines if line.startswith(b"data:")])

    def end(self) -> bytes:
        rest = self.feed(b"\n")  # an end of line may be missing
        if not self._events:
            raise BrokenAnswer("its stream holds no event")
        counted = self._counted()
        self.usage = counted.usage
        finish = self._finish or ("length" if counted.usage.tokens_out >= self._limit else "stop")
        return rest + (self._answer.last_events(finish, counted) if self.streams else self._answer.whole(finish, counted))

    def whole(self, body: bytes) -> bytes:
        return self._event(body.strip()) + self.end()

    def _event(self, data: bytes) -> bytes:
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BrokenAnswer(f"an event is not JSON: {data[:60]!r}") from None
        if "error" in event:
            raise event_error(data)
        self._events += 1
        self._note(event)
        text = _scalar(event.get("text_output"), str) or ""
        if self._cumulative:
            text, self._length = text[self._length :], len(text)
        self._pieces += bool(text)
        if self.streams:
            return self._answer.events(text)
        self._answer.keep(text)
        return b""

    def _note(self, event: Mapping[str, Any]) -> None:
        if (tokens_in := _scalar(event.get("num_input_tokens"), int)) is not None:
            self._tokens_in = tokens_in
        if (tokens_out := _scalar(event.get("num_output_tokens"), int)) is not None:  # those of this event
            self._tokens_out = (self._tokens_out or 0) + tokens_out
        finish = _scalar(event.get("finish_reason"), str)
        if finish in (None, "", "None"):  # a back end in Python writes None so
            return
        if finish not in ("stop", "length"):
            raise BrokenAnswer(f"it gave up: {finish}")
        self._finish = str(finish)

    def _counted(self) -> Counted:
        estimated = self._tokens_in is None or self._tokens_out is None
        tokens_in = -(-self._prompt_bytes // BYTES_PER_TOKEN) if self._tokens_in is None else self._tokens_in
        tokens_out = self._pieces if self._tokens_out is None else self._tokens_out
        return Counted(Usage(tokens_in, tokens_out), estimated)


class _Checked:
    target = body = b""
    streams = False
    usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        raise BrokenAnswer("it answered with a stream")

    def end(self) -> bytes:
        raise BrokenAnswer("it answered with a stream")

    def whole(self, body: bytes) -> bytes:
        try:
            failed = "error" in _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BrokenAnswer(f"its answer is not JSON: {body[:60]!r}") from None
        if failed:
            raise event_error(body)
        return body


def _scalar(value: Any, kind: type[Any]) -> Any:
    """The value of a tensor of one element, which Triton writes with and without brackets."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, kind) and not isinstance(value, bool) else None
