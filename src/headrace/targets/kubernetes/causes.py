"""Why a model is not ready: pods, events, volumes, Jobs and scalers → the one thing that stands in the way, and what to do.

Reasons and messages are those of kubelet, scheduler and controllers; facts/kubernetes.md, sections 1 and 2, has those measured.
"""

from collections.abc import Callable, Iterator

from headrace.targets.kubernetes import pod_causes
from headrace.targets.kubernetes.cause import Cause
from headrace.targets.kubernetes.snapshot import Object, Snapshot, View, condition, containers, is_ready, name


def cause(view: View) -> Cause | None:
    """What stands in the way of the replicas that are wanted: of what does not pass by itself the first, else the first, in
    the order volume, weights, pods that cannot be made, pods that do not start. None where nothing does.
    """
    found = [each for find in _ORDER for each in find(view)]
    return next((each for each in found if not each.passes), found[0] if found else None)


def scaler_cause(view: View) -> Cause | None:
    """What is wrong with the scaler of a model whose replicas are all there."""
    return next(_scalers(view), None)


def wants_logs(snapshot: Snapshot) -> list[tuple[str, str, bool]]:
    """(pod, container, previous) of containers that have failed, whose last lines say why."""
    wanted = []
    for pod in snapshot.pods:
        for each in containers(pod):
            state = each.get("state") or {}
            if (state.get("terminated") or {}).get("exitCode"):
                wanted.append((name(pod), str(each["name"]), False))
            elif (each.get("lastState") or {}).get("terminated") and not each.get("ready"):
                wanted.append((name(pod), str(each["name"]), True))
    return wanted


def _workload(view: View) -> Iterator[Cause]:
    workload = view.workload
    if workload is None:
        yield Cause("missing", f"{view.name} is not in the cluster.", "headrace apply makes it.", passes=False)
    elif workload["metadata"].get("deletionTimestamp"):
        yield Cause("deleted", f"{workload['kind']} {view.name} is being deleted.")
    elif (workload.get("spec") or {}).get("paused"):
        yield Cause(
            "paused",
            f"Deployment {view.name} is paused: its change is not rolled out.",
            f"kubectl rollout resume deployment/{view.name}",
            passes=False,
        )


def _claims(view: View) -> Iterator[Cause]:
    for claim in view.claims:
        phase = (claim.get("status") or {}).get("phase")
        if phase == "Lost":
            yield Cause("volume", f"The volume of {name(claim)} is lost.", "Delete the claim, then apply again.", passes=False)
        if phase == "Pending":
            yield from _pending(view, claim)


def _pending(view: View, claim: Object) -> Iterator[Cause]:
    spec = claim.get("spec") or {}
    class_ = spec.get("storageClassName")
    modes = ", ".join(spec.get("accessModes") or ())
    for event in view.events(name(claim), "PersistentVolumeClaim"):
        message = " ".join(str(event.get("message", "")).split())
        if event.get("reason") == "WaitForFirstConsumer" or "waiting for pod" in message:
            return  # made when there is a pod for it: then the pod says what is wrong
        if event.get("reason") == "ProvisioningFailed" and "not found" in message:
            yield Cause(
                "volume",
                f"The volume {name(claim)} waits for a storage class that is not there: {class_}.",
                "kubectl get storageclass shows those that are; name one as kubernetes.storage.class.",
                passes=False,
            )
            return
        if event.get("reason") == "ProvisioningFailed":
            yield Cause("volume", f"The volume {name(claim)} ({modes}) cannot be made: {message}", _STORAGE, passes=False)
            return
        if event.get("reason") == "FailedBinding":
            yield Cause(
                "volume",
                f"The volume {name(claim)} ({modes}) is not there, and nothing makes it: "
                + (f"no volume of class {class_} is free." if class_ else "no storage class is named, and none is the default."),
                _STORAGE,
                passes=False,
            )
            return
    yield Cause("volume", f"The volume {name(claim)} ({modes}) is being made.")


_STORAGE = "Name a storage class as kubernetes.storage.class, or write `storage: {access: once}` for storage of one node."


def _jobs(view: View) -> Iterator[Cause]:
    """Weights that cannot be fetched. Only the newest Job counts: earlier ones were for other weights."""
    for job in sorted(view.jobs, key=lambda each: each["metadata"].get("creationTimestamp") or "")[-1:]:
        failed = condition(job, "Failed")
        gaveup = failed is not None and failed.get("status") == "True"
        if gaveup or (job.get("status") or {}).get("failed") or _failing_pull(view):
            yield pod_causes.failed_pull(view, job, gaveup=gaveup)
        elif not (job.get("status") or {}).get("succeeded"):
            yield from _unfinished(view, job)


def _failing_pull(view: View) -> bool:
    return any((each.get("lastState") or {}).get("terminated") for pod in view.pull_pods for each in containers(pod))


def _unfinished(view: View, job: Object) -> Iterator[Cause]:
    for pod in view.pull_pods:
        if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded"):
            yield Cause("weights", f"Its weights are being fetched by Job {name(job)}: kubectl logs -f {name(pod)}")
            return
        found = pod_causes.pod_cause(view, pod)
        if found:
            yield Cause(found.kind, f"Its weights are not fetched yet: {found.what}", found.fix, passes=found.passes)
            return
    for event in view.events(name(job), "Job"):
        if event.get("reason") == "FailedCreate":
            yield pod_causes.not_made(str(event.get("message", "")))
            return
    yield Cause("weights", f"Its weights are not fetched yet: Job {name(job)} has not begun.")


def _not_made(view: View) -> Iterator[Cause]:
    """Pods that controllers were not allowed to make: quota, admission."""
    wanted = (view.workload or {}).get("spec", {}).get("replicas") or 0
    if len(view.pods) >= wanted:
        return
    failure = condition(view.workload or {}, "ReplicaFailure")
    if failure and failure.get("status") == "True":
        yield pod_causes.not_made(str(failure.get("message", "")))
        return
    for event in view.replica_sets():
        if event.get("reason") == "FailedCreate":
            yield pod_causes.not_made(str(event.get("message", "")))
            return


def _pods(view: View) -> Iterator[Cause]:
    """Of several, what does not pass by itself first."""
    found = [each for pod in view.pods if not is_ready(pod) and (each := pod_causes.pod_cause(view, pod))]
    yield from sorted(found, key=lambda each: each.passes)


def _scalers(view: View) -> Iterator[Cause]:
    for scaler in view.scalers:
        kind, said = scaler["kind"], name(scaler)
        ready, able = condition(scaler, "Ready"), condition(scaler, "AbleToScale")
        active = condition(scaler, "ScalingActive")
        for entry in (ready, able):
            if entry and entry.get("status") == "False":
                yield Cause("scaler", f"{kind} {said} does not scale: {_message(entry)}", _KEDA, passes=False)
        if active and active.get("status") == "False" and active.get("reason") != "ScalingDisabled":
            yield Cause("scaler", f"{kind} {said} gets no metric, and holds the number of replicas: {_message(active)}", _METRIC)
        if kind == "ScaledObject" and not (scaler.get("status") or {}).get("conditions") and view.workload:
            yield Cause("scaler", f"ScaledObject {said} is noticed by nobody.", _KEDA)


_KEDA = "See whether KEDA runs: kubectl -n keda get pods"
_METRIC = "See whether its server answers: kubernetes.prometheus, or the gateway."


def _conditions(view: View) -> Iterator[Cause]:
    """What controllers of other projects say of their own kinds (KAITO), where there is no pod to look at."""
    workload = view.workload or {}
    if workload.get("kind") == "Deployment" or view.pods:
        return
    for entry in (workload.get("status") or {}).get("conditions") or ():
        if entry.get("status") == "False" and entry.get("message"):
            yield Cause("controller", f"{workload['kind']} {view.name}: {_message(entry)}")


def _message(entry: Object) -> str:
    return f"{' '.join(str(entry.get('message') or entry.get('reason') or 'no reason is given').split()).rstrip('.')}."


_ORDER: tuple[Callable[[View], Iterator[Cause]], ...] = (
    _workload,
    _claims,
    _jobs,
    _not_made,
    _pods,
    _conditions,
    _scalers,
)
