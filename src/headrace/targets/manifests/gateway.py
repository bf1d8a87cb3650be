"""The gateway in the cluster: pods that follow the models' pods and reload their ConfigMap; KEDA asks them for the load."""

import json
from typing import Any

from headrace.engines import engines
from headrace.targets.manifests.base import (
    GATEWAY,
    PORT,
    PORT_NAME,
    SCALER,
    SCALER_PORT,
    Cluster,
    Manifest,
    Workload,
    labels,
    metadata,
    selector,
)
from headrace.targets.manifests.containers import HOME
from headrace.targets.manifests.objects import account, disruption, service
from headrace.targets.manifests.pods import PRE_STOP_SECONDS, container_security, pod_security, pre_stop, scratch, spread
from headrace.targets.manifests.scaling import monitors

SETTINGS = "gateway.json"
"""The key of its file in its ConfigMap."""

SCALER_PORT_NAME = "grpc"
CLIENT_KEYS = "client-keys"
"""The Secret with the keys of clients: the file of them, or the variable that holds them. It is named here and never written."""
CLIENT_KEYS_FILE = "keys.json"
METRICS_KEY = "metrics-key"
"""The Secret with a key that may read /metrics (`headrace key add --metrics`), for Prometheus. The same."""
_CLIENTS = "/client-keys"
_CONFIG = "/config"
_USER = 1000
_WAKE_SECONDS = 60
"""Until KEDA has seen a request and a pod has its node: where a node has to be made first, minutes more."""

_START_SECONDS = 300
"""Until a new pod has heard of the models' pods: as long as an API server may be away before the pod is tried again."""


def gateway(cluster: Cluster) -> list[Manifest]:
    """Everything of the gateway. Its settings keep their name: pods reload them, and a change of models rolls nothing."""
    return [
        account(cluster, GATEWAY, GATEWAY),
        *_rights(cluster),
        _config(cluster),
        _deployment(cluster),
        service(cluster, GATEWAY, GATEWAY),
        *([_scaler(cluster)] if _scales(cluster) else []),
        disruption(cluster, GATEWAY, GATEWAY),
        _policy(cluster),
        *monitors(cluster, GATEWAY, GATEWAY, secret=METRICS_KEY if cluster.gateway.get("keys") else ""),
    ]


def _scales(cluster: Cluster) -> bool:
    """Whether KEDA may ask it."""
    return cluster.spec.scaler == "keda"


def settings(cluster: Cluster) -> dict[str, Any]:
    """Its file (spec/gateway_file.py): a model in pods by its Service, with what one replica of it is."""
    own = {**cluster.gateway, **_patience(cluster), "listen": f"0.0.0.0:{PORT}"}
    if _keys_file(cluster):
        own["keys"] = f"file:{_CLIENTS}/{CLIENT_KEYS_FILE}"  # not where it is on the machine that renders
    if own.get("log"):
        own["log"] = "stdout"  # a pod keeps no files, and the cluster collects what it writes
    return {
        "namespace": cluster.spec.namespace,
        "models": {load.model: _model(load) for load in cluster.workloads},
        **({"outside": {model.model: dict(model.settings) for model in cluster.outside}} if cluster.outside else {}),
        **({"aliases": dict(cluster.aliases)} if cluster.aliases else {}),
        **({"prices": dict(cluster.prices)} if cluster.prices else {}),
        "gateway": own,
        **({"scaler": {"service": SCALER, "port": SCALER_PORT}} if _scales(cluster) else {}),
    }


def _model(load: Workload) -> dict[str, Any]:
    """What is as it is by default is left out."""
    placement = load.placement
    engine = engines()[placement.engine]
    speaks = engine.speaks(placement)
    return {
        "service": load.name,
        "slots": load.slots,
        "replicas": list(load.replicas),
        "start": load.load_seconds,
        "task": placement.task,
        **({"context": placement.context} if placement.context else {}),
        **({"speaks": speaks} if speaks != "openai" else {}),
        **({"folds": True} if engine.folds else {}),
        **({"continues": engine.continues} if engine.continues else {}),
        **({"caches": engine.caches} if engine.caches != "blocks" else {}),
        **({"template": placement.template} if placement.template else {}),
        **({"also": list(placement.also)} if placement.also else {}),
    }


def _patience(cluster: Cluster) -> dict[str, Any]:
    """A request that wakes a model waits until it is loaded, unless the user says for how long."""
    queue = dict(cluster.gateway.get("queue", {}))
    loading = [load.load_seconds for load in cluster.workloads if load.replicas[0] == 0]
    if not loading or "wait" in queue:
        return {}
    return {"queue": {**queue, "wait": _WAKE_SECONDS + 2 * max(loading)}}


def _config(cluster: Cluster) -> Manifest:
    about = metadata(cluster, GATEWAY, GATEWAY)
    text = json.dumps(settings(cluster), indent=2, ensure_ascii=False) + "\n"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {SETTINGS: text}}


def _rights(cluster: Cluster) -> list[Manifest]:
    """The least: it reads which pods are behind Services, here only."""
    about, group = metadata(cluster, GATEWAY, GATEWAY), "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    subject = {"kind": "ServiceAccount", "name": GATEWAY, "namespace": cluster.spec.namespace}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": about, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": about,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": GATEWAY},
            "subjects": [subject],
        },
    ]


def _scaler(cluster: Cluster) -> Manifest:
    """Where KEDA asks, and where gateways find each other. Any of them answers for all."""
    made = service(cluster, GATEWAY, GATEWAY)
    port = {"name": SCALER_PORT_NAME, "port": SCALER_PORT, "targetPort": SCALER_PORT_NAME, "protocol": "TCP"}
    return {
        **made,
        "metadata": metadata(cluster, GATEWAY, GATEWAY, named=SCALER),
        "spec": {**made["spec"], "ports": [port]},
    }


def _policy(cluster: Cluster) -> Manifest:
    """Clients reach it from anywhere in the cluster; the load is told, without keys, to KEDA and to the other gateways only."""
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.spec.keda}}}
    others = {"podSelector": {"matchLabels": selector(GATEWAY, GATEWAY)}}
    asks = {"from": [keda, others], "ports": [{"port": SCALER_PORT, "protocol": "TCP"}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cluster, GATEWAY, GATEWAY),
        "spec": {
            "podSelector": {"matchLabels": selector(GATEWAY, GATEWAY)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": PORT, "protocol": "TCP"}]}, *([asks] if _scales(cluster) else [])],
        },
    }


def _deployment(cluster: Cluster) -> Manifest:
    pod = {
        "serviceAccountName": GATEWAY,
        "automountServiceAccountToken": True,  # with it pods are followed; no other pod of ours has one
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": PRE_STOP_SECONDS + cluster.drain_seconds + 10,
        "securityContext": pod_security(_USER, _USER),
        "topologySpreadConstraints": [spread(GATEWAY, GATEWAY)],
        "containers": [_container(cluster)],
        "volumes": [
            scratch(),
            {"name": "config", "configMap": {"name": GATEWAY}},
            *([{"name": CLIENT_KEYS, "secret": {"secretName": CLIENT_KEYS}}] if _keys_file(cluster) else []),
        ],
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
    """It listens once it has heard of pods, and takes requests whether or not models are ready: it holds them until they are."""
    alive = {"httpGet": {"path": "/health", "port": PORT_NAME}}
    ports = [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]
    if _scales(cluster):
        ports.append({"name": SCALER_PORT_NAME, "containerPort": SCALER_PORT, "protocol": "TCP"})
    return {
        "name": GATEWAY,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["headrace"],
        # Without keys what is in front of the Service decides who reaches it.
        "args": ["gateway", f"{_CONFIG}/{SETTINGS}", *([] if cluster.gateway.get("keys") else ["--insecure"])],
        "env": [
            {"name": "HOME", "value": HOME},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            *_keys(cluster),
            *_client_variable(cluster),
        ],
        "ports": ports,
        "startupProbe": {**alive, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": _START_SECONDS // 2},
        "readinessProbe": {**alive, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": pre_stop(),
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "tmp", "mountPath": HOME},
            # The folder, no subPath: only whole folders follow a ConfigMap that changes.
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            *([{"name": CLIENT_KEYS, "mountPath": _CLIENTS, "readOnly": True}] if _keys_file(cluster) else []),
        ],
    }


def _keys(cluster: Cluster) -> list[Manifest]:
    """Keys of servers outside and the password of Redis, `env:NAME`: from the Secret gateway-keys, which is never written."""
    names = {str(model.settings["key"]).removeprefix("env:") for model in cluster.outside if model.settings.get("key")}
    if password := (cluster.gateway.get("redis") or {}).get("password"):
        names.add(password.removeprefix("env:"))
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": "gateway-keys", "key": name}}} for name in sorted(names)]


def _keys_file(cluster: Cluster) -> bool:
    return str(cluster.gateway.get("keys") or "").startswith("file:")


def _client_variable(cluster: Cluster) -> list[Manifest]:
    """The variable that holds clients' keys, `keys: env:NAME`."""
    kind, _, name = str(cluster.gateway.get("keys") or "").partition(":")
    if kind != "env":
        return []
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": CLIENT_KEYS, "key": name}}}]
