"""ScaledObject and HorizontalPodAutoscaler → the replicas and the threshold of the model they scale; Services → its aliases."""

import re
from collections.abc import Sequence

from headrace.importing.base import At, Found, note
from headrace.scaling.base import Policy
from headrace.scaling.fields import fields

RUNNING = re.compile(r"running|in_flight|tgi_batch_current_size")
"""In the name of a metric of requests that are being answered."""
_WAITING = re.compile(r"(?<!time_in_)(?:waiting|queue|pending)(?!\w*_(?:seconds|us)(?![a-z]))")
"""In the name of a metric of requests that wait; not of how long they do."""
_KEDA_DEFAULTS = (0, 100)
"""minReplicaCount and maxReplicaCount, where they are not said."""


def scaled_object(one: At, models: Sequence[Found]) -> bool:
    """Put a ScaledObject into the model it scales; False when that is not among `models`."""
    spec = one.get("spec")
    found = _target(one, spec.get("scaleTargetRef"), models)
    if found is None:
        return False
    least, most = (
        given.number if given.number is not None else default
        for given, default in zip((spec.get("minReplicaCount"), spec.get("maxReplicaCount")), _KEDA_DEFAULTS, strict=True)
    )
    found.scale["replicas"] = f"{least}..{max(least, most)}"
    if least == 0:
        found.scale["idle"] = f"{spec.get('cooldownPeriod').number or 300}s"
    for trigger in spec.get("triggers").each():
        _trigger(found, trigger)
    for field in ("fallback", "advanced", "pollingInterval"):
        if value := spec.get(field):
            found.notes.append(note(value, "not needed", f"ScaledObject {field}", "Headrace makes its own"))
    return True


def autoscaler(one: At, models: Sequence[Found]) -> bool:
    """Put an HPA into the model it scales; False when that is not among `models`."""
    spec = one.get("spec")
    found = _target(one, spec.get("scaleTargetRef"), models)
    if found is None:
        return False
    least, most = spec.get("minReplicas").number or 1, spec.get("maxReplicas").number or 1
    found.scale["replicas"] = f"{least}..{max(least, most)}"
    for metric in spec.get("metrics").each():
        _metric(found, metric)
    if value := spec.get("behavior"):
        found.notes.append(note(value, "not needed", "HPA behavior", "Headrace makes its own"))
    return True


def service(one: At, models: Sequence[Found]) -> bool:
    """Make a Service's name an alias of the models it selects; False when there is none."""
    selector = {key: value.text for key, value in one.get("spec", "selector").items()}
    chosen = [found for found in models if _selects(selector, found, one)]
    for found in chosen[:1]:
        found.aliases.append(one.get("metadata", "name").text)
        if (kind := one.get("spec", "type")).text in ("LoadBalancer", "NodePort"):
            why = "the gateway is the way in, and it wants keys before it is opened"
            found.notes.append(note(kind, "not carried", f"Service type {kind.text}", why))
    return bool(chosen)


def _target(one: At, reference: At, models: Sequence[Found]) -> Found | None:
    kind, name = reference.get("kind").text or "Deployment", reference.get("name").text
    namespace = one.get("metadata", "namespace").text
    here = [found for found in models if namespace in ("", found.namespace)]
    return next((found for found in here if found.title == f"{kind} {name}" or _loose(found, kind, name)), None)


def _loose(found: Found, kind: str, name: str) -> bool:
    """KAITO's workloads are called as their Workspace."""
    return found.kaito and found.name == name and kind in ("Deployment", "StatefulSet", "InferenceSet")


def _selects(selector: dict[str, str], found: Found, one: At) -> bool:
    namespace = one.get("metadata", "namespace").text
    return bool(selector) and selector.items() <= found.labels.items() and (not namespace or namespace == found.namespace)


def _trigger(found: Found, trigger: At) -> None:
    kind, metadata = trigger.get("type").text, trigger.get("metadata")
    query, threshold = metadata.get("query").text, metadata.get("threshold")
    if kind == "prometheus" and _WAITING.search(query):
        _queue(found, threshold, query, f"trigger on {query}")
    else:
        why = "Headrace scales on requests that wait and run"
        found.notes.append(note(trigger, "not carried", f"trigger {kind} {query}".strip(), why))
    if reference := trigger.get("authenticationRef", "name").text:
        why = f"TriggerAuthentication {reference} stays as it is"
        found.notes.append(note(trigger, "not carried", "authenticationRef", why))


def _metric(found: Found, metric: At) -> None:
    kind = metric.get("type").text
    body = metric.get(kind[:1].lower() + kind[1:])
    name = body.get("metric", "name").text or body.get("name").text
    target = body.get("target", "averageValue")
    if _WAITING.search(name) and target:
        _queue(found, target, name, f"metric {name}")
    else:
        why = "Headrace scales on requests that wait and run"
        found.notes.append(note(metric, "not carried", f"metric {kind} {name}".strip(), why))


def _queue(found: Found, threshold: At, asked: str, what: str) -> None:
    """The requests that may wait, by a threshold on what `asked` counts."""
    number = threshold.number
    if number is None or number <= 0:
        found.notes.append(note(threshold, "not carried", what, "its threshold is no whole number above 0"))
    elif not RUNNING.search(asked):
        found.scale["queue"] = str(number)
    elif re.search(r"[/*]", re.sub(r"\"[^\"]*\"|'[^']*'", "", asked)):
        found.notes.append(note(threshold, "not carried", what, "it is no sum of requests that wait and run"))
    else:
        _beyond_those_that_run(found, threshold, number)


def _beyond_those_that_run(found: Found, threshold: At, number: int) -> None:
    """`queue` is what may wait beyond the share of a replica's slots that scaling aims at."""
    what, slots = f"threshold {number} on requests that wait and run", found.keys.get("slots")
    if not slots:
        why = "`scale.queue` counts those that wait alone, and how many run at once (slots) is left to the plan"
        found.notes.append(note(threshold, "not carried", what, why))
        return
    running = fields(Policy(0, 1, slots)).threshold
    queue = max(0, number - running)
    if queue:
        found.scale["queue"] = str(queue)
    less = f"; more replicas come at {running}, and earlier with fewer slots" if number < running else ""
    why = f"queue {queue}: {running} run (of {slots} slots), and `scale.queue` counts those that wait alone{less}"
    found.notes.append(note(threshold, "decided", what, why))
