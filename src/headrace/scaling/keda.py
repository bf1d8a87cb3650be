"""KEDA: what its operator does between 0 and N, what it tells the HPA, and the two together.

Rules: facts/keda-hpa.md, sections 3 and 4. KEDA never moves 1 ↔ N and the HPA never leaves 0.
"""

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal

from headrace.scaling.hpa import Hpa, HpaState, Metric, Sync, sync

Answer = float | Literal["empty", "error"]
"""What the query gave: a number, no series, or no answer."""

FallbackKind = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """What counts while the metric fails for longer than `failure_threshold` readings."""

    failure_threshold: int
    replicas: int
    behaviour: FallbackKind = "static"

    def wanted(self, replicas: int) -> int:
        """The replicas that the metric's stand-in asks for."""
        if self.behaviour == "static":
            return self.replicas
        if self.behaviour == "currentReplicas":
            return replicas
        return max(self.replicas, replicas) if self.behaviour == "currentReplicasIfHigher" else min(self.replicas, replicas)


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """One ScaledObject with one Prometheus trigger. Defaults are KEDA's; durations are in seconds."""

    threshold: float
    least: int = 0
    most: int = 100
    idle_replicas: int | None = None
    activation: float = 0.0
    ignore_null: bool = True
    polling_seconds: float = 30.0
    cooldown_seconds: float = 300.0
    initial_cooldown_seconds: float = 0.0
    fallback: Fallback | None = None
    hpa: Hpa = field(default_factory=lambda: Hpa(1, 100))

    @property
    def its_hpa(self) -> Hpa:
        """The HPA that KEDA makes of it: it never has fewer than 1 as its least."""
        return replace(self.hpa, least=max(1, self.least), most=self.most)


@dataclass(frozen=True, slots=True)
class KedaState:
    """What both remember. `failures` in a row are counted by both readers of the metric."""

    created: float
    last_active: float | None = None
    failures: int = 0
    hpa: HpaState = field(default_factory=HpaState)


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric as it is used: None for `value` when it failed, `instead` when a fallback stands in for it."""

    value: float | None
    instead: bool = False


def read(scaled: ScaledObject, state: KedaState, answer: Answer, replicas: int) -> tuple[Reading, KedaState]:
    """The metric's value, or the fallback's, with failures counted."""
    value = _value(scaled, answer)
    if value is not None:
        return Reading(value), replace(state, failures=0)
    state = replace(state, failures=state.failures + 1)
    fallback = scaled.fallback
    if fallback is None or state.failures <= fallback.failure_threshold:
        return Reading(None), state
    return Reading(scaled.threshold * fallback.wanted(replicas), instead=True), state


def poll(scaled: ScaledObject, state: KedaState, now: float, answer: Answer, replicas: int) -> tuple[int, KedaState]:
    """The operator's loop (`RequestScale`): the replicas after it."""
    reading, state = read(scaled, state, answer, replicas)
    active = reading.instead or (reading.value is not None and reading.value > scaled.activation)
    if active:
        idle = scaled.idle_replicas is not None and replicas < scaled.least
        after = max(scaled.least, 1) if replicas == 0 or idle else replicas
        return after, replace(state, last_active=now)
    if reading.value is None and not (scaled.fallback and scaled.fallback.replicas == 0):
        return replicas, state
    return _inactive(scaled, state, now, replicas), state


def hpa_sync(
    scaled: ScaledObject, state: KedaState, now: float, answer: Answer, replicas: int, ready: int
) -> tuple[Sync, KedaState]:
    """One sync of the HPA, which reads the metric through KEDA's adapter."""
    if replicas == 0:
        done, hpa = sync(scaled.its_hpa, state.hpa, now, [], 0, 0)
        return done, replace(state, hpa=hpa)
    reading, state = read(scaled, state, answer, replicas)
    done, hpa = sync(scaled.its_hpa, state.hpa, now, [Metric(reading.value, scaled.threshold)], replicas, ready)
    return done, replace(state, hpa=hpa)


def _value(scaled: ScaledObject, answer: Answer) -> float | None:
    if answer == "error":
        return None
    if answer == "empty" or not isfinite(answer):
        return 0.0 if scaled.ignore_null else None
    return max(0.0, round(answer, 3))


def _inactive(scaled: ScaledObject, state: KedaState, now: float, replicas: int) -> int:
    if scaled.idle_replicas is not None and replicas > scaled.idle_replicas:
        return scaled.idle_replicas if _cooled(scaled, state, now) else replicas
    if replicas > 0 and scaled.least == 0:
        return 0 if _cooled(scaled, state, now) else replicas
    return max(replicas, scaled.least) if scaled.idle_replicas is None else replicas


def _cooled(scaled: ScaledObject, state: KedaState, now: float) -> bool:
    if state.last_active is None:
        return state.created + scaled.initial_cooldown_seconds < now
    return state.last_active + scaled.cooldown_seconds < now
