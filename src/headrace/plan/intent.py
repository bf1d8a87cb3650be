"""What a deployment is for: users, lengths and latencies, in place of engine flags; and what of the ways is not left open."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from headrace.spec.model import ModelSpec, Quantization, Share
from headrace.units import parse_count, parse_duration, show_duration

_NUMBERS = ("users", "prompt", "output", "context")
_SECONDS = ("ttft", "tpot")


@dataclass(frozen=True, slots=True)
class Intent:
    """`users` requests at once, each of `prompt` and `output` tokens; `context` tokens are the most that one may take.

    `ttft` (to the first token, 90th percentile) and `tpot` (per output token, mean) are limits in seconds, or None.
    """

    users: int = 8
    prompt: int = 512
    output: int = 256
    context: int | None = None
    ttft: float | None = None
    tpot: float | None = None

    def __str__(self) -> str:
        words = [f"{self.users} users", f"prompts of {self.prompt} and answers of {self.output} tokens"]
        words += [f"contexts of {self.context}"] if self.context else []
        words += [f"first token within {show_duration(self.ttft)}"] if self.ttft else []
        words += [f"a token each {show_duration(self.tpot)}"] if self.tpot else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The ways that a user left open (`auto`), or the one that is wanted. `share` is for packing; with `stages` above 1 every way
    is a pipeline of so many, as where each is on a machine of its own.
    """

    quantization: Literal["auto"] | Quantization = "auto"
    tensor_parallel: Literal["auto"] | int = "auto"
    share: Literal["auto"] | Share = "auto"
    replicas: Literal["auto"] | int = "auto"
    stages: int = 1


def wanted(model: ModelSpec) -> Wanted:
    """What the spec asks of the ways to run a model. Replicas that it does not name are as many as the intent takes."""
    replicas: Literal["auto"] | int = model.replicas if "replicas" in model.model_fields_set else "auto"
    return Wanted(model.quantization, model.tensor_parallel, model.share, replicas)


def asked(model: ModelSpec) -> Intent:
    """What the spec says that a model is for; what it leaves out is at its default."""
    said: dict[str, Any] = model.for_.model_dump(exclude_none=True) | {"context": model.context_asked}
    return replace(Intent(), **said)


def parse(text: str, intent: Intent = Intent()) -> Intent:
    """`users=50,context=8k,ttft=500ms` → `intent` with these; prompt and answer made to fit the context. Raises ValueError."""
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = (word.strip() for word in part.partition("="))
        if not sign:
            raise ValueError(f'"{part}" is not key=value; write users=50,context=8k,ttft=500ms')
        if key in _NUMBERS:
            numbers: dict[str, Any] = {key: _count(key, value)}
            intent = replace(intent, **numbers)
        elif key in _SECONDS:
            seconds: dict[str, Any] = {key: _limit(key, value)}
            intent = replace(intent, **seconds)
        else:
            near = get_close_matches(key, (*_NUMBERS, *_SECONDS), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f'"{key}" is nothing a deployment is for: {", ".join((*_NUMBERS, *_SECONDS))}.{hint}')
    said = [part.partition("=")[0].strip() for part in text.split(",")]
    if intent.context is not None and intent.context < intent.prompt + intent.output:
        if "prompt" in said or "output" in said:
            raise ValueError(f"context {intent.context} is less than prompt and output together, {intent.prompt + intent.output}")
        # Prompt and answer in the same proportion, made to fit.
        fitting = max(1, intent.context * intent.prompt // (intent.prompt + intent.output))
        return replace(intent, prompt=fitting, output=max(1, intent.context - fitting))
    return intent


def _limit(key: str, text: str) -> float:
    if not (seconds := parse_duration(text)):
        raise ValueError(f'{key}: "{text}" is not above 0; write 500ms')
    return seconds


def _count(key: str, text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
