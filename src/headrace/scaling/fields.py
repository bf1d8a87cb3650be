"""A Policy as the numbers of a ScaledObject: the same rules, as far as KEDA and the HPA can say them.

They cannot say a rate or a trend. What they get: requests in flight and waiting per replica, steps up and down, the memory of
peaks, and the idle time. Formulas of both: facts/keda-hpa.md, sections 3 and 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from headrace.scaling.base import Policy

_POLLING_SECONDS = 5
"""At zero replicas: how long the first request waits unseen."""

_LEAST_PERIOD, _MOST_PERIOD = 60, 1800  # the API takes no longer ones
_LEAST_WINDOW, _MOST_WINDOW = 300, 3600  # the API's most; the least is the HPA's own default


@dataclass(frozen=True, slots=True)
class Steps:
    """How far the HPA may go in one direction: the larger of both, in one period. `percent` 0 is left out."""

    window_seconds: int
    pods: int
    percent: int
    period_seconds: int

    @property
    def behaviour(self) -> dict[str, Any]:
        """One direction of the HPA's `behavior`."""
        percent = {"type": "Percent", "value": self.percent, "periodSeconds": self.period_seconds}
        return {
            "stabilizationWindowSeconds": self.window_seconds,
            "policies": [
                {"type": "Pods", "value": self.pods, "periodSeconds": self.period_seconds},
                *([percent] if self.percent else []),
            ],
            "selectPolicy": "Max",
        }


@dataclass(frozen=True, slots=True)
class Fields:
    """The numbers of one ScaledObject on running + waiting requests; durations in whole seconds.

    `polling_seconds` and `cooldown_seconds` are None where the model never sleeps: they would mean nothing there.
    """

    least: int
    most: int
    threshold: int
    up: Steps
    down: Steps
    polling_seconds: int | None = None
    cooldown_seconds: int | None = None
    failure_threshold: int = 3

    @property
    def behaviour(self) -> dict[str, Any]:
        """The HPA's `behavior`."""
        return {"scaleUp": self.up.behaviour, "scaleDown": self.down.behaviour}

    @property
    def fallback(self) -> Mapping[str, Any]:
        """What there is while the metric fails: what there was, and never none."""
        return {
            "failureThreshold": self.failure_threshold,
            "replicas": max(1, self.least),
            "behavior": "currentReplicasIfHigher",
        }


def fields(policy: Policy) -> Fields:
    """The ScaledObject's numbers for a policy.

    Up: at most twice as many while a start takes, because the HPA reads the same backlog again and again while replicas load, and
    would ask for more each time. Down: a share of those there, one at least, after the peak has been forgotten.
    """
    cold = ceil(policy.cold_start_seconds)
    asleep = policy.least == 0
    return Fields(
        least=policy.least,
        most=policy.most,
        threshold=max(1, int(policy.slots * policy.utilisation)) + policy.queue,
        up=Steps(0, 2, 100, min(_MOST_PERIOD, max(_LEAST_PERIOD, cold))),
        down=Steps(min(_MOST_WINDOW, max(_LEAST_WINDOW, cold)), 1, 0, 120),
        polling_seconds=_POLLING_SECONDS if asleep else None,
        cooldown_seconds=int(policy.idle_seconds) if asleep else None,
    )
