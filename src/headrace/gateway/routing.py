"""Which replica gets a request: filter → score → pick.

A replica's cost is the product of the policy's scorers, and the least cost wins. `auto` is prompt blocks that it has not cached
× (requests in flight + 1) (LMetric, arXiv 2603.15202), with the bound of consistent hashing with bounded loads (arXiv
1608.01350): no replica gets a request that would give it more than 1.25 times the mean in flight, while another is free. What is
alike for all goes by least outstanding work.

Up to `FEW` replicas all are looked at; of more, those that should have the prompt's beginning, and two choices among the free.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

import msgspec

from headrace.gateway.caches import NO_SLOT
from headrace.gateway.prefixes import Prefixes, Prompt, kept

FEW = 12
"""Replicas that are all looked at for every request."""
BOUND = 1.25
"""Times the mean of requests in flight that a replica may have, when another one is free."""
_CHOICES = 2
_ENOUGH = 2**64 - 1


class Candidate(msgspec.Struct, gc=False):
    """A replica that has a free slot, as scorers see it."""

    replica: str
    blocks: int
    """Of the prompt."""
    matched: int
    """Of these, in its cache."""
    running: int
    outstanding: int
    """Blocks that its requests in flight had to read, when they came."""
    is_cold: bool
    """It has not completed a request yet."""


class Receipt(NamedTuple):
    """Why a request went where it went."""

    matched: int
    blocks: int
    cost: float


class Booked(NamedTuple):
    """What a request in flight takes at its replica."""

    unread: int = 0
    """Blocks that it has to read there."""
    slot: int = NO_SLOT
    """Whose prompt it is from now on, where each slot keeps one."""


_NOTHING = Booked()

Scorer = Callable[[Candidate], float]

SCORERS: Mapping[str, Scorer] = {
    "uncached": lambda it: max(1, it.blocks - it.matched),
    "load": lambda it: it.running + 1,
    "work": lambda it: it.outstanding + max(1, it.blocks - it.matched),
    "cold": lambda it: 2 if it.is_cold else 1,
}
"""What may make a replica dear. A new one is a line here, and its name in a policy."""

POLICIES: Mapping[str, tuple[str, ...]] = {
    "auto": ("uncached", "load", "cold"),
    "least": ("load",),
    "work": ("work",),
    "affinity": ("uncached",),
    "round_robin": (),
}
"""Scorers by policy. Gateways use `auto`; the others are what it was measured against (benchmarks/routing.py)."""


def pick(slots: Mapping[str, int], running: Mapping[str, int], last: Mapping[str, int], avoid: frozenset[str]) -> str | None:
    """The replica with a free slot and the least outstanding work, or None when all are full.

    Replicas in `avoid` (they just failed this very request) are taken only when no other is free, so that no slot stays free
    while a request waits. Ties go to the replica served longest ago: `last` holds the number of its last request.
    `running` and `last` know every replica in `slots`.
    """
    best, second = None, None
    least = oldest = 0
    for replica, limit in slots.items():
        busy = running[replica]
        if busy >= limit:
            continue
        if replica in avoid:
            second = second or replica
        elif best is None or busy < least or (busy == least and last[replica] < oldest):
            best, least, oldest = replica, busy, last[replica]
    return best or second


class Routing:
    """The replicas of one model: what each has to do, and what it should have cached."""

    __slots__ = (
        "_also", "_by_slot", "_context", "_draw", "_last", "_open", "_order", "_outstanding", "_place", "_policy", "_total",
        "_usable", "_warm", "blocks", "chooses", "matched", "partial", "prefixes", "receipt", "running", "slots",
    )  # fmt: skip

    def __init__(self, policy: str = "auto") -> None:
        self._policy = tuple(SCORERS[name] for name in POLICIES[policy])
        self.slots: dict[str, int] = {}
        self.running: dict[str, int] = {}
        """Requests in flight by replica, replicas that are gone but not yet left included."""
        self.prefixes = Prefixes()
        self.partial = False
        """Whether some replicas know names that others do not: a request may have to wait for a few of them."""
        self.chooses = False
        """Whether there is more than one replica to choose from: else a prompt need not be looked at."""
        self.receipt: Receipt | None = None
        """Of the last pick that was for a prompt; None when it went by load alone."""
        self.blocks = self.matched = 0
        """Of prompts that were sent to a replica chosen among several; those that it should have cached."""
        self._context: int | None = None
        self._also: dict[str, frozenset[str]] = {}
        self._by_slot: Set[str] = frozenset()
        self._last: dict[str, int] = {}
        self._outstanding: dict[str, int] = {}
        self._warm: set[str] = set()
        self._open: list[str] = []  # those with a free slot, in no order, so that two can be drawn at once
        self._place: dict[str, int] = {}  # where in it
        self._order = self._total = self._usable = self._draw = 0

    # ---- what there is

    def resized(self, slots: Mapping[str, int]) -> None:
        """The replicas that may be used now. Requests on replicas that are gone stay counted to their end."""
        self.slots = dict(slots)
        for replica in [replica for replica, busy in self.running.items() if not busy and replica not in slots]:
            del self.running[replica]
        for replica in slots:
            self.running.setdefault(replica, 0)
        self._last = {replica: self._last.get(replica, 0) for replica in slots}
        self._outstanding = {replica: self._outstanding.get(replica, 0) for replica in self.running}
        self._warm &= slots.keys()
        self._total = sum(self.running[replica] for replica in slots)
        self._usable = sum(limit > 0 for limit in slots.values())
        self.chooses = self._usable > 1
        self._open = [replica for replica, limit in slots.items() if self.running[replica] < limit]
        self._place = {replica: place for place, replica in enumerate(self._open)}
        by_slot = {replica: slots[replica] for replica in slots.keys() & self._by_slot} if self.chooses else None
        self.prefixes.resized({replica: kept(limit, self._context) for replica, limit in slots.items()}, by_slot)

    def described(self, context: int | None, also: Mapping[str, frozenset[str]], by_slot: Set[str] = frozenset()) -> None:
        """How many tokens a slot holds, the names that each replica knows besides the model's, and the replicas that keep a
        prompt in each slot; before `resized`.
        """
        self._also = dict(also)
        self._by_slot = by_slot
        self._context = context
        self.partial = len(set(also.values())) > 1

    def forget(self, replica: str) -> None:
        """It was started anew."""
        self.prefixes.forget(replica)
        self._warm.discard(replica)

    @property
    def is_full(self) -> bool:
        """Whether no replica has a free slot."""
        return not self._open

    # ---- choosing

    def pick(self, prompt: Prompt, slots: Mapping[str, int], avoid: frozenset[str]) -> str | None:
        """The replica for a request that may have any of `slots`, which are all or a part of ours; None when they are full."""
        self.receipt = None
        if not self._open:
            return None
        if prompt.adapter:
            slots = {name: n for name, n in slots.items() if prompt.adapter in self._also.get(name, ())} or slots
        if slots is self.slots and self._usable > FEW:
            return self._best(prompt, self._drawn(prompt, avoid), avoid)
        if not prompt.chain and self._policy:
            return pick(slots, self.running, self._last, avoid)
        running = self.running
        return self._best(prompt, [replica for replica, limit in slots.items() if running[replica] < limit], avoid)

    def _drawn(self, prompt: Prompt, avoid: frozenset[str]) -> Sequence[str]:
        """Free replicas worth a look: those that have the prompt's beginning, and two of the others; more, if some failed it."""
        free, place = self._open, self._place
        draw = self._draw = (self._draw * 6364136223846793005 + 1442695040888963407) & _ENOUGH  # Knuth's MMIX generator
        start, step = (draw >> 33) % len(free), 1 + (draw >> 13 & 0xFFFFF) % max(1, len(free) - 1)
        found = [free[(start + step * turn) % len(free)] for turn in range(_CHOICES + len(avoid))]
        if prompt.chain:
            found += [replica for replica in self.prefixes.holders(prompt.chain) if replica in place]
        return found

    def _best(self, prompt: Prompt, free: Sequence[str], avoid: frozenset[str]) -> str | None:
        free = [replica for replica in free if replica not in avoid] or free if avoid else free
        bound, running = self.bound, self.running
        if self._policy:
            free = [replica for replica in free if running[replica] < bound] or free
        best: Candidate | None = None
        least = math.inf
        for replica in free:
            found = self._candidate(replica, prompt.chain)
            cost = 1.0
            for score in self._policy:
                cost *= score(found)
            if best is None or cost < least or (cost == least and self._is_before(found, best)):
                best, least = found, cost
        if best is None:
            return None
        if prompt.chain:
            self.receipt = Receipt(best.matched, best.blocks, least)
        return best.replica

    def _is_before(self, one: Candidate, other: Candidate) -> bool:
        """Whether `one` is taken of two that cost the same: less in flight, where that counts, then served longest ago."""
        last = self._last
        if self._policy and one.running != other.running:
            return one.running < other.running
        return last[one.replica] < last[other.replica]

    @property
    def bound(self) -> int:
        """Requests in flight with which a replica gets no more, when another one is free (arXiv 1608.01350)."""
        return math.ceil(BOUND * (self._total + 1) / max(1, self._usable))

    def _candidate(self, replica: str, chain: tuple[int, ...]) -> Candidate:
        matched = self.prefixes.matched(replica, chain) if chain else 0
        outstanding = self._outstanding.get(replica, 0)
        return Candidate(replica, len(chain), matched, self.running[replica], outstanding, replica not in self._warm)

    # ---- what happened

    def began(self, replica: str, prompt: Prompt) -> Booked:
        """A request was sent there; returns what it takes, which `ended` wants back."""
        self._order += 1
        self._last[replica] = self._order
        busy = self.running[replica] = self.running[replica] + 1
        self._total += 1
        if busy >= self.slots[replica]:
            self._shut(replica)
        if not prompt.chain:
            return Booked(0, self.prefixes.sent(replica, ())) if self.chooses and replica in self._by_slot else _NOTHING
        matched = self.receipt.matched if self.receipt else 0
        self.blocks += len(prompt.chain)
        self.matched += matched
        unread = len(prompt.chain) - matched
        self._outstanding[replica] = self._outstanding.get(replica, 0) + unread
        return Booked(unread, self.prefixes.sent(replica, prompt.chain))

    def ended(self, replica: str, booked: Booked) -> None:
        """A request that was there is over."""
        unread, slot = booked
        if slot >= 0:
            self.prefixes.left(replica, slot)
        busy = self.running[replica] = self.running[replica] - 1
        limit = self.slots.get(replica)
        if unread:
            self._outstanding[replica] -= unread
        if limit is None:
            if not busy:
                del self.running[replica]
            return
        self._total -= 1
        self._warm.add(replica)
        if busy < limit and replica not in self._place:
            self._place[replica] = len(self._open)
            self._open.append(replica)

    def _shut(self, replica: str) -> None:
        """It has no free slot any more."""
        place = self._place.pop(replica, None)
        if place is None:
            return
        moved = self._open.pop()
        if moved != replica:
            self._open[place] = moved
            self._place[moved] = place
