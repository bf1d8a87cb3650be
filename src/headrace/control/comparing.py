"""The same prompts to an old and a new replica: do both answer, how fast, how alike. Clients see nothing of it."""

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from time import monotonic
from typing import Any

from headrace.control.graduation import Aim
from headrace.control.guards import LEAST_PER_TOKEN, slower_than
from headrace.targets.http import ask
from headrace.traffic import Endpoint, Task

MADE_UP = 8
"""Prompts, where none are given."""
ANSWER_TOKENS = 32
_SECONDS = 120.0
_SURE = 2.6
"""Standard normal quantile of 0.995: there is one look."""
_LEAST_COSINE = 0.98
"""Vectors that are less alike are of another space: what was stored before would not be found any more."""
_TEXT = "water runs down the race and turns the wheel while the gate holds back what the mill cannot take"
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Compared:
    """`trouble` says why the new one is no good, empty when it is; `remark` what was found."""

    trouble: str
    remark: str


@dataclass(frozen=True, slots=True)
class Said:
    """One answer: seconds in all, text or vector; `error` says why there is none."""

    seconds: float
    tokens: int = 0
    text: str = ""
    vector: tuple[float, ...] = ()
    error: str = ""


async def compared(aim: Aim, task: Task | None, old: Endpoint, new: Endpoint, tokens: int) -> Compared:
    """Ask both, one after the other. `tokens` is how long prompts are of late. Raises nothing."""
    if task not in ("generate", "embed", None) or "openai" not in (old.speaks, new.speaks) or old.speaks != new.speaks:
        return Compared("", "not compared: they are asked in ways that only their clients know")
    prompts = aim.prompts or tuple(made_up(tokens))
    embeds = task == "embed"
    olds, news = [], []
    for prompt in prompts:
        olds.append(await _asked(old, prompt, embeds=embeds))
        news.append(await _asked(new, prompt, embeds=embeds))
    return judged(olds, news, aim.rules.slower, given=bool(aim.prompts))


def judged(olds: Sequence[Said], news: Sequence[Said], slower: float, *, given: bool) -> Compared:
    """What the answers say. Where the old one fails as well the prompt says nothing."""
    pairs = [(old, new) for old, new in zip(olds, news, strict=True) if not old.error]
    if not pairs:
        return Compared(
            "", f"not compared: the present one answers none of {len(olds)} prompts ({olds[0].error})" if olds else ""
        )
    failed = [new for _, new in pairs if new.error]
    if len(failed) > len(pairs) / 10:
        return Compared(f"it failed {len(failed)} of {len(pairs)} prompts that the present one answers: {failed[0].error}", "")
    pairs = [(old, new) for old, new in pairs if not new.error]
    if pairs[0][0].vector:
        return _vectors(pairs)
    times = [[one.seconds / max(1, one.tokens) for one in side] for side in zip(*pairs, strict=True)]
    sure, slow = slower_than(times[1], times[0], slower, "time per token", LEAST_PER_TOKEN)
    if sure >= _SURE:
        return Compared(slow, "")
    empty = sum(bool(old.text.strip()) and not new.text.strip() for old, new in pairs)
    if empty > len(pairs) / 4:
        return Compared(f"it answered {empty} of {len(pairs)} prompts with nothing", "")
    alike = sum(SequenceMatcher(None, old.text.split(), new.text.split()).ratio() for old, new in pairs) / len(pairs)
    what = "prompts" if given else "made-up prompts"
    ratio = sum(times[1]) / max(1e-9, sum(times[0]))
    return Compared("", f"{len(pairs)} {what}: {ratio:.2f} times as long per token, answers {100 * alike:.0f} % alike")


def _vectors(pairs: Sequence[tuple[Said, Said]]) -> Compared:
    cosines = [cosine(old.vector, new.vector) for old, new in pairs]
    least = min(cosines)
    if least < _LEAST_COSINE:
        told = f"its vectors are others: cosine {least:.3f} at the least, {_LEAST_COSINE} is needed for what was stored before"
        return Compared(told, "")
    return Compared("", f"{len(pairs)} texts: the same vectors (cosine {least:.3f} at the least)")


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """How alike two vectors are, at most 1; 0 when they have not the same length."""
    if len(one) != len(other):
        return 0.0
    sizes = math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / sizes if sizes else 0.0


def made_up(tokens: int) -> Iterator[str]:
    """Prompts of about so many tokens, each of its own."""
    count = max(8, min(2000, tokens))
    for number in range(MADE_UP):
        words = [_WORDS[(place * (number + 1) + number) % len(_WORDS)] for place in range(count - 6)]
        yield f"Go on, text {number + 1}: {' '.join(words)}"


async def _asked(endpoint: Endpoint, prompt: str, *, embeds: bool) -> Said:
    began = monotonic()
    body: dict[str, Any] = {"model": endpoint.model_there, "temperature": 0, "max_tokens": ANSWER_TOKENS}
    body |= {"messages": [{"role": "user", "content": prompt}]}
    path = "/v1/chat/completions"
    if embeds:
        path, body = "/v1/embeddings", {"model": endpoint.model_there, "input": prompt}
    try:
        answer = await ask(endpoint.address, "POST", path, json.dumps(body).encode(), _SECONDS, endpoint.key)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return Said(monotonic() - began, error=str(error) or type(error).__name__)
    seconds = monotonic() - began
    if answer.status != 200:
        return Said(seconds, error=f"status {answer.status}")
    try:
        return _read(json.loads(answer.body), seconds, embeds=embeds)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return Said(seconds, error="what it answered is not what OpenAI's API says")


def _read(answer: Any, seconds: float, *, embeds: bool) -> Said:
    if embeds:
        return Said(seconds, vector=tuple(map(float, answer["data"][0]["embedding"])))
    message = answer["choices"][0]["message"]
    text = message.get("content") or message.get("reasoning_content") or ""
    return Said(seconds, int((answer.get("usage") or {}).get("completion_tokens") or 0), text)
