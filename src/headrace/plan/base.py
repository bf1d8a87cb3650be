"""What a plan is: replicas by model, each choice with its reason."""

from dataclasses import dataclass

from headrace.engines.base import Placement
from headrace.facts.hardware import Card
from headrace.facts.model import ModelFacts
from headrace.traffic import Task


@dataclass(frozen=True, slots=True)
class Decision:
    """A value and the reason for it, in one sentence that CLI, log and dashboard all print."""

    subject: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject} {self.value}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Scale:
    """How the number of replicas follows the load, between `least` and as many as are planned.

    `queue` requests may wait for each replica before there are more. `idle_seconds` is how long a model that may sleep is
    unused before it does; None: it only makes room for others.
    """

    least: int
    queue: int = 0
    idle_seconds: float | None = 600.0


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model of the plan: `replicas` are Placements to start, or addresses of servers that run already.

    With `scale` they are the most that there may be, all of them alike. `refused` says why none can be, where that is so.
    `slots` are those of one replica. `context` is tokens per request, None when only the server knows. `key` is
    `env:NAME` for servers that want one.
    """

    name: str
    task: Task
    facts: ModelFacts | None
    replicas: tuple[Placement | str, ...]
    slots: int
    decisions: tuple[Decision, ...]
    context: int | None = None
    key: str | None = None
    also: tuple[str, ...] = ()
    """Further names that clients may ask for: adapters, the models of a repository."""
    scale: Scale | None = None
    refused: str = ""

    @property
    def sleeps(self) -> bool:
        """Whether there may be no replica at all while nobody asks."""
        return self.scale is not None and self.scale.least == 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that should run."""

    models: tuple[PlannedModel, ...]
    memory_bytes: int | None = None
    """What all replicas together may take; None when nothing here takes any."""
    cards: tuple[Card, ...] = ()
    """The GPUs here that replicas run on, with what was free of each when it was planned."""
    remarks: tuple[str, ...] = ()
    """What to know of this machine, a sentence each."""
