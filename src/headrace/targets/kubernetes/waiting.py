"""Look at a namespace again and again until its models are ready, and say what keeps them from it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from headrace.errors import ReplicaError
from headrace.targets.kubernetes import causes
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError
from headrace.targets.kubernetes.snapshot import Object, Snapshot
from headrace.targets.kubernetes.standing import Standing, standings
from headrace.targets.kubernetes.survey import at_once

LOG_LINES = 40
_MOST_LOGS = 20
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""With what does not pass by itself: pods that end meanwhile may free a GPU, and somebody may just be mending it."""
UNANSWERED_SECONDS = 300.0
"""Without an answer of the API server: one that is updated is away for minutes."""

_KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "workloads": (
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
        ("kaito.sh/v1beta1", "InferenceSet"),
        ("kaito.sh/v1beta1", "Workspace"),
    ),
    "pods": (("v1", "Pod"),),
    "jobs": (("batch/v1", "Job"),),
    "claims": (("v1", "PersistentVolumeClaim"),),
    "scalers": (("keda.sh/v1alpha1", "ScaledObject"), ("autoscaling/v2", "HorizontalPodAutoscaler")),
    "events": (("v1", "Event"),),
}


_NEEDED = ("Deployment", "Pod")


def take(api: Api, namespace: str) -> Snapshot:
    """The namespace now, with the last lines of what has failed. Raises DeniedError where Deployments or pods may not be
    listed; other kinds that may not be are left out.
    """
    wanted = [(part, *kind) for part, kinds in _KINDS.items() for kind in kinds]
    found: dict[str, tuple[Object, ...]] = dict.fromkeys(_KINDS, ())
    for (part, *_), some in zip(wanted, at_once(lambda each: _list(api, namespace, each[1], each[2]), wanted), strict=True):
        found[part] += some
    snapshot = Snapshot(found["workloads"], found["pods"], found["jobs"], found["claims"], found["scalers"], found["events"])
    asked = causes.wants_logs(snapshot)[:_MOST_LOGS]
    logs = at_once(lambda each: _logs(api, namespace, *each), asked)
    return replace(snapshot, logs={(pod, container): lines for (pod, container, _), lines in zip(asked, logs, strict=True)})


def wait(
    look: Callable[[], Snapshot],
    names: Mapping[str, str],
    say: Callable[[str], None],
    seconds: float,
    *,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> list[Standing]:
    """Until all are ready or asleep, what changes said meanwhile. Raises ReplicaError with what stands in the way when
    `seconds` are over, or when all that is not ready has been failing for PATIENCE_SECONDS; ClusterError when the cluster has
    not answered for UNANSWERED_SECONDS, or lets the user no more.
    """
    begun, told, failing = clock(), dict[str, str](), dict[str, float]()
    while True:
        found = standings(names, _answered(look, say, begun + seconds, clock, pause))
        now = clock()
        for each in found:
            if told.get(each.model) != each.line:
                told[each.model] = each.line
                say(each.line)
            if each.state not in ("failing", "absent"):
                failing.pop(each.model, None)
            else:
                failing.setdefault(each.model, now)
        left = [each for each in found if not each.done]
        if not left:
            return found
        if all(now - failing.get(each.model, now) >= PATIENCE_SECONDS for each in left):
            raise _not_ready(left, "and that does not pass by itself")
        if now - begun >= seconds:
            raise _not_ready(left, f"after {seconds:.0f} s")
        pause(min(PAUSE_SECONDS, max(0.0, begun + seconds - now)))


def _answered(
    look: Callable[[], Snapshot],
    say: Callable[[str], None],
    until: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> Snapshot:
    since: float | None = None
    while True:
        try:
            return look()
        except DeniedError:
            raise
        except ClusterError as error:
            now = clock()
            if now >= until or (since is not None and now - since >= UNANSWERED_SECONDS):
                raise
            if since is None:
                since = now
                say(f"Trying again: {error}")
        pause(min(PAUSE_SECONDS, until - now))


def _not_ready(left: list[Standing], when: str) -> ReplicaError:
    lines = "\n".join(f"  {each.line}" for each in left)
    return ReplicaError(f"Not ready, {when}:\n{lines}\nWhat was applied stays. Apply again when it is mended.")


def _list(api: Api, namespace: str, api_version: str, kind: str) -> tuple[Object, ...]:
    resource = api.resource(api_version, kind)
    try:
        return tuple(api.all(resource, namespace)) if resource else ()
    except DeniedError:
        if kind in _NEEDED:
            raise
        return ()


def _logs(api: Api, namespace: str, pod: str, container: str, previous: bool) -> tuple[str, ...]:
    try:
        return tuple(api.logs(namespace, pod, container, LOG_LINES, previous=previous))
    except ClusterError:
        return ()
