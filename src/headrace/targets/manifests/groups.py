"""A replica that is split over machines: a LeaderWorkerSet, a stage of the layers in each pod.

The flags are those of vLLM's multiprocessing executor over several nodes; LeaderWorkerSet sets the variables LWS_* in every
pod of a group (kubernetes-sigs/lws, pkg/utils/pod). Rendered and checked against the CRD; no cluster has run it.

A group meets at its leader, by a headless Service that LeaderWorkerSet makes, unless one of that name is there; ours does not
do, it has no addresses of pods that are not ready yet, and a leader is not ready before its workers. Usually that Service is
called as the LeaderWorkerSet is, which is the model's own name; with a Service for each group it is called as the leader.
"""

from collections.abc import Iterator
from typing import Any

from headrace.targets.manifests.base import ENGINE, Cluster, Manifest, Workload, metadata
from headrace.targets.manifests.network import group
from headrace.targets.manifests.pods import template

__all__ = ["WORKER", "group", "meeting_places", "worker_set"]

WORKER = "engine-worker"
"""The component of pods that serve nobody by themselves: Service, budget and monitor are of the leaders."""

_MEETING_PORT = "29500"
_ALONE = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
"""Of a container that listens; a worker has no port."""


def worker_set(cluster: Cluster, load: Workload) -> Manifest:
    """The LeaderWorkerSet in place of a Deployment: when one pod of a group ends, the group begins anew."""
    replicas = {} if load.scaled else {"replicas": load.replicas[0]}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(cluster, load.name, ENGINE),
        "spec": {
            **replicas,
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},  # a group more needs its GPUs more
            },
            "startupPolicy": "LeaderCreated",
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            "leaderWorkerTemplate": {
                "size": load.machines,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _member(cluster, load, leads=True),
                "workerTemplate": _member(cluster, load, leads=False),
            },
        },
    }


def meeting_places(name: str, replicas: int) -> Iterator[str]:
    """The Services that LeaderWorkerSet makes, which is where groups meet."""
    return (f"{name}-{group}" for group in range(replicas))


def _member(cluster: Cluster, load: Workload, *, leads: bool) -> Manifest:
    made = template(cluster, load)
    made["spec"].pop("topologySpreadConstraints", None)  # a group fills its machines
    (container,) = made["spec"]["containers"]
    container["args"] += _joined(load, leads=leads)
    container["env"] = [_own_address(each) for each in container["env"]]
    if not leads:
        made["metadata"]["labels"]["app.kubernetes.io/component"] = WORKER
        for key in _ALONE:
            container.pop(key, None)
    return made


def _joined(load: Workload, *, leads: bool) -> list[str]:
    rank = "0" if leads else "$(LWS_WORKER_INDEX)"
    meeting = ["--master-addr", "$(LWS_LEADER_ADDRESS)", "--master-port", _MEETING_PORT]
    said = ["--distributed-executor-backend", "mp", "--nnodes", str(load.machines), "--node-rank", rank, *meeting]
    return said if leads else [*said, "--headless"]


def _own_address(variable: dict[str, Any]) -> dict[str, Any]:
    """Loopback is where the stages of one machine meet; others are met at the pod's address."""
    if variable["name"] != "VLLM_HOST_IP":
        return variable
    return {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}
