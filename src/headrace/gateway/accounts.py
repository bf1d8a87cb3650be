"""What a key may take and has taken: requests and tokens a minute, requests at once, tokens a month; sans I/O.

Tokens are estimated when a request comes (bytes / 4, and what it may generate) and settled when the engine's count is known.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from headrace.gateway.fairness import Share, Work
from headrace.gateway.openai import Ask, Refusal
from headrace.traffic import Finished

OUTPUT_TOKENS = 256
"""What a request is taken to generate that does not say how much it may."""
BYTES_PER_TOKEN = 4
"""Of English text in JSON, roughly; what it is wrong by is settled afterwards."""

Priority = Literal["interactive", "batch"]
_LIMITS_OF_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MOST_DIGITS = 9
_TOLD = b"x-ratelimit-limit-%s: %d\r\nx-ratelimit-remaining-%s: %d\r\nx-ratelimit-reset-%s: %s\r\n"
_MINUTE = 60.0
_LONGEST_WAIT = 600


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: never the key itself, but its SHA-256. None as a limit is none."""

    name: str
    digest: bytes
    models: frozenset[str] = frozenset()
    """Models and adapters that it may use, by their names; a model's aliases are included. Empty: all."""
    admin: bool = False
    """May read status, metrics and logs as well."""
    priority: Priority = "interactive"
    weight: float = 1.0
    """Its share where keys compete, in proportion to those of others."""
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    budget: int | None = None
    """Tokens a calendar month (UTC), in and out together."""


class Use(NamedTuple):
    """What a key took in one month."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Charge(NamedTuple):
    """What one request was let in for."""

    account: "Account"
    prompt: int
    """Tokens of its prompt, estimated."""
    work: Work


class Bucket:
    """A token bucket: `capacity` a minute, at most so many at once. Its level is below 0 when more was taken than estimated."""

    __slots__ = ("_at", "capacity", "level")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.level = float(capacity)
        self._at = 0.0

    def refill(self, now: float) -> None:
        """Time passed; `now` in monotonic seconds."""
        self.level = min(float(self.capacity), self.level + (now - self._at) * self.capacity / _MINUTE)
        self._at = now

    def resized(self, capacity: int) -> "Bucket":
        """The same with another capacity: what was taken stays taken."""
        self.level += capacity - self.capacity
        self.capacity = capacity
        return self

    def seconds_until(self, level: float) -> float:
        """How long until so much is in it."""
        return max(0.0, (level - self.level) * _MINUTE / self.capacity)


class Account:
    """One key in use: what it may take now, and counts since the gateway started."""

    __slots__ = (
        "_requests", "_tokens", "key", "month", "refused", "reserved", "running", "share", "statuses", "tokens_in", "tokens_out",
        "use",
    )  # fmt: skip

    def __init__(self, key: Key) -> None:
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.running = 0
        self.reserved = 0.0
        """Tokens of requests that are under way, estimated."""
        self.tokens_in = self.tokens_out = 0
        self.month = ""
        self.use = Use()
        """Of this month."""
        self.statuses: dict[int, int] = {}
        """Finished requests by their status."""
        self.refused: dict[str, int] = {}
        """Requests refused by a limit of the key, by which."""
        self.renew(key)

    def renew(self, key: Key) -> None:
        """The key's limits are these from now on."""
        self.key = key
        self.share = Share(key.name, key.weight, key.priority == "batch")
        self._requests = _bucket(self._requests, key.rpm)
        self._tokens = _bucket(self._tokens, key.tpm)

    def in_month(self, month: str) -> None:
        """It is this month (such as 2026-11): what was taken in another one does not count."""
        if month != self.month:
            self.month, self.use = month, Use()

    def charge(self, ask: Ask, body: bytes, context: int | None, *, generates: bool, now: float) -> Charge:
        """Let a request in, and reserve what it should take. Raises Refusal when a limit of the key stands in its way."""
        prompt, output = estimated(ask, body, generates=generates)
        if context is not None:  # no request takes more; images are many bytes and few tokens
            prompt = min(prompt, context)
            output = min(output, max(1, context - prompt) * ask.choices)
        charge = Charge(self, prompt, Work(self.share, prompt + output))
        self._check(prompt + output, now)
        if self._requests is not None:
            self._requests.level -= 1
        if self._tokens is not None:
            self._tokens.level -= prompt + output
        self.running += 1
        self.reserved += prompt + output
        return charge

    def settle(self, charge: Charge, over: Finished, pieces: int) -> float:
        """The request is over, after `pieces` of a stream: returns by how many tokens the estimate was too low."""
        estimate = charge.work.tokens
        tokens_in, tokens_out = _taken(charge, over, pieces)
        self.running -= 1
        self.reserved -= estimate
        self.statuses[over.status] = self.statuses.get(over.status, 0) + 1
        use = self.use
        self.use = Use(use.requests + 1, use.tokens_in + tokens_in, use.tokens_out + tokens_out)
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        more = tokens_in + tokens_out - estimate
        if self._tokens is not None:
            self._tokens.level -= more
        return more

    def told(self, now: float) -> bytes:
        """The header lines that tell a client of its limits, as OpenAI has them; empty for a key without."""
        lines = b""
        for name, bucket in ((b"requests", self._requests), (b"tokens", self._tokens)):
            if bucket is not None:
                bucket.refill(now)
                left, reset = max(0, int(bucket.level)), _shown(bucket.seconds_until(bucket.capacity)).encode()
                lines += _TOLD % (name, bucket.capacity, name, left, name, reset)
        return lines

    def _check(self, tokens: float, now: float) -> None:
        """Raises Refusal, after which nothing was taken."""
        key = self.key
        if key.budget is not None and self.use.tokens_in + self.use.tokens_out + self.reserved >= key.budget:
            message = f"The key's budget of {key.budget:,} tokens for {self.month or 'this month'} is used up."
            raise self._refusal("budget", message, None)
        if key.concurrent is not None and self.running >= key.concurrent:
            raise self._refusal("concurrent", f"The key allows {key.concurrent} requests at once, and so many are under way.", 1)
        for what, bucket, wanted in (("requests", self._requests, 1.0), ("tokens", self._tokens, tokens)):
            if bucket is None:
                continue
            bucket.refill(now)
            if wanted > bucket.capacity:
                message = f"The key allows {bucket.capacity:,} {what} per minute, and this request may take {wanted:,.0f}. "
                raise self._refusal(what, message + "Send less text, or a lower max_tokens.", None)
            if wanted > bucket.level:
                seconds = bucket.seconds_until(wanted)
                message = f"The key allows {bucket.capacity:,} {what} per minute; {max(0, math.floor(bucket.level)):,} are left, "
                message += f"and this request may take {wanted:,.0f}. Try again in {_shown(seconds)}."
                raise self._refusal(what, message, min(_LONGEST_WAIT, max(1, math.ceil(seconds))))

    def _refusal(self, what: str, message: str, retry_after: int | None) -> Refusal:
        self.refused[what] = self.refused.get(what, 0) + 1
        code, kind = (
            ("insufficient_quota", "insufficient_quota") if what == "budget" else ("rate_limit_exceeded", "rate_limit_error")
        )
        return Refusal(429, message, code, kind, retry_after=retry_after)


def estimated(ask: Ask, body: bytes, *, generates: bool) -> tuple[int, int]:
    """Tokens that a request should take: of its prompt, and at most of its answers."""
    prompt = len(body) // BYTES_PER_TOKEN + 1
    if not generates:
        return prompt, 0
    for name in _LIMITS_OF_OUTPUT:
        if (raw := ask.fields.get(name)) is not None:
            return prompt, _whole(raw) * ask.choices
    return prompt, OUTPUT_TOKENS * ask.choices


def _whole(raw: msgspec.Raw) -> int:
    """A whole number; what the engine will refuse, or choose itself (null), is taken for the usual."""
    text = bytes(raw)
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else OUTPUT_TOKENS


def _taken(charge: Charge, over: Finished, pieces: int) -> tuple[int, int]:
    """Tokens in and out: the engine's count where there is one, else what can be told. Errors take nothing."""
    if over.tokens_out is not None:
        return over.tokens_in or charge.prompt, over.tokens_out
    if over.replica and (over.status < 400 or over.status == 499):  # 499: the client left an engine that worked for it
        return charge.prompt, pieces
    return 0, 0


def _bucket(bucket: Bucket | None, capacity: int | None) -> Bucket | None:
    if capacity is None:
        return None
    return bucket.resized(capacity) if bucket is not None else Bucket(capacity)


def _shown(seconds: float) -> str:
    """A duration as OpenAI's headers have it: 120ms, 6s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"


def summary(account: Account) -> dict[str, Any]:
    """The account for /admin/keys."""
    key, use = account.key, account.use
    limits = {"rpm": key.rpm, "tpm": key.tpm, "concurrent": key.concurrent, "budget": key.budget}
    counts = {"requests": use.requests, "tokens_in": use.tokens_in, "tokens_out": use.tokens_out}
    return {
        "name": key.name,
        "models": sorted(key.models),
        "admin": key.admin,
        "priority": key.priority,
        "weight": key.weight,
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "running": account.running,
        "month": account.month,
        **counts,
        "refused": dict(account.refused),
    }
