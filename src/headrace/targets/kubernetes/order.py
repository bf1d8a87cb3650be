"""Which object comes before which, what identifies one, and which kinds Headrace makes at all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Manifest = Mapping[str, Any]

FIELD_MANAGER = "headrace"
OURS = {"app.kubernetes.io/managed-by": "headrace", "app.kubernetes.io/name": "headrace"}
"""Labels of everything we make: what carries them and is in the file no more may be removed."""

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"

_STAGES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("v1", "Namespace"),),
    (("v1", "ServiceAccount"),),
    (("rbac.authorization.k8s.io/v1", "Role"), ("rbac.authorization.k8s.io/v1", "ClusterRole")),
    (("rbac.authorization.k8s.io/v1", "RoleBinding"), ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding")),
    (("v1", "ConfigMap"),),
    # Before the pods that they let in: a pod is never open for a while.
    (("networking.k8s.io/v1", "NetworkPolicy"),),
    (("v1", "PersistentVolumeClaim"),),
    (("batch/v1", "Job"),),
    (("v1", "Service"), ("policy/v1", "PodDisruptionBudget")),
    (
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
        ("kaito.sh/v1beta1", "InferenceSet"),
        ("kaito.sh/v1beta1", "Workspace"),
    ),
    (("keda.sh/v1alpha1", "TriggerAuthentication"),),
    (("keda.sh/v1alpha1", "ScaledObject"), ("autoscaling/v2", "HorizontalPodAutoscaler")),
    (
        ("monitoring.coreos.com/v1", "PodMonitor"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("azmonitoring.coreos.com/v1", "PodMonitor"),  # Azure's managed Prometheus reads a group of its own
        ("inference.networking.k8s.io/v1", "InferencePool"),
        ("networking.k8s.io/v1", "Ingress"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
    ),
    (("gateway.networking.k8s.io/v1", "HTTPRoute"), ("gateway.networking.k8s.io/v1", "GRPCRoute")),
)
_RANK = {kind: rank for rank, stage in enumerate(_STAGES) for _, kind in stage}
_AFTER_ALL = len(_STAGES)

KINDS = tuple(each for stage in _STAGES for each in stage)
"""(apiVersion, kind) of all that Headrace makes or has made: where to look for what is left over."""

WORKLOADS = ("Deployment", "StatefulSet", "LeaderWorkerSet", "InferenceSet", "Workspace")


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """One object. `group` is that of its apiVersion: objects are the same in every version."""

    kind: str
    name: str
    group: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def ref(manifest: Manifest, namespaced: bool = True) -> Ref:
    """What identifies an object."""
    about = manifest["metadata"]
    group = manifest["apiVersion"].rpartition("/")[0]
    return Ref(manifest["kind"], about["name"], group, about.get("namespace", "") if namespaced else "")


def rank(kind: str) -> int:
    """The place of a kind in the order; kinds that are not known come last."""
    return _RANK.get(kind, _AFTER_ALL)


def stages(manifests: Iterable[Manifest]) -> list[list[Manifest]]:
    """The objects in the order in which they are made. Those of one stage need not wait for each other."""
    ordered = sorted(manifests, key=lambda each: rank(each["kind"]))
    return [list(stage) for _, stage in groupby(ordered, key=lambda each: rank(each["kind"]))]


def removal(refs: Iterable[Ref]) -> list[list[Ref]]:
    """The order in which objects go, by stages: scalers before what they scale, so that nothing is started again meanwhile."""
    ordered = sorted(refs, key=lambda each: (-rank(each.kind), each))
    return [list(stage) for _, stage in groupby(ordered, key=lambda each: rank(each.kind))]


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Objects of ours that the file names no more: `stale` may go, `kept` hold weights and go only when that is asked for."""

    stale: tuple[Ref, ...] = ()
    kept: tuple[Ref, ...] = ()


def leftovers(wanted: Iterable[Ref], live: Iterable[Ref], *, weights: bool = False) -> Leftovers:
    """What is there and not wanted. Never a namespace: others may live in it."""
    gone = set(live) - set(wanted)
    gone = {each for each in gone if each.kind != "Namespace"}
    volumes = set() if weights else {each for each in gone if each.kind == "PersistentVolumeClaim"}
    stale = tuple(each for stage in removal(gone - volumes) for each in stage)
    return Leftovers(stale, tuple(sorted(volumes)))
