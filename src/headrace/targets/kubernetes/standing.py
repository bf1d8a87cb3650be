"""How each model stands in the cluster: ready, asleep, starting or failing, how many of how many, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headrace.columns import aligned
from headrace.targets.kubernetes.cause import Cause
from headrace.targets.kubernetes.causes import cause, scaler_cause
from headrace.targets.kubernetes.pod_causes import pod_cause
from headrace.targets.kubernetes.snapshot import Object, Snapshot, View, is_ready, name, restarts

State = Literal["ready", "asleep", "starting", "failing", "absent"]
_LONGEST_REASON = 110
_GROUPED = ("LeaderWorkerSet", "InferenceSet")
"""Kinds whose replica may be several pods, some of which are ready before it is."""
_COUNTS_UPDATED = ("Deployment", "LeaderWorkerSet")


@dataclass(frozen=True, slots=True)
class ReplicaStanding:
    """One pod."""

    name: str
    state: str
    node: str
    restarts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One model, or the gateway. `wanted` is how many replicas there should be now."""

    model: str
    state: State
    ready: int
    wanted: int
    replicas: tuple[ReplicaStanding, ...]
    cause: Cause | None

    @property
    def done(self) -> bool:
        return self.state in ("ready", "asleep")

    @property
    def line(self) -> str:
        """In one line, as it is told while one waits."""
        if self.state == "asleep":
            return f"{self.model}: asleep, woken by its first request"
        said = f"{self.model}: {self.ready} of {self.wanted} ready"
        return f"{said}. {self.cause}" if self.cause and not self.done else said


def standings(names: Mapping[str, str], snapshot: Snapshot) -> list[Standing]:
    """One for each of `names`: models by what their objects are called."""
    return [_standing(model, View(called, snapshot)) for called, model in names.items()]


def _standing(model: str, view: View) -> Standing:
    if view.workload is None and not view.pods:
        return Standing(model, "absent", 0, 1, (), cause(view))
    workload = view.workload or {}
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    wanted = spec.get("replicas", 1)
    pods_ready = sum(is_ready(pod) for pod in view.pods)
    # A replica may be several pods: who makes them counts them, and leaves a count out that is 0.
    ready = status.get("readyReplicas", 0) if workload.get("kind") in _GROUPED else pods_ready
    replicas = tuple(_replica(view, pod) for pod in view.pods)
    found = cause(view)
    if wanted == 0 and view.workload is not None:
        broken = found is not None and not found.passes
        return Standing(model, "failing" if broken else "asleep", ready, 0, replicas, found if broken else None)
    if (
        view.workload is not None
        and ready >= wanted
        and _rolled(view.workload, wanted)
        and not (status.get("unavailableReplicas") or 0)
    ):
        return Standing(model, "ready", ready, wanted, replicas, scaler_cause(view))
    failing = found is not None and not found.passes
    return Standing(model, "failing" if failing else "starting", ready, wanted, replicas, found)


def _rolled(workload: Object, wanted: int) -> bool:
    """Whether all are of what was applied last: while a change is rolled out, the old ones are ready and are not what is wanted.
    KAITO does not say: an InferenceSet and a Workspace count no updated replicas.
    """
    kind, status = workload.get("kind"), workload.get("status") or {}
    generation = workload["metadata"].get("generation", 0)
    # A Deployment without it was not looked at yet; a LeaderWorkerSet has it in newer versions only.
    current = status.get("observedGeneration", 0 if kind == "Deployment" else generation) >= generation
    return current and (kind not in _COUNTS_UPDATED or status.get("updatedReplicas", 0) >= wanted)


def _replica(view: View, pod: Any) -> ReplicaStanding:
    ready = is_ready(pod)
    found = None if ready else pod_cause(view, pod)
    state = "ready" if ready else "failed" if found and not found.passes else "starting"
    node = (pod.get("spec") or {}).get("nodeName") or "no node"
    return ReplicaStanding(name(pod), state, node, restarts(pod), str(found or ""))


def table(found: Sequence[Standing]) -> str:
    """The models with their replicas below them, as `headrace status` prints them."""
    rows: list[tuple[str, ...]] = [("MODEL", "STATE", "READY", "RESTARTS", "WHERE", "WHY")]
    for each in found:
        count = str(sum(replica.restarts for replica in each.replicas))
        rows.append((each.model, each.state, f"{each.ready}/{each.wanted}", count, "", _short(str(each.cause or ""))))
        rows.extend((f"  {one.name}", one.state, "", str(one.restarts), one.node, _short(one.reason)) for one in each.replicas)
    return "\n".join(aligned(rows))


def data(found: Sequence[Standing]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [asdict(each) for each in found]


def _short(reason: str) -> str:
    line = reason.splitlines()[0] if reason else ""
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"
