"""What llama.cpp answers, as data: the shapes of `recorded/llamacpp_sse.txt`, with words `w0 w1 w2 …` for content."""

import json
import re
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"w\d+")
_STAMP = {"created": 1795455760, "system_fingerprint": "b0-unknown"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for text, as far as it matters here. `first` is the number of the first word: more than 0 when the last
    message is the assistant's, or the prompt ends in such words, and the engine shall go on from there.
    """

    chat: bool
    stream: bool
    usage: bool
    tokens: int
    stops: bool
    first: int
    prompt_tokens: int
    identity: str
    model: str


def wanted(body: dict[str, Any], chat: bool, tokens: int, model: str, number: int) -> Wanted:
    """What `body` asks of an engine that says `tokens` words unless told to say fewer."""
    text = _prompt(body) if chat else str(body.get("prompt", ""))
    last = _last_words(body) if chat else text
    first = len(_WORD.findall(last))
    left = max(tokens - first, 0)
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or left
    return Wanted(
        chat=chat,
        stream=bool(body.get("stream")),
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
        tokens=min(left, limit),
        stops=limit >= left,
        first=first,
        prompt_tokens=max(len(text.split()), 1),
        identity=f"{'chatcmpl' if chat else 'cmpl'}-{number}",
        model=model,
    )


def events(ask: Wanted) -> list[bytes]:
    """The whole stream, event by event; the role comes first (chat only), the words follow, `[DONE]` is the last."""
    role = [_chunk(ask, {"role": "assistant", "content": None})] if ask.chat else []
    words = [_chunk(ask, {"content": word}) for word in _words(ask)]
    end = _chunk(ask, {}, _finish(ask))
    if ask.usage:
        return [*map(event, [*role, *words, end, _envelope(ask, []) | _usage(ask) | _timings(ask)]), DONE]
    return [*map(event, [*role, *words, end | _timings(ask)]), DONE]


def event(data: dict[str, Any]) -> bytes:
    """`data` as one server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def whole(ask: Wanted) -> dict[str, Any]:
    """The answer to a request that is not a stream."""
    text = "".join(_words(ask))
    choice = {"message": {"role": "assistant", "content": text}} if ask.chat else {"text": text, "logprobs": None}
    answer = _envelope(ask, [{"finish_reason": _finish(ask), "index": 0, **choice}], "chat.completion")
    return answer | _usage(ask) | _timings(ask)


def embeddings(body: dict[str, Any], dimensions: int, model: str) -> dict[str, Any]:
    """One vector of norm 1 per input, the same for the same text."""
    given = body.get("input", "")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    tokens = sum(len(str(each).split()) for each in inputs)
    data = [
        {"embedding": _vector(str(each), dimensions), "index": index, "object": "embedding"} for index, each in enumerate(inputs)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"model": body.get("model", model), "object": "list", "usage": usage, "data": data}


def models(model: str, context: int) -> dict[str, Any]:
    """What `/v1/models` lists."""
    entry = {"id": model, "aliases": [model], "object": "model", "created": 1795455760, "owned_by": "llamacpp"}
    return {"object": "list", "data": [entry | {"meta": {"n_ctx": context}}]}


def error(status: int, message: str, kind: str, **more: int) -> dict[str, Any]:
    """llama.cpp's error envelope: an integer code, no `param`."""
    return {"error": {"code": status, "message": message, "type": kind, **more}}


def too_long(ask: Wanted, context: int) -> dict[str, Any]:
    """The 400 for a prompt that does not fit a slot."""
    message = f"request ({ask.prompt_tokens} tokens) exceeds the available context size ({context} tokens)"
    more = {"n_prompt_tokens": ask.prompt_tokens, "n_ctx": context}
    return error(400, message, "exceed_context_size_error", **more)


def metrics(processing: int, deferred: int, tokens_in: int, tokens_out: int) -> str:
    """The page, without labels, as recorded."""
    values = {
        ("prompt_tokens_total", "counter"): tokens_in,
        ("prompt_tokens_cached_total", "counter"): 0,
        ("tokens_predicted_total", "counter"): tokens_out,
        ("requests_processing", "gauge"): processing,
        ("requests_deferred", "gauge"): deferred,
    }
    return "".join(
        f"# HELP llamacpp:{name} of the fake engine\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
        for (name, kind), value in values.items()
    )


def _prompt(body: dict[str, Any]) -> str:
    return " ".join(str(message.get("content", "")) for message in body.get("messages", []))


def _last_words(body: dict[str, Any]) -> str:
    messages = body.get("messages") or [{}]
    return str(messages[-1].get("content", "")) if messages[-1].get("role") == "assistant" else ""


def _words(ask: Wanted) -> list[str]:
    return [f"w{number} " for number in range(ask.first, ask.first + ask.tokens)]


def _finish(ask: Wanted) -> str:
    return "stop" if ask.stops else "length"


def _chunk(ask: Wanted, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    said = {"delta": delta} if ask.chat else {"text": delta.get("content", ""), "logprobs": None}
    return _envelope(ask, [{"finish_reason": finish, "index": 0, **said}])


def _envelope(ask: Wanted, choices: list[Any], kind: str = "chat.completion.chunk") -> dict[str, Any]:
    return {
        "choices": choices,
        **_STAMP,
        "id": ask.identity,
        "model": ask.model,
        "object": kind if ask.chat else "text_completion",
    }


def _usage(ask: Wanted) -> dict[str, Any]:
    usage = {"completion_tokens": ask.tokens, "prompt_tokens": ask.prompt_tokens}
    total = ask.tokens + ask.prompt_tokens
    return {"usage": usage | {"total_tokens": total, "prompt_tokens_details": {"cached_tokens": 0}}}


def _timings(ask: Wanted) -> dict[str, Any]:
    return {"timings": {"cache_n": 0, "prompt_n": ask.prompt_tokens, "prompt_ms": 1.0, "predicted_n": ask.tokens}}


def _vector(text: str, dimensions: int) -> list[float]:
    raw = [1.0 + (sum(text.encode()) * (place + 1)) % 7 for place in range(dimensions)]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]
