"""What TGI answers, as data: shapes of its published openapi.json (3.3.6) and of router/src/lib.rs, with words `w0 w1 …`."""

import json
from typing import Any

from headrace.testing.answers import DONE, Wanted
from headrace.testing.tgi_requests import Asked, Limits

VERSION = "3.3.7"
_STAMP = {"id": "", "created": 1795455760, "system_fingerprint": f"{VERSION}-native"}


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event, without a space after `data:`."""
    return b"data:" + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error(kind: str, message: str) -> dict[str, Any]:
    """The body of an error, on all routes, OpenAI's too."""
    return {"error": message, "error_type": kind}


def error_events(kind: str, message: str, is_chat: bool) -> list[bytes]:
    """The same in a stream, whose status is 200. That of chat says 422 whatever happened, and ends well."""
    if is_chat:
        return [event({"error": {"message": message, "http_status_code": 422}}), DONE]
    return [event(error(kind, message))]


def generated(asked: Asked) -> dict[str, Any]:
    """The answer of `/generate`."""
    ask = asked.ask
    answer: dict[str, Any] = {"generated_text": asked.full_text + "".join(_words(ask))}
    if asked.details:
        tokens = [_token(ask, number) for number in range(ask.tokens)]
        answer["details"] = {
            "finish_reason": _native(ask),
            "generated_tokens": ask.tokens,
            "seed": None,
            "prefill": [],
            "tokens": tokens,
        }
    return answer


def generate_events(asked: Asked) -> list[bytes]:
    """`/generate_stream`: the text comes whole in the last event, and no `[DONE]` after it."""
    ask, events = asked.ask, []
    for number in range(ask.tokens):
        last = number == ask.tokens - 1
        details = {"finish_reason": _native(ask), "generated_tokens": ask.tokens, "seed": None, "input_length": ask.prompt_tokens}
        text = asked.full_text + "".join(_words(ask))
        token = {"index": number + 1, "token": _token(ask, number)}
        events.append(event(token | {"generated_text": text if last else None, "details": details if last else None}))
    return events


def whole(asked: Asked) -> dict[str, Any]:
    """The answer of the OpenAI routes."""
    ask, text = asked.ask, "".join(_words(asked.ask))
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if ask.chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": _finish(ask)}
    return {
        "object": "chat.completion" if ask.chat else "text_completion",
        **_head(ask),
        "choices": [choice],
        "usage": _usage(ask),
    }


def events(asked: Asked) -> list[bytes]:
    """The stream of the OpenAI routes: `finish_reason` comes with the last word, `[DONE]` at the end."""
    ask = asked.ask
    found = [event(_chunk(ask, word, number == ask.tokens - 1)) for number, word in enumerate(_words(ask))]
    kind = "chat.completion.chunk" if ask.chat else "text_completion"
    usage = [event({"object": kind, **_head(ask), "choices": [], "usage": _usage(ask)})] if ask.usage else []
    return [*found, *usage, DONE]


def info(model: str, limits: Limits, concurrent: int) -> dict[str, Any]:
    """`/info`."""
    return {
        **{"model_id": model, "model_sha": None, "model_pipeline_tag": "text-generation"},
        **{"max_concurrent_requests": concurrent, "max_best_of": limits.best_of, "max_stop_sequences": limits.stop_sequences},
        **{"max_input_tokens": limits.input_tokens, "max_total_tokens": limits.total_tokens, "validation_workers": 2},
        **{"max_client_batch_size": limits.client_batch, "router": "text-generation-router", "version": VERSION},
        **{"sha": None, "docker_label": None},
    }


def models(model: str) -> dict[str, Any]:
    """`/v1/models`."""
    return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": model}]}


def timings(ask: Wanted) -> dict[str, str]:
    """The headers that only whole answers have; milliseconds, but for the compute time."""
    times = {f"x-{name}-time": "0" for name in ("total", "validation", "queue", "inference")}
    counts = {"x-prompt-tokens": str(ask.prompt_tokens), "x-generated-tokens": str(ask.tokens), "x-time-per-token": "0"}
    return {"x-compute-type": "1-fake", "x-compute-time": "0.001", **times, **counts, "x-compute-characters": "0"}


STREAM_HEADERS = {"x-compute-type": "1-fake", "x-compute-characters": "0", "x-accel-buffering": "no"}


def _words(ask: Wanted) -> list[str]:
    return [f"w{number} " for number in range(ask.first, ask.first + ask.tokens)]


def _token(ask: Wanted, number: int) -> dict[str, Any]:
    return {"id": number, "text": f"w{ask.first + number} ", "logprob": -0.5, "special": False}


def _native(ask: Wanted) -> str:
    return "eos_token" if ask.stops else "length"


def _finish(ask: Wanted) -> str:
    return "stop" if ask.stops else "length"


def _head(ask: Wanted) -> dict[str, Any]:
    return {**_STAMP, "model": ask.model}


def _chunk(ask: Wanted, word: str, last: bool) -> dict[str, Any]:
    if not ask.chat:
        choice = {"index": 0, "text": word, "logprobs": None, "finish_reason": _finish(ask) if last else ""}
        return {"object": "text_completion", **_head(ask), "choices": [choice]}
    choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "logprobs": None}
    choice["finish_reason"] = _finish(ask) if last else None
    return {"object": "chat.completion.chunk", **_head(ask), "choices": [choice], "usage": None}


def _usage(ask: Wanted) -> dict[str, int]:
    return {"prompt_tokens": ask.prompt_tokens, "completion_tokens": ask.tokens, "total_tokens": ask.prompt_tokens + ask.tokens}
