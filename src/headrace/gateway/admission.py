"""The queue of one model, sans I/O: events in (arrived, retried, left, resized, tick), effects out (Serve, Reject).

What a request holds is a slot of a replica, never more than the replica has, so that the engine's own queue stays empty and the
depth of this one is true. A request is known by its ticket, any hashable value. A request that is neither served nor rejected
by the event that brought it in is held: it waits, first come first served, for at most `wait` seconds. Requests whose `Work` is
said, because keys are asked for, are served in a fair order (fairness.py), behind those that are tried again.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, Literal, NamedTuple, TypeVar

from headrace.gateway.fairness import FairOrder, Work
from headrace.gateway.prefixes import SHORT, Prompt
from headrace.gateway.routing import Booked, Receipt, Routing

Ticket = TypeVar("Ticket", bound=Hashable)

Patience = tuple[float, float]
"""A time, and how long the request may wait in all: other limits do not change what those that are here came with."""

_NOBODY: frozenset[str] = frozenset()
_RECENT = 0.1  # weight of the newest service time in the running mean
_OLDEST_BATCH = 15.0  # seconds, and at most a quarter of what a request may wait: then batch yields no more


class Serve(NamedTuple, Generic[Ticket]):
    """Send the request to this replica; it holds a slot there until it has left."""

    ticket: Ticket
    replica: str
    receipt: Receipt | None = None
    """Why there, when its prompt had a say in it."""


class Reject(NamedTuple, Generic[Ticket]):
    """Refuse the request: the queue is `full`, or it waited longer than it may. `retry_after` is in whole seconds."""

    ticket: Ticket
    cause: Literal["full", "expired"]
    retry_after: int


Effect = Serve[Ticket] | Reject[Ticket]


class Queue(Generic[Ticket]):
    """Admission for one model: at most `limit` requests wait, each for at most `wait` seconds."""

    __slots__ = (
        "_avoid",
        "_fair",
        "_limit",
        "_patience",
        "_prompts",
        "_served",
        "_wait",
        "_waiting",
        "among",
        "prompt",
        "routing",
        "service_seconds",
        "settled",
    )

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait
        self._patience: Patience = (wait, wait)  # of a new request, which has all of it left
        self._waiting: OrderedDict[Ticket, Patience] = OrderedDict()  # ticket → when it gives up
        self._fair: FairOrder[Ticket] = FairOrder(min(_OLDEST_BATCH, wait / 4))
        self.settled = self._fair.settled
        """A request of that share, which was served, took so many `tokens` more than its work said."""
        self._avoid: dict[Ticket, frozenset[str]] = {}
        self._served: dict[Ticket, tuple[str, float, Patience, Booked]] = {}
        # ticket → where it runs, since when, how long it may yet wait, what it takes there
        self._prompts: dict[Ticket, Prompt] = {}  # of those that wait
        self.routing = Routing()
        self.prompt: Callable[[Ticket], Prompt] | None = None
        """What routing should know of a request, asked for when there are several replicas; None: nothing."""
        self.among: Callable[[Ticket, Mapping[str, int]], Mapping[str, int]] | None = None
        """Which of the replicas, with their slots, a request may have; None: any of them."""
        self.service_seconds: float | None = None
        """Mean time a request held its slot, recent requests weighing more."""

    def __len__(self) -> int:
        """The depth: requests that wait."""
        return len(self._waiting)

    @property
    def running(self) -> dict[str, int]:
        """Requests in flight by replica, replicas that are gone but not yet left included."""
        return self.routing.running

    @property
    def capacity(self) -> int:
        """Requests that can be in flight at once."""
        return sum(self.routing.slots.values())

    @property
    def limit(self) -> int:
        """How many may wait."""
        return self._limit

    def limited(self, limit: int, wait: float) -> None:
        """Other limits, for requests that come from now on."""
        self._limit, self._wait, self._patience = limit, wait, (wait, wait)
        self._fair.age = min(_OLDEST_BATCH, wait / 4)

    def arrived(self, ticket: Ticket, now: float, work: Work | None = None) -> list[Effect[Ticket]]:
        """A new request. Nothing in the result means that it is held. In a full queue it may take the place of another one of a
        key that has more of them waiting.
        """
        if (replica := self.at_once(ticket, now, work)) is not None:
            return [Serve(ticket, replica, self.routing.receipt)]
        return self.kept_waiting(ticket, now, work)

    def at_once(self, ticket: Ticket, now: float, work: Work | None) -> str | None:
        """Where a new request is served that need not wait; None when it must, and has to be `kept_waiting`."""
        if self._waiting:
            return None
        routing, among = self.routing, self.among
        prompt = SHORT if self.prompt is None or not routing.chooses else self.prompt(ticket)
        replica = routing.pick(prompt, routing.slots if among is None else among(ticket, routing.slots), _NOBODY)
        if replica is None:
            if prompt is not SHORT:
                self._prompts[ticket] = prompt
            return None
        if work is not None:
            self._fair.served_at_once(work)
        self._served[ticket] = (replica, now, self._patience, routing.began(replica, prompt))
        return replica

    def kept_waiting(self, ticket: Ticket, now: float, work: Work | None) -> list[Effect[Ticket]]:
        """What becomes of a new request that is not served at once."""
        effects: list[Effect[Ticket]] = []
        if len(self._waiting) >= self._limit:
            victim = self._fair.victim(work, now) if work is not None else None
            if victim is None:
                self._prompts.pop(ticket, None)
                return [Reject(ticket, "full", self.retry_after())]
            effects = [Reject(victim, "full", self.retry_after())]
            self._forget(victim)
        self._waiting[ticket] = now + self._wait, self._wait
        if work is not None:
            self._fair.add(ticket, work, now)
        return effects + self._next(now)

    def retried(self, ticket: Ticket, avoid: frozenset[str], now: float, *, reached: bool = True) -> list[Effect[Ticket]]:
        """A request whose replica failed it comes back, ahead of those that were never served, rather not to `avoid`.

        It was accepted once, so the limit does not hold for it. It may wait for what is left of its time, of which
        knocking at a replica that could not be `reached` is a part.
        """
        since, may_wait, wait = now, 0.0, self._wait
        if (held := self._served.pop(ticket, None)) is not None:
            replica, since, (may_wait, wait), booked = held
            self.routing.ended(replica, booked)
        if not reached and (may_wait := may_wait - (now - since)) <= 0:
            return [Reject(ticket, "expired", self.retry_after()), *self._next(now)]
        self._avoid[ticket] = avoid
        self._waiting[ticket] = now + may_wait, wait
        self._waiting.move_to_end(ticket, last=False)
        return self._next(now)

    def left(self, ticket: Ticket, now: float, served: bool = True) -> list[Effect[Ticket]]:
        """A request is over, whether it waited or ran. `served` says whether its time tells of the service rate."""
        held = self._served.pop(ticket, None)
        if held is None:
            self._forget(ticket)
            return []
        replica, since, _, booked = held
        self.routing.ended(replica, booked)
        if served:
            mean, seconds = self.service_seconds, now - since
            self.service_seconds = seconds if mean is None else mean + _RECENT * (seconds - mean)
        return self._next(now) if self._waiting else []

    def resized(self, slots: Mapping[str, int], now: float) -> list[Effect[Ticket]]:
        """The replicas that may be used now, with their slots. Requests on replicas that are gone stay counted to their end."""
        self.routing.resized(slots)
        return self._next(now)

    def tick(self, now: float) -> list[Effect[Ticket]]:
        """Time passed: requests that waited longer than they may are refused."""
        expired = [ticket for ticket, (until, _) in self._waiting.items() if until <= now]
        for ticket in expired:
            self._forget(ticket)
        return [Reject(ticket, "expired", self.retry_after()) for ticket in expired]

    def waiting(self) -> list[Ticket]:
        """The requests that wait; first come first, which is the order they are served in but for shares of keys."""
        return list(self._waiting)

    def oldest(self) -> float | None:
        """Since when the first in line has waited; None when nobody waits."""
        if not self._waiting:
            return None
        until, wait = next(iter(self._waiting.values()))
        return until - wait

    def retry_after(self) -> int:
        """Whole seconds until a request sent then should find a slot: those waiting and itself, at the measured service rate.

        Without a measurement or a replica the time a request may wait is the best that is known. Between 1 and 600.
        """
        if self.service_seconds is None or not self.capacity:
            return min(600, max(1, math.ceil(self._wait)))
        return min(600, max(1, math.ceil((len(self._waiting) + 1) * self.service_seconds / self.capacity)))

    def _free(self, ticket: Ticket, avoid: frozenset[str]) -> str | None:
        routing = self.routing
        slots = routing.slots if self.among is None else self.among(ticket, routing.slots)
        return routing.pick(self._prompt(ticket), slots, avoid)

    def _prompt(self, ticket: Ticket) -> Prompt:
        """Read once, however long the request waits."""
        if self.prompt is None or not self.routing.chooses:
            return SHORT
        prompt = self._prompts.get(ticket)
        if prompt is None:
            prompt = self._prompts[ticket] = self.prompt(ticket)
        return prompt

    def _serve(self, ticket: Ticket, replica: str, now: float, left: Patience) -> Serve[Ticket]:
        routing = self.routing
        booked = routing.began(replica, self._prompts.pop(ticket, SHORT))
        self._served[ticket] = (replica, now, left, booked)
        return Serve(ticket, replica, routing.receipt)

    def _next(self, now: float) -> list[Effect[Ticket]]:
        """Serve those in front while there is room."""
        effects: list[Effect[Ticket]] = []
        while self._waiting:
            ticket = next(iter(self._waiting))
            if ticket in self._fair:  # else it is tried again, ahead of all
                ticket = self._fair.first(now)
            replica = self._free(ticket, self._avoid.get(ticket, frozenset()))
            if replica is None:
                return effects + self._passed(now) if self.among is not None or self.routing.partial else effects
            effects.append(self._serve_waiting(ticket, replica, now))
        return effects

    def _passed(self, now: float) -> list[Effect[Ticket]]:
        """The one in front waits for replicas of its own: those behind it that may have others do not wait with it."""
        effects: list[Effect[Ticket]] = []
        for ticket in list(self._waiting):
            if self.routing.is_full:
                break
            if replica := self._free(ticket, self._avoid.get(ticket, frozenset())):
                effects.append(self._serve_waiting(ticket, replica, now))
        return effects

    def _serve_waiting(self, ticket: Ticket, replica: str, now: float) -> Serve[Ticket]:
        until, wait = self._waiting.pop(ticket)
        if ticket in self._fair:
            self._fair.served(ticket, now)
        served = self._serve(ticket, replica, now, (until - now, wait))
        self._forget(ticket)
        return served

    def _forget(self, ticket: Ticket) -> None:
        """It does not wait any more."""
        self._waiting.pop(ticket, None)
        self._avoid.pop(ticket, None)
        self._prompts.pop(ticket, None)
        self._fair.remove(ticket)
