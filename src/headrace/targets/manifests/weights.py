"""Weights in the cluster: a volume for each set of them, a Job that fills it once, and what the Job is told."""

import copy
import json
from typing import Any

from headrace.targets.manifests.base import Cluster, Manifest, Workload, metadata, selector, short_hash
from headrace.targets.manifests.pods import claim_spec, fetching, pod_security, pull_settings, scratch, weights_claim

PULL = "pull"
_TRIES = 6


def weights(cluster: Cluster, load: Workload) -> list[Manifest]:
    """PVC, settings and Job; nothing for a model that brings no weights. Names hold a hash of the weights: other weights are
    another volume, which what runs does not notice, and no Job (immutable) has ever to be changed.
    """
    if not load.weights:
        return []
    match cluster.spec.storage.access:
        case "many":
            return [_claim(cluster, load), _settings(cluster, load), _job(cluster, load)]
        case "once":
            return [_claim(cluster, load), _settings(cluster, load)]
        case "each":  # the claim is the pod's
            return [_settings(cluster, load)]


def _claim(cluster: Cluster, load: Workload) -> Manifest:
    about = metadata(cluster, load.name, PULL, named=load.weights)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": claim_spec(cluster, load)}


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
    named = f"{load.name}-pull-{job_hash(cluster.image, cluster.spec.secret or '', spec)}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(cluster, load.name, PULL, named=named),
        "spec": spec,
    }


def job_hash(image: str, secret: str, spec: Manifest) -> str:
    """Of what the Job is. Image and Secret stand apart from all else: a chart, which is told them later, makes the hash again."""
    return short_hash(fixed_hash(spec), image, secret)


def fixed_hash(spec: Manifest) -> str:
    """Of a Job without its image and token."""
    bare = copy.deepcopy(spec)
    (container,) = bare["template"]["spec"]["containers"]
    container["env"] = [each for each in container["env"] if "valueFrom" not in each]
    del container["image"]
    return short_hash(json.dumps(bare, sort_keys=True))
