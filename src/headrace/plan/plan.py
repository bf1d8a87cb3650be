"""plan(spec, facts, machine) → Plan: which replicas run, with what, and why. The entry of the planning room."""

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
    """One model of the plan: `replicas` are Placements to start, or addresses of servers that run already."""

    name: str
    task: Task
    facts: ModelFacts | None
    replicas: tuple[Placement | str, ...]
    slots: int
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that should run."""

    models: tuple[PlannedModel, ...]
