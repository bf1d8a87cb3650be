"""Weights in the cluster: a volume for each set of them, a Job that fills it once, and what the Job is told."""

import json
from typing import Any

from headrace.targets.manifests.base import Cluster, Manifest, Workload, metadata, selector, short_hash
from headrace.targets.manifests.pods import fetching, pod_security, pull_settings, scratch, volume_size, weights_claim

PULL = "pull"
_TRIES = 6


def weights(cluster: Cluster, load: Workload) -> list[Manifest]:
    """PVC, settings and Job; nothing for a model that brings no weights. Names hold a hash of the weights: other weights are
    another volume, which what runs does not notice, and no Job (immutable) has ever to be changed.
    """
    if not load.weights:
        return []
    many = cluster.spec.storage.access == "many"
    return [_claim(cluster, load, many=many), _settings(cluster, load), *([_job(cluster, load)] if many else [])]


def _claim(cluster: Cluster, load: Workload, *, many: bool) -> Manifest:
    spec: Manifest = {
        "accessModes": ["ReadWriteMany" if many else "ReadWriteOnce"],
        "resources": {"requests": {"storage": volume_size(cluster, load)}},
    }
    if cluster.spec.storage.class_:
        spec["storageClassName"] = cluster.spec.storage.class_
    about = metadata(cluster, load.name, PULL, named=load.weights)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": spec}


def _settings(cluster: Cluster, load: Workload) -> Manifest:
    """JSON is YAML: what `headrace pull` reads."""
    engine = "vllm" if load.placement.engine == "triton" else load.placement.engine
    file: dict[str, Any] = {
        "models": {load.model: {"source": load.source, "engine": engine}},
        "weights": {"cache": "/weights"},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cluster, load.name, PULL, named=f"{load.weights}-pull"),
        "data": {"headrace.yaml": json.dumps(file, indent=2) + "\n"},
    }


def _job(cluster: Cluster, load: Workload) -> Manifest:
    """Named by what it does: a Job cannot be changed, and one of another image is another Job, which finds its work done.
    Without ttlSecondsAfterFinished: a Job that is gone would be run again by the next apply.
    """
    pod = {
        "restartPolicy": "OnFailure",
        "serviceAccountName": load.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(1000, 1000),
        "containers": [fetching(cluster, load)],
        "volumes": [scratch(), weights_claim(load, read_only=False), pull_settings(load)],
    }
    spec = {"backoffLimit": _TRIES, "template": {"metadata": {"labels": selector(load.name, PULL)}, "spec": pod}}
    named = f"{load.name}-pull-{short_hash(json.dumps(spec, sort_keys=True))}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(cluster, load.name, PULL, named=named),
        "spec": spec,
    }
