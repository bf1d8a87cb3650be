"""What a plan is: replicas by model, each choice with its reason."""

from dataclasses import dataclass

from headrace.engines.base import Placement
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
class PlannedModel:
    """One model of the plan: `replicas` are Placements to start, or addresses of servers that run already.

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


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that should run."""

    models: tuple[PlannedModel, ...]
