"""Objects of a namespace in the shape that API servers give them, for tests of what is said about them."""

from typing import Any

from headrace.targets.kubernetes.order import WORKLOADS
from headrace.targets.kubernetes.snapshot import Snapshot

Object = dict[str, Any]
LABELS = {"app.kubernetes.io/name": "headrace", "app.kubernetes.io/instance": "chat", "app.kubernetes.io/component": "engine"}


def deployment(replicas: int = 1, name: str = "chat", **status: Any) -> Object:
    status = {"observedGeneration": 1, "updatedReplicas": replicas, **status}
    return {"kind": "Deployment", "metadata": {"name": name, "generation": 1}, "spec": {"replicas": replicas}, "status": status}


def pod(
    name: str = "chat-5d4-x", *, ready: bool = False, node: str = "gpu-0", component: str = "engine", **status: Any
) -> Object:
    conditions = [{"type": "Ready", "status": str(ready)}, *status.pop("conditions", ())]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ai", "labels": {**LABELS, "app.kubernetes.io/component": component}},
        "spec": {"nodeName": node, "containers": [{"name": "engine", "resources": {"limits": {"memory": "8Gi"}}}]},
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


def unschedulable(message: str) -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(node="", phase="Pending", conditions=[condition])


def state(container: str = "engine", *, restarts: int = 0, **states: Any) -> Object:
    return {"name": container, "image": "registry.example.com/x:1", "restartCount": restarts, "ready": False, **states}


def waiting(reason: str, message: str = "", container: str = "engine", **more: Any) -> Object:
    return state(container, state={"waiting": {"reason": reason, "message": message}}, **more)


def crashed(code: int = 1, reason: str = "Error", container: str = "engine", restarts: int = 3) -> Object:
    return waiting(
        "CrashLoopBackOff", container=container, restarts=restarts, lastState={"terminated": {"exitCode": code, "reason": reason}}
    )


def event(reason: str, message: str, about: str = "chat-5d4-x", kind: str = "Pod", when: str = "2026-01-01T00:00:00Z") -> Object:
    return {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": kind, "name": about},
        "reason": reason,
        "message": message,
        "lastTimestamp": when,
    }


def claim(phase: str = "Pending", **spec: Any) -> Object:
    labels = {**LABELS, "app.kubernetes.io/component": "pull"}
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "chat-1a2b", "labels": labels},
        "spec": {"accessModes": ["ReadWriteMany"], **spec},
        "status": {"phase": phase},
    }


def job(name: str = "chat-pull-9f", **status: Any) -> Object:
    labels = {**LABELS, "app.kubernetes.io/component": "pull"}
    return {"kind": "Job", "metadata": {"name": name, "labels": labels}, "spec": {}, "status": status}


def scaler(**conditions: tuple[str, str]) -> Object:
    made = [{"type": kind, "status": status, "message": message} for kind, (status, message) in conditions.items()]
    return {
        "kind": "ScaledObject",
        "metadata": {"name": "chat"},
        "spec": {"scaleTargetRef": {"name": "chat"}},
        "status": {"conditions": made},
    }


def snapshot(*objects: Object, logs: dict[tuple[str, str], tuple[str, ...]] | None = None) -> Snapshot:
    """Objects by their kinds; what has no kind is an event."""

    def of(*kinds: str) -> tuple[Object, ...]:
        return tuple(each for each in objects if each.get("kind") in kinds)

    return Snapshot(
        workloads=of(*WORKLOADS),
        pods=of("Pod"),
        jobs=of("Job"),
        claims=of("PersistentVolumeClaim"),
        scalers=of("ScaledObject", "HorizontalPodAutoscaler"),
        events=tuple(each for each in objects if "involvedObject" in each),
        logs=logs or {},
    )
