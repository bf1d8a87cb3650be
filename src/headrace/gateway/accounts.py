"""What a key may take and has taken: requests and tokens a minute, requests at once, tokens or money a month; sans I/O.

Tokens are estimated when a request comes (bytes / 4, and what it may generate) and settled when the engine's count is known.
Where gateways share limits, what this one may let in is what it holds leases of (leases.py); its own buckets are kept as well,
for when it is alone.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from headrace.gateway.buckets import Bucket, Buckets, shown
from headrace.gateway.estimates import estimated, taken
from headrace.gateway.fairness import Share, Work
from headrace.gateway.leases import Lease, Limit, Owed, rules
from headrace.gateway.openai import Ask, Refusal
from headrace.money import BILLION, Money, Price
from headrace.traffic import Finished

Priority = Literal["interactive", "batch"]
_NO_LEASES: Mapping[Limit, Lease | Owed] = {}
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
    budget: int | Money | None = None
    """Tokens, in and out together, or money, a calendar month (UTC)."""
    metrics: bool = False
    """May read /metrics, and uses no model."""

    @property
    def budget_units(self) -> int | None:
        """The budget in tokens, or in billionths of its currency."""
        return self.budget.billionths if isinstance(self.budget, Money) else self.budget


class Use(NamedTuple):
    """What a key took in one month."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: int = 0
    """Billionths of the currency that prices are in."""

    def of(self, budget: int | Money | None) -> int:
        """What counts against a budget."""
        return self.cost if isinstance(budget, Money) else self.tokens_in + self.tokens_out


class Charge(Work, gc=False):
    """What one request was let in for."""

    account: "Account"
    prompt: int
    """Tokens of its prompt, estimated."""
    price: Price | None
    cost: int
    leased: Mapping[Limit, Lease | Owed]
    """What it was taken of, where gateways share limits."""


class Short(Exception):  # no error: the request waits
    """The key may have more, but this gateway holds no lease of it: those who share limits have to be asked."""

    def __init__(self, account: "Account") -> None:
        self.account = account


class Account:
    """One key in use: what it may take now, and counts since the gateway started."""

    __slots__ = (
        "_before", "_buckets", "_counted", "_month_ends", "_most", "_shares", "cost", "key", "leases", "live", "month", "refused",
        "reserved", "reserved_cost", "running", "share", "statuses", "tokens_in", "tokens_out",
    )  # fmt: skip

    def __init__(self, key: Key, *, shares: bool = False) -> None:
        self.key = key
        self._buckets = Buckets()
        self._shares = shares
        self.leases: dict[Limit, Lease] = {}
        """Its limits where gateways share them."""
        self.live = shares
        """Whether leases are to be had; without, the gateway goes by what it counts itself."""
        self.running = 0
        self.reserved = self.reserved_cost = 0.0
        """Tokens and money of requests that are under way, estimated."""
        self.tokens_in = self.tokens_out = self.cost = 0
        self.month = ""
        self._month_ends: float | None = None
        self.statuses: defaultdict[int, int] = defaultdict(int)
        """Finished requests by their status."""
        self._before = Use()
        """What is counted, but not of this month."""
        self.refused: dict[str, int] = {}
        """Requests refused by a limit of the key, by which."""
        self.renew(key)

    def renew(self, key: Key) -> None:
        """The key's limits are these from now on."""
        if "budget" in self.leases and isinstance(key.budget, Money) != isinstance(self.key.budget, Money):
            del self.leases["budget"]  # it counts in other units
        self.key = key
        self.share = Share(key.name, key.weight, key.priority == "batch")
        self._buckets.resize({"requests": key.rpm, "tokens": key.tpm})
        self._most = math.inf if key.tpm is None else key.tpm  # tokens of one request
        self._counted = key.budget is not None or key.concurrent is not None
        if self._shares:
            found = rules(key.rpm, key.tpm, key.concurrent, key.budget_units)
            self.leases = {limit: self.leases.get(limit) or Lease(rule) for limit, rule in found.items()}
            for limit, rule in found.items():
                self.leases[limit].rule = rule

    def in_month(self, month: str, ends: float | None = None) -> None:
        """It is this month (such as 2026-11), until `ends` in monotonic seconds: what was taken in another one does not count."""
        self._month_ends = ends
        if month != self.month:
            if self.month and "budget" in self.leases:
                # Another mapping: what is under way was taken of the old one.
                self.leases = {**self.leases, "budget": Lease(self.leases["budget"].rule)}
            self.month, self.use = month, Use()

    @property
    def use(self) -> Use:
        """Of this month."""
        before = self._before
        requests, cost = sum(self.statuses.values()) - before.requests, self.cost - before.cost
        return Use(requests, self.tokens_in - before.tokens_in, self.tokens_out - before.tokens_out, cost)

    @use.setter
    def use(self, use: Use) -> None:
        requests, cost = sum(self.statuses.values()) - use.requests, self.cost - use.cost
        self._before = Use(requests, self.tokens_in - use.tokens_in, self.tokens_out - use.tokens_out, cost)

    def charge(
        self,
        ask: Ask,
        body: bytes,
        context: int | None,
        generates: bool,
        now: float,
        price: Price | None = None,
        asked: bool = False,
    ) -> Charge:
        """Let a request in, and reserve what it should take. Raises Refusal when a limit of the key stands in its way, Short
        when that is known only when others were asked, which they were if `asked`.
        """
        prompt, output = estimated(ask, body, context, generates)
        tokens = prompt + output
        cost = price.of(prompt, output) if price is not None else 0
        if tokens > self._most:
            message = f"The key allows {self._most:,} tokens per minute, and this request may take {tokens:,}. "
            raise self._refusal("tokens", message + "Send less text, or a lower max_tokens.", None)
        leased: Mapping[Limit, Lease | Owed] = _NO_LEASES
        if self.live:
            self._lease(tokens, cost, now, asked)
            self._buckets.count(tokens, now)
            leased = self.leases
        else:
            if self._counted:
                self._check(now)
            if (short := self._buckets.take(tokens, now)) is not None:
                raise self._too_fast(short, tokens, now)
            if "budget" in self.leases:  # what comes back by itself is not told
                leased = {"budget": Owed(self.leases["budget"], self._of_budget(tokens, cost))}
        self.running += 1
        self.reserved += tokens
        if cost:
            self.reserved_cost += cost
        return Charge(self.share, tokens, self, prompt, price, cost, leased)

    def settle(self, charge: Charge, over: Finished, pieces: int) -> float:
        """The request is over, after `pieces` of a stream: returns by how many tokens the estimate was too low."""
        tokens_in, tokens_out = taken(charge.prompt, over, pieces)
        cost, estimate = 0, charge.tokens
        if charge.price is not None:
            cost = charge.price.of(tokens_in, tokens_out, over.cached)
            self.reserved_cost -= charge.cost
            self.cost += cost
        self.running -= 1
        self.reserved -= estimate
        self.statuses[over.status] += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        more = tokens_in + tokens_out - estimate
        if (bucket := self._buckets.tokens) is not None:
            bucket.level -= more
        if charge.leased:
            self._settle_leases(charge, cost, more)
        return more

    def _of_budget(self, tokens: int, cost: int) -> int:
        """What a request is taken to cost of it."""
        return max(1, cost) if isinstance(self.key.budget, Money) else tokens

    def _settle_leases(self, charge: Charge, cost: int, more: float) -> None:
        budget = cost - max(1, charge.cost) if isinstance(self.key.budget, Money) else more
        for limit, lease in charge.leased.items():
            if limit != "requests" and (self.live or not lease.rule.places):
                lease.settle(budget if limit == "budget" else more)

    def alone(self) -> None:
        """Nobody can be asked for leases: from now on it goes by what is counted here."""
        self.live = False
        for lease in self.leases.values():
            lease.lost()

    def told(self, now: float) -> bytes:
        """The header lines that tell a client of its limits, as OpenAI has them; empty for a key without."""
        if not self.live:
            return self._buckets.told(now)
        self._buckets.refill(now)
        return b"".join([bucket.told(self.leases[bucket.limit].known_left(now)) for bucket in self._buckets.all])

    def budget_taken(self) -> float:
        """Of this month's budget, by every gateway as far as is known, requests under way included."""
        own = self.use.of(self.key.budget) + (self.reserved_cost if isinstance(self.key.budget, Money) else self.reserved)
        lease = self.leases.get("budget")
        return max(own, (lease.total() or 0.0) if lease is not None else 0.0)

    def _check(self, now: float) -> None:
        """Raises Refusal when the budget or the places are taken, by what is counted here."""
        key = self.key
        if key.budget is not None and self.budget_taken() >= (key.budget_units or 0):
            raise self._over("budget", 0, 0, None, now)
        if key.concurrent is not None and self.running >= key.concurrent:
            raise self._over("concurrent", 0, 1, None, now)

    def _too_fast(self, bucket: Bucket, tokens: int, now: float) -> Refusal:
        wanted = 1 if bucket.limit == "requests" else tokens
        return self._over(bucket.limit, bucket.level, wanted, bucket.seconds_until(wanted), now)

    def _lease(self, tokens: int, cost: int, now: float, asked: bool) -> None:
        """Take of each lease. Raises Refusal or Short, after which nothing was taken."""
        budget = self._of_budget(tokens, cost)
        takes: dict[Limit, float] = {"budget": budget, "concurrent": 1, "requests": 1, "tokens": tokens}
        self._check_leases(takes, now, asked)
        for limit, lease in self.leases.items():
            lease.take(takes[limit], now)

    def _check_leases(self, takes: Mapping[Limit, float], now: float, asked: bool) -> None:
        short = False
        for limit, lease in self.leases.items() if asked else ():
            lease.need = max(0.0, lease.need - takes[limit])
        for limit, lease in self.leases.items():
            wanted = takes[limit]
            least = 1 if limit == "budget" and asked else wanted  # the last request of a budget need not fit into it
            if lease.left >= least:
                continue
            if asked or lease.hopeless(1 if limit == "budget" else wanted, now):
                raise self._over(limit, lease.known_left(now), wanted, lease.seconds_until(wanted, now), now)
            short = True
        if short:
            for limit, lease in self.leases.items():
                lease.need += takes[limit]
            raise Short(self)

    def _over(self, limit: Limit, left: float, wanted: float, seconds: float | None, now: float) -> Refusal:
        """The refusal by a limit of which so much is left, and enough in so many seconds."""
        key = self.key
        if limit == "budget":
            what = str(key.budget) if isinstance(key.budget, Money) else f"{key.budget:,} tokens"
            message = f"The key's budget of {what} for {self.month or 'this month'} is used up."
            ends = self._month_ends
            return self._refusal(limit, message, None if ends is None else max(1, math.ceil(ends - now)))
        if limit == "concurrent":
            return self._refusal(limit, f"The key allows {key.concurrent} requests at once, and so many are under way.", 1)
        most, seconds = key.rpm if limit == "requests" else key.tpm, max(seconds or 0.0, 0.001)
        message = f"The key allows {most:,} {limit} per minute; {max(0, math.floor(left)):,} are left, "
        message += f"and this request may take {wanted:,.0f}. Try again in {shown(seconds)}."
        return self._refusal(limit, message, min(_LONGEST_WAIT, max(1, math.ceil(seconds))))

    def _refusal(self, what: str, message: str, retry_after: int | None) -> Refusal:
        self.refused[what] = self.refused.get(what, 0) + 1
        code, kind = (
            ("insufficient_quota", "insufficient_quota") if what == "budget" else ("rate_limit_exceeded", "rate_limit_error")
        )
        return Refusal(429, message, code, kind, retry_after=retry_after)


def summary(account: Account) -> dict[str, Any]:
    """The account for /admin/keys."""
    key, use = account.key, account.use
    budget = str(key.budget) if isinstance(key.budget, Money) else key.budget
    limits = {"rpm": key.rpm, "tpm": key.tpm, "concurrent": key.concurrent, "budget": budget}
    counts = {"requests": use.requests, "tokens_in": use.tokens_in, "tokens_out": use.tokens_out, "cost": use.cost / BILLION}
    return {
        "name": key.name,
        "models": sorted(key.models),
        "admin": key.admin,
        "metrics": key.metrics,
        "priority": key.priority,
        "weight": key.weight,
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "running": account.running,
        "month": account.month,
        **counts,
        "refused": dict(account.refused),
    }
