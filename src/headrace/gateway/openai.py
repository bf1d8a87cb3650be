"""The OpenAI API as the gateway needs it: peek at a request, the error envelope, usage, the list of models.

Shapes after the OpenAI API reference (platform.openai.com/docs/api-reference), as its own Python client reads them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from headrace.traffic import Task

PATHS: Mapping[str, Task] = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/embeddings": "embed",
}
"""The paths of the data path, and the task a model must be able to do for each."""

_NEEDED = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode
_EMPTY_BYTES = 64
_TRUE, _FALSE, _NULL = b"true", b"false", b"null"

Source = Literal["gateway", "engine"]


@dataclass(eq=False)
class Refusal(Exception):
    """An answer that is an error: a status and what goes into the envelope."""

    status: int
    message: str
    code: str
    type: str = "invalid_request_error"
    param: str | None = None
    source: Source = "gateway"
    retry_after: int | None = None
    allow: str | None = None
    """The methods that are served, with 405."""

    def envelope(self) -> bytes:
        """The JSON body, in the shape of OpenAI's errors."""
        return _encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.type,
                    "code": self.code,
                    "param": self.param,
                    "source": self.source,
                }
            }
        )

    def event(self) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        return b"data: " + self.envelope() + b"\n\n"


@dataclass(slots=True)  # not frozen: that would cost a microsecond per request
class Ask:
    """What the gateway must know of a request; never changed. `fields` are the values of its top level, as they were sent.

    `sound` is False when the body cannot be forwarded as it is, because two readers might see different values in it
    (a key given twice, or spelled with escapes).
    """

    model: str
    stream: bool
    choices: int
    fields: dict[str, msgspec.Raw]
    sound: bool


def peek(path: str, body: bytes) -> Ask:
    """Read what routing needs from the top level of `body`. Raises Refusal."""
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refusal(400, f"The body is not a JSON object: {_short(error)}.", "invalid_json") from None
    model = _value(fields, "model", str)
    if not model:
        raise Refusal(400, 'The body names no model. Add "model"; GET /v1/models lists them.', "missing_model", param="model")
    needed = _NEEDED[path]
    given = fields.get(needed)
    if given is None or (needed != "prompt" and _is_empty(given)):
        raise Refusal(400, f'"{needed}" is missing or empty.', "missing_required_parameter", param=needed)
    return Ask(
        model=model,
        stream=_flag(fields),
        choices=(_value(fields, "n", int) or 1) if "n" in fields else 1,
        fields=fields,
        sound=_is_sound(fields, body),
    )


def _is_sound(fields: dict[str, msgspec.Raw], body: bytes) -> bool:
    """Whether every reader finds the same values in `body`: no key of the top level is there twice, or spelled with escapes.

    A body as long as its fields written compactly has no room for either: that proof costs the same for any size of prompt.
    """
    compact = 1 + sum([len(name) + memoryview(raw).nbytes + 4 for name, raw in fields.items()])
    if compact == len(body):
        return True
    return (
        body.find(b'"model"') == body.rfind(b'"model"')
        and body.find(b'"stream"') == body.rfind(b'"stream"')
        and b"\\u" not in body
    )


def _is_empty(raw: msgspec.Raw) -> bool:
    if memoryview(raw).nbytes > _EMPTY_BYTES:  # copying a prompt to look at it would cost more than reading it
        return False
    value = bytes(raw)
    return value in (_NULL, b'""') or (value[:1] == b"[" and not value[1:-1].strip())


def _flag(fields: dict[str, msgspec.Raw]) -> bool:
    raw = fields.get("stream")
    if raw is None:
        return False
    text = bytes(raw)
    if text == _TRUE:
        return True
    if text in (_FALSE, _NULL):
        return False
    raise Refusal(400, '"stream" must be true or false.', "invalid_type", param="stream")


def _value(fields: dict[str, msgspec.Raw], name: str, kind: type[Any]) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _DECODE[kind](raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(400, f'"{name}" must be {_KINDS[kind]}.', "invalid_type", param=name) from None


_KINDS = {str: "a string", int: "an integer"}
_DECODE = {kind: msgspec.json.Decoder(kind | None).decode for kind in _KINDS}


def _short(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__


def rewritten(ask: Ask, model: str, *, fold: bool) -> bytes:
    """The body for an engine that knows the model as `model`, or that must stream so that the answer can be folded.

    Values keep their bytes; only the top level is written anew.
    """
    fields = dict(ask.fields)
    fields["model"] = msgspec.Raw(_encode(model))
    if fold:
        fields["stream"] = msgspec.Raw(_TRUE)
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    return _encode(fields)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the engine counted them."""

    tokens_in: int
    tokens_out: int


class _UsageFields(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


# Usage objects hold numbers, and objects of numbers: no string in them can hold a brace.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_decode_usage = msgspec.json.Decoder(_UsageFields).decode


def usage_in(tail: bytes) -> Usage | None:
    """The last usage object in `tail`, the end of an answer or of a stream; None when there is none."""
    at = tail.rfind(b'"usage"')
    while at >= 0:
        match = _USAGE.match(tail, at)
        if match is None:  # null, in every event but the last, or cut
            at = tail.rfind(b'"usage"', 0, at)
            continue
        try:
            found = _decode_usage(match[1])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return None if found.prompt_tokens is None else Usage(found.prompt_tokens, found.completion_tokens or 0)
    return None


# llama.cpp's words for what is the client's mistake and is answered with 500, which clients would send again.
_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)", re.DOTALL)
_CLIENTS_MISTAKE = re.compile(r"^Failed to parse |input is not supported|too large to process")


class _EngineError(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def engine_error(status: int, body: bytes) -> Refusal:
    """An engine's error in OpenAI's shape, with the status that OpenAI would give.

    llama.cpp b-2026.10 answers 500 to an embedding input beyond its batch and 501 to a task it was not started for: both are
    the client's mistake. Its `code` is the status as an integer; a 401 means that the gateway's own key was refused.
    """
    error = _error_object(body)
    message = error.message or f"The engine answered {status}."
    if status == 401:
        return Refusal(502, "The engine refused the gateway's key.", "engine_unauthorized", "server_error", source="engine")
    code = error.code if isinstance(error.code, str) else None
    if error.n_ctx is not None and error.n_prompt_tokens is not None:
        message = (
            f"This model's maximum context length is {error.n_ctx} tokens. However, your prompt has "
            f"{error.n_prompt_tokens} tokens. Shorten it."
        )
        return Refusal(400, message, "context_length_exceeded", source="engine", param="messages")
    if too_long := _TOO_LONG.search(message):
        message = f"This model's maximum input is {too_long[2]} tokens. However, your input has {too_long[1]} tokens. Shorten it."
        return Refusal(400, message, "context_length_exceeded", source="engine", param="input")
    if status == 501 or (status == 500 and _CLIENTS_MISTAKE.search(message)):
        status, code = 400, code or "unsupported"
    kind = error.type if error.type and status < 500 and error.type != "server_error" else _TYPES.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return Refusal(status, message, code or kind, kind, error.param, "engine")


def _error_object(body: bytes) -> _EngineError:
    """The error in `body`: OpenAI's `{"error": {…}}`, vLLM's older flat object, or FastAPI's `{"detail": …}`."""
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _EngineError(message=body[:500].decode("utf-8", "replace").strip() or None)
    inner = found.get("error", found)
    if not isinstance(inner, dict):
        return _EngineError(message=str(inner)[:500])
    if "message" not in inner and "detail" in found:
        return _EngineError(message=str(found["detail"])[:500])
    try:
        return msgspec.convert(inner, _EngineError)
    except msgspec.ValidationError:
        return _EngineError(message=str(inner.get("message", inner))[:500])


_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"')


def may_be_error(payload: bytes) -> bool:
    """Whether the start of a stream may still become an error event: more must be read to know."""
    if payload.startswith(_ERROR_EVENTS):
        return b"\n" not in payload and len(payload) < 64 * 1024
    return any(start.startswith(payload) for start in _ERROR_EVENTS)


def first_event_error(payload: bytes) -> Refusal | None:
    """The error that an engine put into the first event of a stream it had already answered with 200 (TGI and Triton do)."""
    if not payload.startswith(_ERROR_EVENTS):
        return None
    return event_error(payload.split(b"\n", 1)[0].partition(b":")[2].strip())


def event_error(data: bytes) -> Refusal:
    """An engine's error in an event's `data`: its integer `code`, where there is one, is the status; else 500."""
    code = _error_object(data).code
    return engine_error(code if isinstance(code, int) and 400 <= code < 600 else 500, data)


def model_list(models: Mapping[str, int], created: int) -> bytes:
    """GET /v1/models: `models` maps names, aliases included, to the context in tokens (0 unknown)."""
    return _encode({"object": "list", "data": [model_card(name, context, created) for name, context in models.items()]})


def model_card(name: str, context: int, created: int) -> dict[str, Any]:
    """One model, as in OpenAI's list; `max_model_len` as vLLM gives it."""
    card: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "headrace"}
    return card | {"max_model_len": context} if context else card
