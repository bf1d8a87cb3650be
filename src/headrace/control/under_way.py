"""One graduation under way: what is known of it, what it makes of a plan, and what the state machine sees of it."""

from asyncio import Task
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.control.comparing import Compared
from headrace.control.graduation import Aim, Seen, Standing, judged
from headrace.control.guards import Evidence
from headrace.control.journal import Running
from headrace.engines.base import Placement
from headrace.facts.hardware import Card
from headrace.plan.base import PlannedModel
from headrace.targets.base import Replica, State


@dataclass(frozen=True, slots=True)
class Prospect:
    """What an aim comes to: the model as it would be planned on `cards`, a sentence, and its lock (None: none is kept)."""

    new: PlannedModel
    sentence: str
    lock: str | None = None
    cards: tuple[Card, ...] = ()


@dataclass(slots=True)
class Run:
    """One graduation."""

    aim: Aim
    standing: Standing
    story: list[tuple[float, str]] = field(default_factory=list)
    interrupted: int = 0
    old: tuple[Placement | str, ...] = ()
    count: int = 1
    """Replicas of each side, for a model that otherwise follows the load."""
    prospect: Prospect | None = None
    evidence: Evidence = field(default_factory=Evidence)
    comparison: Compared | None = None
    locked: str | None = None
    abort: str = ""
    trial: frozenset[str] = frozenset()
    lost: int = 0
    lengths: list[int] = field(default_factory=list)
    task: Task[None] | None = None

    @property
    def new(self) -> tuple[Placement | str, ...]:
        return self.prospect.new.replicas if self.prospect else ()

    def is_new(self, replica: Replica) -> bool:
        return replica.model == self.aim.model and replica.placement in self.new


def running(replicas: Sequence[Placement | str]) -> Running | None:
    """What replicas run on, None for none that are ours."""
    first = next((one for one in replicas if isinstance(one, Placement)), None)
    return Running(first.engine, first.weights, first.context) if first else None


def both(model: PlannedModel, run: Run) -> PlannedModel:
    """Old and new side by side, in a fixed number of each: what follows the load does so again afterwards."""
    assert run.prospect
    if model.refused:  # an administrator stopped it meanwhile
        return model
    if model.scale is None:
        return replace(model, replicas=(*model.replicas, *run.prospect.new.replicas))
    return replace(model, scale=None, replicas=(*model.replicas[: run.count], *run.prospect.new.replicas[: run.count]))


def count(model: PlannedModel, replicas: Sequence[Replica]) -> int:
    """As many as there are now, at least as many as there must be."""
    up = sum(one.model == model.name and one.state in (State.STARTING, State.LOADING, State.READY) for one in replicas)
    return max(1, up, model.scale.least if model.scale else 0)


def seen(run: Run, replicas: Sequence[Replica]) -> Seen:
    """What the state machine goes by."""
    own = [replica for replica in replicas if replica.model == run.aim.model]
    new = [replica for replica in own if run.is_new(replica)]
    failed = [replica for replica in new if replica.state is State.FAILED]
    follows = run.prospect is not None and run.prospect.new.scale is not None
    found = Seen(
        new_wanted=_wanted(run, follows),
        new_ready=sum(replica.state is State.READY for replica in new),
        new_there=len(new),
        old_there=len(own) - len(new),
        old_ready=sum(replica.state is State.READY and not run.is_new(replica) for replica in own),
        broken=f"{failed[0].name} failed: {failed[0].reason}" if failed else "",
        failures=max((replica.restarts + 1 for replica in failed), default=0),
        compared=run.comparison.trouble if run.comparison else None,
        remark=run.comparison.remark if run.comparison else "",
        locked=run.locked,
        abort=run.abort,
    )
    return judged(found, run.evidence)


def _wanted(run: Run, follows: bool) -> int:
    """New replicas that must be ready; of those that follow the load again one, once the old ones go."""
    if not follows:
        return len(run.new)
    return min(run.count, len(run.new)) if run.standing.keeps_old else 1


def shown(run: Run) -> dict[str, Any]:
    """It for machines: /admin/graduations."""
    standing = run.standing
    return {
        "model": run.aim.model,
        "to": run.aim.to,
        "phase": standing.phase,
        "over": standing.over,
        "share": standing.share(run.aim.rules),
        "reason": standing.reason or (run.story[-1][1] if run.story else ""),
        "evidence": run.evidence.summary if run.evidence.errors.count else "",
        "replicas": sorted(run.trial),
        "story": [{"at": at, "said": said} for at, said in run.story],
    }
