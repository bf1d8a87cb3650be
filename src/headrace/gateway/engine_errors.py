"""Errors of engines → ours: one envelope, OpenAI's statuses, and whether another replica may do better.

An engine says with most of its statuses what OpenAI says. What it says otherwise is in one table, by its words, for the
statuses differ between its versions, between a stream and an answer, and in the first event of a stream of status 200.
"""

import re
from typing import Any, Final, NamedTuple

import msgspec

from headrace.gateway.openai import Refusal


class Known(NamedTuple):
    """What an error whose message holds `words` means, whatever its status."""

    words: str
    status: int
    code: str
    elsewhere: bool = False


_OVERLOADED, _LOST, _STOPPING = "engine_overloaded", "engine_lost", "engine_stopping"
_TOO_LONG = "context_length_exceeded"  # OpenAI's code, which clients look for

KNOWN = (
    # vLLM 0.32: 500 from the moment of SIGTERM on; 503 past --max-num-queued-reqs, in a burst as the first event; 500 when
    # the core died, of which the requests that it held are told as well.
    Known("cannot schedule new futures after shutdown", 503, _STOPPING, elsewhere=True),
    Known("engine is currently busy and cannot accept new requests", 429, _OVERLOADED, elsewhere=True),
    Known("EngineCore encountered an issue", 502, _LOST, elsewhere=True),
    # vLLM: 404, from a replica that has not got this adapter (yet)
    Known("does not exist. Valid aliases", 404, "model_not_found", elsewhere=True),
    # vLLM, SGLang and OpenAI itself: 400
    Known("maximum context length is", 400, _TOO_LONG),
    Known("maximum context length of", 400, _TOO_LONG),
    Known("is longer than the model's context length", 400, _TOO_LONG),
    # SGLang: 503 past --max-queued-requests
    Known("The request queue is full.", 429, _OVERLOADED, elsewhere=True),
    # Triton 2.51: 503 past max_queue_size and default_timeout_microseconds
    Known("Exceeds maximum queue size", 429, _OVERLOADED, elsewhere=True),
    Known("Request timeout expired", 429, _OVERLOADED, elsewhere=True),
    # Triton: 400 for every request once the process of a python model has died, until the model is loaded again
    Known("Stub process '", 502, _LOST, elsewhere=True),
    # Triton: 404 for a model that is being unloaded, and for one that this replica has not got
    Known("has no available versions", 503, "model_unavailable", elsewhere=True),
    Known("Request for unknown model:", 404, "model_not_found", elsewhere=True),
    # Triton: 500 for JSON that is none, and for JSON in which something is missing or of the wrong kind
    Known("failed to parse the request JSON buffer", 400, "invalid_json"),
    Known("Unable to parse '", 400, "invalid_type"),
    # llama.cpp inside of Triton, which keeps of its error the words only
    Known("exceeds the available context size", 400, _TOO_LONG),
    # Triton: in an answer of status 200 of a model that may send several
    Known("generate expects model to produce exactly 1 response", 400, "unsupported"),
    # TGI 3.3.7: 429, and in the first event of a stream, where the status is 422 whatever it is
    Known("Model is overloaded", 429, _OVERLOADED, elsewhere=True),
    Known("Request failed during generation", 502, _LOST, elsewhere=True),
    Known("tokens + `max_new_tokens` must be <=", 400, _TOO_LONG),
    Known("`inputs` must have less than", 400, _TOO_LONG),
    # axum, which TGI and the Rust routers are made of: plain text
    Known("Failed to deserialize the JSON body", 400, "invalid_type"),
    Known("Failed to parse the request body as JSON", 400, "invalid_json"),
    Known("length limit exceeded", 413, "request_too_large"),
    # llama.cpp b-2026.10: 500, which clients would send again
    Known("Failed to parse ", 400, "unsupported"),
    Known("input is not supported", 400, "unsupported"),
    Known("too large to process", 400, "unsupported"),
)
"""The first that fits counts."""

_BATCH = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)", re.DOTALL)  # llama.cpp, 500
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ELSEWHERE = frozenset((429, 502, 503, 504))


class _EngineError(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None
    http_status_code: int | None = None


def engine_error(status: int, body: bytes, retry_after: int | None = None) -> Refusal:
    """An engine's error in OpenAI's shape, with the status that OpenAI would give; `retry_after` as the engine said.

    `code` is a status as an integer with llama.cpp and vLLM, a word with others; a 401 means that the gateway's own key
    was refused. TGI says 422 and 424 for what is 400 and 502, llama.cpp 501 for a task that it was not started for.
    """
    error, is_tgi = _error_in(body)
    message = error.message or f"The engine answered {status}."
    if status == 401:
        return Refusal(502, "The engine refused the gateway's key.", "engine_unauthorized", "server_error", source="engine")
    if error.n_ctx is not None and error.n_prompt_tokens is not None:
        return _too_long(error.n_ctx, "context length", error.n_prompt_tokens, "messages")
    if batch := _BATCH.search(message):
        return _too_long(batch[2], "input", batch[1], "input")
    code, kind, elsewhere = error.code if isinstance(error.code, str) else None, error.type, status in _ELSEWHERE
    if known := next((each for each in KNOWN if each.words in message), None):
        status, code, kind, elsewhere = known.status, known.code, None, known.elsewhere
    elif status == 501:
        status, code = 400, code or "unsupported"
    elif is_tgi and status in (422, 424):
        status = 400 if status == 422 else 502
    kind = kind if kind and status < 500 and kind != "server_error" else _TYPES.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    refusal = Refusal(status, message, code or kind, kind, error.param, "engine", elsewhere=elsewhere)
    refusal.retry_after = retry_after if status in (429, 503) else None
    return refusal


def lacking(refusal: Refusal, path: str, model: str) -> Refusal:
    """An error that says that there is nothing at `path`, as it concerns whoever asked for `model`; others are as they were."""
    if refusal.code == "model_not_found":
        return refusal
    message = f'The engine of model "{model}" has no {path}.'
    return Refusal(400, message, "unsupported", param="model", source="engine")


def _too_long(limit: object, what: str, given: object, param: str) -> Refusal:
    thing = "prompt" if param == "messages" else "input"
    message = f"This model's maximum {what} is {limit} tokens. However, your {thing} has {given} tokens. Shorten it."
    return Refusal(400, message, _TOO_LONG, source="engine", param=param)


def _error_in(body: bytes) -> tuple[_EngineError, bool]:
    """The error in `body`, and whether it is one of TGI's, which has an `error_type` beside a text.

    Others: OpenAI's `{"error": {…}}`, the flat object of SGLang and of vLLM's past, FastAPI's `{"detail": …}`, Triton's
    `{"error": "text"}`, which it may send as an event although its status is 400, plain text.
    """
    data = body.partition(b"\n")[0][5:] if body.startswith(b"data:") else body
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _EngineError(message=body[:500].decode("utf-8", "replace").strip() or None), False
    inner, is_tgi = found.get("error", found), "error_type" in found
    if not isinstance(inner, dict):
        return _EngineError(message=str(inner)[:500]), is_tgi
    if "message" not in inner and "detail" in found:
        return _EngineError(message=str(found["detail"])[:500]), False
    try:
        return msgspec.convert(inner, _EngineError), "http_status_code" in inner
    except msgspec.ValidationError:
        return _EngineError(message=str(inner.get("message", inner))[:500]), False


_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"')
_LONGEST_START = max(map(len, _ERROR_EVENTS))


def may_be_error(payload: bytes) -> bool:
    """Whether the start of a stream may still become an error event: more must be read to know."""
    if payload.startswith(_ERROR_EVENTS):
        return b"\n" not in payload and len(payload) < 64 * 1024
    return len(payload) < _LONGEST_START and any(start.startswith(payload) for start in _ERROR_EVENTS)


def first_event_error(payload: bytes) -> Refusal | None:
    """The error that an engine put into the first event of a stream it had already answered with 200 (TGI and Triton do)."""
    if not payload.startswith(_ERROR_EVENTS):
        return None
    return event_error(payload.split(b"\n", 1)[0].partition(b":")[2].strip())


def event_error(data: bytes) -> Refusal:
    """An engine's error in an event's `data`: its integer `code`, where there is one, is the status; else 500."""
    error, _ = _error_in(data)
    code = error.code if isinstance(error.code, int) else error.http_status_code
    return engine_error(code if code is not None and 400 <= code < 600 else 500, data)
