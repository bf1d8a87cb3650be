"""HR4xx: GPUs of a pod, and what engines make of them."""

from collections.abc import Iterator
from math import prod

from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context
from headrace.lint.serving import Served, engines, shell_text


@rule("HR402", "error", "several GPUs and little shared memory", "https://github.com/vllm-project/production-stack/issues/899")
def small_shm(context: Context) -> Iterator[Say]:
    """GPUs that share a model exchange data through /dev/shm, and containers have 64 MB of it: NCCL fails at start, or later."""
    for one in engines(context):
        flag = one.flag("--tensor-parallel-size", "--tp-size", "--num-shard", "--pipeline-parallel-size", "--pp-size")
        if flag is None or (flag.number or 1) < 2 or one.engine not in ("vllm", "sglang", "tgi"):
            continue
        if one.owner.kind == "service":
            host = one.owner.at.get("ipc").text == "host" or one.owner.at.get("shm_size") or "/dev/shm" in str(one.owner.at.value)
            if not host:
                what = f"{flag.said} exchanges data through /dev/shm, and a container has 64 MB of it."
                yield Say(flag.at, what, "Write shm_size: 8gb, or ipc: host.")
        elif one.lives and not _shared(one):
            what = f"{flag.said} exchanges data through /dev/shm, and a container has 64 MB of it."
            yield Say(flag.at, what, "Mount an emptyDir with medium: Memory at /dev/shm.")


def _shared(one: Served) -> bool:
    spec = one.pod.spec if one.pod else one.container
    mounts = {mount.get("mountPath").text.rstrip("/") for mount in one.container.get("volumeMounts").each()}
    return spec.get("hostIPC").value is True or "/dev/shm" in mounts


@rule("HR404", "error", "the engine's GPUs are not the pod's", "https://docs.vllm.ai/en/latest/serving/parallelism_scaling/")
def other_count(context: Context) -> Iterator[Say]:
    """Tensor times pipeline times data parallelism is the number of GPUs that the engine wants. Of data-parallel ranks those
    count that start in this pod; with SGLang's --enable-dp-attention they share the GPUs of tensor parallelism. With fewer in
    the pod it fails at start; with more the others are paid for and idle."""
    for one in engines(context):
        if not one.lives or one.pod is None or one.engine not in ("vllm", "sglang") or _several_nodes(one):
            continue
        wanted = _wanted(one)
        given = next(iter(_limits(one.container)), None)
        have = given.number if given is not None else None
        if wanted is None or given is None or not have or wanted == have:
            continue
        flag = one.flag("--tensor-parallel-size", "--tp-size")
        if wanted > have:
            what = f"The engine wants {wanted} GPUs, and its pod has {have}."
            yield Say(flag.at if flag else given, what, f"Ask for {wanted}, or lower the parallelism.")
        elif (
            len([other for other in engines(context) if other.container.path == one.container.path and other.owner is one.owner])
            == 1
        ):
            what = f"The pod has {have} GPUs, and the engine uses {wanted}: {have - wanted} are idle."
            copies = wanted // one.tensor_parallel
            more = f", or write --tensor-parallel-size {have // copies}" if have % copies == 0 else ""
            yield Say(given, what, f"Ask for {wanted}{more}.", (), "warning")


def _wanted(one: Served) -> int | None:
    """GPUs that an engine takes in its pod; None where a flag is no number."""
    ranks = one.ranks
    if one.flag("--data-parallel-rank", "--enable-dp-attention"):
        ranks = 1
    elif one.flag("--data-parallel-size-local"):
        ranks = one.size("--data-parallel-size-local")
    sizes = [size for size in (one.split, one.size("--prefill-context-parallel-size"), ranks) if size is not None]
    return prod(sizes) if len(sizes) == 3 else None


def _limits(container: At) -> Iterator[At]:
    limits = container.get("resources", "limits")
    for name in ("nvidia.com/gpu", "amd.com/gpu"):
        if limits.get(name).value is not None:
            yield limits.get(name)


def _several_nodes(one: Served) -> bool:
    """Whether one engine spans pods, or several run in one."""
    text = shell_text(one.container) + " "
    said = any(word in text for word in ("ray ", "&", "CUDA_VISIBLE"))
    return said or bool(one.flag("--nnodes", "--headless", "--data-parallel-address") or one.env("CUDA_VISIBLE_DEVICES"))


@rule("HR509", "error", "several slices of one GPU", "https://github.com/NVIDIA/k8s-device-plugin#with-cuda-time-slicing")
def several_slices(context: Context) -> Iterator[Say]:
    """Two slices of shared GPUs may be two of the same: the pod has paid twice for one. With failRequestsGreaterThanOne it is
    refused (UnexpectedAdmissionError). Tensor parallelism over slices gains nothing."""
    for pod in context.pods():
        for container in pod.containers:
            for name, amount in container.get("resources", "limits").items():
                if name.startswith("nvidia.com/") and name.endswith(".shared") and (amount.number or 0) > 1:
                    what = f"{amount.text} slices may be of the same GPU."
                    yield Say(amount, what, "Ask for 1, or for whole GPUs (nvidia.com/gpu on a pool that is not shared).")


@rule("HR502", "error", "more memory than the GPU has", "https://github.com/vllm-project/vllm/issues/2193")
def fractions(context: Context) -> Iterator[Say]:
    """Time-slicing and MPS share a GPU's time, not its memory: each vLLM takes --gpu-memory-utilization of all of it (0.92
    unless it is set), and the second one on a GPU fails at start."""
    for one in engines(context):
        shared = _slice(one)
        share = one.flag("--gpu-memory-utilization", "--mem-fraction-static")
        bytes_given = one.flag("--kv-cache-memory-bytes")
        if shared is None or one.engine not in ("vllm", "sglang") or bytes_given:
            continue
        part = _number(share.value) if share else None
        if share is None or (part is not None and part > 0.5):
            said = f"{share.value} (set)" if share else "0.92 (the default)" if one.engine == "vllm" else "most (the default)"
            what = f"The GPU is shared, and this engine takes {said} of its memory: the next one fails at start."
            yield Say(share.at if share else shared, what, "Give each engine its bytes (--kv-cache-memory-bytes), 0.9 in all.")
    yield from _same_device(context)


def _slice(one: Served) -> At | None:
    limits = one.container.get("resources", "limits")
    return next((amount for name, amount in limits.items() if name == "nvidia.com/gpu.shared"), None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _same_device(context: Context) -> Iterator[Say]:
    """Services of docker-compose on the same device."""
    shares: dict[tuple[str, str], float] = {}
    for one in engines(context):
        if one.owner.kind != "service" or one.engine != "vllm":
            continue
        share = one.flag("--gpu-memory-utilization")
        devices = one.owner.at.get("deploy", "resources", "reservations", "devices")
        named = {item.text for device in devices.each() for item in device.get("device_ids").each()}
        for device in named:
            key = (one.owner.at.file, device)
            shares[key] = shares.get(key, 0.0) + ((_number(share.value) if share else None) or 0.92)
            if shares[key] > 1:
                what = f"The engines on GPU {device} take {shares[key]:.2f} of its memory together."
                yield Say(share.at if share else one.owner.at, what, "Lower --gpu-memory-utilization to 0.9 in all.")
