"""What a simulation found: waiting, refusals, GPU-hours, and replicas over time."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

NEVER = -1.0
"""The time of what did not happen: the first token of a request that was refused."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a duration is distributed over requests, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Point:
    """One moment."""

    at: float
    ready: int
    starting: int
    draining: int
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the replicas that were wanted, with its reason."""

    at: float
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy made of one trace.

    `wait` is the time in the gateway's queue of all requests, the refused ones until they were refused; `ttft` that to the first
    token of those served. `over` counts requests over the limit: refused, expired, or with a first token later than
    `limit_seconds` (None: no limit). `replica_seconds` counts from the start of a replica, its cold start included, to the end of
    its drain.
    """

    policy: str
    requests: int
    full: int
    expired: int
    over: int
    limit_seconds: float | None
    wait: Spread
    ttft: Spread
    replica_seconds: float
    gpu_hours: float
    starts: int
    most: int
    seconds: float
    points: tuple[Point, ...]
    changes: tuple[Change, ...]

    @property
    def met(self) -> float:
        """The share of requests within the limit."""
        return 1 - self.over / self.requests if self.requests else 1.0

    @property
    def mean_replicas(self) -> float:
        return self.replica_seconds / self.seconds if self.seconds else 0.0


def spread(values: Sequence[float]) -> Spread:
    """The spread of durations; zeros for none."""
    ordered = sorted(values) or [0.0]

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Spread(sum(ordered) / len(ordered), at(0.5), at(0.95), at(0.99), ordered[-1])


def over(firsts: "array[float]", limit: float | None) -> int:
    """Requests without a first token, or with one later than the limit."""
    if limit is None:
        return sum(first < 0 for first in firsts)
    return sum(first < 0 or first > limit for first in firsts)
