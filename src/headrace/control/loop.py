"""The control loop: observe, decide, apply, and tell the gateway; the one writer, level-triggered."""

import logging
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Protocol

from headrace.control.status import endpoints, statuses
from headrace.plan.plan import Plan
from headrace.targets.base import Change, Replica, Target
from headrace.targets.changes import changes
from headrace.traffic import Endpoint, Load, ModelStatus

LOOK_SECONDS = 1.0
"""How long the loop waits when nothing happens; a replica's change of state shortens it."""

log = logging.getLogger("headrace")


class Front(Protocol):
    """The gateway, as control sees it."""

    def update(self, statuses: Sequence[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        """What may be used now."""

    def loads(self) -> Mapping[str, Load]:
        """What was counted."""


class Loop:
    """Keeps `plan` true on `target`. `plan` may be replaced at any time; the next round makes the new one true.

    `heard` is called with the models' statuses after each look, for whoever tells the user.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        front: Front,
        heard: Callable[[Sequence[ModelStatus]], None],
        drain_seconds: float = 30.0,
    ) -> None:
        self.plan = plan
        self.replicas: tuple[Replica, ...] = ()
        """What was observed last."""
        self._target = target
        self._front = front
        self._heard = heard
        self._drain_seconds = drain_seconds

    async def run(self) -> None:
        """Look, change, look again, until cancelled."""
        while True:
            await self.round()
            await self._target.changed(LOOK_SECONDS)

    async def round(self) -> None:
        """Observe everything, apply the difference to the plan, tell the gateway."""
        self.replicas = await self._target.observe()
        self._tell()
        todo = changes(self.plan, self.replicas, self._front.loads(), monotonic(), self._drain_seconds)
        for change in todo:
            log.info("%s", _sentence(change))
        if todo:
            await self._target.apply(todo)
            self.replicas = await self._target.observe()
            self._tell()

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines that a replica wrote."""
        return self._target.logs(replica, lines)

    def _tell(self) -> None:
        told = statuses(self.plan, self.replicas)
        self._front.update(told, endpoints(self.replicas))
        self._heard(told)


def _sentence(change: Change) -> str:
    return f"{type(change).__name__.lower()} {change.replica}: {change.reason}"
