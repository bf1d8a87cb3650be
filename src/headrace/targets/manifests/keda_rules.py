"""What KEDA would refuse, or ignore without a word, in a ScaledObject: its webhook's rules and the keys that its triggers read.

facts/keda-hpa.md, section 3 (kedacore/keda @8b4f083: scaledobject_webhook.go, prometheus_scaler.go, external_scaler.go).
"""

from collections.abc import Iterator
from typing import Any

from headrace.targets.manifests.base import Manifest

_LONGEST = 63
_HPA = "keda-hpa-"
_KEYS = {
    "prometheus": (
        *("serverAddress", "query", "threshold", "activationThreshold", "namespace", "customHeaders", "queryParameters"),
        *("ignoreNullValues", "unsafeSsl", "awsRegion", "timeout", "identityOwner", "authModes"),
    ),
}
"""By trigger: the keys that are read. An external scaler gets all that is written."""

_NEEDED = {
    "prometheus": ("serverAddress", "query", "threshold"),
    "external": ("scalerAddress",),
    "external-push": ("scalerAddress",),
}
_RESOURCES = ("cpu", "memory")


def problems(manifest: Manifest) -> Iterator[str]:
    """Nothing for an object that KEDA takes and obeys."""
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    yield from _counts(spec)
    hpa = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("name", _HPA + name)
    if len(name) > _LONGEST or len(hpa) > _LONGEST:
        yield f"the names {name} and {hpa} are 63 characters long at most"
    triggers = spec.get("triggers") or []
    if not triggers:
        yield "no triggers defined in the ScaledObject"
    names = [trigger["name"] for trigger in triggers if trigger.get("name")]
    if len(set(names)) < len(names):
        yield "two triggers have one name"
    for trigger in triggers:
        yield from _trigger(trigger)
    yield from _fallback(spec, triggers)


def _counts(spec: dict[str, Any]) -> Iterator[str]:
    least, most, idle = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100), spec.get("idleReplicaCount")
    if least > most:
        yield f"MinReplicaCount={least} must be less than MaxReplicaCount={most}"
    if idle is not None and idle >= least:
        yield f"IdleReplicaCount={idle} must be less than MinReplicaCount={least}"
    if least > 0 and idle is None:
        yield from (
            f"{key} is not relevant with minReplicaCount {least}" for key in ("pollingInterval", "cooldownPeriod") if key in spec
        )


def _trigger(trigger: dict[str, Any]) -> Iterator[str]:
    kind, said = trigger["type"], trigger.get("metadata", {})
    yield from (f"{kind}: {key} is {value!r}, and KEDA wants text" for key, value in said.items() if not isinstance(value, str))
    yield from (f"{kind}: {key} is missing" for key in _NEEDED.get(kind, ()) if not said.get(key))
    if kind in _KEYS:
        yield from (f"{kind}: {key} is ignored" for key in said if key not in _KEYS[kind])
    if trigger.get("metricType") == "Utilization" and kind not in _RESOURCES:
        yield f"{kind}: metricType Utilization is for cpu and memory"
    if trigger.get("useCachedMetrics") and kind in (*_RESOURCES, "cron"):
        yield f"{kind}: useCachedMetrics is not for it"


def _fallback(spec: dict[str, Any], triggers: list[dict[str, Any]]) -> Iterator[str]:
    fallback = spec.get("fallback")
    if fallback is None:
        return
    if fallback["failureThreshold"] < 0 or fallback["replicas"] < 0:
        yield "fallback: its numbers are 0 or more"
    if fallback["replicas"] == 0:
        yield "fallback: 0 replicas puts it to sleep while its metric fails"
    if all(trigger["type"] in _RESOURCES for trigger in triggers):
        yield "fallback: at least one trigger other than cpu and memory"
