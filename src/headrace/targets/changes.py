"""(plan, observed, loads) → Changes: what to do next, decided from scratch each time (level-triggered)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Change, Drain, Replica, Start, State, Stop
from headrace.traffic import Load
from headrace.units import show_duration

_KEEP_FIRST = (State.READY, State.LOADING, State.STARTING, State.FAILED)
"""Of replicas that run the same, which to keep; those in other states are on their way out."""


def changes(
    plan: Plan, observed: Sequence[Replica], loads: Mapping[str, Load], now: float, drain_seconds: float = 30.0
) -> tuple[Change, ...]:
    """The changes that bring `observed` closer to `plan`; none when nothing can be done now.

    A replica that runs something else serves until its replacement is ready (both are in memory meanwhile). `loads`
    must be counted after the gateway has learned of `observed`: a replica is stopped once it drains and nothing runs
    there. A model without a load is taken as busy. After `drain_seconds` a replica is stopped whatever runs. Of replicas that
    run the same, those go that have the least to lose: the fewest requests in flight, then the shortest time to fill a cache.
    """
    planned = [
        change for model in plan.models for change in _of_model(model, _of(model.name, observed), loads.get(model.name), now)
    ]
    names = {model.name for model in plan.models}
    orphans = [replica for replica in observed if replica.model not in names]
    unplanned = _retired(orphans, spare=len(orphans), reason="its model is not in the plan")
    stops = (_drained(replica, loads.get(replica.model), now, drain_seconds) for replica in observed)
    return (*planned, *unplanned, *(stop for stop in stops if stop))


def _of(model: str, observed: Iterable[Replica]) -> list[Replica]:
    return [replica for replica in observed if replica.model == model]


def _of_model(model: PlannedModel, observed: list[Replica], load: Load | None, now: float) -> Iterator[Change]:
    kept, missing = _matched(model, observed, load)
    yield from (_again(replica) for replica in kept if _may_retry(replica, now))
    yield from _started(model, missing, {replica.name for replica in observed})
    surplus = [replica for replica in observed if replica not in kept]
    ready = sum(replica.state is State.READY for replica in observed)
    yield from _retired(surplus, spare=ready - len(model.replicas), reason="the plan wants another, or fewer")


def _matched(model: PlannedModel, observed: list[Replica], load: Load | None) -> tuple[list[Replica], list[Placement | str]]:
    """(replicas that run what the plan wants, wanted runs that nothing runs)."""
    missing: list[Placement | str] = list(model.replicas)
    kept = []
    candidates = (replica for replica in observed if replica.state in _KEEP_FIRST)
    for replica in sorted(candidates, key=lambda each: _to_lose(each, load)):
        if replica.placement in missing and _slots_fit(replica, model):
            missing.remove(replica.placement)
            kept.append(replica)
    return kept, missing


def _to_lose(replica: Replica, load: Load | None) -> tuple[int, int, float, int]:
    """What sorts the replica to keep before the others."""
    running = load.running.get(replica.name, 0) if load is not None and replica.state is State.READY else 0
    return _KEEP_FIRST.index(replica.state), -running, replica.since, _number(replica.name)


def _slots_fit(replica: Replica, model: PlannedModel) -> bool:
    """A placement says its slots itself; for an address the plan says them."""
    return not isinstance(replica.placement, str) or replica.slots == model.slots


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _may_retry(replica: Replica, now: float) -> bool:
    return replica.state is State.FAILED and replica.retry_at is not None and replica.retry_at <= now


def _again(replica: Replica) -> Start:
    return Start(replica.name, replica.model, replica.placement, replica.slots, f"again after: {replica.reason}")


def _started(model: PlannedModel, missing: Iterable[Placement | str], taken: set[str]) -> Iterator[Start]:
    free = (name for number in count(1) if (name := f"{model.name}-{number}") not in taken)
    for runs in missing:
        slots = model.slots if isinstance(runs, str) else runs.slots
        yield Start(next(free), model.name, runs, slots, "the plan wants it and it does not run")


def _retired(surplus: Iterable[Replica], spare: int, reason: str) -> Iterator[Change]:
    """Drains up to `spare` ready replicas, highest numbers first; what is not ready serves nobody and is stopped."""
    for replica in sorted(surplus, key=lambda each: _number(each.name), reverse=True):
        if replica.state in (State.STARTING, State.LOADING, State.FAILED):
            yield Stop(replica.name, reason)
        elif replica.state is State.READY and spare > 0:
            spare -= 1
            yield Drain(replica.name, reason)


def _drained(replica: Replica, load: Load | None, now: float, drain_seconds: float) -> Stop | None:
    if replica.state is not State.DRAINING:
        return None
    if load is not None and not load.running.get(replica.name, 0):
        return Stop(replica.name, "drained")
    if now - replica.since >= drain_seconds:
        return Stop(replica.name, f"still busy after draining for {show_duration(drain_seconds)}")
    return None
