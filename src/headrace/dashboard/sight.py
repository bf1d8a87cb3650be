"""What the pages may see of a gateway and of control, in one place."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.gateway.admin import Admin
from headrace.gateway.served import ServedModel
from headrace.plan.plan import Plan, PlannedModel
from headrace.targets.base import Replica


class Control(Protocol):
    """What control shows, and the one thing that it takes."""

    @property
    def plan(self) -> Plan | None:
        """What should run; None while weights are still being fetched."""

    @property
    def replicas(self) -> Sequence[Replica]:
        """What was observed last."""

    @property
    def decisions(self) -> Sequence[tuple[float, str, str]]:
        """(monotonic seconds, model, sentence), the newest last."""

    @property
    def wanted(self) -> Mapping[str, int]:
        """Replicas that there shall be, by model that follows the load."""

    @property
    def wishes(self) -> Mapping[str, str]:
        """What administrators asked for, by model, in words."""

    def choices(self, model: str) -> Sequence[tuple[str, str]]:
        """What may be asked for now: (want, in words)."""

    def wish(self, model: str, want: str, by: str) -> str:
        """Ask for so many replicas; why that cannot be, or nothing."""

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines that a replica wrote."""


@dataclass(frozen=True, slots=True)
class Sight:
    """`history` is the file of what happened; None where none is kept."""

    admin: Admin
    control: Control
    history: Path | None

    @property
    def models(self) -> Mapping[str, ServedModel]:
        return self.admin.gateway.models

    @property
    def draining(self) -> bool:
        return self.admin.gateway.draining

    @property
    def wanted(self) -> Mapping[str, int]:
        return self.control.wanted

    @property
    def decisions(self) -> Sequence[tuple[float, str, str]]:
        return self.control.decisions

    def planned(self, name: str) -> PlannedModel | None:
        """What the plan says of a model."""
        plan = self.control.plan
        return next((model for model in plan.models if model.name == name), None) if plan else None

    def by_model(self) -> dict[str, list[Replica]]:
        """What was observed last."""
        found: dict[str, list[Replica]] = {}
        for replica in self.control.replicas:
            found.setdefault(replica.model, []).append(replica)
        return found

    def wall(self, at: float) -> float:
        """Monotonic seconds as seconds since 1970."""
        return time.time() - time.monotonic() + at
