"""How long a start of each model takes, by the starts on record and those of this run."""

from collections.abc import Mapping
from typing import Protocol

from headrace.engines.base import Placement
from headrace.plan.base import Plan
from headrace.targets.base import StartTimes

_NEWEST = 0.5  # weight of the newest start: a file that is in memory by then loads faster than at first


class Records(Protocol):
    """Starts that are kept from one run to the next."""

    def expected(self, *, awake: bool = False) -> Mapping[tuple[str, str], tuple[float, int]]:
        """By (engine, weights): seconds until ready, and how many starts say so; `awake`: of waking where it slept in place."""

    def keep(self, times: StartTimes) -> None:
        """Put one more on record."""


class ColdStarts:
    """`seconds` are those from a start to the first answer, by model, as far as any was measured, and `wakes` those from waking
    a replica that slept in place.
    """

    def __init__(self, plan: Plan, records: Records) -> None:
        self._records = records
        self._models: dict[str, tuple[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.wakes: dict[str, float] = {}
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """These are the models from now on."""
        placements = {model.name: model.replicas[0] for model in plan.models if model.replicas}
        before = self._models
        self._models = {name: (p.engine, p.weights) for name, p in placements.items() if isinstance(p, Placement)}
        for learned, awake in ((self.seconds, False), (self.wakes, True)):
            expected = self._records.expected(awake=awake)
            new = {name: expected[key][0] for name, key in self._models.items() if key in expected and before.get(name) != key}
            known = {name: seconds for name, seconds in learned.items() if before.get(name) == self._models.get(name)}
            learned.clear()
            learned.update({**known, **new})

    def learned(self, times: StartTimes) -> None:
        """A start is over."""
        self._records.keep(times)
        took, learned = times.load_seconds + times.warm_seconds, self.wakes if times.level else self.seconds
        for name, key in self._models.items():
            if key == (times.engine, times.weights):
                before = learned.get(name, took)
                learned[name] = before + _NEWEST * (took - before)
