"""What a deployment is for: users, lengths and latencies, in place of engine flags."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from headrace.units import parse_duration, show_duration

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmM]?)")
_TIMES = {"": 1, "k": 1024, "m": 1024**2}
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


def parse(text: str) -> Intent:
    """`users=50,context=8k,ttft=500ms` → Intent; what is left out stays at its default. Raises ValueError."""
    intent = Intent()
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = (word.strip() for word in part.partition("="))
        if not sign:
            raise ValueError(f'"{part}" is not key=value; write users=50,context=8k,ttft=500ms')
        if key in _NUMBERS:
            numbers: dict[str, Any] = {key: _count(key, value)}
            intent = replace(intent, **numbers)
        elif key in _SECONDS:
            seconds: dict[str, Any] = {key: parse_duration(value)}
            intent = replace(intent, **seconds)
        else:
            near = get_close_matches(key, (*_NUMBERS, *_SECONDS), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f'"{key}" is nothing a deployment is for: {", ".join((*_NUMBERS, *_SECONDS))}.{hint}')
    if intent.context is not None and intent.context < intent.prompt + intent.output:
        # Prompt and answer in the same proportion, made to fit.
        fitting = max(1, intent.context * intent.prompt // (intent.prompt + intent.output))
        return replace(intent, prompt=fitting, output=max(1, intent.context - fitting))
    return intent


def _count(key: str, text: str) -> int:
    match = _COUNT.fullmatch(text)
    if not match or not (number := round(float(match[1]) * _TIMES[match[2].lower()])):
        raise ValueError(f'{key}: "{text}" is not a number above 0; write 50, or 8k for 8192')
    return number
