"""Why one pod does not run or is not ready, by its status, its events and the last lines it wrote."""

import re
from collections.abc import Callable, Iterator

from headrace.targets.kubernetes.cause import Cause
from headrace.targets.kubernetes.snapshot import Object, View, condition, containers, name

_TAINT = re.compile(r"had (?:untolerated )?taint(?:s|\(s\))?(?: \{([^}]*)\})?")
_NOT_OURS = ("node-role.kubernetes.io/", "CriticalAddonsOnly")
"""Taints of nodes that no model is meant for: the cluster's own."""

_UNWELL = "node.kubernetes.io/"
"""Taints that controllers set: not-ready, unreachable, disk-pressure, …"""

_INSUFFICIENT = re.compile(r"(\d+) Insufficient ([\w./-]+[\w-])")
_GATED = re.compile(
    r"is gated|GatedRepo|accept(?:ed)? its terms|\b40[13]\b|Cannot access gated repo|awaiting a review", re.IGNORECASE
)
_FULL = re.compile(r"No space left|not enough room|ENOSPC", re.IGNORECASE)
_NOISE = re.compile(r"^\s*(?:$|~~~|\^+|Traceback|File \"|at 0x)")
_LONGEST = 220


def pod_cause(view: View, pod: Object) -> Cause | None:
    """What stands in the way of a pod that is not ready."""
    return next((found for find in _ORDER for found in find(view, pod)), None)


def _evicted(view: View, pod: Object) -> Iterator[Cause]:
    status = pod.get("status") or {}
    reason, message = status.get("reason"), " ".join(str(status.get("message", "")).split())
    if reason == "UnexpectedAdmissionError":
        yield Cause(
            "device", f"The node gives {name(pod)} no device: {message}", "Ask for one GPU where it is shared.", passes=False
        )
    elif status.get("phase") == "Failed" and reason:
        yield Cause("evicted", f"{name(pod)} was ended by its node ({reason}): {message}")


def _unschedulable(view: View, pod: Object) -> Iterator[Cause]:
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return
    message = " ".join(str(scheduled.get("message", "")).split())
    reasons = {str(event.get("reason")): str(event.get("message", "")) for event in reversed(view.events(name(pod), "Pod"))}
    if "TriggeredScaleUp" in reasons or "Nominated" in reasons:
        yield Cause("node", f"{name(pod)} waits for a node, which is being made.")
    elif "unbound immediate PersistentVolumeClaims" in message:
        yield Cause("volume", f"{name(pod)} waits for its volume.")
    else:
        yield _nowhere(name(pod), message, grows="NotTriggerScaleUp" in reasons)


def _nowhere(pod: str, message: str, *, grows: bool) -> Cause:
    """The scheduler counts nodes by what keeps the pod off each; what the nodes that could take it lack is told first."""
    lacks = {what: int(count) for count, what in _INSUFFICIENT.findall(message)}
    never = " The autoscaler has no pool that would help." if grows else ""
    gpus = next((what for what in lacks if "/" in what), None)
    taints = [taint.strip() for taint in _TAINT.findall(message) if not taint.startswith(_NOT_OURS)]
    if gpus:
        return Cause(
            "gpus",
            f"{pod} finds no node with enough free {gpus} ({_nodes(lacks[gpus])}).{never}",
            "Add nodes (headrace nodepool prints how), lower replicas, or free some.",
            passes=False,
        )
    if lacks:
        what, count = next(iter(lacks.items()))
        return Cause(
            "resources",
            f"{pod} finds no node with enough free {what} ({_nodes(count)}).{never}",
            "Larger or more nodes, or kubernetes.cpu and memory lower.",
            passes=False,
        )
    if unwell := [taint for taint in taints if taint.startswith(_UNWELL)]:
        return Cause(
            "nodes", f"{pod} finds no node that is well: {', '.join(unwell)}.{never}", "kubectl describe nodes says why."
        )
    if taints:
        named = ", ".join(filter(None, taints))
        return Cause(
            "taint",
            f"{pod} does not tolerate the taint of the nodes{f': {named}' if named else ''}.{never}",
            "Name it in kubernetes.nodes.taints as KEY=VALUE:NoSchedule.",
            passes=False,
        )
    if "affinity" in message or "selector" in message:
        return Cause(
            "nodes",
            f"{pod} finds no node with the labels that it asks for.{never}",
            "Label the pool, or name its labels in kubernetes.nodes.labels.",
            passes=False,
        )
    return Cause("node", f"{pod} finds no node: {message[:_LONGEST]}{never}", passes=False)


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'} looked at"


def _waiting(view: View, pod: Object) -> Iterator[Cause]:
    for each in containers(pod):
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), " ".join(str(waiting.get("message", "")).split())
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            yield _image(view, pod, each, message)
        elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            yield _config(pod, message)


def _image(view: View, pod: Object, each: Object, message: str) -> Cause:
    said = [str(event.get("message", "")) for event in view.events(name(pod), "Pod") if event.get("reason") == "Failed"]
    whole, image = " ".join([message, *said]), each.get("image")
    lowered = whole.lower()
    if "InvalidImageName" in whole or "invalid reference format" in lowered:
        return Cause("image", f"{image} is no name of an image.", "Correct kubernetes.image or images.", passes=False)
    if any(word in lowered for word in ("unauthorized", "authentication required", "denied", "403", "401")):
        return Cause(
            "pull secret",
            f"The registry does not let the cluster pull {image}.",
            "Attach the registry (az aks update --attach-acr), or give the service account an imagePullSecret.",
            passes=False,
        )
    if any(word in lowered for word in ("not found", "manifest unknown", "does not exist")):
        return Cause(
            "image", f"There is no image {image}.", "Build and push it, or correct kubernetes.image or images.", passes=False
        )
    return Cause(
        "image", f"The image {image} cannot be pulled: {(message or said[0] if said else message)[:_LONGEST]}", passes=False
    )


def _config(pod: Object, message: str) -> Cause:
    found = re.search(r'(secret|configmap) "([^"]+)" not found', message)
    if found and found[1] == "secret":
        namespace = pod["metadata"].get("namespace", "default")
        return Cause(
            "secret",
            f"The Secret {found[2]} is not there.",
            f"kubectl -n {namespace} create secret generic {found[2]} --from-literal=HF_TOKEN=…",
            passes=False,
        )
    if found:
        return Cause("config", f"The ConfigMap {found[2]} is not there.", "headrace apply makes it.", passes=False)
    missing = re.search(r"couldn't find key (\S+) in Secret (\S+)", message)
    if missing:
        return Cause("secret", f"The Secret {missing[2]} has no key {missing[1]}.", "Add it.", passes=False)
    return Cause("config", f"{name(pod)} cannot be made: {message[:_LONGEST]}", passes=False)


def _ended(view: View, pod: Object) -> Iterator[Cause]:
    """Containers that ended and are started again, with what they wrote last."""
    for each in containers(pod):
        state, last = each.get("state") or {}, each.get("lastState") or {}
        ended = state.get("terminated") or last.get("terminated")
        if not ended or each.get("ready") or ended.get("exitCode") == 0:
            continue
        lines = view.snapshot.logs.get((name(pod), str(each["name"])), ())
        if ended.get("reason") == "OOMKilled":
            yield _memory(pod, each)
        elif each["name"] == "pull":
            yield _pull(pod, lines, int(ended.get("exitCode") or 0))
        elif killed := _killed(view, pod):
            yield killed
        else:
            times = int(each.get("restartCount") or 0)
            yield Cause(
                "crash",
                f"The container {each['name']} of {name(pod)} ends with exit code {ended.get('exitCode')}"
                f"{f', {times} times' if times > 1 else ''}: {last_line(lines)}",
                f"headrace logs {view.name} --cluster",
                passes=False,
            )


def _memory(pod: Object, each: Object) -> Cause:
    limits = {
        one["name"]: (one.get("resources") or {}).get("limits") or {} for one in (pod.get("spec") or {}).get("containers") or ()
    }
    limit = limits.get(each["name"], {}).get("memory")
    return Cause(
        "memory",
        f"The container {each['name']} of {name(pod)} was killed: it took more memory than "
        + (f"its limit of {limit}." if limit else "its node has."),
        "Give it more: memory of the model; or fewer slots, a shorter context.",
        passes=False,
    )


def _killed(view: View, pod: Object) -> Cause | None:
    """By kubelet, because a probe failed for longer than it may."""
    for event in view.events(name(pod), "Pod"):
        message = str(event.get("message", ""))
        if event.get("reason") == "Killing" and "startup probe" in message:
            return Cause(
                "probe", f"{name(pod)} does not get ready in the time that a start may take, and is started again.", passes=False
            )
        if event.get("reason") == "Killing" and "liveness probe" in message:
            return Cause("probe", f"{name(pod)} stopped answering, and is started again.", passes=False)
    return None


def _mounts(view: View, pod: Object) -> Iterator[Cause]:
    for event in view.events(name(pod), "Pod"):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            message = " ".join(str(event.get("message", "")).split())
            yield Cause("volume", f"A volume of {name(pod)} cannot be mounted: {message[:_LONGEST]}")
            return


def _starting(view: View, pod: Object) -> Iterator[Cause]:
    """It runs and is not ready yet: what it is at."""
    for each in (pod.get("status") or {}).get("initContainerStatuses") or ():
        if "running" in (each.get("state") or {}):
            yield Cause("weights", f"{name(pod)} waits for its weights.")
            return
    for event in view.events(name(pod), "Pod"):
        if event.get("reason") == "Pulling":
            yield Cause("image", f"{name(pod)} is pulling its image.")
            return
        if event.get("reason") == "Unhealthy":
            message = " ".join(str(event.get("message", "")).split())
            yield Cause("probe", f"{name(pod)} is loading: {message[:_LONGEST]}")
            return
    if any("running" in (each.get("state") or {}) for each in containers(pod)):
        yield Cause("loading", f"{name(pod)} is loading.")
    elif (pod.get("spec") or {}).get("nodeName"):
        yield Cause("creating", f"{name(pod)} is being made on {pod['spec']['nodeName']}.")
    else:
        yield Cause("node", f"{name(pod)} waits for a node.")


_ORDER: tuple[Callable[[View, Object], Iterator[Cause]], ...] = (_evicted, _unschedulable, _waiting, _ended, _mounts, _starting)


def failed_pull(view: View, job: Object, *, gaveup: bool) -> Cause:
    """Why weights cannot be fetched, by the last lines of the Job's pods."""
    for pod in reversed(view.pull_pods):
        found = next(_ended(view, pod), None)
        if found:
            return found
        other = pod_cause(view, pod)
        if other and not other.passes:
            return other
    tried = f"kubectl logs job/{name(job)}"
    if gaveup:
        return Cause(
            "weights",
            f"Its weights could not be fetched: Job {name(job)} gave up.",
            f"See {tried}; delete it and apply again.",
            passes=False,
        )
    return Cause("weights", f"Its weights could not be fetched yet: Job {name(job)} tries again.", f"See {tried}")


def _pull(pod: Object, lines: tuple[str, ...], code: int) -> Cause:
    whole = "\n".join(lines)
    if _GATED.search(whole):
        fix = "Accept its terms on its page, and put a token of that account into the Secret that kubernetes.secret names."
        return Cause("licence", f"Its weights are not for everybody: {last_line(lines)}", fix, passes=False)
    if _FULL.search(whole):
        return Cause(
            "volume",
            f"The volume is too small for its weights: {last_line(lines)}",
            "Write kubernetes.storage.size.",
            passes=False,
        )
    return Cause("weights", f"Fetching its weights ends with exit code {code}: {last_line(lines)}", passes=False)


def not_made(message: str) -> Cause:
    """Why controllers cannot make a pod."""
    message = " ".join(message.split())
    if "exceeded quota" in message:
        quota = message.partition("exceeded quota:")[2].strip() or message
        return Cause(
            "quota",
            f"A quota of the namespace keeps its pods from being made: {quota}.",
            "Raise it, or ask for less.",
            passes=False,
        )
    if "admission webhook" in message:
        return Cause("webhook", f"A webhook of the cluster refuses its pods: {message[:_LONGEST]}.", passes=False)
    if "PodSecurity" in message:
        return Cause("security", f"The namespace's Pod Security refuses its pods: {message[:_LONGEST]}.", passes=False)
    return Cause("pods", f"Its pods cannot be made: {message[:_LONGEST]}.", passes=False)


def last_line(lines: tuple[str, ...]) -> str:
    """The last line that says something."""
    told = [line.strip() for line in lines if not _NOISE.match(line)]
    return told[-1][:_LONGEST] if told else "it wrote nothing."
