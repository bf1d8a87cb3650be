"""What stands in a model's way: plan and observed replicas → ModelStatus and Endpoints, the words of the gateway."""

from collections.abc import Iterable, Sequence

from headrace.plan.plan import Plan, PlannedModel
from headrace.targets.base import Replica, State
from headrace.traffic import Endpoint, ModelStatus, Phase

_USABLE = (State.READY, State.DRAINING)


def endpoints(replicas: Iterable[Replica]) -> list[Endpoint]:
    """The replicas that the gateway may use; one that drains keeps what it has and gets nothing new."""
    return [replica.endpoint for replica in replicas if replica.endpoint is not None and replica.state in _USABLE]


def statuses(plan: Plan, replicas: Sequence[Replica]) -> list[ModelStatus]:
    """Every planned model, with its phase and the reason for it."""
    return [status(model, [replica for replica in replicas if replica.model == model.name]) for model in plan.models]


def status(model: PlannedModel, replicas: Sequence[Replica]) -> ModelStatus:
    """One model: ready when a replica is, failed when none will come back by itself, else loading."""
    phase, reason = _phase(model, replicas)
    return ModelStatus(model.name, model.task, phase, reason, model.context, frozenset(model.also))


def _phase(model: PlannedModel, replicas: Sequence[Replica]) -> tuple[Phase, str]:
    ready = sum(replica.state is State.READY for replica in replicas)
    given_up = [replica for replica in replicas if replica.state is State.FAILED and _for_good(replica)]
    if ready:
        down = [replica for replica in replicas if replica.state is State.FAILED]
        reason = f"{ready} of {len(model.replicas)} replicas ready"
        reason += f"; {down[0].name} failed: {down[0].reason}" if down else ""
        return "ready", reason
    if replicas and len(given_up) == len(replicas):
        return "failed", given_up[0].reason
    failed = [replica for replica in replicas if replica.state is State.FAILED]
    waiting = failed or [replica for replica in replicas if replica.state is not State.STOPPED]
    reason = f"{waiting[0].name} is {waiting[0].state.value}: {waiting[0].reason}" if waiting else "no replica was started yet"
    return "loading", reason


def _for_good(replica: Replica) -> bool:
    """Not to be started again, and not a server elsewhere, which may answer again at any time."""
    return replica.retry_at is None and not isinstance(replica.placement, str)
