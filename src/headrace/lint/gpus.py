"""Which GPU an engine is for, where a manifest says it: by a size to rent, a node's label, or a profile of KubeAI's chart. None
when it does not. And what of a model the GPUs hold."""

import re
from functools import lru_cache

from headrace.facts import catalogue
from headrace.facts.base import ModelFacts
from headrace.facts.hardware import Gpu, Sku
from headrace.importing.base import At
from headrace.lint.serving import Served

_SIZES = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_PRODUCTS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "gpu.nvidia.com/model",
    "k8s.amazonaws.com/accelerator",
)
_NAMES = (
    (r"h100|h100-sxm", "H100-80GB"),
    (r"h200", "H200-141GB"),
    (r"b200", "B200-180GB"),
    (r"a100[-_].*80|a100-80gb|a100-sxm4-80gb", "A100-80GB"),
    (r"a100[-_].*40|nvidia-tesla-a100|a100-sxm4-40gb", "A100-40GB"),
    (r"l40s", "L40S"),
    (r"nvidia-l4$|^l4$", "L4"),
    (r"nvidia-a10$|^a10$", "A10"),
    (r"tesla-t4|^t4$", "T4"),
    (r"v100.*32", "V100-32GB"),
    (r"v100", "V100-16GB"),
)
"""What labels of nodes call a card, and the catalogue's name; the first that fits."""


@lru_cache(maxsize=256)
def known_model(repository: str) -> ModelFacts | None:
    """The facts of a model by its name on the hub, kept: many manifests serve the same ones."""
    return catalogue.known_model(repository)


def sku_of(one: Served) -> Sku | None:
    """The size that a pod is bound to."""
    at = size_of(one)
    return catalogue.every_sku().get(at.text) if at is not None else None


def size_of(one: Served) -> At | None:
    """Where the size is named: KAITO's instanceType, or a selector of nodes."""
    owner = one.owner
    for at in (owner.at.get("resource", "instanceType"), owner.spec.get("template", "resource", "instanceType")):
        if at.text:
            return at
    selector = one.pod.spec.get("nodeSelector") if one.pod else None
    return next((selector.get(key) for key in _SIZES if selector.get(key).text), None) if selector is not None else None


def gpu_of(one: Served) -> Gpu | None:
    """The card that a pod is bound to."""
    if (sku := sku_of(one)) is not None:
        return sku.gpu
    selector = one.pod.spec.get("nodeSelector") if one.pod else None
    named = [selector.get(key).text.lower() for key in _PRODUCTS] if selector is not None else []
    if one.owner.kind == "Model":
        named.append(one.owner.spec.get("resourceProfile").text.lower().removeprefix("nvidia-gpu-").partition(":")[0])
    for pattern, name in _NAMES:
        if any(each and re.search(pattern, each) for each in named):
            return catalogue.gpus().get(name)
    return None


def memory_of(one: Served) -> int | None:
    """Bytes of memory of one of its GPUs."""
    if (sku := sku_of(one)) is not None:
        return sku.gpu_memory_bytes
    gpu = gpu_of(one)
    return gpu.memory_bytes if gpu else None


def weights_held(one: Served, facts: ModelFacts) -> int | None:
    """Bytes of weights that each data-parallel rank holds at the least; None where that is not known.

    vLLM spreads experts over all ranks, by the expert or (without --enable-expert-parallel) in slices of each; of the rest every
    rank has a copy (docs/serving/data_parallel_deployment.md of vllm-project/vllm).
    """
    ranks = one.ranks
    if ranks == 1 or one.engine != "vllm":
        return facts.weight_bytes
    if facts.experts is None:
        dense = facts.parameters_active == facts.parameters and not one.flag("--enable-expert-parallel")
        return facts.weight_bytes if dense else None
    if ranks is None:
        return None
    # Experts have as many bits as the rest or fewer (gpt-oss): by their share of the numbers they are counted too high, so that
    # what stays on each rank is never more than it is.
    experts = facts.weight_bytes * facts.experts.parameters // facts.parameters
    return facts.weight_bytes - experts + experts // ranks
