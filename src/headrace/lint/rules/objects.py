"""HR6xx: what an API server refuses and a schema does not see."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, rule
from headrace.lint.context import Context, Pod
from headrace.lint.serving import engines
from headrace.spec.sentences import nearest

_API = "https://kubernetes.io/docs/reference/kubernetes-api/"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMED = (
    *("Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Service", "ConfigMap", "Secret"),
    *("PersistentVolumeClaim", "ScaledObject", "HorizontalPodAutoscaler", "Ingress", "HTTPRoute", "InferencePool", "Namespace"),
    *("InferenceService", "LLMInferenceService", "Model", "PodMonitor", "ServiceMonitor", "LeaderWorkerSet", "ServiceAccount"),
)
"""Kinds whose names are DNS names; those of roles, for one, are not."""
_GIVEN = ("default-token-", "kube-api-access-")
"""Volumes that the API server adds itself: objects that were read back have them."""
_SCHEDULED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
_ENUMS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("restartPolicy",), ("Always", "OnFailure", "Never")),
    (("dnsPolicy",), ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")),
)


@rule(
    "HR601",
    "error",
    "a selector that does not select its pods",
    "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#selector",
)
def selector(context: Context) -> Iterator[Say]:
    """The selector of a workload has to match the labels of its own template: the API server refuses it otherwise."""
    for one in context.of(*_SCHEDULED):
        wanted, labels = one.spec.get("selector", "matchLabels"), one.spec.get("template", "metadata", "labels")
        for key, value in wanted.items():
            have = labels.get(key)
            if labels and value.text and have.text != value.text and "{{" not in value.text + have.text:
                said = f"has {have.text}" if have.value is not None else "does not have it"
                what = f"The selector wants {key}={value.text}, and the template {said}."
                yield Say(value, what, f"Write {key}: {value.text} in the template's labels.")


@rule("HR603", "error", "a mount without its volume", "https://kubernetes.io/docs/concepts/storage/volumes/")
def dangling_mount(context: Context) -> Iterator[Say]:
    """A volumeMount names a volume of its pod: the API server refuses one that is not there."""
    for pod in context.pods():
        if pod.owner.kind in ("Workspace", "InferenceSet") or not pod.spec.get("containers"):
            continue
        claims = pod.owner.spec.get("volumeClaimTemplates").each() if pod.owner.kind == "StatefulSet" else iter(())
        names = {volume.get("name").text for volume in pod.spec.get("volumes").each()}
        names |= {claim.get("metadata", "name").text for claim in claims}
        for container in [*pod.containers, *pod.spec.get("initContainers").each()]:
            for mount in container.get("volumeMounts").each():
                name = mount.get("name").text
                if name and name not in names and not _patch(pod) and not name.startswith(_GIVEN):
                    what = f"The pod has no volume {name}."
                    yield Say(mount, what, nearest(name, names) or "Add it to volumes.")


def _patch(pod: Pod) -> bool:
    """Whether this is a part of an object, to be laid over another: a container without an image."""
    return any(not container.get("image").text for container in pod.containers)


@rule("HR604", "error", "a value that is not one of those allowed", _API)
def values(context: Context) -> Iterator[Say]:
    """Names are DNS labels, effects and policies are words of a list: the API server refuses all others, whatever the schema
    says of them (text)."""
    for one in context.objects:
        at = one.at.get("metadata", "name")
        if one.kind in _NAMED and at.text and not _open(at):
            pattern, said = (_LABEL, "at most 63") if one.kind == "Service" else (_NAME, "at most 253")
            if not pattern.fullmatch(at.text):
                yield Say(at, f"{at.text} is no name of an object.", f"Use small letters, digits and dashes, {said}.")
    for pod in context.pods():
        yield from _pod_values(pod)


def _open(at: At) -> bool:
    return bool(re.search(r"[{}$<>%@*()]", at.text))


def _pod_values(pod: Pod) -> Iterator[Say]:
    for toleration in pod.spec.get("tolerations").each():
        yield from _one_of(toleration.get("effect"), ("NoSchedule", "PreferNoSchedule", "NoExecute"))
        yield from _one_of(toleration.get("operator"), ("Exists", "Equal"))
        if toleration.get("operator").text == "Exists" and toleration.get("value").text:
            yield Say(
                toleration.get("value"), "A toleration with operator Exists has no value.", "Delete the value, or write Equal."
            )
    for path, allowed in _ENUMS:
        yield from _one_of(pod.spec.get(*path), allowed)
    for container in pod.containers:
        yield from _one_of(container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never"))
        for port in container.get("ports").each():
            yield from _one_of(port.get("protocol"), ("TCP", "UDP", "SCTP"))
            name = port.get("name")
            if name.text and not _open(name) and not re.fullmatch(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", name.text):
                yield Say(name, f"{name.text} is no name of a port.", "Use at most 15 small letters, digits and dashes.")


def _one_of(at: At, allowed: tuple[str, ...]) -> Iterator[Say]:
    if at.text and at.text not in allowed and not _open(at):
        right = next((word for word in allowed if word.lower() == at.text.lower()), None)
        near = f"Write {right}." if right else nearest(at.text, allowed) or f"Write one of {', '.join(allowed)}."
        edits = (Edit("set", at, "", right),) if right else ()
        yield Say(at, f"{at.text} is not a value of {at.path[-1]}.", near, edits)


@rule("HR608", "warning", "numbers where texts are safer", "https://kubernetes.io/docs/reference/using-api/server-side-apply/")
def unquoted(context: Context) -> Iterator[Say]:
    """Server-side apply of older API servers refuses a GPU count that is a number (`expected string, got 1`), and a port
    without its protocol (`omits key field "protocol"`); measured with 1.20. Newer ones take both."""
    labels = []
    for one in engines(context):
        if one.pod is None or one.managed:
            continue
        labels.append((one.pod.labels, one.owner.at.file))
        for part in ("limits", "requests"):
            for name, amount in one.container.get("resources", part).items():
                if isinstance(amount.value, int | float) and not isinstance(amount.value, bool) and "/" in name:
                    edit = Edit("set", amount, "", amount.text)
                    what = f"{name} is a number, and server-side apply of older servers wants a text."
                    yield Say(amount, what, f'Write "{amount.text}".', (edit,), "info")
        yield from _protocols(one.container.get("ports"))
    services = {id(one): one for each, file in labels for one in context.selecting("Service", each, file)}
    for service in services.values():
        yield from _protocols(service.spec.get("ports"))


def _protocols(ports: At) -> Iterator[Say]:
    for port in ports.each():
        if isinstance(port.value, dict) and port.get("protocol").value is None:
            edit = Edit("add", port, "protocol", "TCP")
            what = "The port says no protocol, and server-side apply of older servers refuses that."
            yield Say(port, what, "Write protocol: TCP.", (edit,), "info")
