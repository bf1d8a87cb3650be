"""The HPA's decisions for external metrics, rule for rule: Kubernetes' `pkg/controller/podautoscaler`.

Every rule is in facts/keda-hpa.md, section 5; the recorded traces of section 6 are reproduced row by row. Two versions: `1.20` as
recorded, `master` with its later accounting of steps and its later stabilisation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

Select = Literal["Max", "Min", "Disabled"]
Version = Literal["1.20", "master"]
Timed = tuple[tuple[float, int], ...]

DOWN_SECONDS = 300.0
"""The controller's own scale-down stabilisation; also what `behavior` without a window gets on the way down."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `policies`: so many pods, or percent of those there, per period."""

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Direction:
    """`scaleUp` or `scaleDown`. `window_seconds` None: what defaulting fills in."""

    rules: tuple[Rule, ...]
    window_seconds: float | None = None
    select: Select = "Max"
    tolerance: float | None = None


UP = Direction((Rule("Pods", 4, 15), Rule("Percent", 100, 15)), 0.0)
DOWN = Direction((Rule("Percent", 100, 15),), None)
"""What the API fills in for the direction that `behavior` does not name (and only when there is a `behavior`)."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    up: Direction = UP
    down: Direction = DOWN


@dataclass(frozen=True, slots=True)
class Hpa:
    """One HPA on external metrics, each with the same kind of target. `behaviour` None is not the same as its defaults."""

    least: int
    most: int
    kind: Literal["AverageValue", "Value"] = "AverageValue"
    behaviour: Behaviour | None = None
    tolerance: float = 0.1
    down_seconds: float = DOWN_SECONDS
    version: Version = "master"


@dataclass(frozen=True, slots=True)
class HpaState:
    """What the controller remembers: proposals before limits, and its own changes, each with its time. Bounded by its windows."""

    proposals: Timed = ()
    changes: Timed = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric's answer (None: it failed) and its target."""

    value: float | None
    target: float


@dataclass(frozen=True, slots=True)
class Sync:
    """What one sync decided: None for `proposed` when nothing was; `why` in the words of the recorded traces."""

    proposed: int | None
    after: int
    why: str


def sync(hpa: Hpa, state: HpaState, now: float, metrics: Sequence[Metric], replicas: int, ready: int) -> tuple[Sync, HpaState]:
    """One round of the controller. `replicas` is both the asked and the existing count; `ready` matters for `Value` only."""
    if not state.proposals:
        state = replace(state, proposals=((now, replicas),))
    if replicas == 0 and hpa.least:
        return Sync(None, 0, "scaling disabled"), state
    if not hpa.least <= replicas <= hpa.most:
        after = min(hpa.most, max(hpa.least, replicas))
        return Sync(None, after, "outside the range"), _changed(hpa, state, now, after - replicas)
    proposed = _largest(hpa, metrics, replicas, ready)
    if proposed is None:
        return Sync(None, replicas, "metric failed"), state
    after, state = _limited(hpa, state, now, replicas, proposed)
    why = "held" if after == replicas else "metric above target" if after > replicas else "metric below target"
    return Sync(proposed, after, why), _changed(hpa, state, now, after - replicas)


def propose(hpa: Hpa, metric: Metric, replicas: int, ready: int) -> int | None:
    """What one metric asks for, in milli-units as quantities are; None when it failed."""
    if metric.value is None:
        return None
    value, target = round(metric.value * 1000), round(metric.target * 1000)
    if hpa.kind == "Value":
        ratio = value / target
        return replicas if _tolerated(hpa, ratio) else ceil(ratio * ready)
    if replicas and _tolerated(hpa, value / (target * replicas)):
        return replicas
    return -(-value // target)


def _tolerated(hpa: Hpa, ratio: float) -> bool:
    direction = hpa.behaviour and (hpa.behaviour.up if ratio > 1 else hpa.behaviour.down)
    own = direction.tolerance if direction and hpa.version == "master" else None
    return abs(1.0 - ratio) <= (hpa.tolerance if own is None else own)


def _largest(hpa: Hpa, metrics: Sequence[Metric], replicas: int, ready: int) -> int | None:
    """The largest proposal. While any metric fails, master does not scale in; 1.20 forgets the failing ones."""
    proposals = [propose(hpa, metric, replicas, ready) for metric in metrics]
    known = [proposal for proposal in proposals if proposal is not None]
    if not known or (hpa.version == "master" and len(known) < len(proposals) and max(known) < replicas):
        return None
    return max(known)


def _limited(hpa: Hpa, state: HpaState, now: float, replicas: int, proposed: int) -> tuple[int, HpaState]:
    if hpa.behaviour is None:
        return _legacy(hpa, state, now, replicas, proposed)
    stable, proposals = _stable(hpa, hpa.behaviour, state.proposals, now, replicas, proposed)
    after = stable
    if stable > replicas:
        after = min(stable, hpa.most, _up_limit(hpa, hpa.behaviour.up, state.changes, now, replicas))
    elif stable < replicas:
        after = max(stable, hpa.least, _down_limit(hpa, hpa.behaviour.down, state.changes, now, replicas))
    return after, replace(state, proposals=proposals)


def _legacy(hpa: Hpa, state: HpaState, now: float, replicas: int, proposed: int) -> tuple[int, HpaState]:
    """Without `behavior`: at most the double or 4, and down in one step once every proposal of the window is lower."""
    kept = tuple((when, what) for when, what in state.proposals if when >= now - hpa.down_seconds)
    stable = max(proposed, *(what for _, what in kept), 0)
    after = max(hpa.least, min(stable, hpa.most, max(2 * replicas, 4)))
    return after, replace(state, proposals=(*kept, (now, proposed)))


def _stable(hpa: Hpa, behaviour: Behaviour, proposals: Timed, now: float, replicas: int, proposed: int) -> tuple[int, Timed]:
    up_window = behaviour.up.window_seconds or 0.0
    down_window = hpa.down_seconds if behaviour.down.window_seconds is None else behaviour.down.window_seconds

    def younger(window: float) -> Iterable[int]:
        return (what for when, what in proposals if when > now - window)

    lowest, highest = min((proposed, *younger(up_window))), max((proposed, *younger(down_window)))
    stable = min(max(replicas, lowest), highest) if hpa.version == "master" else lowest if proposed >= replicas else highest
    window = max(up_window, down_window)
    return stable, (*((when, what) for when, what in proposals if when >= now - window), (now, proposed))


def _up_limit(hpa: Hpa, direction: Direction, changes: Timed, now: float, replicas: int) -> int:
    def limit(rule: Rule) -> int:
        start = replicas - _added(changes, now, rule)
        if hpa.version == "master":
            start += _removed(changes, now, rule)
        return start + rule.value if rule.type == "Pods" else ceil(start * (1 + rule.value / 100))

    return max(replicas, _selected(direction, [limit(rule) for rule in direction.rules], replicas, max, min))


def _down_limit(hpa: Hpa, direction: Direction, changes: Timed, now: float, replicas: int) -> int:
    def limit(rule: Rule) -> int:
        start = replicas + _removed(changes, now, rule)
        if hpa.version == "master":
            start -= _added(changes, now, rule)
        return start - rule.value if rule.type == "Pods" else floor(start * (1 - rule.value / 100))

    return min(replicas, _selected(direction, [limit(rule) for rule in direction.rules], replicas, min, max))


def _selected(direction: Direction, limits: list[int], replicas: int, larger: object, smaller: object) -> int:
    if direction.select == "Disabled" or not limits:
        return replicas
    choose = larger if direction.select == "Max" else smaller
    assert callable(choose)
    return int(choose(limits))


def _added(changes: Timed, now: float, rule: Rule) -> int:
    return sum(change for when, change in changes if change > 0 and when > now - rule.period_seconds)


def _removed(changes: Timed, now: float, rule: Rule) -> int:
    return -sum(change for when, change in changes if change < 0 and when > now - rule.period_seconds)


def _changed(hpa: Hpa, state: HpaState, now: float, change: int) -> HpaState:
    """Its own changes are remembered while `behavior` counts them; those of KEDA and of people are not."""
    if hpa.behaviour is None or not change:
        return state
    rules = (*hpa.behaviour.up.rules, *hpa.behaviour.down.rules)
    longest = max((rule.period_seconds for rule in rules), default=0.0)
    kept = tuple((when, what) for when, what in state.changes if when > now - longest)
    return replace(state, changes=(*kept, (now, change)))
