"""HR42x: KAITO's objects, and what its webhook refuses (facts: api/v1beta1/workspace_validation.go of kaito-project/kaito)."""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, Severity, rule
from headrace.lint.context import Context
from headrace.lint.kaito_view import HISTORICAL, Wanted, filled, presets, wanted

_WEBHOOK = "https://github.com/kaito-project/kaito/blob/main/api/v1beta1/workspace_validation.go"
_RESERVED = (
    *("kaito.sh/workspace", "kaito.sh/workspacenamespace", "kaito.sh/ragengine", "kaito.sh/ragenginenamespace"),
    *("karpenter.sh/nodepool", "karpenter.sh/provisioner-name"),
)
_GATED = re.compile(r"llama-3\.\d-\d+b-instruct|meta-llama/\S+")
_SCALED = "scaledobject.kaito.sh"


@rule(
    "HR420", "error", "a Workspace with spec", "https://github.com/kaito-project/kaito/blob/main/api/v1beta1/workspace_types.go"
)
def spec_of_workspace(context: Context) -> Iterator[Say]:
    """A Workspace has no `spec`: resource, inference and tuning stand at the top. An API server that does not check strictly
    keeps an empty object (measured), and nothing is ever served."""
    for one in context.of("Workspace"):
        if one.group == "kaito.sh" and one.spec:
            yield Say(one.spec, "A Workspace has no spec: all below it is dropped.", "Move resource and inference to the top.")


@rule("HR421", "error", "not exactly one of two", _WEBHOOK)
def one_of_two(context: Context) -> Iterator[Say]:
    """Exactly one of inference and tuning, and in inference exactly one of preset and template: the webhook refuses all else."""
    for one in wanted(context):
        if one.owner.kind == "Workspace" and bool(one.inference) == bool(one.tuning) and one.resource:
            said = "both inference and tuning" if one.tuning else "neither inference nor tuning"
            yield Say(one.tuning if one.tuning else one.owner.at, f"It has {said}.", "Write one of them.")
        if one.inference and bool(one.inference.get("preset")) == bool(one.template):
            said = "both preset and template" if one.template else "neither preset nor template"
            yield Say(one.inference, f"inference has {said}.", "Write one of them.")


@rule("HR422", "error", "a size for nodes that are there", _WEBHOOK)
def size_and_nodes(context: Context) -> Iterator[Say]:
    """With nodes of one's own (partition, preferredNodes) instanceType has to be empty; where KAITO makes the nodes it has to be
    set."""
    for one in wanted(context):
        size = one.resource.get("instanceType")
        own = next((one.resource.get(key) for key in ("partition", "preferredNodes") if one.resource.get(key)), None)
        if own is not None and filled(size) and own.path[-1] == "partition":
            what = f"{own.path[-1]} is for nodes that are there, and instanceType {size.text} makes new ones."
            yield Say(size, what, "Leave instanceType out.")


@rule("HR423", "error", "a labelSelector that KAITO refuses", _WEBHOOK)
def selector(context: Context) -> Iterator[Say]:
    """The selector is needed, takes matchLabels or the operator In, and needs a label that is not one of KAITO's own."""
    for one in wanted(context):
        if not one.resource and one.owner.kind == "Workspace":
            continue
        labels, expressions = one.selector.get("matchLabels"), list(one.selector.get("matchExpressions").each())
        for each in expressions:
            if each.get("operator").text not in ("", "In"):
                what = f"The operator {each.get('operator').text} is refused."
                yield Say(each.get("operator"), what, "Write matchLabels, or In.")
        if not one.selector:
            at = one.resource if one.owner.kind == "Workspace" else one.owner.spec
            yield Say(at, "labelSelector is missing.", "Write labelSelector: {matchLabels: {apps: NAME}}.")
        elif labels and not expressions and all(key in _RESERVED for key, _ in labels.items()):
            yield Say(labels, "All its labels are KAITO's own.", "Add a label of yours.")


@rule("HR424", "error", "annotations of an older scaler", "https://github.com/kaito-project/keda-kaito-scaler/pull/129")
def old_annotations(context: Context) -> Iterator[Say]:
    """keda-kaito-scaler after 0.6 wants the list `metrics` and fails without it; metricName and threshold are of older ones."""
    for one in context.of("InferenceSet"):
        annotations = one.at.get("metadata", "annotations")
        if annotations.get(f"{_SCALED}/auto-provision").text != "true" or annotations.get(f"{_SCALED}/metrics").text:
            continue
        for key, value in annotations.items():
            if re.fullmatch(rf"{re.escape(_SCALED)}/(?:\d+/)?(?:metricName|threshold)(?:/\d+)?", key):
                metric = annotations.get(f"{_SCALED}/metricName").text or "vllm:num_requests_waiting"
                up = annotations.get(f"{_SCALED}/threshold").text or "10"
                what = "The current keda-kaito-scaler wants the list `metrics`, and fails on this pair."
                fix = f'Write {_SCALED}/metrics: [{{name: "{metric}", type: gauge, upthreshold: {up}, downthreshold: 1}}].'
                yield Say(value, what, fix, _rewritten(annotations, metric, up))
                break


def _rewritten(annotations: At, metric: str, up: str) -> tuple[Edit, ...]:
    """The list, added beside what it stands for: old scalers go on reading their pair."""
    if not up.isdigit():
        return ()
    text = f'[{{"name": "{metric}", "type": "gauge", "upthreshold": {up}, "downthreshold": 1}}]'
    return (Edit("add", annotations, f"{_SCALED}/metrics", text),)


@rule("HR425", "error", "a gated preset and its secret", _WEBHOOK)
def access_secret(context: Context) -> Iterator[Say]:
    """A gated preset needs presetOptions.modelAccessSecret, a Secret with the key HF_TOKEN: without it the webhook refuses."""
    for one in wanted(context):
        secret = one.inference.get("preset", "presetOptions", "modelAccessSecret")
        if not secret and _GATED.fullmatch(one.preset.text.lower()) and one.owner.at.get("apiVersion").text == "kaito.sh/v1beta1":
            yield Say(
                one.preset,
                f"{one.preset.text} is gated, and there is no modelAccessSecret.",
                "Name a Secret with the key HF_TOKEN.",
            )
        keys = {
            key
            for there in context.named("Secret", secret.text)
            for part in ("data", "stringData")
            for key, _ in there.at.get(part).items()
        }
        if keys and "HF_TOKEN" not in keys:
            what = f"Secret {secret.text} has {', '.join(sorted(keys))}, and KAITO wants HF_TOKEN."
            yield Say(secret, what, "Add the token under the key HF_TOKEN.")


@rule(
    "HR426",
    "error",
    "a preset that KAITO does not have",
    "https://github.com/kaito-project/kaito/blob/main/presets/workspace/models/model_catalog.yaml",
)
def unknown_preset(context: Context) -> Iterator[Say]:
    """A preset is one of KAITO's names, or the org/model of a repository on the hub."""
    known = presets()
    for one in wanted(context):
        name = one.preset.text
        if not filled(one.preset) or "/" in name or name.lower() in known:
            continue
        near = [] if name.lower() in HISTORICAL else get_close_matches(name.lower(), known, 1, 0.8)
        fix = f"Did you mean {near[0]}?" if near else "Write org/model of the hub, for vLLM."
        gone = "has no more" if name.lower() in HISTORICAL else "does not have"
        severity: Severity | None = None if near or name.lower() in HISTORICAL else "warning"
        yield Say(one.preset, f"{name} is a preset that KAITO {gone}, as far as is known here.", fix, (), severity)


@rule("HR427", "info", "deprecated by KAITO", "https://github.com/kaito-project/kaito/blob/main/api/v1beta1/workspace_types.go")
def deprecated(context: Context) -> Iterator[Say]:
    """These fields are deprecated in v1beta1: they do nothing, or will."""
    for one in wanted(context):
        if one.owner.at.get("apiVersion").text != "kaito.sh/v1beta1":
            continue
        preset = one.inference.get("preset")
        fields = [one.resource.get("count"), one.resource.get("preferredNodes"), preset.get("accessMode")]
        fields += [preset.get("presetOptions", "image"), preset.get("presetOptions", "imagePullSecrets")]
        for at in fields:
            if at.value is not None:
                edits = (Edit("delete", at),) if at.path[-1] == "accessMode" else ()
                yield Say(at, f"{at.path[-1]} is deprecated.", "Delete it.", edits)


_IMMUTABLE = (
    *(("resource", "count"), ("resource", "instanceType"), ("resource", "labelSelector"), ("resource", "partition")),
    ("inference", "preset", "name"),
)


@rule("HR428", "error", "a change that KAITO refuses", _WEBHOOK)
def immutable(context: Context) -> Iterator[Say]:
    """The size, the selector, the partition and the preset of an object that is there cannot be changed. Compared with what was
    last applied, where the object says that (kubectl get -o yaml)."""
    for one in wanted(context):
        for path, at, old in _changed(one):
            what = f"{'.'.join(path)} was {old} when it was last applied, and cannot be changed."
            yield Say(at, what, "Make a new object beside it, and move the traffic: headrace graduate.")


def _changed(one: Wanted) -> Iterator[tuple[tuple[str, ...], At, object]]:
    try:
        before = json.loads(one.annotations.get("kubectl.kubernetes.io/last-applied-configuration").text)
    except ValueError:
        return
    for path in _IMMUTABLE if one.owner.kind == "Workspace" else ():
        old = before
        for key in path:
            old = old.get(key) if isinstance(old, dict) else None
        at = one.owner.at.get(*path)
        if old is not None and at.value is not None and old != at.value:
            yield path, at, old
