"""KAITO: a model as an InferenceSet or a Workspace, and its webhook's rules that an object must keep (facts/kubernetes.md, 4)."""

import re
from collections.abc import Iterator

import yaml

from headrace.targets.manifests.base import ENGINE, GPU, PORT, PORT_NAME, Cluster, Manifest, Workload, metadata
from headrace.targets.manifests.network import policy
from headrace.targets.manifests.objects import account, mounted_files
from headrace.targets.manifests.pods import template
from headrace.targets.manifests.weights import weights

_PRESET_PORT = 5000
"""Where the server of a preset listens (kaito-project/kaito, pkg/utils/consts)."""

_CREATED_BY = "inferenceset.kaito.sh/created-by"
"""On every pod of an InferenceSet (pkg/workspace/manifests of kaito-project/kaito)."""

_WORKSPACE = "kaito.sh/workspace"
"""On every pod of a Workspace."""

_GATED = ("llama-", "meta-llama/", "gemma-3-", "google/gemma-3-")
_UP = 10
"""Waiting requests of a replica, as in KAITO's examples."""

_SCALED = "scaledobject.kaito.sh"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RESERVED = ("kaito.sh/workspace", "kaito.sh/workspacenamespace", "kaito.sh/ragengine", "kaito.sh/ragenginenamespace")


def objects(cluster: Cluster, load: Workload) -> list[Manifest]:
    """The InferenceSet or Workspace of one model and what belongs to it. Weights KAITO fetches where it has a preset."""
    port = _PRESET_PORT if load.preset else PORT
    pods = {_WORKSPACE: _workspace_name(load)} if _alone(cluster) else {_CREATED_BY: load.name}
    reached = [_service(cluster, load, pods, port), policy(cluster, load, pods, port, port)]
    made = _workspace(cluster, load) if _alone(cluster) else _set(cluster, load)
    if load.preset:
        return [_config(cluster, load), made, *reached]
    own = [account(cluster, load.name, ENGINE), *weights(cluster, load), *mounted_files(cluster, load)]
    return [*own, made, *reached]


def _alone(cluster: Cluster) -> bool:
    return cluster.spec.kaito == "workspace"


def _workspace_name(load: Workload) -> str:
    """Not the model's: KAITO makes a Service of the Workspace's name, and the model's name is ours."""
    return f"{load.name}-workspace"


def _workspace(cluster: Cluster, load: Workload) -> Manifest:
    """A Workspace has no spec: what would be in it stands at the top."""
    machine, labels = _machine(cluster, load)
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": metadata(cluster, load.name, ENGINE, named=_workspace_name(load)),
        "resource": {**machine, "labelSelector": {"matchLabels": labels}},
        "inference": _inference(cluster, load),
    }


def _set(cluster: Cluster, load: Workload) -> Manifest:
    about = metadata(cluster, load.name, ENGINE)
    if load.scaled:
        about["annotations"] = _annotations(load)
    machine, labels = _machine(cluster, load)
    replicas = {} if load.scaled else {"replicas": load.replicas[0]}
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "InferenceSet",
        "metadata": about,
        "spec": {
            **replicas,
            "labelSelector": {"matchLabels": labels},
            "template": {"resource": machine, "inference": _inference(cluster, load)},
        },
    }


def _machine(cluster: Cluster, load: Workload) -> tuple[dict[str, str], dict[str, str]]:
    """The size of machine that KAITO is to bring, and the labels of the nodes."""
    if own := cluster.spec.nodes.labels:  # nodes that are there already: KAITO brings none then, and wants no size named
        return {}, dict(own)
    assert load.need.instance_type, "on_gpus refuses KAITO without a size or labels"
    return {"instanceType": load.need.instance_type}, {"headrace/model": load.name}


def _inference(cluster: Cluster, load: Workload) -> Manifest:
    if not load.preset:
        made = template(cluster, load)
        made["spec"].pop("nodeSelector", None)  # KAITO brings the node, and selects it itself
        return {"template": made}
    secret = {"presetOptions": {"modelAccessSecret": cluster.spec.secret}} if cluster.spec.secret else {}
    return {"preset": {"name": load.preset, **secret}, "config": f"{load.name}-config"}


def _config(cluster: Cluster, load: Workload) -> Manifest:
    """What KAITO hands on to vLLM: the plan's sizes, and the name that clients ask for."""
    placement = load.placement
    said = {
        "served-model-name": load.model,
        "max-model-len": placement.context,
        "max-num-seqs": placement.slots,
        "shutdown-timeout": cluster.drain_seconds,
    }
    text = yaml.safe_dump({"vllm": said}, sort_keys=True)
    about = metadata(cluster, load.name, ENGINE, named=f"{load.name}-config")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"inference_config.yaml": text}}


def _annotations(load: Workload) -> dict[str, str]:
    """For keda-kaito-scaler after v0.6: the list of metrics; an older one's pair of annotations is refused by it.

    It never sleeps (0 counts as 1). Waiting requests alone, as its own examples have it: of several metrics it wants all above.
    """
    metric = {
        "name": "vllm:num_requests_waiting",
        "type": "gauge",
        "upthreshold": load.queue or _UP,
        "downthreshold": 1,
        "source": "modelpod",
    }
    return {
        f"{_SCALED}/auto-provision": "true",
        f"{_SCALED}/min-replicas": str(max(1, load.replicas[0])),
        f"{_SCALED}/max-replicas": str(load.replicas[1]),
        f"{_SCALED}/scaleupcooldown": str(max(60, load.load_seconds)),
        f"{_SCALED}/scaledowncooldown": "300",
        f"{_SCALED}/metrics": yaml.safe_dump([metric], sort_keys=False),
    }


def _service(cluster: Cluster, load: Workload, pods: dict[str, str], target: int) -> Manifest:
    """One address over all replicas: an InferenceSet makes a Service for each of its Workspaces only."""
    port = {"name": PORT_NAME, "port": PORT, "targetPort": target, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, load.name, ENGINE),
        "spec": {"type": "ClusterIP", "selector": pods, "ports": [port]},
    }


def problems(manifest: Manifest) -> Iterator[str]:
    """What KAITO's webhook would refuse in an InferenceSet or a Workspace; the CRD's schema sees none of it."""
    name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
    if not _LABEL.fullmatch(name):
        yield f"{name} is no DNS-1123 label"
    if manifest["kind"] == "Workspace":
        yield from _workspace_problems(manifest)
        return
    inference = spec.get("template", {}).get("inference", {})
    yield from _inference_problems(inference)
    yield from _node_problems(spec.get("labelSelector", {}), spec.get("template", {}).get("resource", {}))
    annotations = manifest["metadata"].get("annotations", {})
    if annotations.get(f"{_SCALED}/auto-provision") == "true":
        yield from _scaler_problems(annotations)


def _workspace_problems(manifest: Manifest) -> Iterator[str]:
    if "spec" in manifest:
        yield "a Workspace has no spec: resource and inference stand at the top, and the rest is dropped without a word"
    resource = manifest.get("resource", {})
    if ("inference" in manifest) == ("tuning" in manifest):
        yield "Either Inference or Tuning must be specified"
    yield from _inference_problems(manifest.get("inference", {}))
    yield from _node_problems(resource.get("labelSelector", {}), resource)


def _inference_problems(inference: Manifest) -> Iterator[str]:
    if ("preset" in inference) == ("template" in inference):
        yield "exactly one of preset and template"
    preset = inference.get("preset", {}).get("name", "")
    if gated(preset) and not inference["preset"].get("presetOptions", {}).get("modelAccessSecret"):
        yield f"the preset {preset} is gated and needs a modelAccessSecret with the key HF_TOKEN (kubernetes.secret)"
    pod = inference.get("template", {}).get("spec", {})
    for container in pod.get("containers", ()):
        if GPU not in container.get("resources", {}).get("limits", {}):
            yield "a template brings its own limit of GPUs"
    if "template" in inference and "sku" not in {each["key"] for each in pod.get("tolerations", ())}:
        yield "a template brings its own toleration of sku=gpu"


def gated(preset: str) -> bool:
    """Whether the hub asks who fetches the weights of a preset: the families whose licence has to be accepted there."""
    return preset.startswith(_GATED)


def _node_problems(selector: Manifest, resource: Manifest) -> Iterator[str]:
    labels = selector.get("matchLabels", {})
    if not set(labels) - set(_RESERVED):
        yield "labelSelector.matchLabels must contain at least one label that is not reserved"
    size = resource.get("instanceType", "")
    if size and not size.startswith(("Standard_N", "Standard_D")):
        yield f"Unsupported instance type {size}"


def _scaler_problems(annotations: dict[str, str]) -> Iterator[str]:
    if f"{_SCALED}/metricName" in annotations or f"{_SCALED}/threshold" in annotations:
        yield "metricName and threshold are of an older scaler"
    if int(annotations.get(f"{_SCALED}/max-replicas", "0")) <= 1:
        yield "max-replicas must be more than 1"
    for metric in yaml.safe_load(annotations.get(f"{_SCALED}/metrics", "[]")) or [{}]:
        if {"name", "type", "upthreshold", "downthreshold"} - set(metric):
            yield "metrics need name, type, upthreshold and downthreshold"
        elif metric["downthreshold"] > metric["upthreshold"]:
            yield "downthreshold is above upthreshold"
