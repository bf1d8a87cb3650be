"""HR4xx: which nodes pods go to."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context, Pod, texts

_AKS = "https://learn.microsoft.com/azure/aks/use-nvidia-gpu"
_SET = ("accelerator", "agentpool", "storageprofile", "storagetier")
"""Labels without a domain that AKS sets itself."""
_GPU_TAINTS = ("sku", "nvidia.com/gpu", "amd.com/gpu")


@rule(
    "HR409",
    "warning",
    "a toleration that attracts nothing",
    "https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/",
)
def tolerates_alone(context: Context) -> Iterator[Say]:
    """A toleration lets a pod onto GPU nodes and does not send it there. A pod without a GPU request or a selector lands on one
    by chance (measured), and takes CPU and memory from those that need its GPUs."""
    for pod in context.pods():
        if pod.owner.kind not in ("Deployment", "StatefulSet", "Job") or pod.gpus or _bound(pod):
            continue
        for toleration in pod.spec.get("tolerations").each():
            key, value = toleration.get("key").text, toleration.get("value").text
            if key in _GPU_TAINTS and (key != "sku" or value == "gpu"):
                what = f"It tolerates {key} and asks for no GPU: it may land on a GPU node, and take its CPU and memory."
                yield Say(toleration, what, "Take the toleration out, or add a GPU limit or a nodeSelector.")
                break


def _bound(pod: Pod) -> bool:
    """Whether something else says which nodes it wants, or it may have devices in another way."""
    spec = pod.spec
    devices = any(
        name.partition("/")[0].endswith((".com", ".io"))
        for each in pod.containers
        for name, _ in each.get("resources", "limits").items()
        if "/" in name
    )
    others = ("nodeSelector", "nodeName", "resourceClaims", "runtimeClassName")
    return devices or any(spec.get(key) for key in others) or bool(spec.get("affinity", "nodeAffinity"))


@rule("HR410", "error", "the GPU pool's taint is not tolerated", _AKS)
def not_tolerated(context: Context) -> Iterator[Say]:
    """A pod that asks for GPUs and does not tolerate the taint of the pool that has them is Pending: `had taint {sku: gpu},
    that the pod didn't tolerate` (measured)."""
    pools = [(one, taint) for one in context.of("NodePool", "Node") for taint in _taints(one.spec)]
    for pod in context.pods():
        if not pod.gpus:
            continue
        for pool, taint in pools:
            selector = texts(pod.spec.get("nodeSelector"))
            labels = texts(pool.spec.get("template", "metadata", "labels")) | texts(pool.at.get("metadata", "labels"))
            meant = selector and all(labels.get(key) == value for key, value in selector.items())
            if meant and not _tolerates(pod, taint):
                what = f"{pool.title} has the taint {taint.get('key').text}, which this pod does not tolerate."
                yield Say(pod.spec, what, "Add the toleration.")


def _taints(spec: At) -> Iterator[At]:
    for at in (spec.get("taints"), spec.get("template", "spec", "taints")):
        yield from (taint for taint in at.each() if taint.get("effect").text in ("NoSchedule", "NoExecute"))


def _tolerates(pod: Pod, taint: At) -> bool:
    key, value = taint.get("key").text, taint.get("value").text
    for toleration in pod.spec.get("tolerations").each():
        named, wanted = toleration.get("key").text, toleration.get("value").text
        if toleration.get("operator").text == "Exists":
            if named in ("", key):
                return True
        elif named == key and wanted == value:
            return True
    return False


@rule("HR411", "warning", "a label that nobody sets", _AKS)
def nobody_sets(context: Context) -> Iterator[Say]:
    """A nodeSelector on a label of one's own, such as `workload: gpu`, holds only when somebody gave it to the pool: no cloud
    does. Until then the pod is Pending."""
    known: set[tuple[str, str]] = set()
    for one in context.of("NodePool", "Node", "NodeClaim"):
        for labels in (one.at.get("metadata", "labels"), one.spec.get("template", "metadata", "labels")):
            known |= set(texts(labels).items())
    script = " ".join(one.at.text for one in context.of("script"))
    for pod in context.pods():
        if not pod.gpus:
            continue
        for key, value in pod.spec.get("nodeSelector").items():
            own = bool(re.fullmatch(r"[A-Za-z0-9_-]+", key)) and key not in _SET
            if own and (key, value.text) not in known and f"{key}={value.text}" not in script:
                what = f"No cloud sets the label {key}={value.text}: the pod is Pending until a pool has it."
                yield Say(
                    value,
                    what,
                    f"Create the pool with it (az aks nodepool add --labels {key}={value.text}), or use its own label.",
                )
