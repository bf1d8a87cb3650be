"""What a target is: a place that makes a plan so. Observed replicas in, changes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from headrace.engines.base import Placement, Reading
from headrace.traffic import Endpoint


class State(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    ASLEEP = "asleep"
    STOPPED = "stopped"
    FAILED = "failed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.STARTING: frozenset({State.LOADING, State.READY, State.STOPPED, State.FAILED}),
    State.LOADING: frozenset({State.READY, State.DRAINING, State.STOPPED, State.FAILED}),
    State.READY: frozenset({State.DRAINING, State.STOPPED, State.FAILED}),
    State.DRAINING: frozenset({State.ASLEEP, State.STOPPED, State.FAILED}),
    State.ASLEEP: frozenset({State.LOADING, State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset({State.STARTING, State.FAILED}),
    State.FAILED: frozenset({State.STARTING, State.STOPPED}),
}
"""Legal transitions: anything else is a bug of ours."""

IN_MEMORY = frozenset({State.STARTING, State.LOADING, State.READY, State.DRAINING, State.ASLEEP})
"""States in which a replica holds memory, or is about to."""


@dataclass(frozen=True, slots=True)
class Replica:
    """An observed engine process (or a server that is not ours, when `pid` stays None).

    `endpoint` is there from the moment the replica may be sent requests until it is gone; `restarts` counts starts
    after the first; `retry_at` is when (monotonic seconds) a failed replica may be started again, None when it will
    not be by itself; `reason` is one sentence for the state: why it failed with exit code and last log line, or what
    it waits for.
    """

    name: str
    model: str
    placement: Placement | str
    """What it runs; the address, for a server that is not ours."""
    state: State
    reason: str = ""
    endpoint: Endpoint | None = None
    pid: int | None = None
    exit_code: int | None = None
    restarts: int = 0
    retry_at: float | None = None
    memory_bytes: int | None = None
    reading: Reading | None = None
    since: float = 0.0
    """Monotonic seconds at which the state was entered."""
    slots: int = 0
    """Requests at once; for a server that is not ours, as the plan says."""
    begun: float = 0.0
    """Monotonic seconds at which the present start began."""
    level: int = 0
    """At which it sleeps in place, or from which it wakes; 0: it did not."""
    adapting: Placement | None = None
    """What it is being made to run without a restart, or could not be made to run: then `retry_at` says when to try again."""
    shut: bool = False
    """It closed its door while it was wanted: it goes, and its end is a failure. Until then nothing is started in its place."""

    def entered(self, state: State, now: float, reason: str, **facts: Any) -> "Replica":
        """This replica in another state. AssertionError (also under `python -O`) if the transition is not legal."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.name}: {self.state} → {state} ({reason}) is not a legal transition")
        if state is State.STARTING or (self.state, state) == (State.ASLEEP, State.LOADING):
            facts.setdefault("begun", now)
        return replace(self, state=state, since=now, reason=reason, **facts)


@dataclass(frozen=True, slots=True)
class StartTimes:
    """How long a start took, in seconds: until the engine said that it is ready, and from then until its first answer.

    With a `level` it was no start: a replica woke that slept in place at it.
    """

    engine: str
    weights: str
    load_seconds: float
    warm_seconds: float
    level: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Start a replica (again): a process for a Placement, watching only for an address."""

    replica: str
    model: str
    runs: Placement | str
    slots: int
    reason: str


@dataclass(frozen=True, slots=True)
class Adapt:
    """Make a replica that serves run another placement without a restart: other adapters (see `Engine.adapt`)."""

    replica: str
    runs: Placement
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Send nothing new to a replica; what runs may finish."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put a replica that has drained to sleep in place; where it cannot, it is stopped."""

    replica: str
    level: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake a replica that sleeps in place."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a replica; it is STOPPED until its process is gone, then forgotten."""

    replica: str
    reason: str


Change = Start | Adapt | Drain | Sleep | Wake | Stop


class Target(Protocol):
    """A place that runs replicas. Only the control loop calls `apply`, which is idempotent."""

    async def observe(self) -> tuple[Replica, ...]:
        """Every replica, as it is now."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Carry the changes out; returns once they are under way, not once they are done."""

    async def changed(self, timeout: float) -> None:
        """Return when a replica changed its state, at the latest after `timeout` seconds."""

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last `lines` lines that the replica wrote."""

    async def close(self) -> None:
        """Stop every replica that is ours and wait until they are gone."""
