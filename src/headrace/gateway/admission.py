"""The queue of one model, sans I/O: events in (arrived, retried, left, resized, tick), effects out (Serve, Reject).

What a request holds is a slot of a replica, never more than the replica has, so that the engine's own queue stays empty and the
depth of this one is true. A request is known by its ticket, any hashable value. A request that is neither served nor rejected
by the event that brought it in is held: it waits, first come first served, for at most `wait` seconds.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Generic, Literal, NamedTuple, TypeVar

from headrace.gateway.routing import pick

Ticket = TypeVar("Ticket", bound=Hashable)

_RECENT = 0.1  # weight of the newest service time in the running mean


class Serve(NamedTuple, Generic[Ticket]):
    """Send the request to this replica; it holds a slot there until it has left."""

    ticket: Ticket
    replica: str


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
        "_last",
        "_limit",
        "_order",
        "_served",
        "_slots",
        "_wait",
        "_waiting",
        "running",
        "service_seconds",
    )

    def __init__(self, limit: int, wait: float) -> None:
        self._limit = limit
        self._wait = wait
        self._slots: dict[str, int] = {}
        self._waiting: OrderedDict[Ticket, float] = OrderedDict()  # ticket → when it gives up
        self._avoid: dict[Ticket, frozenset[str]] = {}
        self._served: dict[Ticket, tuple[str, float, float]] = {}  # ticket → where it runs, since when, how long it may yet wait
        self._last: dict[str, int] = {}
        self._order = 0
        self.running: dict[str, int] = {}
        """Requests in flight by replica, replicas that are gone but not yet left included."""
        self.service_seconds: float | None = None
        """Mean time a request held its slot, recent requests weighing more."""

    def __len__(self) -> int:
        """The depth: requests that wait."""
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """Requests that can be in flight at once."""
        return sum(self._slots.values())

    def arrived(self, ticket: Ticket, now: float) -> list[Effect[Ticket]]:
        """A new request. Nothing in the result means that it is held."""
        if not self._waiting and (replica := self._free(frozenset())):
            return [self._serve(ticket, replica, now, now + self._wait)]
        if len(self._waiting) >= self._limit:
            return [Reject(ticket, "full", self.retry_after())]
        self._waiting[ticket] = now + self._wait
        return self._next(now)

    def retried(self, ticket: Ticket, avoid: frozenset[str], now: float, *, reached: bool = True) -> list[Effect[Ticket]]:
        """A request whose replica failed it comes back, ahead of those that were never served, rather not to `avoid`.

        It was accepted once, so the limit does not hold for it. It may wait for what is left of its time, of which
        knocking at a replica that could not be `reached` is a part.
        """
        since, may_wait = self._release(ticket) or (now, 0.0)
        if not reached and (may_wait := may_wait - (now - since)) <= 0:
            return [Reject(ticket, "expired", self.retry_after()), *self._next(now)]
        self._avoid[ticket] = avoid
        self._waiting[ticket] = now + may_wait
        self._waiting.move_to_end(ticket, last=False)
        return self._next(now)

    def left(self, ticket: Ticket, now: float, *, served: bool = True) -> list[Effect[Ticket]]:
        """A request is over, whether it waited or ran. `served` says whether its time tells of the service rate."""
        self._waiting.pop(ticket, None)
        self._avoid.pop(ticket, None)
        held = self._release(ticket)
        if held is None:
            return []
        if served:
            self._learn(now - held[0])
        return self._next(now) if self._waiting else []

    def resized(self, slots: Mapping[str, int], now: float) -> list[Effect[Ticket]]:
        """The replicas that may be used now, with their slots. Requests on replicas that are gone stay counted to their end."""
        self._slots = dict(slots)
        for replica in list(self.running):
            if replica not in slots and not self.running[replica]:
                del self.running[replica]
        for replica in slots:
            self.running.setdefault(replica, 0)
        self._last = {replica: self._last.get(replica, 0) for replica in slots}
        return self._next(now)

    def tick(self, now: float) -> list[Effect[Ticket]]:
        """Time passed: requests that waited longer than they may are refused."""
        expired = [ticket for ticket, until in self._waiting.items() if until <= now]
        for ticket in expired:
            del self._waiting[ticket]
            self._avoid.pop(ticket, None)
        return [Reject(ticket, "expired", self.retry_after()) for ticket in expired]

    def waiting(self) -> list[Ticket]:
        """The requests that wait, first the one that is served next."""
        return list(self._waiting)

    def retry_after(self) -> int:
        """Whole seconds until a request sent then should find a slot: those waiting and itself, at the measured service rate.

        Without a measurement or a replica the time a request may wait is the best that is known. Between 1 and 600.
        """
        if self.service_seconds is None or not self.capacity:
            return min(600, max(1, math.ceil(self._wait)))
        return min(600, max(1, math.ceil((len(self._waiting) + 1) * self.service_seconds / self.capacity)))

    def _free(self, avoid: frozenset[str]) -> str | None:
        return pick(self._slots, self.running, self._last, avoid)

    def _serve(self, ticket: Ticket, replica: str, now: float, until: float) -> Serve[Ticket]:
        self._order += 1
        self._last[replica] = self._order
        self.running[replica] += 1
        self._served[ticket] = (replica, now, until - now)
        return Serve(ticket, replica)

    def _release(self, ticket: Ticket) -> tuple[float, float] | None:
        """Free the slot that the request holds; since when it held it and how long it may yet wait, None when it held none."""
        served = self._served.pop(ticket, None)
        if served is None:
            return None
        replica, since, may_wait = served
        self.running[replica] -= 1
        if not self.running[replica] and replica not in self._slots:
            del self.running[replica]
        return since, may_wait

    def _next(self, now: float) -> list[Effect[Ticket]]:
        """Serve those in front while there is room."""
        effects: list[Effect[Ticket]] = []
        while self._waiting:
            ticket = next(iter(self._waiting))
            replica = self._free(self._avoid.get(ticket, frozenset()))
            if replica is None:
                break
            until = self._waiting.pop(ticket)
            self._avoid.pop(ticket, None)
            effects.append(self._serve(ticket, replica, now, until))
        return effects

    def _learn(self, seconds: float) -> None:
        mean = self.service_seconds
        self.service_seconds = seconds if mean is None else mean + _RECENT * (seconds - mean)
