"""The two sides of a graduation in a cluster as objects: what the gateways are told of them, and what belongs to which."""

import json
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from headrace.errors import UsageError
from headrace.targets.kubernetes.order import COMPONENT, INSTANCE, WORKLOADS, Manifest, Ref
from headrace.targets.kubernetes.refusals import ClusterError

GATEWAY = "gateway"
SETTINGS = "gateway.json"
RECORDS = "graduation"
"""The component of the ConfigMaps that records are kept in."""

SCALERS = ("ScaledObject", "HorizontalPodAutoscaler")
_COUNTED = ("Deployment", "LeaderWorkerSet", "InferenceSet")
"""Kinds with `spec.replicas`."""
_KAITO_SCALER = "scaledobject.kaito.sh/"
_LONGEST_NAME = 40


def next_name(called: str, taken: Iterable[str]) -> str:
    """What the objects of the new side are called: the model's own name, or it with a letter, whichever is free."""
    used = set(taken)
    names = (called, *(f"{called[: _LONGEST_NAME - 2].rstrip('-')}-{letter}" for letter in "bcdefgh"))
    free = next((name for name in names if name not in used), None)
    if free is None:
        raise UsageError(f"Objects called {', '.join(names)} are all there already.", "Remove those of earlier moves.")
    return free


# ---- what the gateways are told


def told(gateway: Manifest) -> dict[str, Any]:
    """The gateways' file in their ConfigMap. Raises ClusterError."""
    try:
        found: dict[str, Any] = json.loads(gateway["data"][SETTINGS])
        found["models"]
    except (KeyError, TypeError, ValueError):
        raise ClusterError(f"The ConfigMap {GATEWAY} has no {SETTINGS} with models.", "headrace apply writes it.") from None
    return found


def telling(gateway: Manifest, model: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The ConfigMap with other words about a model, as it is applied: only over the version that was read."""
    settings = told(gateway)
    settings["models"] = {**settings["models"], model: dict(about)}
    said = gateway["metadata"]
    metadata = {key: said[key] for key in ("name", "namespace", "labels", "resourceVersion") if key in said}
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {SETTINGS: text}}


def split(before: Mapping[str, Any], after: Mapping[str, Any], share: float) -> dict[str, Any]:
    """What the gateways are told of the model while both sides are there."""
    return {**before, "trial": {**after, "share": share}}


# ---- what belongs to a side


def side(manifests: Iterable[Manifest], name: str) -> list[Manifest]:
    """The objects called after `name`."""
    return [each for each in manifests if (each["metadata"].get("labels") or {}).get(INSTANCE) == name]


def counted(manifests: Iterable[Manifest], replicas: int) -> list[dict[str, Any]]:
    """Objects of a side with a fixed number of replicas, without what scales them: while it is on trial its share decides."""
    made = [_unscaled(each) for each in manifests if each["kind"] not in SCALERS]
    return [{**each, "spec": {**each["spec"], "replicas": replicas}} if each["kind"] in _COUNTED else each for each in made]


def countable(manifests: Iterable[Manifest]) -> bool:
    """Whether a side may have any number of replicas: a Workspace of KAITO's is one."""
    return any(each["kind"] in _COUNTED for each in manifests)


def running(live: Iterable[Manifest], name: str) -> int:
    """How many replicas a side was last asked for; 0 where it is not there."""
    asked = [(each.get("spec") or {}).get("replicas") or 0 for each in side(live, name) if each["kind"] in _COUNTED]
    return max(asked, default=0)


def _unscaled(manifest: Manifest) -> dict[str, Any]:
    """Without the annotations that KAITO's scaler is told by."""
    about = dict(manifest["metadata"])
    said = {key: value for key, value in (about.pop("annotations", None) or {}).items() if not key.startswith(_KAITO_SCALER)}
    return {**manifest, "metadata": {**about, **({"annotations": said} if said else {})}}


def needed(share: float, count: int) -> int:
    """Replicas that take `share` of what `count` take."""
    return max(1, ceil(share * count - 1e-9))


def without_records(live: Mapping[Ref, Manifest]) -> dict[Ref, Manifest]:
    """Objects of ours but the records of graduations, which no file names and which are not left over."""
    return {one: each for one, each in live.items() if (each["metadata"].get("labels") or {}).get(COMPONENT) != RECORDS}


def leaving(live: Mapping[Ref, Manifest], name: str) -> tuple[list[Ref], list[Ref], list[Ref]]:
    """Objects of a side in the order in which they go: what scales and runs it, the rest once its pods are gone, and volumes
    with weights, which stay.
    """
    mine = [
        one
        for one, each in without_records(live).items()
        if (each["metadata"].get("labels") or {}).get(INSTANCE) == name and one.kind != "Namespace"
    ]
    first = [one for one in mine if one.kind in (*SCALERS, *WORKLOADS, "Job")]
    volumes = [one for one in mine if one.kind == "PersistentVolumeClaim"]
    return first, [one for one in mine if one not in first and one not in volumes], volumes


def devices(manifests: Iterable[Manifest], replicas: int) -> str:
    """What pods of a side take of nodes, in words: `2 x 1 nvidia.com/gpu`."""
    for each in manifests:
        pod = ((each.get("spec") or {}).get("template") or {}).get("spec") or {}
        for container in pod.get("containers") or ():
            limits = (container.get("resources") or {}).get("limits") or {}
            if said := ", ".join(f"{count} {name}" for name, count in limits.items() if "/" in name):
                return f"{replicas} x {said}"
            asked = (container.get("resources") or {}).get("requests") or {}
            return f"{replicas} x {asked.get('cpu', '?')} cores and {asked.get('memory', '?')} of memory"
    return "nodes of KAITO's choice"
