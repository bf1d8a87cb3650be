"""Turns: how many replicas of each model may be in a memory that holds fewer than are wanted; a ledger, decided anew each time.

A start is allowed when its bytes are free now, counting whatever is in memory, on its way in or out. What does not fit waits its
turn: the model whose request has waited longest is next, and nothing that came later takes the memory it waits for. Then victims
go, the cheapest first. A model with requests keeps its place, so that its requests are served together (A B A A C A B C as
A A A A B B C C), until somebody has waited for `patience_seconds`; a model that has just come stays for a while in any case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace.units import show_bytes, show_duration


@dataclass(frozen=True, slots=True)
class Claim:
    """One model before the ledger. Times are monotonic seconds."""

    model: str
    bytes_each: int
    """What one replica takes."""
    wanted: int
    """Replicas that there should be, if memory were no matter."""
    least: int = 0
    """Replicas that no other model may take the place of."""
    up: int = 0
    """Replicas in memory or on their way in."""
    ready: int = 0
    """Those of `up` that serve."""
    leaving: int = 0
    """Replicas in memory that are on their way out."""
    waiting: int = 0
    running: int = 0
    oldest: float | None = None
    """Since when somebody waits: the oldest request, though not from before the model lost its place, for that was its turn. None
    when nobody waits.
    """
    since: float = 0.0
    """When the newest of `up` became what it is now: ready, or on its way in."""
    used: float = 0.0
    """When the last request was there."""
    rate: float = 0.0
    """Requests per second, about: how likely it is to be asked for soon."""
    reload_seconds: float = 5.0
    """From the decision to start a replica to its first answer."""

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)


@dataclass(frozen=True, slots=True)
class Rules:
    """When a model has to make room. Lower numbers swap more; benchmarks/turns.py says what these cost and gain."""

    patience_seconds: float = 15.0
    """How long a request waits before a model that has requests itself makes room for it."""
    stay: float = 3.0
    """A model with requests stays for so many times its reload time once it is ready."""
    rest: float = 0.5
    """A model without requests stays for so many times its reload time, and that again for each further model that waits, up to
    `most_rests` and while nobody is out of patience: the more wait, the more requests gather for each turn.
    """
    most_rests: int = 4
    stuck_seconds: float = 120.0
    """A replica that has been on its way in for so long, and five times as long as it should take, may be given up for others."""


@dataclass(frozen=True, slots=True)
class Grants:
    """Replicas that may be in memory by model, with the reason where it is not what is wanted.

    `blocked` are the models that wait for room. `evicted` are the models that lose a replica to another: victim → for whom.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, str]
    blocked: tuple[str, ...] = ()
    evicted: Mapping[str, str] | None = None


def grants(claims: Sequence[Claim], capacity_bytes: int, now: float, rules: Rules | None = None) -> Grants:
    """What may be in memory now. Memory in use never grows past `capacity_bytes`, whatever is wanted.

    A model that does not fit although every other made room gets none, and stands in nobody's way.
    """
    ledger = _Ledger(claims, capacity_bytes, now, rules or Rules())
    for need in _needs(claims):
        ledger.settle(need)
    return Grants(ledger.counts, ledger.reasons, tuple(ledger.blocked), ledger.evicted)


def too_big(claim: Claim, claims: Sequence[Claim], capacity_bytes: int) -> str | None:
    """Why not even one replica can be there, whoever makes room; None when it can."""
    kept = sum(other.bytes_each * other.least for other in claims if other.model != claim.model)
    if claim.bytes_each <= capacity_bytes - kept:
        return None
    beside = f" beside {show_bytes(kept)} of models that never sleep" if kept else ""
    return f"it takes {show_bytes(claim.bytes_each)}, more than the {show_bytes(capacity_bytes)} there are{beside}"


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

    def __init__(self, claims: Sequence[Claim], capacity_bytes: int, now: float, rules: Rules) -> None:
        self._claims, self._capacity, self._now, self._rules = claims, capacity_bytes, now, rules
        self.counts = {claim.model: min(claim.wanted, claim.up) for claim in claims}
        self.reasons: dict[str, str] = {}
        self.blocked: dict[str, None] = {}
        self.evicted: dict[str, str] = {}
        waiting = sum(claim.up == 0 and claim.oldest is not None for claim in claims)
        self._rests = max(1, min(waiting, rules.most_rests))
        self._closed = False
        """Somebody overdue waits for those who stay a little longer: nobody later may take a place, or it would wait for ever."""
        self._free = capacity_bytes - sum(claim.bytes_each * (claim.up + claim.leaving) for claim in claims)
        self._coming = sum(claim.bytes_each * (claim.leaving + claim.up - self.counts[claim.model]) for claim in claims)

    def settle(self, need: Claim) -> None:
        """Grant one more replica, make room for it, or say why it has to wait."""
        size = need.bytes_each
        first = self.counts[need.model] == 0 or self.counts[need.model] < need.least
        if need.model in self.blocked:  # its first one waits for room: what comes later does, too
            return
        if why := too_big(need, self._claims, self._capacity):
            self.reasons[need.model] = why
        elif size <= self._free:
            self._free -= size
            self.counts[need.model] += 1
        elif first:
            self._queue(need, self._made_room(need))
        else:
            self.reasons[need.model] = f"another replica takes {show_bytes(size)}, and {show_bytes(max(0, self._free))} are free"

    def _queue(self, need: Claim, leaving: str) -> None:
        """It waits for what is leaving, and nobody later takes what is free meanwhile."""
        self.blocked[need.model] = None
        taken = min(max(0, self._free), need.bytes_each)
        self._free -= taken
        self._coming -= min(max(0, self._coming), need.bytes_each - taken)
        self.reasons[need.model] = f"it waits for {show_bytes(need.bytes_each)} of memory: {leaving}"

    def _made_room(self, need: Claim) -> str:
        """See to it that enough is leaving, if that may be; in words."""
        missing = need.bytes_each - max(0, self._free) - max(0, self._coming)
        if missing <= 0:
            return "others are on their way out"
        victims = [] if self._closed else self._victims(need, missing)
        if not victims:
            self._closed = self._closed or self._overdue(need)
            return self._who_stays(need)
        for victim in victims:
            self.counts[victim.model] -= 1
            self._coming += victim.bytes_each
            self.evicted[victim.model] = need.model
            self.reasons[victim.model] = f"{_standing(victim, self._now)} makes room for {need.model}, {_wait(need, self._now)}"
        return f"{', '.join(dict.fromkeys(victim.model for victim in victims))} makes room"

    def _victims(self, need: Claim, missing: int) -> list[Claim]:
        """The cheapest replicas that together free `missing` bytes; none when those that may go do not suffice."""
        chosen: list[Claim] = []
        freed = 0
        for victim in sorted(self._candidates(need), key=self._cost):
            if freed < missing:
                chosen.append(victim)
                freed += victim.bytes_each
        if freed < missing:
            return []
        for victim in list(chosen):  # what turned out to be more than is needed stays, the cheapest of it too
            if freed - victim.bytes_each >= missing:
                chosen.remove(victim)
                freed -= victim.bytes_each
        return chosen

    def _candidates(self, need: Claim) -> Iterator[Claim]:
        """Each replica that may go for `need`: its claim as often as it can lose one."""
        for claim in self._claims:
            spare = self.counts[claim.model] - claim.least
            if claim.model == need.model or claim.up == 0 or (need.oldest is None and need.least == 0):
                continue
            if spare > 0 and self._may_go(claim, need):
                yield from [claim] * spare

    def _may_go(self, claim: Claim, need: Claim) -> bool:
        here = self._now - claim.since
        overdue = self._overdue(need)
        if claim.ready < claim.up:  # one is on its way in: that work would be for nothing
            limit = max(self._rules.stuck_seconds, 5 * claim.reload_seconds)
            return overdue and here >= limit
        if not claim.busy:
            rests = 1 if overdue else self._rests
            return here >= self._rules.rest * rests * claim.reload_seconds
        return overdue and here >= self._rules.stay * claim.reload_seconds

    def _overdue(self, need: Claim) -> bool:
        if need.oldest is None:
            return need.least > 0
        return self._now - need.oldest >= self._rules.patience_seconds

    def _cost(self, claim: Claim) -> tuple[bool, float, float]:
        """What it costs to lose one: others wait for a replica that has requests; then reload time by likelihood of use."""
        last = self.counts[claim.model] <= 1
        return claim.busy and last, claim.reload_seconds * claim.rate if last else 0.0, claim.used

    def _who_stays(self, need: Claim) -> str:
        there = [claim.model for claim in self._claims if claim.up and claim.model != need.model]
        return f"{', '.join(there)} {'stays' if len(there) == 1 else 'stay'} a little longer"


def _standing(victim: Claim, now: float) -> str:
    if victim.busy:
        return f"it has had its turn ({victim.waiting} waiting, {victim.running} running) and"
    return f"unused for {show_duration(max(0.0, now - victim.used))}, it"


def _wait(need: Claim, now: float) -> str:
    return f"which waits for {show_duration(max(0.0, now - need.oldest))}" if need.oldest is not None else "which never sleeps"
