"""Which fields of an object are ours, and which controllers' of the cluster: what theirs become is no change of ours."""

from collections.abc import Iterable, Mapping
from typing import Any

from headrace.targets.kubernetes.difference import Difference
from headrace.targets.kubernetes.order import FIELD_MANAGER, WORKLOADS, Manifest

_ANNOTATIONS = "metadata.annotations"
_CONTROLLERS = (
    "metadata.finalizers",
    "metadata.ownerReferences",
    "spec.replicas",
    "spec.volumeName",
    "secrets",
    "imagePullSecrets",
)
"""What controllers write into objects of ours, at any time: autoscalers, the volume binder, the token controller."""


def ours(found: Iterable[Difference], wanted: Manifest, before: Manifest) -> list[Difference]:
    """The differences that are not a controller's doing between two looks at the object."""
    annotations = set(wanted["metadata"].get("annotations") or {}) | _owned_annotations(before)
    return [each for each in found if not _theirs(each, wanted, annotations)]


def _theirs(each: Difference, wanted: Manifest, annotations: set[str]) -> bool:
    if each.path == _ANNOTATIONS:
        values = each.after if each.sign == "+" else each.before
        return isinstance(values, Mapping) and annotations.isdisjoint(values)
    if each.path.startswith(f"{_ANNOTATIONS}."):
        return each.path.removeprefix(f"{_ANNOTATIONS}.") not in annotations
    field = next(
        (field for field in _CONTROLLERS if each.path == field or each.path.startswith((f"{field}[", f"{field}."))), None
    )
    return field is not None and not _says(wanted, field)


def _says(manifest: Manifest, path: str) -> bool:
    """Whether a manifest has a field."""
    value: Any = manifest
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _owned_annotations(live: Manifest) -> set[str]:
    return {key.removeprefix("f:") for key in _owned(live, "f:metadata", "f:annotations") if key != "."}


def _owned(live: Manifest, *path: str) -> Mapping[str, Any]:
    """What of `path` we own, as the server's record of managed fields has it."""
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply":
            value: Any = entry.get("fieldsV1") or {}
            for key in path:
                value = value.get(key) or {}
            return value if isinstance(value, Mapping) else {}
    return {}


def gives_up_replicas(wanted: Manifest, live: Manifest | None) -> int | None:
    """The number of replicas to keep where a scaler takes over a workload whose number was ours, else None.

    Leaving `spec.replicas` out while we own it would set it back to 1 (facts/kubernetes.md, section 3): somebody else has to
    own it before.
    """
    if live is None or wanted["kind"] not in WORKLOADS or _says(wanted, "spec.replicas"):
        return None
    if "f:replicas" not in _owned(live, "f:spec"):
        return None
    count: int | None = (live.get("spec") or {}).get("replicas")
    return count
