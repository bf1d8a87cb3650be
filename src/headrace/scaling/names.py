"""Policies by name, in one shape: what the simulator runs and the command line names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headrace.errors import UsageError
from headrace.scaling import kpa
from headrace.scaling.base import Decision, Policy, Sample, moved
from headrace.scaling.fields import Fields, Steps, fields
from headrace.scaling.hpa import Behaviour, Direction, Hpa, Rule, Version
from headrace.scaling.keda import Answer, Fallback, KedaState, ScaledObject, hpa_sync, poll
from headrace.scaling.ours import decide

_SYNC_SECONDS = 15.0
_SCRAPE_SECONDS = 15.0
"""Of the PodMonitors that we render, and Prometheus operators' usual choice."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """A policy with a name: asked every `every_seconds`, it gives a decision and what it wants to be given next time."""

    name: str
    every_seconds: float
    decide: Callable[[Sample, Any], tuple[Decision, Any]]


def scaler(name: str, policy: Policy, version: Version = "master") -> Scaler:
    """The policy of this name with these limits. `fixed:3` is three replicas. Raises UsageError for names that there are not."""
    if name.startswith("fixed:") and name[6:].isdigit():
        return fixed(int(name[6:]))
    if name not in _NAMES:
        raise UsageError(f'"{name}" is not a policy.', f"There are {', '.join(_NAMES)} and fixed:N.")
    return _NAMES[name](policy, version)


def names() -> tuple[str, ...]:
    """All names; `fixed:N` besides."""
    return tuple(_NAMES)


def headrace(policy: Policy, version: Version = "master") -> Scaler:
    """Our own control loop."""
    return Scaler("headrace", 1.0, partial(decide, policy))


def plain_keda(policy: Policy, version: Version = "master") -> Scaler:
    """KEDA as in most guides: more than 10 waiting per replica, no `behavior`."""
    scaled = ScaledObject(10.0, policy.least, policy.most, hpa=Hpa(1, policy.most, version=version))
    return _keda("keda", scaled, lambda sample: sample.waiting, _SCRAPE_SECONDS)


def rendered_keda(policy: Policy, version: Version = "master") -> Scaler:
    """KEDA with the ScaledObject that Headrace renders for this policy, which asks the gateway itself."""
    return _keda("keda-rendered", scaled_object(fields(policy), version), _in_flight, 0.0)


def keda_by_us(policy: Policy, version: Version = "master") -> Scaler:
    """KEDA told the replicas that our policy wants, one for one: its scaler is the gateway, and the HPA only follows."""
    steps = Direction((Rule("Percent", 900, 15),), 0.0), Direction((Rule("Percent", 100, 15),), 0.0)
    hpa = Hpa(1, policy.most, behaviour=Behaviour(*steps), version=version)
    scaled = ScaledObject(1.0, policy.least, policy.most, polling_seconds=5.0, cooldown_seconds=0.0, hpa=hpa)
    wanted: dict[str, float] = {"replicas": 0.0}
    keda = _keda("keda-by-headrace", scaled, lambda sample: wanted["replicas"], 0.0)

    def both(sample: Sample, state: Any) -> tuple[Decision, Any]:
        own, its = state or (None, None)
        decision, own = decide(policy, sample, own)
        wanted["replicas"] = float(decision.replicas)
        done, its = keda.decide(sample, its)
        return replace(done, reason=decision.reason), (own, its)

    return Scaler(keda.name, keda.every_seconds, both)


def knative(policy: Policy, version: Version = "master") -> Scaler:
    """Knative's KPA."""
    return Scaler("kpa", kpa.EVERY_SECONDS, partial(kpa.kpa, policy))


def fixed(replicas: int) -> Scaler:
    """So many, always."""

    def stay(sample: Sample, state: Any) -> tuple[Decision, Any]:
        return Decision(replicas, "hold", f"fixed at {replicas}"), None

    return Scaler(f"fixed:{replicas}", 60.0, stay)


def scaled_object(numbers: Fields, version: Version = "master") -> ScaledObject:
    """What KEDA and the HPA make of the rendered numbers."""
    return ScaledObject(
        float(numbers.threshold),
        numbers.least,
        numbers.most,
        ignore_null=False,
        polling_seconds=float(numbers.polling_seconds or 30),
        cooldown_seconds=float(numbers.cooldown_seconds or 300),
        fallback=Fallback(numbers.failure_threshold, max(1, numbers.least), "currentReplicasIfHigher"),
        hpa=Hpa(1, numbers.most, behaviour=Behaviour(_direction(numbers.up), _direction(numbers.down)), version=version),
    )


def _direction(steps: Steps) -> Direction:
    percent = (Rule("Percent", steps.percent, steps.period_seconds),) if steps.percent else ()
    return Direction((Rule("Pods", steps.pods, steps.period_seconds), *percent), float(steps.window_seconds))


_NAMES: Mapping[str, Callable[[Policy, Version], Scaler]] = {
    "headrace": headrace,
    "keda": plain_keda,
    "keda-rendered": rendered_keda,
    "keda-by-headrace": keda_by_us,
    "kpa": knative,
}


@dataclass(frozen=True, slots=True)
class _Both:
    """KEDA's operator and the HPA, with when each acts next, and the metric as Prometheus last scraped it."""

    keda: KedaState
    replicas: int
    scraped: float | None
    next_scrape: float
    next_poll: float
    next_sync: float


def _keda(name: str, scaled: ScaledObject, metric: Callable[[Sample], float | None], scrape_seconds: float) -> Scaler:
    every = 2.5 if scaled.polling_seconds % 5 == 0 else 1.0

    def both(sample: Sample, state: _Both | None) -> tuple[Decision, _Both]:
        now = sample.now
        if state is None:
            there = (sample.ready or 0) + (sample.starting or 0)
            # The sync falls in the middle between two scrapes: neither the best nor the worst of phases.
            state = _Both(KedaState(now), there, metric(sample), now + scrape_seconds / 2, now, now)
        if now >= state.next_scrape:
            state = replace(state, scraped=metric(sample), next_scrape=state.next_scrape + scrape_seconds)
        before = state.replicas
        state = _polled(scaled, _synced(scaled, state, sample), now)
        shown = "unknown" if state.scraped is None else f"{state.scraped:g}"
        return Decision(state.replicas, moved(before, state.replicas), f"metric {shown}, {scaled.threshold:g} per replica"), state

    return Scaler(name, every, both)


def _synced(scaled: ScaledObject, state: _Both, sample: Sample) -> _Both:
    if sample.now < state.next_sync:
        return state
    done, keda = hpa_sync(scaled, state.keda, sample.now, _answer(state), state.replicas, sample.ready or 0)
    return replace(state, keda=keda, replicas=done.after, next_sync=state.next_sync + _SYNC_SECONDS)


def _polled(scaled: ScaledObject, state: _Both, now: float) -> _Both:
    if now < state.next_poll:
        return state
    replicas, keda = poll(scaled, state.keda, now, _answer(state), state.replicas)
    return replace(state, keda=keda, replicas=replicas, next_poll=state.next_poll + scaled.polling_seconds)


def _answer(state: _Both) -> Answer:
    return "error" if state.scraped is None else state.scraped


def _in_flight(sample: Sample) -> float | None:
    return None if sample.waiting is None or sample.running is None else sample.waiting + sample.running
