"""What TGI takes and refuses, in its words: validation of `/generate` and of the two OpenAI routes (router/src/validation.rs)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.testing.answers import Wanted, wanted

STATUS: Mapping[str, int] = {
    **{"validation": 422, "template_error": 422, "overloaded": 429, "generation": 424, "healthcheck": 503},
    "incomplete_generation": 500,
}
DEFAULT_NEW_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    input_tokens: int = 1024
    total_tokens: int = 2048
    best_of: int = 2
    stop_sequences: int = 4
    top_n_tokens: int = 5
    client_batch: int = 4


class Refused(Exception):
    """Not taken; `kind` is TGI's `error_type`, and "plain" where axum answers before TGI sees it, with text and `status`."""

    def __init__(self, kind: str, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status or STATUS.get(kind, 422)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was taken; `details` and `full_text` only `/generate` knows."""

    ask: Wanted
    details: bool = False
    full_text: str = ""


def generate(body: Mapping[str, Any], limits: Limits, tokens: int, model: str, stream: bool) -> Asked:
    """`/generate`, `/generate_stream` and `/`. Raises Refused."""
    inputs = _field(body, "inputs")
    parameters = body.get("parameters") or {}
    _checked(parameters, limits)
    if not inputs:
        raise _invalid("`inputs` cannot be empty")
    if stream and (parameters.get("best_of") or 1) > 1:
        raise _invalid("`best_of` != 1 is not supported when streaming tokens")
    limit = parameters.get("max_new_tokens") or DEFAULT_NEW_TOKENS
    ask = wanted({"prompt": inputs, "max_tokens": limit, "stream": stream}, False, tokens, model, 0)
    _fits(ask, limit, limits)
    return Asked(ask, bool(parameters.get("details")), inputs if parameters.get("return_full_text") else "")


def chat(body: Mapping[str, Any], limits: Limits, tokens: int, model: str) -> Asked:
    """`/v1/chat/completions`. Raises Refused."""
    _field(body, "messages")
    return _openai(body, limits, tokens, model, is_chat=True)


def completion(body: Mapping[str, Any], limits: Limits, tokens: int, model: str) -> Asked:
    """`/v1/completions`. Raises Refused."""
    prompt = _field(body, "prompt")
    if body.get("suffix"):
        raise _invalid("Suffix is not supported and can be achieved by preprocessing the prompt.")
    if isinstance(prompt, list) and len(prompt) > limits.client_batch:
        raise _invalid(f"Number of prompts exceeds the maximum allowed batch size of {limits.client_batch}")
    return _openai(
        dict(body) | {"prompt": prompt[0] if isinstance(prompt, list) else prompt}, limits, tokens, model, is_chat=False
    )


def _openai(body: Mapping[str, Any], limits: Limits, tokens: int, model: str, is_chat: bool) -> Asked:
    """Temperature 0 becomes greedy here; `top_p` 1 is refused here too."""
    parameters = {name: value for name, value in body.items() if not (name == "temperature" and value == 0)}
    _checked(parameters, limits)
    limit = body.get("max_tokens") or DEFAULT_NEW_TOKENS
    ask = wanted(dict(body) | {"max_tokens": limit}, is_chat, tokens, model, 0)
    _fits(ask, limit, limits)
    return Asked(ask)


def _field(body: Mapping[str, Any], name: str) -> Any:
    if name not in body:
        text = f"Failed to deserialize the JSON body into the target type: missing field `{name}` at line 1 column 2"
        raise Refused("plain", text, 422)
    return body[name]


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda value: value > 0, "must be strictly positive"),
    "repetition_penalty": (lambda value: value > 0, "must be strictly positive"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "must be >= -2.0 and <= 2.0"),
    "top_k": (lambda value: value > 0, "must be strictly positive"),
    "top_p": (lambda value: 0 < value < 1, "must be > 0.0 and < 1.0"),
    "typical_p": (lambda value: 0 < value < 1, "must be > 0.0 and < 1.0"),
    "max_new_tokens": (lambda value: value > 0, "must be strictly positive"),
    "truncate": (lambda value: value > 0, "must be strictly positive"),
}


def _checked(parameters: Mapping[str, Any], limits: Limits) -> None:
    for name, (holds, rule) in _RULES.items():
        if (value := parameters.get(name)) is not None and not holds(value):
            raise _invalid(f"`{name}` {rule}")
    best_of, stops = parameters.get("best_of") or 1, parameters.get("stop") or []
    if best_of > limits.best_of:
        raise _invalid(f"`best_of` must be > 0 and <= {limits.best_of}. Given: {best_of}")
    if isinstance(stops, list) and len(stops) > limits.stop_sequences:
        raise _invalid(f"`stop` supports up to {limits.stop_sequences} stop sequences. Given: {len(stops)}")
    if (parameters.get("top_n_tokens") or 0) > limits.top_n_tokens:
        raise _invalid(f"`top_n_tokens` must be >= 0 and <= {limits.top_n_tokens}. Given: {parameters['top_n_tokens']}")


def _fits(ask: Wanted, new: int, limits: Limits) -> None:
    if ask.prompt_tokens > limits.input_tokens:
        raise _invalid(f"`inputs` must have less than {limits.input_tokens} tokens. Given: {ask.prompt_tokens}")
    if ask.prompt_tokens + new > limits.total_tokens:
        given = f"Given: {ask.prompt_tokens} `inputs` tokens and {new} `max_new_tokens`"
        raise _invalid(f"`inputs` tokens + `max_new_tokens` must be <= {limits.total_tokens}. {given}")


def _invalid(message: str) -> Refused:
    return Refused("validation", f"Input validation error: {message}")
