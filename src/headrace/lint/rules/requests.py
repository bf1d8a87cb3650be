"""HR3xx, HR4xx: what pods ask nodes for."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context
from headrace.lint.gpus import sku_of
from headrace.lint.serving import Served, engines

_DOCS = "https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/"


@rule("HR312", "warning", "only the GPU is asked for", _DOCS)
def no_requests(context: Context) -> Iterator[Say]:
    """Without requests for CPU and memory only the GPU is reserved: others are put beside it until it is slow or killed. They
    bind, too: of eight replicas with 4 cores on three nodes of 24 the last was Pending on CPU (measured)."""
    for one in engines(context):
        if not one.lives:
            continue
        resources = one.container.get("resources")
        missing = [
            name
            for name in ("cpu", "memory")
            if resources.get("requests", name).value is None and resources.get("limits", name).value is None
        ]
        if missing:
            at = resources if resources.value is not None else one.container
            yield Say(at, f"Nothing reserves {' and '.join(missing)} for it.", f"Add requests of {' and '.join(missing)}.")


@rule("HR401", "error", "GPUs in parts", "https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/")
def fractional(context: Context) -> Iterator[Say]:
    """GPUs are whole numbers, and their request is their limit: the API server refuses `0.5`, `500m`, and a request that differs
    (measured). Sharing is done by slices: MIG, time-slicing or MPS."""
    for pod in context.pods():
        for container in [*pod.containers, *pod.spec.get("initContainers").each()]:
            yield from _parts(container.get("resources"))


def _parts(resources: At) -> Iterator[Say]:
    limits, requests = resources.get("limits"), resources.get("requests")
    for part in (limits, requests):
        for name, amount in part.items():
            if (
                name.startswith(("nvidia.com/", "amd.com/gpu"))
                and amount.text
                and not amount.text.isdigit()
                and _known(amount.text)
            ):
                yield Say(
                    amount,
                    f"{name} is {amount.text}, and must be an integer.",
                    "Write a whole number; share GPUs with MIG or time-slicing.",
                )
    for name, amount in requests.items():
        limit = limits.get(name)
        if not name.startswith(("nvidia.com/", "amd.com/gpu")) or not amount.text.isdigit():
            continue
        if limit.value is None or (limit.text.isdigit() and limit.text != amount.text):
            said = "there is no limit" if limit.value is None else f"the limit is {limit.text}"
            yield Say(
                amount,
                f"The request of {name} is {amount.text} and {said}: they must be equal.",
                f"Write a limit of {amount.text}.",
            )


def _known(text: str) -> bool:
    return all(char not in text for char in "{$<")


_CUDA = re.compile(
    r"(?:docker\.io/)?(?:vllm/vllm-openai|lmsysorg/sglang)(?::(?!.*(?:cpu|xeon|rocm|xpu|npu|gaudi|hpu|musa)).*)?(?:@.*)?"
    r"|ghcr\.io/huggingface/text-generation-inference(?::(?!.*(?:cpu|rocm|xpu|gaudi|neuron)).*)?"
)
"""Images of engines that were built for CUDA and for nothing else."""


@rule("HR414", "warning", "an engine for GPUs that asks for none", "https://docs.vllm.ai/en/latest/getting_started/installation/")
def no_gpu(context: Context) -> Iterator[Say]:
    """These images are built for CUDA. In a pod without a GPU the engine finds no device, and ends at its start; vLLM and SGLang
    have other images for CPUs."""
    overlays = {one.at.file.rpartition("/")[0] for one in context.of("Kustomization")}
    for one in engines(context):
        if not one.lives or not _CUDA.fullmatch(one.image.text) or one.owner.at.file.rpartition("/")[0] in overlays:
            continue
        if not _has_devices(one):
            what = f"It asks for no GPU, and {one.image.text} is built for CUDA: it finds no device."
            yield Say(one.image, what, 'Write resources.limits: {nvidia.com/gpu: "1"}, or use an image for CPUs.')


def _has_devices(one: Served) -> bool:
    """Whether the pod has devices in this way or another."""
    spec, resources = (one.pod.spec if one.pod else one.container), one.container.get("resources")
    named = [name for part in ("limits", "requests") for name, _ in resources.get(part).items() if "/" in name]
    others = any(spec.get(key) for key in ("resourceClaims", "runtimeClassName")) or bool(resources.get("claims"))
    mounted = any(volume.get("hostPath", "path").text.startswith("/dev") for volume in spec.get("volumes").each())
    visible = one.env("NVIDIA_VISIBLE_DEVICES") is not None or one.flag("--device") is not None
    return bool(named) or others or mounted or visible or one.container.get("securityContext", "privileged").value is True


@rule("HR412", "warning", "CPU that leaves GPUs without work", "https://learn.microsoft.com/azure/aks/use-nvidia-gpu")
def cpu_binds(context: Context) -> Iterator[Say]:
    """Replicas are placed by CPU as well: where their requests together exceed a node's cores, GPUs stay without a replica."""
    for one in engines(context):
        sku = sku_of(one)
        gpus = one.pod.gpus if one.pod else 0
        cpu = one.container.get("resources", "requests", "cpu")
        cores = _cores(cpu.text)
        if sku is None or not gpus or cores is None or sku.gpus < gpus:
            continue
        replicas = sku.gpus // gpus
        if cores * replicas > sku.cores:
            most = int(sku.cores // cores)
            what = f"{replicas} replicas have GPUs on a {sku.name}, and {most} have {cpu.text} of its {sku.cores} cores."
            yield Say(cpu, what, f"Ask for {sku.cores // replicas} or less, and leave some for the system.")


def _cores(text: str) -> float | None:
    number = text[:-1] if text.endswith("m") else text
    try:
        return float(number) / (1000 if text.endswith("m") else 1)
    except ValueError:
        return None
