"""Limits that several gateways share: each lets in by itself what it holds a lease of, and asks for more as it goes; sans I/O.

`granted` is what the shared place decides; Redis does the same (shared_limits.py). What is granted counts as taken until it is
given back, and is given back before that is said: all gateways together never admit more than one alone would. The other way
round, a key may be refused too early, by what other gateways hold of it for a moment: what they let in within a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Literal, NamedTuple

Limit = Literal["requests", "tokens", "concurrent", "budget"]

GONE_SECONDS = 10.0
"""A gateway that says nothing for so long has ended; what it held is taken as spent."""
IDLE_SECONDS = 60.0
"""A key that was not used for so long keeps no lease; until then it keeps one of a usual request, where most is left."""
FRESH_SECONDS = 0.1
"""So long an answer is believed: a key that has nothing left does not make the gateway ask for each of its requests."""
_WINDOW_SECONDS = 0.5  # over which what a key admits is measured
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit: so much in all, of which `per_second` comes back. Of `places`, what requests held when they end."""

    capacity: float
    per_second: float = 0.0
    places: bool = False

    @property
    def sums_up(self) -> bool:
        """Whether what was taken stays taken: a budget."""
        return not self.places and not self.per_second


class Wish(NamedTuple):
    """What a gateway says of a limit, and asks for."""

    rule: Rule
    spent: float
    """All that it took since it began."""
    holds: float
    """What it keeps, places of requests under way included."""
    need: float
    more: float
    """What it would like besides."""
    before: float = 0.0
    """Where a budget begins that nobody has shared before: what is known to have been taken of it."""


class Grant(NamedTuple):
    """The answer: what is added to what the gateway holds, what is left then that nobody holds, what was taken in all."""

    added: float
    free: float
    used: float


@dataclass(slots=True)
class Member:
    """A gateway, where limits are shared."""

    spent: float
    held: float = 0.0
    seen: float = 0.0


@dataclass(slots=True)
class Pool:
    """One limit of one key, where it is shared."""

    used: float
    at: float
    members: dict[str, Member] = field(default_factory=dict)


def granted(pools: dict[str, Pool], limit: str, who: str, wish: Wish, now: float) -> Grant:
    """What a gateway is granted of a limit; changes its pool, or makes it. `now` in seconds by one clock for all."""
    rule = wish.rule
    pool = pools.get(limit)
    known = wish.spent  # by a member that is new: counted already, or long gone from a limit that refills
    if pool is None:
        pool = pools[limit] = Pool(wish.before, now)
    elif rule.sums_up:
        known = 0.0
    pool.used = max(0.0, pool.used - max(0.0, now - pool.at) * rule.per_second)
    pool.at = now
    member = pool.members.setdefault(who, Member(known))
    pool.used = max(0.0, pool.used + wish.spent - member.spent)
    member.spent, member.held, member.seen = wish.spent, wish.holds, now
    for name, gone in [each for each in pool.members.items() if now - each[1].seen > GONE_SECONDS]:
        pool.used += 0.0 if rule.places else gone.held
        gone.held = 0.0
        if not rule.sums_up:
            del pool.members[name]
    free = rule.capacity - pool.used - sum(other.held for other in pool.members.values())
    added = wish.need + min(wish.more, (free - wish.need) / 2) if free >= wish.need else free
    added = float(max(0, floor(added)))
    member.held += added
    return Grant(added, free - added, pool.used)


class Lease:
    """What this gateway holds of one limit of one key. `left` is below 0 when more was taken than estimated."""

    __slots__ = (
        "_demand", "_recent", "_reported", "_sent", "_since", "_used_at", "_usual",
        "free", "heard_at", "left", "need", "rule", "spent", "used",
    )  # fmt: skip

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.left = self.spent = self.need = self.free = self.used = 0.0
        self.heard_at: float | None = None
        # `need` is what requests wait for: theirs until they have it, whoever asks meanwhile.
        self._recent = self._demand = self._usual = self._reported = self._sent = 0.0
        self._since = self._used_at = float("-inf")

    def take(self, amount: float, now: float) -> None:
        """A request is let in."""
        self._recent += amount
        self._usual = amount
        self._used_at = now
        self.left -= amount
        if not self.rule.places:
            self.spent += amount

    def settle(self, more: float) -> None:
        """It took so much more than was estimated. A place is free again."""
        if self.rule.places:
            self.left += 1
        else:
            self.left -= more
            self.spent += more

    def wish(self, in_use: float, before: float, now: float) -> Wish:
        """What to say and to ask for. What it will not need before long it has no more from here on."""
        if (passed := now - self._since) >= _WINDOW_SECONDS:
            self._demand, self._recent, self._since = self._recent / min(passed, 10 * _WINDOW_SECONDS), 0.0, now
        busy = max(self._demand, self._recent / _WINDOW_SECONDS)
        plenty = self.free >= self.rule.capacity / 2 and now - self._used_at < IDLE_SECONDS
        wanted = max(busy, self._usual) if plenty else busy  # where there is little, who is idle keeps none of it
        self.left = max(0.0, min(self.left, max(float(ceil(wanted)), self.need)))
        need = max(0.0, self.need - self.left)
        self._sent = self.spent
        holds = self.left + (in_use if self.rule.places else 0.0)
        return Wish(self.rule, self.spent, holds, need, max(0.0, wanted - self.left), before)

    def heard(self, grant: Grant, now: float) -> None:
        """The answer is there."""
        self.left += grant.added
        self.free, self.used, self.heard_at = grant.free, grant.used, now
        self._reported = self._sent

    def lost(self) -> None:
        """Nobody answers: what is held may be given to others."""
        self.left = self.need = 0.0

    def silent(self, in_use: float) -> bool:
        """Whether there is nothing to say: nothing is held or wanted, and all that was taken was said."""
        held = self.left > 0 or (self.rule.places and in_use > 0)
        return not held and not self.need and self.spent == self._reported

    def total(self) -> float | None:
        """What was taken in all, by the last answer and what was taken here since; None when nobody ever answered."""
        return None if self.heard_at is None else self.used + self.spent - self._reported

    def hopeless(self, amount: float, now: float) -> bool:
        """Whether it was said just now that there is not so much."""
        if self.heard_at is None or now - self.heard_at > FRESH_SECONDS:
            return False
        return self.left + self.free + (now - self.heard_at) * self.rule.per_second < amount

    def known_left(self, now: float) -> float:
        """What may still be taken here and elsewhere, as far as is known."""
        came = (now - self.heard_at) * self.rule.per_second if self.heard_at is not None else 0.0
        return max(0.0, min(self.rule.capacity, self.left + max(0.0, self.free) + came))

    def seconds_until(self, amount: float, now: float) -> float:
        """How long until so much may be taken, when nobody else takes any of it."""
        return max(0.0, amount - self.known_left(now)) / self.rule.per_second if self.rule.per_second else 0.0


class Owed:
    """What a request took of a limit while nobody could be asked: no lease had it, and the others are told of it later."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease, amount: float) -> None:
        self._lease = lease
        lease.spent += amount

    @property
    def rule(self) -> Rule:
        """Of the limit."""
        return self._lease.rule

    def settle(self, more: float) -> None:
        """It took so much more than was estimated."""
        self._lease.spent += more


def rules(rpm: int | None, tpm: int | None, concurrent: int | None, budget: int | None) -> Mapping[Limit, Rule]:
    """The limits that a key has."""
    found: dict[Limit, Rule] = {}
    if rpm is not None:
        found["requests"] = Rule(rpm, rpm / _MINUTE)
    if tpm is not None:
        found["tokens"] = Rule(tpm, tpm / _MINUTE)
    if concurrent is not None:
        found["concurrent"] = Rule(concurrent, places=True)
    if budget is not None:
        found["budget"] = Rule(budget)
    return found
