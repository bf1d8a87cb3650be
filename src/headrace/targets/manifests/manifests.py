"""A Cluster → every object, in the order in which they are made; and the files that they are kept in."""

from collections.abc import Mapping
from typing import Any

from headrace.targets.manifests import kaito, objects
from headrace.targets.manifests.base import Cluster, Manifest, labels
from headrace.targets.manifests.exposure import exposure, pool
from headrace.targets.manifests.gateway import gateway
from headrace.targets.manifests.scaling import authentication
from headrace.targets.manifests.text import MARK, dumped

__all__ = ["KUSTOMIZATION", "MARK", "dumped", "files", "manifests", "path", "stream"]

KUSTOMIZATION = "kustomization.yaml"
_INSTANCE = "app.kubernetes.io/instance"


def manifests(cluster: Cluster) -> list[Manifest]:
    """All objects of the cluster."""
    made = [_namespace(cluster), *authentication(cluster)]
    for load in cluster.workloads:
        on_kaito = cluster.spec.on_kaito(load.model) and load.need.gpus
        made += (kaito if on_kaito else objects).objects(cluster, load)
        made += [] if on_kaito else pool(cluster, load)
    return [*made, *gateway(cluster), *exposure(cluster)]


def files(made: list[Manifest]) -> dict[str, str]:
    """A file for each object by its path, and the kustomization that lists them: a folder for each model."""
    named = {path(manifest): f"{MARK}\n{dumped(manifest)}" for manifest in made}
    assert len(named) == len(made), "two objects of one kind and name"
    kustomization: Mapping[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(named),
    }
    return {**named, KUSTOMIZATION: f"{MARK}\n{dumped(kustomization)}"}


def stream(made: list[Manifest]) -> str:
    """All objects as one stream of documents, for `kubectl apply -f -`."""
    return "".join(f"---\n{dumped(manifest)}" for manifest in made)


def path(manifest: Manifest) -> str:
    """The file of an object: in the folder of what it belongs to."""
    kind, about = manifest["kind"].lower(), manifest["metadata"]
    if kind == "namespace":
        return f"{kind}.yaml"
    instance = about["labels"][_INSTANCE]
    return f"{instance}/{kind}.yaml" if about["name"] == instance else f"{instance}/{kind}-{about['name']}.yaml"


def _namespace(cluster: Cluster) -> Manifest:
    """Pods that are less than restricted are warned of, not refused: others may share the namespace."""
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("audit", "warn")}
    own = labels(cluster.spec.namespace, "namespace", cluster.version)
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": cluster.spec.namespace, "labels": {**own, **levels}},
    }
