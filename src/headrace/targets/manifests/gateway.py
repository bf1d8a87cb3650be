"""The gateway in the cluster: `headrace serve` over the addresses of the models' Services."""

import json
from typing import Any

from headrace.targets.manifests.base import PORT, PORT_NAME, Cluster, Manifest, labels, metadata, selector, short_hash
from headrace.targets.manifests.containers import HOME
from headrace.targets.manifests.objects import GATEWAY, account, disruption, service
from headrace.targets.manifests.pods import PRE_STOP_SECONDS, container_security, pod_security, pre_stop, scratch, spread
from headrace.targets.manifests.scaling import monitor

_USER = 1000
_WAKE_SECONDS = 60
"""Until KEDA has seen a request and a pod has its node: where a node has to be made first, minutes more."""


def gateway(cluster: Cluster) -> list[Manifest]:
    """Everything of the gateway. Its settings are named by their content: other settings are another name, and new pods."""
    text = json.dumps(settings(cluster), indent=2) + "\n"
    named = f"{GATEWAY}-{short_hash(text)}"
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cluster, GATEWAY, GATEWAY, named=named),
        "data": {"headrace.yaml": text},
    }
    return [
        account(cluster, GATEWAY, GATEWAY),
        config,
        _deployment(cluster, named),
        service(cluster, GATEWAY, GATEWAY),
        disruption(cluster, GATEWAY, GATEWAY),
        *([monitor(cluster, GATEWAY, GATEWAY)] if cluster.spec.scaler == "keda" else []),
    ]


def settings(cluster: Cluster) -> dict[str, Any]:
    """Its headrace.yaml. A Service is one address with all replicas behind it, so it has the slots of them all."""
    models: dict[str, Any] = {}
    for load in cluster.workloads:
        models[load.model] = {
            "url": f"http://{load.name}.{cluster.spec.namespace}.svc:{PORT}",
            "slots": min(65536, load.slots * load.replicas[1]),
            **({"context": load.placement.context} if load.placement.context else {}),
            **({"task": "embed"} if load.placement.task == "embed" else {}),
        }
    models |= {model.model: dict(model.settings) for model in cluster.outside}
    own = {**cluster.gateway, **_patience(cluster), "listen": f"0.0.0.0:{PORT}"}
    said: dict[str, Any] = {"models": models, "gateway": own}
    return {**said, "aliases": dict(cluster.aliases)} if cluster.aliases else said


def _patience(cluster: Cluster) -> dict[str, Any]:
    """A request that wakes a model waits until it is loaded, unless the user says for how long."""
    queue = dict(cluster.gateway.get("queue", {}))
    loading = [load.load_seconds for load in cluster.workloads if load.replicas[0] == 0]
    if not loading or "wait" in queue:
        return {}
    return {"queue": {**queue, "wait": _WAKE_SECONDS + 2 * max(loading)}}


def _deployment(cluster: Cluster, config: str) -> Manifest:
    pod = {
        "serviceAccountName": GATEWAY,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": PRE_STOP_SECONDS + cluster.drain_seconds + 10,
        "securityContext": pod_security(_USER, _USER),
        "topologySpreadConstraints": [spread(GATEWAY, GATEWAY)],
        "containers": [_container(cluster)],
        "volumes": [scratch(), {"name": "config", "configMap": {"name": config}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(cluster, GATEWAY, GATEWAY),
        "spec": {
            "replicas": cluster.spec.gateways,
            "selector": {"matchLabels": selector(GATEWAY, GATEWAY)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 3,
            "template": {"metadata": {"labels": labels(GATEWAY, GATEWAY, cluster.version)}, "spec": pod},
        },
    }


def _container(cluster: Cluster) -> Manifest:
    """It is alive and takes requests whether or not models are ready: it holds them until they are."""
    alive = {"httpGet": {"path": "/health", "port": PORT_NAME}}
    return {
        "name": GATEWAY,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["headrace"],
        # Without keys until a later version has them: what is in front of the Service decides who reaches it.
        "args": ["serve", "/config/headrace.yaml", "--insecure"],
        "env": [{"name": "HOME", "value": HOME}, {"name": "HEADRACE_CACHE", "value": f"{HOME}/headrace"}, *_keys(cluster)],
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {**alive, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {**alive, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": pre_stop(),
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "tmp", "mountPath": HOME},
            {"name": "config", "mountPath": "/config", "readOnly": True},
        ],
    }


def _keys(cluster: Cluster) -> list[Manifest]:
    """Keys of servers outside, `key: env:NAME`: from the Secret gateway-keys, which is named here and never written."""
    names = {str(model.settings["key"]).removeprefix("env:") for model in cluster.outside if model.settings.get("key")}
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": "gateway-keys", "key": name}}} for name in sorted(names)]
