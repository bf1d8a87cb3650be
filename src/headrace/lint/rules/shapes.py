"""HR6xx: fields that a kind does not have. Old servers drop them without a word, new ones refuse."""

import re
from collections.abc import Iterator, Mapping

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, rule
from headrace.lint.context import Context, Object
from headrace.spec.sentences import nearest

_REMOVED = {
    ("extensions/v1beta1", "Deployment"): "apps/v1",
    ("extensions/v1beta1", "DaemonSet"): "apps/v1",
    ("extensions/v1beta1", "Ingress"): "networking.k8s.io/v1",
    ("apps/v1beta1", "Deployment"): "apps/v1",
    ("apps/v1beta2", "Deployment"): "apps/v1",
    ("networking.k8s.io/v1beta1", "Ingress"): "networking.k8s.io/v1",
    ("autoscaling/v2beta1", "HorizontalPodAutoscaler"): "autoscaling/v2",
    ("autoscaling/v2beta2", "HorizontalPodAutoscaler"): "autoscaling/v2",
    ("batch/v1beta1", "CronJob"): "batch/v1",
    ("policy/v1beta1", "PodDisruptionBudget"): "policy/v1",
    ("policy/v1beta1", "PodSecurityPolicy"): "",
}
"""Versions that Kubernetes 1.25 and later do not serve (deprecation guide), and what they are now."""

_FIELDS: Mapping[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("keda.sh", "ScaledObject"): (
        ("spec",),
        (
            *("scaleTargetRef", "pollingInterval", "initialCooldownPeriod", "cooldownPeriod", "idleReplicaCount"),
            *("minReplicaCount", "maxReplicaCount", "advanced", "triggers", "fallback"),
        ),
    ),
    ("kaito.sh", "Workspace"): ((), ("apiVersion", "kind", "metadata", "resource", "inference", "tuning", "status", "spec")),
    ("kaito.sh", "InferenceSet"): (
        ("spec",),
        ("autoUpgrade", "labelSelector", "nodeCountLimit", "replicas", "template", "updateStrategy"),
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): (
        ("spec",),
        ("scaleTargetRef", "minReplicas", "maxReplicas", "metrics", "behavior", "targetCPUUtilizationPercentage"),
    ),
    ("inference.networking.k8s.io", "InferencePool"): (
        ("spec",),
        ("selector", "targetPorts", "endpointPickerRef", "appProtocol", "extensionRef", "targetPortNumber"),
    ),
}
"""Where the fields of a kind are, and all of them (shared CRDs: KEDA 2.20, KAITO 0.12)."""

_CONTAINER = (
    *("name", "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "ports", "resources", "lifecycle"),
    *("startupProbe", "readinessProbe", "livenessProbe", "volumeMounts", "volumeDevices", "securityContext", "tty", "stdin"),
    *("stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "restartPolicy", "restartPolicyRules", "resizePolicy"),
)
_OF_VLLM = (
    "tensorParallelSize",
    "pipelineParallelSize",
    "maxModelLen",
    "dtype",
    "gpuMemoryUtilization",
)
"""Keys of vllmConfig in the values of vLLM's production-stack."""
_RESTART = ("Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "RecreateGroup", "None")


@rule(
    "HR605", "error", "a field that the kind does not have", "https://kubernetes.io/docs/reference/using-api/deprecation-guide/"
)
def unknown_field(context: Context) -> Iterator[Say]:
    """A field with a typo is dropped without a word by servers that do not check strictly, and the default holds. A version
    that was removed is refused."""
    for one in context.objects:
        version = one.at.get("apiVersion").text
        if (version, one.kind) in _REMOVED:
            now = _REMOVED[version, one.kind]
            what = f"Kubernetes serves no {one.kind} of {version} any more."
            yield Say(one.at.get("apiVersion"), what, f"Write {now}." if now else "It has no successor.")
        reference = one.spec.get("scaleTargetRef")
        if newer := _REMOVED.get((reference.get("apiVersion").text, reference.get("kind").text)):
            what = f"Kubernetes serves no {reference.get('kind').text} of {reference.get('apiVersion').text} any more."
            yield Say(reference.get("apiVersion"), what, f"Write {newer}.")
        yield from _unknown(one)
        yield from _types(one)
    for pod in context.pods():
        for container in pod.containers:
            yield from _near(container, _CONTAINER, "A container")
    for values in context.of("production-stack"):
        for spec in values.at.get("servingEngineSpec", "modelSpec").each():
            for key in _OF_VLLM:
                if spec.get(key).value is not None:
                    what = f"{key} stands beside vllmConfig, where the chart of vLLM's production-stack does not read it."
                    yield Say(spec.get(key), what, "Move it into vllmConfig.")


def _unknown(one: Object) -> Iterator[Say]:
    found = _FIELDS.get((one.group, one.kind))
    if found is None or (one.kind == "HorizontalPodAutoscaler" and not one.at.get("apiVersion").text.startswith("autoscaling/")):
        return
    path, fields = found
    for key, value in one.at.get(*path).items():
        if key not in fields and not key.startswith(("$", "x-")) and "{" not in key:
            fix = _meant(key, fields)
            yield Say(value, f"{one.kind} has no field {key}: it is dropped, or refused.", fix or "Delete it.")


_ALSO = {"minReplicas": "minReplicaCount", "maxReplicas": "maxReplicaCount"}


def _meant(key: str, fields: tuple[str, ...]) -> str:
    if _ALSO.get(key) in fields:
        return f"Did you mean {_ALSO[key]}?"
    return nearest(key, fields)


def _near(at: At, fields: tuple[str, ...], what: str) -> Iterator[Say]:
    """Keys that are almost one of `fields`: others may be of a version that is not known here."""
    lower = {field.lower(): field for field in fields}
    for key, value in at.items():
        right = lower.get(re.sub(r"[-_]", "", key).lower())
        if key not in fields and right is not None:
            yield Say(value, f"{what} has no field {key}: it is dropped, or refused.", f"Write {right}.")


def _types(one: Object) -> Iterator[Say]:
    """Types and words that definitions of custom kinds check, and older servers without them do not."""
    if (
        one.kind == "ScaledObject"
        and not one.spec.get("scaleTargetRef", "name").text
        and one.spec
        and "$patch" not in str(one.spec.value)
    ):
        yield Say(one.spec, "scaleTargetRef.name is missing.", "Name the workload that it scales.")
    if one.kind == "InferenceSet":
        yield from _whole_number(one.spec.get("replicas"))
    if one.kind in ("Workspace", "InferenceSet"):
        mode = (one.at if one.kind == "Workspace" else one.spec.get("template")).get("inference", "preset", "accessMode")
        if mode.text and mode.text not in ("public", "private"):
            yield Say(mode, f"accessMode is {mode.text}.", "Write public or private, or delete it: it is deprecated.")
    if one.kind == "LeaderWorkerSet":
        policy = one.spec.get("leaderWorkerTemplate", "restartPolicy")
        if policy.text and policy.text not in _RESTART and "{" not in policy.text:
            yield Say(policy, f"restartPolicy is {policy.text}.", f"Write one of {', '.join(_RESTART[:3])}.")
    if one.kind == "TriggerAuthentication":
        provider = one.spec.get("podIdentity", "provider")
        if provider.text and provider.text not in ("azure-workload", "gcp", "aws", "aws-eks", "none", "azure", "aws-kiam"):
            yield Say(
                provider,
                f"KEDA has no identity provider {provider.text}.",
                nearest(provider.text, ("azure-workload", "gcp", "aws")),
            )
    if one.kind in ("PodMonitor", "ServiceMonitor"):
        yield from _intervals(one)


def _whole_number(at: At) -> Iterator[Say]:
    if isinstance(at.value, str) and not re.search(r"[{$<]", at.text):
        edits = (Edit("set", at, "", int(at.text)),) if at.text.isdigit() else ()
        yield Say(at, f"{at.path[-1]} is the text {at.text}.", "Write a whole number without quotes.", edits)


def _intervals(one: Object) -> Iterator[Say]:
    for key in ("podMetricsEndpoints", "endpoints"):
        for each in one.spec.get(key).each():
            for name in ("interval", "scrapeTimeout"):
                at = each.get(name)
                if at.text and not re.fullmatch(r"0|(?:\d+(?:ms|[ywdhms]))+", at.text) and not re.search(r"[{$<]", at.text):
                    yield Say(at, f"{at.text} is no duration of Prometheus.", "Write it as in 15s.")


@rule("HR606", "error", "an InferencePool that is refused", "https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/")
def pool(context: Context) -> Iterator[Say]:
    """v1 has targetPorts, selector.matchLabels and endpointPickerRef with a port; the names of v1alpha2 are refused."""
    for one in context.of("InferencePool"):
        version = one.at.get("apiVersion")
        if version.text.startswith("inference.networking.x-k8s.io/"):
            what = "The Inference Extension has no InferencePool in inference.networking.x-k8s.io any more (release 1.6)."
            yield Say(
                version, what, "Write inference.networking.k8s.io/v1, with targetPorts and endpointPickerRef.", (), "warning"
            )
        if version.text != "inference.networking.k8s.io/v1":
            continue
        for old, new in (("targetPortNumber", "targetPorts: [{number: …}]"), ("extensionRef", "endpointPickerRef")):
            if (at := one.spec.get(old)).value is not None:
                yield Say(at, f"{old} is of v1alpha2.", f"Write {new}.")
        selector = one.spec.get("selector")
        if selector and not selector.get("matchLabels"):
            yield Say(selector, "The selector of v1 has matchLabels.", "Write selector: {matchLabels: {…}}.")
        picker = one.spec.get("endpointPickerRef")
        if picker and picker.get("kind").text in ("", "Service") and picker.get("port", "number").value is None:
            yield Say(picker, "The picker has no port, which a Service needs.", "Write port: {number: 9002}.")
        for port in one.spec.get("targetPorts").each():
            number = port.get("number")
            if number.number is not None and not 0 < number.number < 65536:
                yield Say(number, f"{number.text} is no port.", "Write 1 to 65535.")
