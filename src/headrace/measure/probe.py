"""What the server is like, asked before anything is measured: its model, the fields it takes, how it counts tokens."""

import asyncio
import json
import os
import random
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from headrace.errors import HeadraceError, UsageError, plainly
from headrace.measure.address import Address
from headrace.measure.base import Outcome
from headrace.measure.client import Client
from headrace.measure.events import error_in
from headrace.measure.prompts import Api, Fit, body, fit, text

_SECONDS = 10.0
_MOST_BYTES = 4 << 20
_WORDS = (40, 160)
_TRIES = 3
_EXTRAS: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"stream_options": {"include_usage": True}, "ignore_eos": True}, ""),
    ({"stream_options": {"include_usage": True}}, "The server refuses ignore_eos: answers end when the model wants."),
    ({}, "The server refuses ignore_eos and stream_options: answers end when the model wants, and usage may be missing."),
)


class BenchError(HeadraceError):
    """There is nothing at the address that could be measured."""

    exit_code = 69


@dataclass(frozen=True, slots=True)
class Known:
    """What was found: fields that every request gets, how words become tokens, what to remark."""

    extra: Mapping[str, Any]
    fit: Fit
    remarks: tuple[str, ...]


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def model(address: Address, key: str, wished: str | None) -> tuple[str, int | None]:
    """The model to ask, and its longest context where the server says it. Raises HeadraceError."""
    try:
        cards = _models(address, key)
    except BenchError:
        if wished is None:
            raise
        return wished, None  # some servers have no list; the first request tells more
    names = [str(card["id"]) for card in cards]
    if wished is None and len(names) != 1:
        said = f"It has: {', '.join(names[:20])}." if names else "Its list is empty."
        raise UsageError(f"{address} serves {len(names)} models: name one.", said)
    name = wished or names[0]
    context = next((card.get("max_model_len") for card in cards if card["id"] == name), None)
    return name, context if isinstance(context, int) and context > 0 else None


def _models(address: Address, key: str) -> list[dict[str, Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
    request = urllib.request.Request(f"{address}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            raw = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise BenchError(f"{address}/models answers {_http(error)}", _fix(error.code)) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise BenchError(
            f"Nothing answers at {address}: {plainly(reason)}.", "Start headrace serve, or name another --url."
        ) from None
    except Exception as error:
        raise BenchError(f"What answers at {address} does not speak HTTP: {error!r}."[:300]) from None
    try:
        return [card for card in json.loads(raw)["data"] if isinstance(card, dict) and "id" in card]
    except (ValueError, KeyError, TypeError):
        what = "an HTML page" if raw.lstrip()[:1] == b"<" else repr(raw[:80])
        raise BenchError(
            f"{address}/models answers {what}: no list of models.", "Name the API's address, such as …/v1."
        ) from None


def _http(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return f"{error.code}: it sends its clients to {error.headers.get('Location', 'elsewhere')}, which is not followed."
    return f"{error.code}: {error_in(error.read(_MOST_BYTES)) or error.reason}."


def _fix(status: int) -> str:
    if status in (401, 403):
        if os.environ.get("HEADRACE_KEY"):
            return "A bench sends only the key that it is told of: --key env:HEADRACE_KEY."
        return "Put the key into a variable and name that: --key env:NAME."
    if 300 <= status < 400:
        return "Name that address with --url."
    return "Name the API's address with --url, such as …/v1." if 400 <= status < 500 else ""


async def known(client: Client, api: Api, name: str) -> Known:
    """Ask two short requests. Raises BenchError when they cannot be answered."""
    for extra, remark in _EXTRAS:
        first = await _asked(client, api, name, extra, _WORDS[0])
        if first.kind == "4xx" and first.status in (400, 422) and extra:
            continue
        if first.kind not in ("ok", "empty"):
            fix = "Name a model that it has, or the API's address with --url." if first.status == 404 else _fix(first.status)
            raise BenchError(f"A first request failed: {_sentence(first.detail)}", fix)
        second = await _asked(client, api, name, extra, _WORDS[1])
        return _found(extra, remark, first, second)
    raise BenchError(f"A first request was refused: {_sentence(first.detail)}")


def _found(extra: Mapping[str, Any], remark: str, first: Outcome, second: Outcome) -> Known:
    remarks = [remark] if remark else []
    made = None
    if first.prompt_tokens and second.prompt_tokens:
        made = fit((_WORDS[0], first.prompt_tokens), (_WORDS[1], second.prompt_tokens))
    if made is None:
        remarks.append(
            "The server's counts of prompt tokens make no sense or are missing: a word is taken for a token in prompts."
        )
    return Known(extra, made or Fit(), tuple(remarks))


async def _asked(client: Client, api: Api, name: str, extra: Mapping[str, Any], words: int) -> Outcome:
    """One request; 429 and 5xx may pass, as while a model is loading."""
    for attempt in range(_TRIES):
        now = monotonic()
        outcome = Outcome(now, now, 2)
        number = random.randrange(1_000_000, 10_000_000)  # asked anew, nothing of it may be cached
        prompt = text(words, number, random.random)
        await client.ask(body(api, name, prompt, 2, extra), outcome)
        if outcome.kind not in ("429", "5xx") or attempt == _TRIES - 1:
            break
        await asyncio.sleep(1.0)
    return outcome


def _sentence(detail: str) -> str:
    return detail if detail.endswith((".", "!", "?")) else f"{detail}."
