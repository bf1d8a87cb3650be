"""KAITO's Workspace and InferenceSet → the models that they serve."""

from collections.abc import Callable, Mapping

import yaml

from headrace.importing.base import At, Flag, Found
from headrace.importing.documents import documents
from headrace.importing.flags import VLLM, take_flag
from headrace.importing.workloads import pod

PREFIX = "scaledobject.kaito.sh/"
Preset = Callable[[str], str | None]
"""The repository on the Hugging Face hub behind a preset's name."""

_NEEDLESS = {
    "labelSelector": "`headrace nodepool` says how nodes are labelled",
    "count": "the plan says how many machines it takes",
    "preferredNodes": "deprecated by KAITO",
}


def workspace(one: At, preset: Preset, configs: Mapping[str, At]) -> Found | None:
    """The model of a Workspace; None when it serves none."""
    if one.get("spec"):
        why = "a Workspace has no `spec`: `resource` and `inference` stand at the top; Kubernetes drops what is below `spec`"
        found = _of(one, one.get("spec"), preset, configs)
        if found:
            found.note("decided", "spec", why, one.get("spec").line)
        return found
    return _of(one, one, preset, configs)


def inference_set(one: At, preset: Preset, configs: Mapping[str, At]) -> Found | None:
    """The model of an InferenceSet, with its replicas and what scales them."""
    spec = one.get("spec")
    found = _of(one, spec.get("template"), preset, configs)
    if found is None:
        return None
    if spec.get("replicas").number is not None:
        found.scale["replicas"] = spec.get("replicas").text
    found.machines = spec.get("nodeCountLimit").number
    _own_nodes(found, spec.get("labelSelector"))
    _scaled(found, one.get("metadata", "annotations"))
    for field in ("updateStrategy", "autoUpgrade"):
        if value := spec.get(field):
            found.note("not carried", field, "Headrace has no key for it", value.line)
    return found


def _of(one: At, body: At, preset: Preset, configs: Mapping[str, At]) -> Found | None:
    kind, name = one.get("kind").text, one.get("metadata", "name").text
    found: Found | None = Found(name or "model", one, f"{kind} {name}", one.get("metadata", "namespace").text, kaito=True)
    assert found
    inference = body.get("inference")
    if inference.get("template"):
        found = pod(inference.get("template"), found)
    elif inference.get("preset"):
        _preset(found, inference.get("preset"), preset)
    else:
        return None
    if found is not None:
        _rest(found, body, inference, configs)
    return found


def _preset(found: Found, preset: At, repository: Preset) -> None:
    name = preset.get("name")
    found.engine = "vllm"
    found.location = repository(name.text) or (name.text if "/" in name.text else "")
    if found.location:
        found.served = [name.text.rpartition("/")[2]]
        found.why["source"] = f"KAITO's preset {name.text}"
    else:
        found.note("not carried", f"preset {name.text}", "it is not among KAITO's presets that are known here", name.line)
    for key, value in preset.get("presetOptions").items():
        if key == "modelAccessSecret":
            found.secret = value.text
        else:
            found.note("not carried", f"presetOptions.{key}", "deprecated by KAITO; Headrace has no key for it", value.line)
    if mode := preset.get("accessMode"):
        found.note("not needed", "accessMode", "deprecated by KAITO", mode.line)


def _rest(found: Found, body: At, inference: At, configs: Mapping[str, At]) -> None:
    found.sku = body.get("resource", "instanceType").text
    _own_nodes(found, body.get("resource", "labelSelector"))
    for key, value in body.get("resource").items():
        if key == "labelSelector" and not found.sku:
            continue
        if key in _NEEDLESS:
            found.note("not needed", f"resource.{key}", _NEEDLESS[key], value.line)
        elif key != "instanceType":
            found.note("not carried", f"resource.{key}", "Headrace has no key for it", value.line)
    for adapter in inference.get("adapters").each():
        what = f"adapter {adapter.get('source', 'name').text}"
        found.note("not carried", what, "it is an image or a volume; `adapters` takes file: and hf:", adapter.line)
    if body.get("tuning"):
        found.note("not carried", "tuning", "Headrace serves models and trains none", body.get("tuning").line)
    _config(found, inference.get("config"), configs)


def _own_nodes(found: Found, selector: At) -> None:
    """Without a size KAITO brings no nodes: the labels are of those that are there."""
    if found.sku:
        return
    found.node_labels |= {key: value.text for key, value in selector.get("matchLabels").items()}
    if others := selector.get("matchExpressions"):
        found.note("not carried", "labelSelector.matchExpressions", "kubernetes.nodes.labels are KEY: VALUE", others.line)


def _config(found: Found, named: At, configs: Mapping[str, At]) -> None:
    """vLLM's flags in the ConfigMap that `inference.config` names."""
    if not named:
        return
    config = configs.get(named.text)
    text = config.get("data", "inference_config.yaml").text if config else ""
    if config is None or not text:
        found.note("not carried", f"config {named.text}", "the ConfigMap is not among the files; give it as well", named.line)
        return
    content, mistakes = documents(text, config.file)
    start = config.get("data", "inference_config.yaml").line
    for key, value in (flag for one in content if not mistakes for flag in one.get("vllm").items()):
        name, values = f"--{key.replace('_', '-')}", () if value.value is True else (value.text or _flow(value),)
        if value.value is not False:
            take_flag(found, Flag(name, values, (name, *values), start + value.line), VLLM)


def _flow(value: At) -> str:
    return yaml.safe_dump(value.value, default_flow_style=True, width=10_000).strip()


def _scaled(found: Found, annotations: At) -> None:
    """The annotations of both generations of keda-kaito-scaler."""
    given = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
    if given.get("auto-provision", At("", "")).text != "true":
        return
    least = max(1, (given["min-replicas"].number or 1) if "min-replicas" in given else 1)
    most = (given["max-replicas"].number if "max-replicas" in given else None) or found.machines
    if most:
        found.scale["replicas"] = f"{least}..{max(least, most)}"
    if "threshold" in given and "waiting" in given.get("metricName", At("waiting", "")).text:
        found.scale["queue"] = given["threshold"].text
        why = "the annotations of old scalers; the current one wants `metrics`"
        found.note("decided", "threshold", why, given["threshold"].line)
    if "metrics" in given:
        _metrics(found, given["metrics"])
    for key, value in given.items():
        if key not in ("auto-provision", "min-replicas", "max-replicas", "threshold", "metricName", "metrics"):
            found.note("not carried", PREFIX + key, "Headrace sizes its own scaling by the cold start", value.line)


def _metrics(found: Found, metrics: At) -> None:
    try:
        parsed = yaml.safe_load(metrics.text)
    except (yaml.YAMLError, ValueError):
        parsed = None
    for metric in parsed if isinstance(parsed, list) else ():
        name = str(metric.get("name", "")) if isinstance(metric, dict) else ""
        if "waiting" in name and metric.get("upthreshold"):
            found.scale["queue"] = str(metric["upthreshold"])
        else:
            found.note("not carried", f"metric {name}", "Headrace scales on requests that wait and run", metrics.line)
