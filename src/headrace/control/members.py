"""The pods behind a model's Service → its Replicas and its ModelStatus, with this gateway's share of the slots."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import ceil

from headrace.spec.gateway_file import InPods
from headrace.targets.base import Replica, State
from headrace.targets.pods.slices import Pod, Standing
from headrace.traffic import Endpoint, ModelStatus, Phase, Split
from headrace.units import show_duration

_STATES = {Standing.STARTING: State.STARTING, Standing.READY: State.READY, Standing.DRAINING: State.DRAINING}


@dataclass(frozen=True, slots=True)
class Member:
    """A model in pods: its name, what the file says of it, and the pods behind its Service."""

    name: str
    about: InPods
    pods: Mapping[str, Pod]


def share(slots: int, gateways: int) -> int:
    """What one of so many gateways sends a replica at once, of its slots.

    Rounded up, so that none is left without: together they send at most `gateways - 1` more, which wait in the engine.
    """
    return ceil(slots / max(1, gateways))


def replicas(member: Member, gateways: int, refusing: Set[str], before: Mapping[str, Replica], now: float) -> tuple[Replica, ...]:
    """The pods as replicas: those that are ready get requests; those that drain, or that are `refusing` connections, none."""
    return tuple(_replica(member, pod, gateways, pod.name in refusing, before.get(pod.name), now) for pod in member.pods.values())


def _replica(member: Member, pod: Pod, gateways: int, refuses: bool, before: Replica | None, now: float) -> Replica:
    state, reason = _STATES[pod.standing], _reason(pod, refuses)
    about, slots = member.about, share(member.about.slots, gateways)
    usable = pod.standing is Standing.READY and not refuses
    endpoint = Endpoint(
        pod.name,
        member.name,
        pod.address,
        slots if usable else 0,
        member.name,
        about.folds,
        None,
        about.speaks,
        about.template,
        frozenset(about.also),
        about.continues,
        about.caches,
    )
    same = before is not None and before.state is state and before.placement == pod.address
    return Replica(
        pod.name,
        member.name,
        pod.address,
        state,
        reason,
        endpoint if pod.standing is not Standing.STARTING else None,
        since=before.since if same and before else now,
        slots=slots,
    )


def _reason(pod: Pod, refuses: bool) -> str:
    if pod.standing is Standing.STARTING:
        return "its pod is not ready"
    if pod.standing is Standing.DRAINING:
        return "its pod is ending"
    return "its pod is ready, but takes no connections from here" if refuses else "its pod is ready"


def status(member: Member, found: Sequence[Replica], now: float, *, heard: bool) -> ModelStatus:
    """Whether the model can answer. It never fails for good: a pod may come at any time. `heard`: pods are known at all."""
    phase, reason = _phase(member.about, found, heard=heard)
    left = _seconds_left(member.about, found, now) if phase != "ready" else None
    return ModelStatus(member.name, member.about.task, phase, reason, member.about.context, frozenset(member.about.also), left)


def on_trial(old: ModelStatus, new: ModelStatus, replicas: Iterable[Replica], share: float) -> ModelStatus:
    """The status of a model with others on trial: it is ready where either of them is, and holds what both can."""
    told = new if share and old.phase != "ready" and new.phase == "ready" else old
    contexts = [one.context for one in (old, new) if one.context]
    names = frozenset(replica.name for replica in replicas)
    return replace(told, context=min(contexts, default=None), also=old.also | new.also, split=Split(names, share))


def _phase(about: InPods, found: Sequence[Replica], *, heard: bool) -> tuple[Phase, str]:
    least, most = about.replicas
    many = f"of {most}" if least == most else f"of {least}..{most}"
    if ready := sum(replica.state is State.READY for replica in found):
        return "ready", f"{ready} {many} replicas ready"
    if not heard:
        return "loading", "the cluster has not told yet which pods there are"
    if starting := sum(replica.state is State.STARTING for replica in found):
        return "loading", f"{starting} {many} replicas starting"
    if least == 0:
        takes = f", which takes about {show_duration(about.start)}" if about.start else ""
        return "asleep", f"no pod runs: a request wakes it{takes}"
    return "loading", f"no pod of {about.service} is there"


def _seconds_left(about: InPods, found: Iterable[Replica], now: float) -> float | None:
    """Until the pod that was seen first should be ready, as planned; a whole start where there is none."""
    if not about.start:
        return None
    begun = [replica.since for replica in found if replica.state is State.STARTING]
    return max(0.0, about.start - (now - min(begun))) if begun else float(about.start)
