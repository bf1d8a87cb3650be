"""What a namespace holds of ours at one moment, as plain JSON values, and how it is read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.targets.kubernetes.order import COMPONENT, INSTANCE

Object = Mapping[str, Any]

_SET, _WORKSPACE = "inferenceset.kaito.sh/created-by", "kaito.sh/workspace"
"""Labels by which KAITO says whose its pods are."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Objects by their kinds. `logs` are the last lines of (pod, container), of those that `causes.wants_logs` names."""

    workloads: tuple[Object, ...] = ()
    """Deployments, and the other kinds that run replicas."""
    pods: tuple[Object, ...] = ()
    jobs: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    scalers: tuple[Object, ...] = ()
    """ScaledObjects and HorizontalPodAutoscalers."""
    events: tuple[Object, ...] = ()
    logs: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """What a snapshot holds of one model (or the gateway): `name` is that of its objects."""

    name: str
    snapshot: Snapshot

    @property
    def workload(self) -> Object | None:
        """Of its name; a Workspace of KAITO's has another, and its label."""
        named = next((each for each in self.snapshot.workloads if name(each) == self.name), None)
        return named or next((each for each in self.snapshot.workloads if _label(each, INSTANCE) == self.name), None)

    @property
    def pods(self) -> list[Object]:
        """Its replicas, oldest first, without those that were told to end."""
        ours = [each for each in self.snapshot.pods if self.mine(each) and component(each) != "pull" and alive(each)]
        return sorted(ours, key=lambda each: (each["metadata"].get("creationTimestamp") or "", name(each)))

    @property
    def pull_pods(self) -> list[Object]:
        return [each for each in self.snapshot.pods if self.mine(each) and component(each) == "pull"]

    @property
    def jobs(self) -> list[Object]:
        return [each for each in self.snapshot.jobs if self.mine(each)]

    @property
    def claims(self) -> list[Object]:
        return [each for each in self.snapshot.claims if self.mine(each)]

    @property
    def scalers(self) -> list[Object]:
        return [
            each for each in self.snapshot.scalers if (each.get("spec") or {}).get("scaleTargetRef", {}).get("name") == self.name
        ]

    def events(self, about: str, kind: str | None = None) -> list[Object]:
        """Events of an object, the newest first."""
        return events(self.snapshot, about, kind)

    def replica_sets(self) -> list[Object]:
        """Events of its ReplicaSets, by name, newest first: where pods that could not even be made are told of."""
        found = [each for each in self.snapshot.events if _of_replica_set(each, self.name)]
        return sorted(found, key=_when, reverse=True)

    def mine(self, each: Object) -> bool:
        if _label(each, INSTANCE) == self.name:
            return True
        # A Workspace is called so by us (manifests/kaito.py), and its pods outlive it: KAITO waits for none of them.
        makers = {self.name, f"{self.name}-workspace", *((name(self.workload),) if self.workload else ())}
        return _label(each, _SET) == self.name or _label(each, _WORKSPACE) in makers


def events(snapshot: Snapshot, about: str, kind: str | None = None) -> list[Object]:
    found = [
        each
        for each in snapshot.events
        if each["involvedObject"].get("name") == about and kind in (None, each["involvedObject"].get("kind"))
    ]
    return sorted(found, key=_when, reverse=True)


def containers(pod: Object) -> Iterator[Object]:
    """The states of its containers, those that come first first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def condition(each: Object, kind: str) -> Object | None:
    return next((entry for entry in (each.get("status") or {}).get("conditions") or () if entry.get("type") == kind), None)


def is_ready(pod: Object) -> bool:
    return (condition(pod, "Ready") or {}).get("status") == "True"


def alive(pod: Object) -> bool:
    return not pod["metadata"].get("deletionTimestamp")


def name(each: Object) -> str:
    return str(each["metadata"]["name"])


def component(each: Object) -> str | None:
    return _label(each, COMPONENT)


def _label(each: Object, key: str) -> str | None:
    return (each["metadata"].get("labels") or {}).get(key)


def restarts(pod: Object) -> int:
    return sum(int(each.get("restartCount") or 0) for each in containers(pod))


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _of_replica_set(event: Object, workload: str) -> bool:
    about = event["involvedObject"]
    return about.get("kind") == "ReplicaSet" and str(about.get("name", "")).rpartition("-")[0] == workload
