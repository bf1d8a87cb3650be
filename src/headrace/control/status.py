"""What stands in a model's way: plan and observed replicas → ModelStatus and Endpoints, the words of the gateway."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from headrace.plan.plan import Plan, PlannedModel
from headrace.targets.base import Replica, State
from headrace.traffic import Endpoint, ModelStatus, Phase
from headrace.units import show_duration

_USABLE = (State.READY, State.DRAINING)
_COMING = (State.STARTING, State.LOADING, State.FAILED)


def endpoints(replicas: Iterable[Replica]) -> list[Endpoint]:
    """The replicas that the gateway may use; one that drains keeps what it has and gets nothing new."""
    return [replica.endpoint for replica in replicas if replica.endpoint is not None and replica.state in _USABLE]


def statuses(
    plan: Plan,
    replicas: Sequence[Replica],
    starts: Mapping[str, float] = MappingProxyType({}),
    blocked: Mapping[str, str] = MappingProxyType({}),
    now: float | None = None,
) -> list[ModelStatus]:
    """Every planned model, with its phase and the reason for it.

    By model, `starts` says how many seconds a start should take, `blocked` why it gets no more replicas now. `now` is monotonic.
    """
    return [
        status(
            model,
            [replica for replica in replicas if replica.model == model.name],
            starts.get(model.name),
            blocked.get(model.name, ""),
            now,
        )
        for model in plan.models
    ]


def status(
    model: PlannedModel,
    replicas: Sequence[Replica],
    start_seconds: float | None = None,
    blocked: str = "",
    now: float | None = None,
) -> ModelStatus:
    """One model: ready when a replica is, failed when none will come back by itself, asleep when one comes if asked for."""
    phase, reason = _phase(model, replicas, start_seconds, blocked)
    left = None if phase in ("ready", "failed") else _seconds_left(replicas, start_seconds, now)
    return ModelStatus(model.name, model.task, phase, reason, model.context, _also(model, replicas), left)


def _also(model: PlannedModel, replicas: Sequence[Replica]) -> frozenset[str]:
    """Its further names. While replicas serve, one that none of them knows yet (an adapter on its way) is no name."""
    usable = endpoints(replicas)
    known = frozenset().union(*(endpoint.also for endpoint in usable))
    return frozenset(model.also) & known if usable else frozenset(model.also)


def _phase(model: PlannedModel, replicas: Sequence[Replica], start_seconds: float | None, blocked: str) -> tuple[Phase, str]:
    if model.refused:
        return "failed", model.refused
    ready = sum(replica.state is State.READY for replica in replicas)
    given_up = [replica for replica in replicas if replica.state is State.FAILED and _for_good(replica)]
    if ready:
        return "ready", _readiness(model, replicas, ready)
    if replicas and len(given_up) == len(replicas):
        return "failed", given_up[0].reason
    if model.sleeps and not any(replica.state in _COMING for replica in replicas):
        takes = f", which takes about {show_duration(start_seconds)}" if start_seconds else ""
        comes = "wakes" if any(replica.state is State.ASLEEP for replica in replicas) else "starts"
        return "asleep", blocked or f"it {comes} when somebody asks{takes}"
    failed = [replica for replica in replicas if replica.state is State.FAILED]
    waiting = failed or [replica for replica in replicas if replica.state is not State.STOPPED]
    reason = f"{waiting[0].name} is {waiting[0].state.value}: {waiting[0].reason}" if waiting else "no replica was started yet"
    return "loading", reason


def _readiness(model: PlannedModel, replicas: Sequence[Replica], ready: int) -> str:
    down = [replica for replica in replicas if replica.state is State.FAILED]
    many = f"of {len(model.replicas)}" if model.scale is None else f"of {model.scale.least}..{len(model.replicas)}"
    reason = f"{ready} {many} replicas ready"
    return reason + (f"; {down[0].name} failed: {down[0].reason}" if down else "")


def _seconds_left(replicas: Sequence[Replica], start_seconds: float | None, now: float | None) -> float | None:
    """Until the start that is furthest along should be over; a whole start when none has begun."""
    if start_seconds is None:
        return None
    begun = [replica.begun for replica in replicas if replica.state in (State.STARTING, State.LOADING)]
    return max(0.0, start_seconds - (now - min(begun))) if begun and now is not None else start_seconds


def _for_good(replica: Replica) -> bool:
    """Not to be started again, and not a server elsewhere, which may answer again at any time."""
    return replica.retry_at is None and not isinstance(replica.placement, str)
