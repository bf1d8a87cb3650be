"""The simulation: arrivals, the gateway's own queue and routing, replicas, and a policy that is asked now and then.

What decides is what decides in production: `gateway/admission.py` holds and serves, `gateway/routing.py` picks, `scaling/` says
how many. Only replicas and time are made up. An event is an arrival, something at a replica, a replica that is ready, or a look
at the policy: a few per request, none per token, so that memory is the trace's and time is linear.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, inf
from typing import Any

from headrace.gateway.admission import Effect, Queue, Serve
from headrace.scaling.base import Sample
from headrace.scaling.names import Scaler
from headrace.simulate.outcome import NEVER, Change, Outcome, Point, over, spread
from headrace.simulate.replica import Rates, SimulatedReplica
from headrace.simulate.traces import Trace

_POINTS = 600
"""Moments that are kept of a run."""
_TAIL_SECONDS = 86_400.0
"""What waits a day after the last arrival is never served by this policy."""
_CHANGES = 10_000
"""Changes that are kept of a run; a policy that makes more is told by its picture."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all policies: the replicas, the queue in front, how long a start takes, with how many it begins."""

    rates: Rates
    cold_start_seconds: float = 120.0
    queue_limit: int = 1_000_000
    wait_seconds: float = 1e9
    limit_seconds: float | None = None
    initial: int = 0


def run(trace: Trace, setting: Setting, scaler: Scaler) -> Outcome:
    """The trace under this policy, until its last request is over."""
    simulation = _Simulation(trace, setting, scaler)
    simulation.run()
    return simulation.outcome()


def first_replicas(trace: Trace, rates: Rates, least: int, most: int, seconds: float = 300.0) -> int:
    """Replicas that the first minutes need at 80 % of their slots, so that no policy is judged by how it begins."""
    until = trace.at[0] + seconds if len(trace) else 0.0
    batch, work = 0.8 * rates.slots, 0.0
    for at, prompt, output in zip(trace.at, trace.prompt, trace.output, strict=True):
        if at > until:
            break
        work += rates.work(prompt, output, batch)
    return min(most, max(least, ceil(work / seconds)))


class _Simulation:
    def __init__(self, trace: Trace, setting: Setting, scaler: Scaler) -> None:
        self._trace, self._setting, self._scaler = trace, setting, scaler
        self._queue: Queue[int] = Queue(setting.queue_limit, setting.wait_seconds)
        self._replicas: dict[str, SimulatedReplica] = {}
        self._events: list[tuple[float, int, str]] = []
        self._order = 0
        self._state: Any = None
        self._wanted = setting.initial
        self._arrivals = 0
        self._starts = self._most = 0
        self._used_seconds = 0.0
        self._full = self._expired = 0
        self._waits = array("d", bytes(8 * len(trace)))
        self._firsts = array("d", [NEVER]) * len(trace)
        self._points: list[Point] = []
        self._changes: list[Change] = []
        self._now = 0.0

    def run(self) -> None:
        """Everything that happens, in order."""
        at, count, coming = self._trace.at, len(self._trace), 0
        self._begin(self._setting.initial)
        look = 0.0
        look_at_queue = 1.0
        last = at[-1] + _TAIL_SECONDS if count else 0.0
        while (coming < count or self._alive()) and self._now < last:
            arrival = at[coming] if coming < count else inf
            event = self._events[0][0] if self._events else inf
            self._now = min(arrival, event, look)
            if arrival <= event and arrival <= look:
                self._arrivals += 1
                self._do(self._queue.arrived(coming, arrival))
                coming += 1
            elif event <= look:
                self._happen(*heappop(self._events))
            else:
                self._look(look)
                look += self._scaler.every_seconds
            if self._now >= look_at_queue:
                self._expire()
                look_at_queue = self._now + 1.0

    def outcome(self) -> Outcome:
        """The sums."""
        for ticket in self._queue.waiting():
            self._waits[ticket] = self._now - self._trace.at[ticket]
            self._expired += 1
        for replica in self._replicas.values():
            self._used_seconds += self._now - replica.started_at
        limit, firsts = self._setting.limit_seconds, self._firsts
        return Outcome(
            policy=self._scaler.name,
            requests=len(self._trace),
            full=self._full,
            expired=self._expired,
            over=over(firsts, limit),
            limit_seconds=limit,
            wait=spread(self._waits),
            ttft=spread([first for first in firsts if first >= 0]),
            replica_seconds=self._used_seconds,
            gpu_hours=self._used_seconds * self._setting.rates.gpus / 3600,
            starts=self._starts,
            most=self._most,
            seconds=self._now,
            points=tuple(self._points),
            changes=tuple(self._changes),
        )

    def _alive(self) -> bool:
        return bool(len(self._queue) or any(self._queue.running.values()))

    def _begin(self, replicas: int) -> None:
        for _ in range(replicas):
            self._start(0.0, 0.0)
        self._resize()

    def _start(self, now: float, cold_seconds: float) -> None:
        self._starts += 1
        replica = SimulatedReplica(f"r{self._starts}", self._setting.rates, now, now + cold_seconds)
        self._replicas[replica.name] = replica
        if cold_seconds:
            self._push(replica.ready_at, replica.name)
        self._most = max(self._most, len(self._replicas))

    def _push(self, when: float, name: str) -> None:
        self._order += 1
        heappush(self._events, (when, self._order, name))

    def _resize(self) -> None:
        slots = self._setting.rates.slots
        ready = {name: slots for name, replica in self._replicas.items() if not replica.drains and replica.ready_at <= self._now}
        self._do(self._queue.resized(ready, self._now))

    def _do(self, effects: Sequence[Effect[int]]) -> None:
        trace, now = self._trace, self._now
        for effect in effects:
            ticket = effect.ticket
            self._waits[ticket] = now - trace.at[ticket]
            if isinstance(effect, Serve):
                replica = self._replicas[effect.replica]
                if replica.begin(ticket, trace.prompt[ticket], trace.output[ticket], now):
                    self._push(replica.next, replica.name)
            elif effect.cause == "full":
                self._full += 1
            else:
                self._expired += 1
                self._waits[ticket] = self._setting.wait_seconds  # the gateway looks more often than we do

    def _happen(self, when: float, order: int, name: str) -> None:
        replica = self._replicas.get(name)
        if replica is None:
            return
        if when == replica.ready_at and not replica.busy:
            self._resize()
        elif when == replica.next:  # an event that was put off by a prompt stays in the heap and is passed over here
            self._advance(replica, when)

    def _advance(self, replica: SimulatedReplica, now: float) -> None:
        first, done = replica.advance(now)
        if first is not None:
            self._firsts[first] = now - self._trace.at[first]
        if replica.next < inf:
            self._push(replica.next, replica.name)
        for ticket in done:
            self._do(self._queue.left(ticket, now))
        if replica.drains and not replica.busy:
            self._stop(replica)

    def _stop(self, replica: SimulatedReplica) -> None:
        self._used_seconds += self._now - replica.started_at
        del self._replicas[replica.name]

    def _expire(self) -> None:
        if self._queue and self._setting.wait_seconds < 1e8:
            self._do(self._queue.tick(self._now))

    def _look(self, now: float) -> None:
        sample = self._sample(now)
        decision, self._state = self._scaler.decide(sample, self._state)
        if decision.replicas != self._wanted and len(self._changes) < _CHANGES:
            self._changes.append(Change(now, self._wanted, decision.replicas, decision.reason))
        self._wanted = decision.replicas
        self._arrivals = 0
        self._follow(now, decision.replicas - (sample.ready or 0) - (sample.starting or 0))
        if now >= len(self._points) * self._trace.seconds / _POINTS and len(self._points) < 2 * _POINTS:
            self._points.append(_point(sample))

    def _sample(self, now: float) -> Sample:
        there = [replica for replica in self._replicas.values() if not replica.drains]
        starting = sum(replica.ready_at > now for replica in there)
        return Sample(
            now,
            waiting=len(self._queue),
            running=sum(self._queue.running.values()),
            arrivals=self._arrivals,
            service_seconds=self._queue.service_seconds,
            ready=len(there) - starting,
            starting=starting,
            draining=len(self._replicas) - len(there),
        )

    def _follow(self, now: float, missing: int) -> None:
        """Start what is missing, or let go what is too much: the newest of those that start, then who has the least to lose."""
        for _ in range(missing):
            self._start(now, self._setting.cold_start_seconds)
        if missing > 0 and not self._setting.cold_start_seconds:
            self._resize()
        if missing >= 0:
            return
        there = [replica for replica in self._replicas.values() if not replica.drains]
        there.sort(key=lambda replica: (replica.ready_at <= now, self._queue.running.get(replica.name, 0), -replica.started_at))
        for replica in there[:-missing]:
            replica.drains = True
            if not replica.busy:
                self._stop(replica)
        self._resize()


def _point(sample: Sample) -> Point:
    return Point(
        sample.now,
        sample.ready or 0,
        sample.starting or 0,
        sample.draining or 0,
        sample.waiting or 0,
        sample.running or 0,
    )
