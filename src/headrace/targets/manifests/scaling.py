"""What scales a model: a ScaledObject on what the gateway counts, asked of the gateway itself or of Prometheus, and KEDA's rules.

Why running and waiting, why the gateway's: facts/keda-hpa.md, sections 7 and 8. The gateway's numbers are there at zero replicas.
"""

from headrace.scaling.base import Policy
from headrace.scaling.fields import fields
from headrace.spec.kubernetes import azure_managed
from headrace.targets.manifests.base import (
    GATEWAY,
    PORT_NAME,
    SCALER,
    SCALER_PORT,
    Cluster,
    Manifest,
    Workload,
    metadata,
    selector,
)

AUTHENTICATION = "prometheus"
"""The TriggerAuthentication for Azure's managed Prometheus."""

_PUSHED_SECONDS = 15
"""Between polls where the gateway says at once that somebody waits: they only see that nobody does any more."""


def scaled(cluster: Cluster, load: Workload) -> Manifest:
    """The ScaledObject of a model whose replicas are a range."""
    numbers = fields(_policy(load))
    polling = numbers.polling_seconds if cluster.spec.prometheus else _PUSHED_SECONDS
    sleeps = numbers.cooldown_seconds is not None
    sleeping = {"pollingInterval": polling, "cooldownPeriod": numbers.cooldown_seconds} if sleeps else {}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(cluster, load.name, "scaler"),
        "spec": {
            "scaleTargetRef": _target(load),
            "minReplicaCount": numbers.least,
            "maxReplicaCount": numbers.most,
            **sleeping,
            "fallback": dict(numbers.fallback),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": numbers.behaviour}},
            "triggers": [_prometheus(cluster, load) if cluster.spec.prometheus else _pushed(cluster, load)],
        },
    }


def _target(load: Workload) -> Manifest:
    if load.machines > 1:
        return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": load.name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": load.name}


def threshold(load: Workload) -> int:
    """Requests at the model per replica: a share of those that it is planned for, and those that may wait."""
    return fields(_policy(load)).threshold


def _policy(load: Workload) -> Policy:
    """The policy that `headrace serve` would scale it by, and `headrace simulate` tries."""
    least, most = load.replicas
    return Policy(least, most, load.concurrency, load.queue, load.idle_seconds, load.load_seconds)


def _pushed(cluster: Cluster, load: Workload) -> Manifest:
    """The gateway as external scaler: it says by itself when the first request of a sleeping model is held."""
    return {
        "type": "external-push",
        "metricType": "AverageValue",
        "metadata": {
            # Of its namespace: KEDA asks from its own.
            "scalerAddress": f"{SCALER}.{cluster.spec.namespace}.svc:{SCALER_PORT}",
            "model": load.model,
            "target": str(threshold(load)),
        },
    }


def _prometheus(cluster: Cluster, load: Workload) -> Manifest:
    """An empty answer is an error, not zero."""
    asleep = {"activationThreshold": "0"} if load.replicas[0] == 0 else {}
    azure = {"authenticationRef": {"name": AUTHENTICATION}} if azure_managed(cluster.spec.prometheus) else {}
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": cluster.spec.prometheus,
            "query": query(cluster.spec.namespace, load.model),
            "threshold": str(threshold(load)),
            **asleep,
            "ignoreNullValues": "false",
        },
        **azure,
    }


def query(namespace: str, model: str) -> str:
    """Waiting and running requests. In-flight series come with replicas: without any there are none, which is no outage."""
    labels = f'{{namespace="{namespace}",model="{model}"}}'
    return f"sum(headrace_queue_depth{labels}) + (sum(headrace_in_flight_requests{labels}) or vector(0))"


def authentication(cluster: Cluster) -> list[Manifest]:
    """How KEDA asks Azure's managed Prometheus: with the workload identity of KEDA's operator. Once for all models."""
    # What has GPUs there is scaled by KAITO's own scaler.
    scaled_by_us = any(load.scaled and not (cluster.spec.on_kaito(load.model) and load.need.gpus) for load in cluster.workloads)
    if not scaled_by_us or not cluster.monitored or not azure_managed(cluster.spec.prometheus):
        return []
    about = metadata(cluster, GATEWAY, "scaler", named=AUTHENTICATION)
    spec = {"podIdentity": {"provider": "azure-workload"}}
    return [{"apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication", "metadata": about, "spec": spec}]


def monitors(cluster: Cluster, name: str, component: str, port: str = PORT_NAME, secret: str = "") -> list[Manifest]:
    """A PodMonitor, by the name of the port, where a Prometheus has to have the numbers. Azure's reads a group of its own.
    `secret` has the bearer token under `key`, where one is asked for.
    """
    if not cluster.monitored:
        return []
    endpoint: Manifest = {"port": port, "path": "/metrics", "interval": "15s"}
    if secret:
        endpoint["authorization"] = {"type": "Bearer", "credentials": {"name": secret, "key": "key"}}
    group = "azmonitoring.coreos.com" if azure_managed(cluster.spec.prometheus) else "monitoring.coreos.com"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "PodMonitor",
            "metadata": metadata(cluster, name, component),
            "spec": {
                "selector": {"matchLabels": selector(name, component)},
                "podMetricsEndpoints": [endpoint],
            },
        }
    ]
