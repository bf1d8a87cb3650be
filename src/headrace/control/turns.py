"""Turns: how many replicas of each model may be in a memory that holds fewer than are wanted; a ledger, decided anew each time.

RAM and each GPU have an account. A start is allowed when its bytes are free in all of its accounts now, counting whatever is in
memory, on its way in or out. What does not fit waits its turn: the model whose request has waited longest is next, and nothing
that came later takes the memory it waits for. Then replicas that sleep in place are stopped where that is enough; else victims
go, the cheapest first. A model with requests keeps its place, so that its requests are served together (A B A A C A B C as
A A A A B B C C), until somebody has waited for `patience_seconds`; a model that has just come stays for a while in any case. One
without requests is held for a moment while it is likely that more of them gather, for it or for the one that waits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.control.accounts import RAM, UNLIMITED, Bytes, Capacity, enough, less, missing, plus, show, times
from headrace.control.claims import Claim
from headrace.units import show_bytes, show_duration


@dataclass(frozen=True, slots=True)
class Rules:
    """When a model has to make room. Lower numbers swap more; benchmarks/turns.py says what these cost and gain."""

    patience_seconds: float = 15.0
    """How long a request waits before a model that has requests itself makes room for it."""
    stay: float = 3.0
    """A model with requests stays for so many times its reload time once it is ready."""
    rest: float = 0.5
    """A model without requests stays for so many times its reload time once it is ready."""
    gather: float = 4.0
    """It is held until as many requests wait for the other as so many times those that come for either within a reload: they
    are what a swap made at once would need another swap for.
    """
    hold: float = 2.0
    """It is held so for so many times its reload time after its last request, at most."""
    stuck_seconds: float = 120.0
    """A replica that has been on its way in for so long, and five times as long as it should take, may be given up for others."""


@dataclass(frozen=True, slots=True)
class Grants:
    """Replicas that may be in memory by model, with the reason where it is not what is wanted.

    `blocked` are the models that wait for room. `evicted` are the models that lose a replica to another: victim → for whom.
    `sleeps` are the levels at which replicas of a model that are not wanted may sleep in place; of others they are stopped.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, str]
    blocked: tuple[str, ...] = ()
    evicted: Mapping[str, str] | None = None
    sleeps: Mapping[str, int] = field(default_factory=dict)


def grants(claims: Sequence[Claim], capacity: Capacity, now: float, rules: Rules | None = None) -> Grants:
    """What may be in memory now. What is in use of an account never grows past `capacity`, whatever is wanted; an account that
    `capacity` does not name is unlimited.

    A model that does not fit although every other made room gets none, and stands in nobody's way.
    """
    ledger = _Ledger(claims, capacity, now, rules or Rules())
    for need in _needs(claims):
        ledger.settle(need)
    return Grants(ledger.counts, ledger.reasons, tuple(ledger.blocked), ledger.evicted, ledger.sleeps())


def too_big(claim: Claim, claims: Sequence[Claim], capacity: Capacity) -> str | None:
    """Why not even one replica can be there, whoever makes room; None when it can."""
    kept = plus(*(other.sum(0, other.least) for other in claims if other.model != claim.model))
    for account, size in claim.takes(0).items():
        there = capacity.get(account, size)
        if size > there - kept.get(account, 0):
            taken = show_bytes(kept.get(account, 0))
            beside = f" beside {taken} of models that never sleep" if kept.get(account) else ""
            return f"it takes {show(account, size)}, more than the {show_bytes(there)} there are{beside}"
    return None


def _needs(claims: Sequence[Claim]) -> Iterator[Claim]:
    """Who asks for one more replica, in the order of being heard: those that never sleep, those without any by the age of their
    oldest request, then those that want more. A model stands here once for each replica.
    """
    for claim in claims:
        yield from [claim] * max(0, min(claim.least, claim.wanted) - claim.up)
    asleep = [claim for claim in claims if claim.up == 0 and claim.least == 0 and claim.wanted]
    yield from sorted(asleep, key=lambda claim: (claim.oldest is None, claim.oldest or 0.0))
    first = {claim.model: 1 for claim in asleep}
    more = [claim for claim in claims if claim.wanted > max(claim.up, claim.least, first.get(claim.model, 0))]
    for claim in sorted(more, key=lambda claim: -claim.waiting / (claim.up or 1)):
        yield from [claim] * (claim.wanted - max(claim.up, claim.least, first.get(claim.model, 0)))


class _Ledger:
    """The memory as it is while needs are settled one after the other."""

    def __init__(self, claims: Sequence[Claim], capacity: Capacity, now: float, rules: Rules) -> None:
        self._claims, self._capacity, self._now, self._rules = claims, capacity, now, rules
        self.counts = {claim.model: min(claim.wanted, claim.up) for claim in claims}
        self.reasons: dict[str, str] = {}
        self.blocked: dict[str, None] = {}
        self.evicted: dict[str, str] = {}
        self._closed: set[str] = set()
        """Accounts in which somebody overdue waits for those who stay a little longer: nobody later may take a place there, or it
        would wait for ever."""
        self._asleep = {claim.model: claim.asleep for claim in claims}
        self._beds = {claim.model: bool(claim.beds) for claim in claims}
        """Whose replicas may be asleep: not those of whom the RAM is needed."""
        taken = plus(*(plus(claim.sum(0, claim.up + claim.leaving), times(claim.asleep_each, claim.asleep)) for claim in claims))
        self._free = {name: size - taken.get(name, 0) for name, size in capacity.items()}
        self._coming = plus(*(self._going(claim) for claim in claims))

    def settle(self, need: Claim) -> None:
        """Grant one more replica, make room for it, or say why it has to wait."""
        number = self.counts[need.model]
        wakes = self._asleep[need.model] and self._beds[need.model]
        size = less(need.takes(number), need.asleep_each) if wakes else need.takes(number)
        first = number == 0 or number < need.least
        if need.model in self.blocked:  # its first one waits for room: what comes later does, too
            return
        if why := too_big(need, self._claims, self._capacity):
            self.reasons[need.model] = why
        elif not (short := missing(size, self._free)):
            self._free = {name: free - size.get(name, 0) for name, free in self._free.items()}
            self.counts[need.model] += 1
            self._asleep[need.model] = max(0, self._asleep[need.model] - 1)
        elif first:
            self._queue(need, size, self._made_room(need, size))
        else:
            name = next(iter(short))
            free = show_bytes(max(0, self._free[name]))
            self.reasons[need.model] = f"another replica takes {show(name, size[name])}, and {free} are free"

    def sleeps(self) -> dict[str, int]:
        """The level at which replicas that are not wanted may sleep: the first that there is room for."""
        levels = {}
        for claim in sorted(self._claims, key=lambda one: -one.rate * one.reload_seconds):
            count = self._leaving(claim)
            for level, bed in claim.beds.items() if self._beds[claim.model] else ():
                more = times(less(bed, claim.takes(0)), count)
                if not missing(more, self._free):
                    levels[claim.model] = level
                    self._free = less(self._free, {RAM: max(0, more.get(RAM, 0))})
                    break
        return levels

    def _leaving(self, claim: Claim) -> int:
        return claim.up + claim.leaving - self.counts[claim.model]

    def _going(self, claim: Claim) -> Bytes:
        """What will be free once those that are on their way out are gone, or asleep where they may."""
        count = self._leaving(claim)
        return less(claim.sum(self.counts[claim.model], self.counts[claim.model] + count), times(claim.bed, count))

    def _queue(self, need: Claim, size: Bytes, leaving: str) -> None:
        """It waits for what is leaving, and nobody later takes what is free meanwhile."""
        self.blocked[need.model] = None
        short = dict(missing(size, self._free))
        for name, bytes_ in size.items():
            taken = min(max(0, self._free.get(name, bytes_)), max(0, bytes_))
            self._free[name] = self._free.get(name, UNLIMITED) - taken
            self._coming[name] = self._coming.get(name, 0) - min(max(0, self._coming.get(name, 0)), max(0, bytes_ - taken))
        name = next(iter(short))
        self.reasons[need.model] = f"it waits for {show(name, size[name])}: {leaving}"

    def _made_room(self, need: Claim, size: Bytes) -> str:
        """See to it that enough is leaving, if that may be; in words."""
        short = self._short(size)
        if not short:
            return "others are on their way out"
        sleepers = self._sleepers(need, short)
        if enough(self._held(sleepers), short):
            return self._stopped(sleepers)
        for gone, beds in () if self._closed & size.keys() else (([], True), ([], False), (sleepers, False)):
            if victims := self._victims(need, missing(short, _all(short, self._held(gone))), beds):
                self._stopped(gone)
                return self._evicted(victims, need, beds)
        self._closed |= size.keys() if self._overdue(need) else set()
        return self._who_stays(need, short)

    def _evicted(self, victims: Sequence[tuple[Claim, int]], need: Claim, beds: bool) -> str:
        for victim, count in victims:
            self._beds[victim.model] &= beds
            self._coming = plus(self._coming, self._frees(victim, count, beds))
            self.counts[victim.model] -= count
            self.evicted[victim.model] = need.model
            self.reasons[victim.model] = f"{_standing(victim, self._now)} makes room for {need.model}, {_wait(need, self._now)}"
        return f"{', '.join(victim.model for victim, _ in victims)} makes room"

    def _short(self, size: Bytes) -> Bytes:
        """What is missing beyond what is free and what will be."""
        there = {name: max(0, free) + max(0, self._coming.get(name, 0)) for name, free in self._free.items()}
        return missing(size, there)

    def _sleepers(self, need: Claim, short: Bytes) -> list[Claim]:
        """Models of which replicas sleep in place, or will, as many as help with what is short."""
        found: list[Claim] = []
        for claim in sorted(self._claims, key=lambda one: one.reload_seconds * one.rate):
            held, so_far = self._held([claim]), self._held(found)
            useful = any(held.get(name, 0) > 0 and so_far.get(name, 0) < size for name, size in short.items())
            if useful and claim.model != need.model and claim.model not in self.blocked:
                found.append(claim)
        return found

    def _held(self, sleepers: Sequence[Claim]) -> Bytes:
        """What they hold asleep."""
        there = [one for one in sleepers if self._beds[one.model]]
        return plus(
            *(times(one.asleep_each, self._asleep[one.model]) for one in there),
            *(times(one.bed, self._leaving(one)) for one in there),
        )

    def _stopped(self, sleepers: Sequence[Claim]) -> str:
        self._coming = plus(self._coming, self._held(sleepers))
        self._beds |= {one.model: False for one in sleepers}
        return f"{', '.join(one.model for one in sleepers)} sleeps in place and makes room"

    def _victims(self, need: Claim, short: Bytes, beds: bool) -> list[tuple[Claim, int]]:
        """How many of each of the cheapest replicas that together free what is short, and sleep where they have `beds`; none when
        not enough may go.
        """
        chosen: dict[str, int] = {}
        claims = {claim.model: claim for claim in self._claims}

        def freed() -> Bytes:
            return plus(*(self._frees(claims[model], count, beds) for model, count in chosen.items()))

        for victim in sorted(self._candidates(need, short), key=self._cost):
            if not enough(freed(), short):
                chosen[victim.model] = chosen.get(victim.model, 0) + 1
        if not enough(freed(), short):
            return []
        for model in list(chosen):  # what turned out to be more than is needed stays, the cheapest of it too
            while chosen[model]:
                chosen[model] -= 1
                if not enough(freed(), short):
                    chosen[model] += 1
                    break
        return [(claims[model], count) for model, count in chosen.items() if count]

    def _lost(self, claim: Claim, count: int) -> Bytes:
        """What the last `count` of its replicas take."""
        return claim.sum(self.counts[claim.model] - count, self.counts[claim.model])

    def _frees(self, claim: Claim, count: int, beds: bool) -> Bytes:
        """What they free when they go, asleep where they may."""
        return less(self._lost(claim, count), times(claim.bed, count if beds and self._beds[claim.model] else 0))

    def _candidates(self, need: Claim, short: Bytes) -> Iterator[Claim]:
        """Each replica that may go for `need`: its claim as often as it can lose one."""
        for claim in self._claims:
            spare = self.counts[claim.model] - claim.least
            if claim.model == need.model or claim.up == 0 or (need.oldest is None and need.least == 0):
                continue
            if spare > 0 and short.keys() & self._lost(claim, spare).keys() and self._may_go(claim, need):
                yield from [claim] * spare

    def _may_go(self, claim: Claim, need: Claim) -> bool:
        here = self._now - claim.since
        overdue = self._overdue(need)
        if claim.ready < claim.up:  # one is on its way in: that work would be for nothing
            limit = max(self._rules.stuck_seconds, 5 * claim.reload_seconds)
            return overdue and here >= limit
        if not claim.busy:
            return here >= self._rules.rest * claim.reload_seconds and (overdue or self._gathered(claim, need))
        return overdue and here >= self._rules.stay * claim.reload_seconds

    def _gathered(self, claim: Claim, need: Claim) -> bool:
        """Whether a swap now serves enough requests at once, or what is held for more has been unused for long enough."""
        soon = need.rate * need.reload_seconds + claim.rate * claim.reload_seconds
        unused = self._now - claim.used
        return need.waiting >= self._rules.gather * soon or unused >= self._rules.hold * claim.reload_seconds

    def _overdue(self, need: Claim) -> bool:
        if need.oldest is None:
            return need.least > 0
        return self._now - need.oldest >= self._rules.patience_seconds

    def _cost(self, claim: Claim) -> tuple[bool, float, float]:
        """What it costs to lose one: others wait for a replica that has requests; then reload time by likelihood of use."""
        last = self.counts[claim.model] <= 1
        return claim.busy and last, claim.reload_seconds * claim.rate if last else 0.0, claim.used

    def _who_stays(self, need: Claim, short: Bytes) -> str:
        there = [one.model for one in self._claims if one.model != need.model and short.keys() & one.sum(0, one.up).keys()]
        return f"{', '.join(there)} {'stays' if len(there) == 1 else 'stay'} a little longer"


def _all(short: Bytes, held: Bytes) -> Bytes:
    """`held` with nothing of the accounts that it does not name."""
    return {account: held.get(account, 0) for account in short}


def _standing(victim: Claim, now: float) -> str:
    if victim.busy:
        return f"it has had its turn ({victim.waiting} waiting, {victim.running} running) and"
    return f"unused for {show_duration(max(0.0, now - victim.used))}, it"


def _wait(need: Claim, now: float) -> str:
    return f"which waits for {show_duration(max(0.0, now - need.oldest))}" if need.oldest is not None else "which never sleeps"
