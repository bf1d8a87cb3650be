"""The kubelet of every node: pods become ready, Jobs succeed, what is deleted goes. Where a test says so, pods run something."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, Protocol

from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.kubernetes.snapshot import is_ready

EVERY_SECONDS = 0.25
Pod = dict[str, Any]


class Program(Protocol):
    """What runs in a pod."""

    def look(self) -> bool:
        """Whether it is ready, asked again and again."""

    def end(self) -> bool:
        """End it, asked again and again; whether it has ended."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""


@dataclass
class _Known:
    namespace: str
    address: str
    seen: float = field(default_factory=time.monotonic)
    program: Program | None = None


class Kubelet(threading.Thread):
    """`runs` says by namespace what a pod at an address runs; None: nothing, and it is ready after a second all the same."""

    def __init__(self, api: Api, ready_after: float = 1.0) -> None:
        super().__init__(name="kubelet", daemon=True)
        self.runs: dict[str, Callable[[Pod, str], Program | None]] = {}
        self.rounds: dict[str, Callable[[], None]] = {}
        """What else is done at each look, by namespace: controllers that a test plays."""
        self._api, self._ready_after = api, ready_after
        self._pods: dict[str, _Known] = {}
        self._addresses = (f"10.1.{number // 200}.{number % 200 + 1}" for number in count())
        self._over = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            with self._lock:
                for each in self.rounds.values():
                    self._try(each)
                self._try(self._look)

    def forget(self, namespace: str) -> None:
        """Its pods run nothing more, and nothing is called that belongs to it."""
        with self._lock:
            self.runs.pop(namespace, None)
            self.rounds.pop(namespace, None)
            for known in self._pods.values():
                if known.namespace == namespace:
                    known.program = None

    def close(self) -> None:
        self._over.set()
        self.join(20)
        self._api.close()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ClusterError as error:  # it changed or went away meanwhile: the next round sees it
            print("kubelet:", error)

    def _look(self) -> None:
        for pod in self._api.request("GET", "/api/v1/pods", "list pods")["items"]:
            self._try(lambda pod=pod: self._move(pod))

    def _move(self, pod: Pod) -> None:
        """Take the pod one step on."""
        about, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
        if about.get("deletionTimestamp"):
            known = self._pods.get(about["uid"])
            if known is None or known.program is None or known.program.end():
                self._pods.pop(about["uid"], None)
                self._api.request("DELETE", _path(pod), "take a pod away", params={"gracePeriodSeconds": 0})
            return
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return
        known = self._pods.get(about["uid"])
        if known is None:
            known = self._pods[about["uid"]] = _Known(about["namespace"], next(self._addresses))
            run = self.runs.get(about["namespace"])
            known.program = run(pod, known.address) if run else None
        ready = known.program.look() if known.program else time.monotonic() - known.seen > self._ready_after
        restarts = known.program.restarts if known.program else 0
        job = "job-name" in (about.get("labels") or {})
        if ready and job:
            self._report(pod, known, "Succeeded", ready=False, restarts=0)
        elif status.get("phase") != "Running" or ready != is_ready(pod) or restarts != _restarts(pod):
            self._report(pod, known, "Running", ready=ready, restarts=restarts)

    def _report(self, pod: Pod, known: _Known, phase: str, *, ready: bool, restarts: int) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        done = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        state = done if phase == "Succeeded" else {"running": {"startedAt": now}}
        made = {"imageID": "fake", "containerID": "fake://x", "ready": ready, "started": ready, "state": state}
        containers = [
            {"name": each["name"], "image": each["image"], "restartCount": restarts, **made} for each in pod["spec"]["containers"]
        ]
        truth = {"Initialized": True, "PodScheduled": True, "ContainersReady": ready, "Ready": ready}
        conditions = [{"type": kind, "status": str(so), "lastTransitionTime": now} for kind, so in truth.items()]
        status = {"phase": phase, "startTime": now, "podIP": known.address}
        body = {"status": {**status, "containerStatuses": containers, "conditions": conditions}}
        headers = {"Content-Type": "application/merge-patch+json"}
        self._api.request("PATCH", f"{_path(pod)}/status", "report a pod", body=body, headers=headers)


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _restarts(pod: Pod) -> int:
    return max((int(each["restartCount"]) for each in (pod.get("status") or {}).get("containerStatuses") or ()), default=0)
