"""What vLLM answers, as data: the shapes of `recorded/vllm_sse.txt` and of 0.32.0's errors, with words `w0 w1 …`."""

from typing import Any

from headrace.testing.answers import DONE, Wanted, event

_CREATED = 1795456402
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
SHUT_DOWN = "cannot schedule new futures after shutdown"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


def events(ask: Wanted, per_event: int = 1) -> list[bytes]:
    """A stream: the role with empty content, words by `per_event`, `finish_reason` with the last of them, usage, done."""
    words = [f"w{number} " for number in range(ask.first, ask.first + ask.tokens)]
    texts = ["".join(words[at : at + per_event]) for at in range(0, len(words), per_event)] or [""]
    role = [_chunk(ask, [_choice({"role": "assistant", "content": ""}, None)]) | _PROMPT] if ask.chat else []
    said = [_chunk(ask, [_said(ask, text, last=number == len(texts) - 1)]) for number, text in enumerate(texts)]
    usage = [_chunk(ask, []) | {"usage": _usage(ask), "system_fingerprint": _FINGERPRINT}] if ask.usage else []
    return [*map(event, [*role, *said, *usage]), DONE]


def whole(ask: Wanted) -> dict[str, Any]:
    """The answer to a request that is not a stream."""
    text = "".join(f"w{number} " for number in range(ask.first, ask.first + ask.tokens))
    message: dict[str, Any] = {"role": "assistant", "content": text, "reasoning": None, "tool_calls": []}
    said: dict[str, Any] = {"message": message} if ask.chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": _finish(ask), "stop_reason": None, "token_ids": None}
    head = {"id": ask.identity, "object": "chat.completion" if ask.chat else "text_completion", "created": _CREATED}
    more = {"usage": _usage(ask), "kv_transfer_params": None, "system_fingerprint": _FINGERPRINT}
    return {**head, "model": ask.model, "choices": [choice], **more}


def error(status: int, message: str, kind: str, param: str | None = None) -> dict[str, Any]:
    """vLLM's envelope; `code` is the status, as a number."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def error_events(status: int, message: str, kind: str) -> list[bytes]:
    """The same in a stream that had begun, which then ends as if all were well."""
    return [event(error(status, message, kind)), DONE]


def invalid(param: str, problem: str, message: str) -> dict[str, Any]:
    """A body that does not validate: 400, with another spelling of `type` than all later checks have."""
    detail = f"{{'type': '{problem}', 'loc': '{param}', 'msg': '{message}'}}"
    return error(400, f"1 validation error:\n  {detail}", "Bad Request", param)


def unknown(model: str, known: list[str]) -> dict[str, Any]:
    """The 404 for a model that it does not have."""
    aliases = f"Valid aliases: {', '.join(known)}."
    return error(404, f"The model `{model}` does not exist. {aliases}", "NotFoundError", "model")


def too_long(ask: Wanted, context: int) -> dict[str, Any]:
    """The 400 for a prompt beyond the context; the count is clipped."""
    contains = (
        f"your prompt contains at least {context + 1} input tokens, which exceeds this limit even without any output tokens."
    )
    message = f"This model's maximum context length is {context} tokens. However, {contains}"
    return error(400, message, "BadRequestError", "input_tokens")


def models(model: str, adapters: list[str], context: int) -> dict[str, Any]:
    """`/v1/models`: adapters name their parent."""
    card = {"object": "model", "created": _CREATED, "owned_by": "vllm"}
    base = card | {"id": model, "root": model, "parent": None, "max_model_len": context}
    return {"object": "list", "data": [base, *(card | {"id": name, "root": name, "parent": model} for name in adapters)]}


def metrics(
    model: str, running: int, waiting: int, usage: float, tokens_in: int, tokens_out: int, blocks: int, block: int
) -> str:
    """The page: labels of engine and model, `_created` beside each counter, the capacity in labels."""
    labels = f'{{engine="0",model_name="{model}"}}'
    gauges = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": usage}
    lines = [
        line for name, value in gauges.items() for line in (f"# TYPE vllm:{name} gauge", f"vllm:{name}{labels} {float(value)}")
    ]
    for name, count in {"prompt_tokens": tokens_in, "generation_tokens": tokens_out}.items():
        lines += [f"# TYPE vllm:{name}_total counter", f"vllm:{name}_total{labels} {float(count)}"]
        lines += [f"# TYPE vllm:{name}_created gauge", f"vllm:{name}_created{labels} 1.7954587641033769e+09"]
    capacity = f'block_size="{block}",engine="0",kv_cache_size_tokens="{blocks * block}",num_gpu_blocks="{blocks}"'
    return "\n".join([*lines, "# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{capacity}}} 1.0", ""])


_FINGERPRINT = "vllm-0.32.0-fake"
_PROMPT = {"prompt_token_ids": None, "prompt_text": None}


def _said(ask: Wanted, text: str, last: bool) -> dict[str, Any]:
    finish = _finish(ask) if last else None
    ending = {"stop_reason": None} if last else {}
    if not ask.chat:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **ending, "token_ids": None}
    return _choice({"content": text}, finish) | ending | {"token_ids": None}


def _choice(delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _chunk(ask: Wanted, choices: list[Any]) -> dict[str, Any]:
    kind = "chat.completion.chunk" if ask.chat else "text_completion"
    return {"id": ask.identity, "object": kind, "created": _CREATED, "model": ask.model, "choices": choices}


def _finish(ask: Wanted) -> str:
    return "stop" if ask.stops else "length"


def _usage(ask: Wanted) -> dict[str, int]:
    return {"prompt_tokens": ask.prompt_tokens, "total_tokens": ask.prompt_tokens + ask.tokens, "completion_tokens": ask.tokens}
