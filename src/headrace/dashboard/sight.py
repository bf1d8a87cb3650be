"""What the pages may see of a gateway and of control, in one place."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.dashboard.advising import Advisor
from headrace.dashboard.plan_page import WhatIf
from headrace.engines.base import Placement
from headrace.gateway.admin import Admin
from headrace.gateway.served import ServedModel
from headrace.plan.plan import Plan, PlannedModel
from headrace.targets.base import Replica


class Control(Protocol):
    """What control shows, and what it takes."""

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
    def absent(self) -> str:
        """What of the pages there cannot be here, and who knows it instead; empty where control decides by itself."""

    @property
    def wishes(self) -> Mapping[str, str]:
        """What administrators asked for, by model, in words."""

    def choices(self, model: str) -> Sequence[tuple[str, str]]:
        """What may be asked for now: (want, in words)."""

    def wish(self, model: str, want: str, by: str) -> str:
        """Ask for so many replicas; why that cannot be, or nothing."""

    def moves(self, model: str) -> Sequence[tuple[str, str]]:
        """Every other engine for a model, with why it cannot be moved to (empty: it may be tried). Takes a moment.

        Raises HeadraceError where it cannot be moved at all.
        """

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines that a replica wrote."""


@dataclass(frozen=True, slots=True)
class Sight:
    """`history` is the file of what happened; None where none is kept. `usd_per_hour` is what the machine costs, where the file
    says so. `what_if` is what the page for plans works with, `advisor` judges what was recorded; None where there is neither.
    """

    admin: Admin
    control: Control
    history: Path | None
    usd_per_hour: float | None = None
    what_if: WhatIf | None = None
    advisor: Advisor | None = None

    @property
    def models(self) -> Mapping[str, ServedModel]:
        return self.admin.gateway.models

    @property
    def keyed(self) -> bool:
        """Whether pages have to send a key."""
        return self.admin.gateway.keys is not None

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

    def engine(self, name: str) -> str:
        """What a model runs on, empty where that is not known."""
        planned = self.planned(name)
        return next((one.engine for one in planned.replicas if isinstance(one, Placement)), "") if planned else ""

    def by_model(self) -> dict[str, list[Replica]]:
        """What was observed last."""
        found: dict[str, list[Replica]] = {}
        for replica in self.control.replicas:
            found.setdefault(replica.model, []).append(replica)
        return found

    def wall(self, at: float) -> float:
        """Monotonic seconds as seconds since 1970."""
        return time.time() - time.monotonic() + at
