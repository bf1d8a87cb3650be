"""The objects of one model on plain Kubernetes: who it is, what runs, how it is reached, by whom, and how it is disturbed."""

import base64

from headrace.targets.manifests import groups
from headrace.targets.manifests.base import (
    ENGINE,
    GATEWAY,
    PORT,
    PORT_NAME,
    SPARE,
    Cluster,
    Manifest,
    Workload,
    metadata,
    selector,
)
from headrace.targets.manifests.containers import CONTAINERS
from headrace.targets.manifests.network import policy
from headrace.targets.manifests.pods import file_key, mounted, probes, template
from headrace.targets.manifests.scaling import monitors, scaled
from headrace.targets.manifests.weights import weights

__all__ = ["GATEWAY", "account", "disruption", "mounted_files", "objects", "service"]

_SCHEDULING_SECONDS = 600
"""Until there is a node and its image: a pool that scales out takes minutes."""

_FETCH_RATE = 20_000_000
"""Bytes per second at which weights are fetched from the internet, at worst."""


def objects(cluster: Cluster, load: Workload) -> list[Manifest]:
    """Everything of one model, in the order in which it is made."""
    keda = cluster.spec.scaler == "keda"
    about = CONTAINERS[load.placement.engine]
    named = PORT_NAME if about.metrics_port == PORT else "metrics"
    split = load.machines > 1
    pods = groups.group(load) if split else selector(load.name, ENGINE)
    return [
        account(cluster, load.name, ENGINE),
        *weights(cluster, load),
        *mounted_files(cluster, load),
        groups.worker_set(cluster, load) if split else _deployment(cluster, load),
        service(cluster, load.name, ENGINE),
        disruption(cluster, load.name, ENGINE),
        policy(cluster, load, pods, PORT, about.metrics_port),
        *([scaled(cluster, load)] if keda and load.scaled else []),
        *(monitors(cluster, load.name, ENGINE, named) if load.placement.engine != "custom" else []),
    ]


def account(cluster: Cluster, name: str, component: str) -> Manifest:
    """An account of its own, without rights and without its token in the pod."""
    about = metadata(cluster, name, component)
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about, "automountServiceAccountToken": False}


def service(cluster: Cluster, name: str, component: str) -> Manifest:
    """One address that its pods are behind; its EndpointSlices have them one by one."""
    port = {"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, name, component),
        "spec": {"type": "ClusterIP", "selector": selector(name, component), "ports": [port]},
    }


def disruption(cluster: Cluster, name: str, component: str) -> Manifest:
    """One at a time, whatever their number: a minimum would stop a node from ever being drained of the only replica."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(cluster, name, component),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(name, component)}},
    }


def _deployment(cluster: Cluster, load: Workload) -> Manifest:
    """Without `replicas` where a scaler owns them: each apply would set them back."""
    patience = _SCHEDULING_SECONDS + load.weights_bytes // _FETCH_RATE + probes(load)["startupProbe"]["failureThreshold"] * 10
    replicas = {} if load.scaled else {"replicas": load.replicas[0]}
    spare = {"annotations": {SPARE: str(load.need.gpus)}} if load.need.spare else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(cluster, load.name, ENGINE, **spare),
        "spec": {
            **replicas,
            "selector": {"matchLabels": selector(load.name, ENGINE)},
            "strategy": _strategy(cluster, load),
            "progressDeadlineSeconds": patience,
            "revisionHistoryLimit": 3,
            "template": template(cluster, load),
        },
    }


def _strategy(cluster: Cluster, load: Workload) -> Manifest:
    """A pod more needs a GPU more: without a spare one it would be Pending for ever. A volume of one node cannot be shared."""
    if load.weights and cluster.spec.storage.access == "once":
        return {"type": "Recreate"}
    more = not load.need.gpus or load.need.spare
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": int(more), "maxUnavailable": int(not more)}}


def mounted_files(cluster: Cluster, load: Workload) -> list[Manifest]:
    """The ConfigMap of its files, if it has any. Text as text, so that a change can be read; all else as it has to be."""
    if not mounted(load):
        return []
    text, binary = {}, {}
    for path, content in sorted(mounted(load).items()):
        try:
            text[file_key(path)] = content.decode()
        except UnicodeDecodeError:
            binary[file_key(path)] = base64.b64encode(content).decode()
    data = {key: value for key, value in (("data", text), ("binaryData", binary)) if value}
    about = metadata(cluster, load.name, ENGINE, named=f"{load.name}-files")
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, **data}]
