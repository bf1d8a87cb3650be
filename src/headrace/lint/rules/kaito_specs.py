"""HR42x, HR43x: partitions, names and pod templates of KAITO's objects."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, rule
from headrace.lint.context import Context
from headrace.lint.kaito_view import Wanted, wanted
from headrace.lint.rules.mig import profiles, slices_of

_WEBHOOK = "https://github.com/kaito-project/kaito/blob/main/api/v1beta1/workspace_validation.go"
_SCALED = "scaledobject.kaito.sh"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@rule("HR429", "error", "a partition that KAITO refuses", _WEBHOOK)
def partition(context: Context) -> Iterator[Say]:
    """Mode mig needs a profile that a GPU has, and no count; mode accelerator a count, and no profile. Not for tuning."""
    for one in wanted(context):
        part = one.resource.get("partition")
        mode, profile, count = (part.get(key) for key in ("mode", "profile", "count"))
        if not part:
            continue
        if one.tuning:
            yield Say(part, "Tuning takes no partition.", "Leave it out.")
        if mode.text == "mig":
            if count.value is not None:
                yield Say(count, "Mode mig takes no count.", "Leave it out.")
            if not profile.text:
                yield Say(part, "Mode mig needs a profile.", "Write one, such as 1g.10gb.")
            elif slices_of(profile.text) is None:
                yield Say(profile, f"No GPU has the MIG profile {profile.text}.", f"Write one of {', '.join(profiles()[:6])}, …")
        elif mode.text == "accelerator":
            if profile.value is not None:
                yield Say(profile, "Mode accelerator takes no profile.", "Leave it out.")
            if count.value is None:
                yield Say(part, "Mode accelerator needs a count.", "Write how many GPUs.")


@rule("HR430", "error", "a name that KAITO refuses", _WEBHOOK)
def name(context: Context) -> Iterator[Say]:
    """The name becomes labels and names of other objects: it has to be a DNS-1123 label, of at most 63 characters."""
    for one in wanted(context):
        at = one.owner.at.get("metadata", "name")
        if at.text and not re.search(r"[{}$<]", at.text) and not _LABEL.fullmatch(at.text):
            yield Say(at, f"{at.text} is no DNS-1123 label.", "Use small letters, digits and dashes, at most 63.")


@rule(
    "HR431",
    "warning",
    "a template without what presets bring",
    "https://github.com/kaito-project/kaito/blob/main/pkg/workspace/manifests/manifests.go",
)
def bare_template(context: Context) -> Iterator[Say]:
    """KAITO's nodes have the taint sku=gpu:NoSchedule. Presets tolerate it and ask for their GPUs; a template has to do both
    itself, or its pod is Pending or has no GPU."""
    for one in wanted(context):
        spec = one.template.get("spec")
        if not spec or one.resource.get("instanceType").text.startswith("Standard_D"):
            continue
        keys = {toleration.get("key").text for toleration in spec.get("tolerations").each()}
        everything = any(
            not each.get("key").text and each.get("operator").text == "Exists" for each in spec.get("tolerations").each()
        )
        if "sku" not in keys and not everything:
            value = [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]
            edits = (Edit("add", spec, "tolerations", value),) if spec.get("tolerations").value is None else ()
            yield Say(
                spec, "KAITO's nodes have the taint sku=gpu, which the template does not tolerate.", "Add the toleration.", edits
            )
        asked = [key for each in spec.get("containers").each() for key, _ in each.get("resources", "limits").items()]
        if spec.get("containers") and not any(key.startswith(("nvidia.com/", "amd.com/")) for key in asked):
            yield Say(spec, "No container of the template has a limit of GPUs.", 'Write resources.limits: {nvidia.com/gpu: "1"}.')


@rule(
    "HR432",
    "error",
    "a pod template that is none",
    "https://github.com/kaito-project/kaito/blob/main/config/crd/bases/kaito.sh_workspaces.yaml",
)
def no_pod_template(context: Context) -> Iterator[Say]:
    """The definition does not look into inference.template: a wrong type is stored as it is (`image: y` became `image: true`,
    measured), and fails when pods are made."""
    for one in wanted(context):
        yield from _wrong(one)


def _wrong(one: Wanted) -> Iterator[Say]:
    spec = one.template.get("spec")
    if one.template and not spec:
        yield Say(one.template, "The template has no spec.", "Write template.spec.containers.")
        return
    containers = spec.get("containers")
    if spec and not isinstance(containers.value, list):
        yield Say(containers if containers else spec, "containers is no list.", "Write a list of containers.")
    for each in containers.each():
        if not each.get("name").text:
            yield Say(each, "A container has no name.", "Write one.")
        for key in ("image", "name"):
            yield from _no_text(each.get(key))
        for key in ("command", "args"):
            if each.get(key).value is not None and not isinstance(each.get(key).value, list):
                yield Say(each.get(key), f"{key} is no list.", "Write a list of texts.")
            for item in each.get(key).each():
                yield from _no_text(item)
        for variable in each.get("env").each():
            yield from _no_text(variable.get("value"))


def _no_text(at: At) -> Iterator[Say]:
    if at.value is not None and not isinstance(at.value, str):
        key = next((part for part in reversed(at.path) if isinstance(part, str)), "")
        shown = at.text or "no text"
        yield Say(at, f"{key} is {shown}, which YAML does not read as text.", f'Write "{shown}" in quotes.')


@rule("HR433", "warning", "a scaler without room", "https://github.com/kaito-project/keda-kaito-scaler#readme")
def no_room(context: Context) -> Iterator[Say]:
    """keda-kaito-scaler refuses an InferenceSet whose max-replicas is 1 or less, or that has none and no nodeCountLimit."""
    for one in context.of("InferenceSet"):
        annotations = one.at.get("metadata", "annotations")
        if annotations.get(f"{_SCALED}/auto-provision").text != "true":
            continue
        most = annotations.get(f"{_SCALED}/max-replicas")
        if most.text and most.number is not None and most.number <= 1:
            yield Say(most, f"max-replicas is {most.text}: the scaler refuses that.", "Write 2 or more.")
        elif not most.text and one.spec.get("nodeCountLimit").number is None:
            at = annotations.get(f"{_SCALED}/auto-provision")
            yield Say(
                at,
                "Neither max-replicas nor nodeCountLimit says how many there may be: the scaler refuses that.",
                f'Write {_SCALED}/max-replicas: "8".',
            )
