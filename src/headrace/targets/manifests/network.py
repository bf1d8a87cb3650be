"""Who reaches an engine: the gateway, and by name whoever else has to. Engines ask nobody for a key here."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from headrace.spec.kubernetes import azure_managed
from headrace.targets.manifests.base import ENGINE, GATEWAY, Cluster, Manifest, Workload, metadata, selector

_NAMESPACE = "kubernetes.io/metadata.name"
_AZURE_AGENTS = "kube-system"
"""Where the agents of Azure's managed Prometheus run."""


def policy(cluster: Cluster, load: Workload, pods: Mapping[str, str], port: int, metrics: int) -> Manifest:
    """Whose pods are `pods`: the gateway reaches `port`, Prometheus and KAITO's scaler the metrics."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cluster, load.name, ENGINE),
        "spec": {
            "podSelector": {"matchLabels": dict(pods)},
            "policyTypes": ["Ingress"],
            "ingress": [
                _rule(_gateway(), port),
                *_metrics(cluster, load, metrics),
                *_past_the_gateway(cluster, port),
                *_group(load),
            ],
        },
    }


def prometheus_namespace(cluster: Cluster) -> str:
    """Where those who scrape run: the one in the name of the server."""
    if azure_managed(cluster.spec.prometheus):
        return _AZURE_AGENTS
    return (urlsplit(cluster.spec.prometheus or "").hostname or "").split(".")[1]


def _metrics(cluster: Cluster, load: Workload, port: int) -> list[Manifest]:
    made = [_rule(_in(prometheus_namespace(cluster)), port)] if cluster.monitored else []
    if cluster.spec.on_kaito(load.model) and cluster.spec.scaler == "keda" and load.need.gpus:
        made.append(_rule(_in(cluster.spec.keda), port))  # keda-kaito-scaler reads the pods' metrics itself
    return made


def _past_the_gateway(cluster: Cluster, port: int) -> list[Manifest]:
    """For an InferencePool: its picker, whose labels are not ours to know, and the Gateway's proxies."""
    pool = cluster.spec.inference_pool
    return [_rule({"podSelector": {}}, port), _rule(_in(pool.proxies), port)] if pool else []


def _group(load: Workload) -> list[Manifest]:
    """Pods that are one replica together talk on ports that they choose."""
    return [{"from": [{"podSelector": {"matchLabels": group(load)}}]}] if load.machines > 1 else []


def group(load: Workload) -> dict[str, str]:
    """The labels of all pods of a model, whatever their part in a replica is."""
    return {key: value for key, value in selector(load.name, ENGINE).items() if not key.endswith("/component")}


def _gateway() -> Manifest:
    return {"podSelector": {"matchLabels": selector(GATEWAY, GATEWAY)}}


def _in(namespace: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE: namespace}}}


def _rule(peer: Manifest, port: int) -> dict[str, Any]:
    return {"from": [peer], "ports": [{"port": port, "protocol": "TCP"}]}
