"""Whose request is next: fair by tokens between keys, first come first served inside one, batch after interactive.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): the head of a key's line has a start tag, the larger of the tag at
which its key's last request ended and of the virtual time at which the line began; the smallest tag is served, and is the
virtual time from then on. A request moves its key's end by tokens / weight: estimated when it is served, settled when they are
known. It needs no rate of the server. A key that was idle is owed little: the size of `BURST` usual requests, so that those who
ask for less than their share need not also ask evenly (as sleepers in Linux's CFS; without it a flood raises their p99 by 70 %).

Batch has a virtual time of its own and is served when nobody interactive waits. A batch request that waited `age` seconds
competes with the interactive ones, as one key among them, so that it is late but never left.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

Ticket = TypeVar("Ticket", bound=Hashable)

BURST = 32
"""Usual requests that a key which asks for less than its share may send at once before it takes turns with others."""
_INTERACTIVE, _BATCH = 0, 1
_RECENT = 0.05  # weight of the newest request in the running mean of their tokens
_MANY = 64  # lines of keys that nobody stands in, past which those without a debt are forgotten


class Share(msgspec.Struct, frozen=True):
    """Whose work it is, and how much of the whole they get: in proportion to `weight`, which is above 0."""

    name: str
    weight: float = 1.0
    batch: bool = False


class Work(msgspec.Struct, gc=False):
    """A request as the queue weighs it: whose it is and how many tokens it should take."""

    share: Share
    tokens: float


class _Line(Generic[Ticket]):
    """The requests of one key that wait, and its tags on both clocks (interactive, batch)."""

    __slots__ = ("began", "clock", "ended", "guest", "share", "waiting")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.clock = _clock(share)
        self.waiting: OrderedDict[Ticket, tuple[float, float]] = OrderedDict()  # ticket → tokens, since when
        self.began = [0.0, 0.0]
        self.ended = [0.0, 0.0]
        self.guest = False  # batch that is old enough to compete with the interactive


class FairOrder(Generic[Ticket]):
    """The order of requests that wait for one model. A request that was taken out of it is known to it no more."""

    __slots__ = ("_busy", "_line_of", "_lines", "_now", "_usual", "age")

    def __init__(self, age: float) -> None:
        self.age = age
        """Seconds after which a batch request no longer yields to interactive ones."""
        self._now = [0.0, 0.0]  # virtual times
        self._usual = 0.0  # tokens of a request, on average
        self._lines: dict[str, _Line[Ticket]] = {}
        self._busy: dict[str, _Line[Ticket]] = {}  # those with somebody in them
        self._line_of: dict[Ticket, _Line[Ticket]] = {}

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._line_of

    def add(self, ticket: Ticket, work: Work, now: float) -> None:
        """A request waits from now on, last of its key."""
        line = self._line(work.share)
        if not line.waiting:
            self._busy[work.share.name] = line
            self._begin(line)
        line.waiting[ticket] = (work.tokens, now)
        self._line_of[ticket] = line

    def first(self, now: float) -> Ticket:
        """Who is next, of those that wait; somebody must. One pass over the keys that have requests waiting."""
        line = min(self._busy.values(), key=lambda line: self._place(line, now))
        return next(iter(line.waiting))

    def served(self, ticket: Ticket, now: float) -> None:
        """A request that waited is served: its key is charged."""
        line = self._line_of[ticket]
        clock = self._place(line, now)[0]
        self._charge(line, clock, line.waiting[ticket][0])
        self.remove(ticket)

    def served_at_once(self, work: Work) -> None:
        """A request that never waited is served: its key is charged."""
        share = work.share
        line = self._lines.get(share.name)
        if line is None or line.share is not share:
            line = self._line(share)
        if not line.waiting:
            line.began[line.clock] = self._now[line.clock] - BURST * self._usual / share.weight
        self._charge(line, line.clock, work.tokens)

    def settled(self, share: Share, tokens: float) -> None:
        """A served request took so many `tokens` more than was estimated (less, where it is negative)."""
        if (line := self._lines.get(share.name)) is not None:
            line.ended[line.clock] += tokens / line.share.weight

    def remove(self, ticket: Ticket) -> None:
        """A request waits no more. Nothing happens when it did not."""
        line = self._line_of.pop(ticket, None)
        if line is None:
            return
        del line.waiting[ticket]
        line.guest = False  # the next one shows whether it is old enough; its tags are kept meanwhile
        if not line.waiting:
            del self._busy[line.share.name]

    def victim(self, work: Work, now: float) -> Ticket | None:
        """Who makes room for a request that finds the queue full: the youngest of the key that has most waiting for its weight,
        batch before interactive. None when that is the arriving request's own key, or nobody may be asked to go.
        """
        own = self._lines.get(work.share.name)
        mine = (work.share.batch, (len(own.waiting) + 1 if own else 1) / work.share.weight)
        worst, longest = mine, None
        for line in self._busy.values():
            rank = (line.share.batch, len(line.waiting) / line.share.weight)
            if rank > worst and not self._is_old(next(reversed(line.waiting.values())), line, now):
                worst, longest = rank, line
        return next(reversed(longest.waiting)) if longest is not None else None

    def _is_old(self, youngest: tuple[float, float], line: _Line[Ticket], now: float) -> bool:
        return line.share.batch and now - youngest[1] >= self.age

    def _line(self, share: Share) -> _Line[Ticket]:
        line = self._lines.get(share.name)
        if line is not None and line.share is share:
            return line
        if line is None:
            if len(self._lines) >= _MANY + len(self._busy):
                self._forget()
            line = self._lines[share.name] = _Line(share)
        moved, line.share, line.clock = line.share.batch != share.batch, share, _clock(share)  # as a reloaded file says
        if moved:
            self._begin(line)
        return line

    def _begin(self, line: _Line[Ticket]) -> None:
        clock = line.clock
        line.began[clock] = self._now[clock] - BURST * self._usual / line.share.weight

    def _charge(self, line: _Line[Ticket], clock: int, tokens: float) -> None:
        usual, began, ended, share = self._usual, line.began[clock], line.ended[clock], line.share
        self._usual = usual + _RECENT * (tokens - usual) if usual else tokens
        start, takes = began if began > ended else ended, (tokens if tokens > 1 else 1) / share.weight
        line.ended[clock] = start + takes
        if start > self._now[clock]:
            self._now[clock] = start
        if share.batch and clock == _INTERACTIVE:
            line.ended[_BATCH] = max(line.began[_BATCH], line.ended[_BATCH]) + takes

    def _place(self, line: _Line[Ticket], now: float) -> tuple[int, float, float]:
        """Where the head of a line stands: the clock it goes by, interactive first; its start tag; since when it waits, for those
        who ask for less than their share are before the others and among themselves first come first served.
        """
        clock = line.clock
        if clock == _BATCH and now - next(iter(line.waiting.values()))[1] >= self.age:
            if not line.guest:  # from now on it is one among the interactive: the time it yielded is not made up for
                line.guest = True
                line.began[_INTERACTIVE] = max(line.began[_INTERACTIVE], self._now[_INTERACTIVE])
            clock = _INTERACTIVE
        start = max(line.began[clock], line.ended[clock], self._now[clock])
        return clock, start, next(iter(line.waiting.values()))[1]

    def _forget(self) -> None:
        """Keys that nobody waits for and that owe nothing start anew without loss."""
        self._lines = {
            name: line
            for name, line in self._lines.items()
            if line.waiting or any(end > now for end, now in zip(line.ended, self._now, strict=True))
        }


def _clock(share: Share) -> int:
    return _BATCH if share.batch else _INTERACTIVE
