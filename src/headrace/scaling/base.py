"""The words that whatever scales shares: Policy, Sample, State, Decision."""

from dataclasses import dataclass
from typing import Literal

from headrace.errors import PlanError

Move = Literal["wake", "up", "hold", "down", "sleep"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How replicas of one model follow its load. Durations are in seconds.

    `slots` is what one replica carries within its limits, in requests in flight; `queue` the requests that may wait for each
    replica before there are more. `idle_seconds` is how long a model with `least` 0 is unused before it sleeps.
    """

    least: int
    most: int
    slots: float
    queue: int = 0
    idle_seconds: float = 600.0
    cold_start_seconds: float = 120.0
    """From the decision to the first request served; a measurement in a Sample goes first."""
    utilisation: float = 0.8
    """The share of `slots` to aim at: what is left takes the bursts for which no start is fast enough."""
    trend: float = 0.5
    """How much of the growth seen is expected to go on during one cold start: 0 believes in none, 1 in all of it."""
    drain: float = 0.5
    """A backlog is to be gone in this share of a cold start, 30 s at least: replicas for it alone must be worth their start."""
    hold_seconds: float | None = None
    """A peak of the load is remembered so long before replicas go. None: as long as a start takes, 120 at least, 600 at most."""
    margin: float = 0.2
    """Replicas go only when the others would carry the peak and this share more."""
    up_least: int = 4
    """In one period of `up_seconds` there may be so many more replicas, or twice as many, whichever is more."""
    up_seconds: float = 15.0
    down_share: float = 0.2
    """In one period of `down_seconds` this share of the replicas may go, at least one."""
    down_seconds: float = 60.0
    stale_seconds: float = 60.0
    """When no sample came for so long, what was learned from the past says nothing of now: hold, and start to count anew."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise PlanError(f"Replicas from {self.least} to {self.most} cannot be.", "Write a range such as 0..8.")
        if self.slots <= 0 or not 0 < self.utilisation <= 1:
            raise PlanError(
                f"A replica that carries {self.slots:g} requests at a utilisation of {self.utilisation:g} serves nobody.",
                "Give slots above 0, and a utilisation above 0 and at most 1.",
            )

    @property
    def window_seconds(self) -> float:
        """How long a peak is remembered: giving up a replica pays only when it is not needed for longer than a start takes."""
        if self.hold_seconds is not None:
            return self.hold_seconds
        return min(600.0, max(120.0, self.cold_start_seconds))


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one model at one time; None is unknown or stale, which never takes replicas away.

    `now` is in seconds of any one clock. `arrivals` counts the requests since the last sample, refused ones included.
    `service_seconds` is the mean time that a request holds its slot. `ready` replicas serve, `starting` ones will, `draining`
    ones take nothing new. `slots` and `cold_start_seconds` are measurements that correct those of the policy.
    """

    now: float
    waiting: int | None = None
    running: int | None = None
    arrivals: int | None = None
    service_seconds: float | None = None
    ready: int | None = None
    starting: int | None = None
    draining: int | None = None
    slots: float | None = None
    cold_start_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What a policy remembers from one decision to the next: a value that can be written down and replayed.

    `peaks` are (start of a span of time, largest need in it), the oldest first, bounded. `rate` is in requests per second over
    about the last minute, `slow_rate` over about the last five, `service_seconds` over about the last two, `running` over the
    last seconds; None before the first count. `since` is when counting began. `idle_since` is None while the model is used.
    `rose_from` and `fell_from` are the replicas at the start of the present period of step limits.
    """

    now: float
    replicas: int
    peaks: tuple[tuple[float, float], ...] = ()
    rate: float | None = None
    slow_rate: float | None = None
    service_seconds: float | None = None
    running: float | None = None
    since: float | None = None
    idle_since: float | None = None
    rose_from: tuple[float, int] | None = None
    fell_from: tuple[float, int] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The replicas that there should be, starting ones included, with the reason in one sentence and its numbers."""

    replicas: int
    move: Move
    reason: str


def moved(before: int, after: int) -> Move:
    """What a change of the replicas is called."""
    if before == after:
        return "hold"
    if after > before:
        return "up" if before else "wake"
    return "down" if after else "sleep"
