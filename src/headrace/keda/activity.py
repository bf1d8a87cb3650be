"""Which models are asked for: those with requests now, and those that had one a moment ago."""

from collections.abc import Mapping
from dataclasses import dataclass

LINGER_SECONDS = 30.0
"""How long a model counts as active after its last request: KEDA's default pollingInterval, so that a poll sees short requests
too. Without it a model that answers in between two polls, all day long, would be put to sleep."""


@dataclass(frozen=True, slots=True)
class Count:
    """Of one model at one gateway: requests that wait or run now, and all that ever came."""

    now: int
    arrived: int


class Activity:
    """Counts, looked at again and again, become the models that are active."""

    def __init__(self) -> None:
        self.active: frozenset[str] = frozenset()
        self._arrived: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def look(self, counts: Mapping[str, Count], now: float) -> frozenset[str]:
        """The active models by these counts at `now` (monotonic seconds). Models that are counted no more are forgotten."""
        for name, count in counts.items():
            if count.now or count.arrived > self._arrived.get(name, 0):
                self._until[name] = now + LINGER_SECONDS
        self._arrived = {name: count.arrived for name, count in counts.items()}
        self._until = {name: until for name, until in self._until.items() if until > now and name in counts}
        self.active = frozenset(self._until)
        return self.active
