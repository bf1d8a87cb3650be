"""What scales a model: a ScaledObject on what the gateway counts, and the monitors that bring Prometheus the numbers.

Why running and waiting, why the gateway's: facts/keda-hpa.md, sections 7 and 8. The gateway's series are there at zero replicas.
"""

from headrace.targets.manifests.base import PORT_NAME, Cluster, Manifest, Workload, metadata, selector

_POLLING_SECONDS = 5
"""At zero replicas: how long the first request waits unseen."""

_LEAST_PERIOD, _MOST_PERIOD = 60, 1800  # the API takes no longer ones
_DOWN_WINDOW, _MOST_WINDOW = 300, 3600


def scaled(cluster: Cluster, load: Workload) -> Manifest:
    """The ScaledObject of a model whose replicas are a range."""
    least, most = load.replicas
    sleeping = {"pollingInterval": _POLLING_SECONDS, "cooldownPeriod": int(load.idle_seconds)} if least == 0 else {}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(cluster, load.name, "scaler"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": load.name},
            "minReplicaCount": least,
            "maxReplicaCount": most,
            **sleeping,
            "fallback": {"failureThreshold": 3, "replicas": max(1, least), "behavior": "currentReplicasIfHigher"},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behaviour(load)}},
            "triggers": [trigger(cluster, load)],
        },
    }


def trigger(cluster: Cluster, load: Workload) -> Manifest:
    """Requests at the model per replica: those that it is planned for, and those that may wait. An empty answer is an error."""
    threshold = load.concurrency + load.queue
    asleep = {"activationThreshold": "0"} if load.replicas[0] == 0 else {}
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": cluster.spec.prometheus,
            "query": query(cluster.spec.namespace, load.model),
            "threshold": str(threshold),
            **asleep,
            "ignoreNullValues": "false",
        },
    }


def query(namespace: str, model: str) -> str:
    """Waiting and running requests. In-flight series come with replicas: without any there are none, which is no outage."""
    labels = f'{{namespace="{namespace}",model="{model}"}}'
    return f"sum(headrace_queue_depth{labels}) + (sum(headrace_in_flight_requests{labels}) or vector(0))"


def behaviour(load: Workload) -> Manifest:
    """Up: at most twice as many while a start takes: the same queue would ask for more and more. Down: one by one."""
    period = min(_MOST_PERIOD, max(_LEAST_PERIOD, load.load_seconds))
    window = min(_MOST_WINDOW, max(_DOWN_WINDOW, load.load_seconds))
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": period},
                {"type": "Percent", "value": 100, "periodSeconds": period},
            ],
            "selectPolicy": "Max",
        },
        "scaleDown": {
            "stabilizationWindowSeconds": window,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
            "selectPolicy": "Max",
        },
    }


def monitor(cluster: Cluster, name: str, component: str, port: str = PORT_NAME) -> Manifest:
    """A PodMonitor: by the name of the port."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(cluster, name, component),
        "spec": {
            "selector": {"matchLabels": selector(name, component)},
            "podMetricsEndpoints": [{"port": port, "path": "/metrics", "interval": "15s"}],
        },
    }
