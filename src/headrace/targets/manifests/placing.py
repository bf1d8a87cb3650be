"""A model of the spec → the Workload that runs it in the cluster: engine, GPUs, sizes and image, or why it cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from headrace.engines import engines, vllm
from headrace.engines.base import Installed, Placement
from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import intent
from headrace.plan.base import Decision
from headrace.plan.consider import consider
from headrace.plan.here import Here
from headrace.plan.local_speed import Rates
from headrace.plan.offer import Knowledge, Offer, Rejected, cheapest
from headrace.plan.plan import plan
from headrace.spec.engines import CustomOptions, SglangOptions, TgiOptions, TritonOptions, VllmOptions
from headrace.spec.kubernetes import KubernetesSpec
from headrace.spec.model import ModelSpec, Spec
from headrace.targets.manifests.base import Need, Workload, object_name
from headrace.targets.manifests.containers import CONTAINERS
from headrace.traffic import Task
from headrace.units import show_bytes

WEIGHTS = "/weights"
"""Where a model's volume is mounted."""

CODE = "/code"
"""Where a file of the user's own is mounted."""

LARGEST_FILE = 700_000
"""Bytes of a file that go into a ConfigMap, which holds 1 MiB, as base64 where they are no text."""

_GPU_ENGINES = ("vllm", "sglang", "tgi", "triton")
_START_SECONDS = 90
"""Of an engine on a GPU, without reading weights: vLLM's compile and capture of graphs took 20 to 90 s in published logs."""

_READ_RATE = 100_000_000
"""Bytes per second at which weights are read, assumed: about what a premium file share of 100 GiB is sold with."""

_GPU_CORES = 8
"""Cores that one GPU's engine is given at most: requests bind, and the last replica of a node stays Pending on CPU."""

_NODE_SHARE = 0.8
"""Part of a node that is planned with; the system's and DaemonSets' pods take of the rest."""

_HOST_BYTES = 16 * 2**30
"""Memory of the machine for each GPU's process at most, beyond what it reads weights through."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model: facts of a language model, or an artifact with its content."""

    facts: ModelFacts | None = None
    artifact: Artifact | None = None
    content: bytes = b""
    source: str = ""
    """What to fetch, as the spec has it."""
    preset: str | None = None
    """KAITO's name for it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all models are planned with: the machines asked about (none: without GPUs), and what was measured."""

    machines: tuple[Machine, ...]
    knowledge: Knowledge
    rates: Rates = field(default_factory=Rates)


def workload(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
    """The model as it runs in the cluster. Raises PlanError with the reason and a way out."""
    if model.adapters:
        raise PlanError("adapters are not rendered for Kubernetes yet.", "Serve a merged model, or leave them out.")
    if model.scale.replicas is not None and spec.scaler == "none":
        least, most = model.scale.replicas
        raise PlanError(
            f"replicas {least}..{most} need something that scales.", "Write `kubernetes: {scaler: keda}`, or a number."
        )
    most = model.scale.replicas[1] if model.scale.replicas else model.replicas
    if spec.storage.access == "once" and most > 1 and known.artifact is None:
        raise PlanError(f"{most} replicas cannot share a volume that one node mounts.", "Write `storage: {access: many}`.")
    if known.artifact is not None:
        return _artifact(name, model, known, spec)
    assert known.facts is not None, "a model has facts or is an artifact"
    if ground.machines and known.facts.format == "safetensors" and model.engine_name in ("auto", *_GPU_ENGINES):
        return _on_gpus(name, model, known, ground, spec)
    return _on_cores(name, model, known, ground, spec)


def _on_gpus(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
    facts = known.facts
    assert facts is not None
    engine = "vllm" if model.engine_name == "auto" else model.engine_name
    task = _task(model, facts)
    refused = engines()[vllm.ENGINE.name if engine == "triton" else engine].refuse(facts, task)
    if engine == "triton" and task != "generate":
        refused = "Triton has no API to embed: write engine: vllm."
    if refused:
        raise PlanError(f"{engine} cannot serve it: {refused}")
    offer = _offer(model, facts, ground, engine)
    replicas = model.scale.replicas or (offer.replicas, offer.replicas)
    slots = offer.memory.batching.max_num_seqs if model.slots == "auto" else model.slots
    placement = Placement(
        model=name,
        engine=engine,
        task=task,
        weights=f"{WEIGHTS}/ready",
        context=offer.memory.context,
        slots=slots,
        threads=0,
        memory_bytes=offer.memory.total_bytes,
        options=_options(engine, model, offer),
    )
    users = model.for_.users
    room = ground.machines.count(offer.machine) * (len(offer.machine.gpus) // offer.way.gpus)
    need = replace(_need(offer, spec), spare=room > replicas[1])
    return Workload(
        model=name,
        name=object_name(name),
        placement=placement,
        image=_image(name, placement, spec),
        need=need,
        replicas=replicas,
        concurrency=min(slots, ceil(users / offer.replicas)) if users else slots,
        queue=model.scale.queue,
        idle_seconds=model.scale.idle,
        load_seconds=_START_SECONDS + ceil(facts.weight_bytes / _READ_RATE),
        source=known.source,
        weights_bytes=facts.weight_bytes,
        preset=known.preset if engine == "vllm" else None,
        decisions=_decisions(engine, offer),
    )


def _offer(model: ModelSpec, facts: ModelFacts, ground: Ground, engine: str) -> Offer:
    """The best way on the machines asked about, that the engine can be told. How many nodes there are is the cluster's matter."""
    asked, wanted = intent.asked(model), intent.wanted(model)
    if model.scale.replicas is None:
        return _best(facts, ground, engine, asked, wanted)
    # A range grows and shrinks by replicas that are each planned for as much as the fewest together take of the intent.
    most = model.scale.replicas[1]
    best = _best(facts, ground, engine, asked, replace(wanted, replicas="auto"), most)
    if best.replicas <= most:
        return best
    return _best(facts, ground, engine, asked, replace(wanted, replicas=most))


def _best(facts: ModelFacts, ground: Ground, engine: str, asked: intent.Intent, wanted: intent.Wanted, nodes: int = 1) -> Offer:
    kinds = [machine for place, machine in enumerate(ground.machines) if machine not in ground.machines[:place]]
    considered = [
        consider(facts, machine, asked, ground.knowledge, wanted, max(ground.machines.count(machine), nodes, _nodes(wanted)))
        for machine in kinds
    ]
    sayable = [replace(one, offers=tuple(offer for offer in one.offers if _sayable(offer, facts, engine))) for one in considered]
    if best := cheapest(sayable, 1):
        return best[0]
    rejected: list[Rejected] = [reason for one in considered for reason in one.rejected]
    why = rejected[0] if rejected else Rejected("it", f"no way that {engine} can be told")
    short = f" ({show_bytes(why.shortfall_bytes)} short)" if why.shortfall_bytes else ""
    raise PlanError(f"it does not fit: {why.way}: {why.reason}{short}.", "headrace plan says more.")


def _nodes(wanted: intent.Wanted) -> int:
    return wanted.replicas if wanted.replicas != "auto" else 1


def _sayable(offer: Offer, facts: ModelFacts, engine: str) -> bool:
    """AWQ needs a checkpoint made with it; pipelines are told vLLM alone; TGI and SGLang call fp8 the same."""
    made = offer.quantization.name != "awq" or facts.quantization == "awq"
    return made and (engine in ("vllm", "triton") or offer.pipeline_parallel == 1)


def _options(engine: str, model: ModelSpec, offer: Offer) -> dict[str, Any]:
    quantization = "" if offer.quantization.name in ("none", "awq") else offer.quantization.name
    options: dict[str, Any] = {"device": "cuda", "tensor_parallel": offer.tensor_parallel, "quantization": quantization}
    if engine == "tgi":
        return {**options, "args": model.options(TgiOptions).args}
    if engine == "sglang":
        return {**options, "args": model.options(SglangOptions).args}
    cache = offer.memory.cache_low_bytes if offer.memory.request_bytes else None  # what is promised, not what is expected
    steps = str(offer.memory.batching.max_num_batched_tokens)
    if engine == "triton":
        return {**options, "kind": "vllm", "cache_bytes": cache, "step_tokens": int(steps), "pipeline": offer.pipeline_parallel}
    asked = model.options(VllmOptions)
    stages = ("--pipeline-parallel-size", str(offer.pipeline_parallel)) if offer.pipeline_parallel > 1 else ()
    args = ("--max-num-batched-tokens", steps, *stages, *asked.args)
    return {**options, "cache_bytes": cache, "dtype": asked.dtype, "version": offer.version, "args": args}


def _need(offer: Offer, spec: KubernetesSpec) -> Need:
    machine, gpus = offer.machine, offer.way.gpus
    share = gpus / len(machine.gpus)
    cores = max(1, min(_GPU_CORES * gpus, int(_NODE_SHARE * share * machine.cores)))
    memory = min(int(_NODE_SHARE * share * machine.memory_bytes), _HOST_BYTES * gpus)
    size = machine.sku.name if machine.sku else None
    selector = dict(spec.nodes.labels) or (
        {"node.kubernetes.io/instance-type": size} if size else {"nvidia.com/gpu.present": "true"}
    )
    return Need(cores, memory, gpus, selector, instance_type=size)


def _decisions(engine: str, offer: Offer) -> tuple[Decision, ...]:
    return (
        Decision("engine", engine, "asked for" if engine != "vllm" else "serves safetensors to many users on GPUs"),
        Decision("GPUs", offer.way.on(offer.gpu), str(offer.memory)),
        *offer.decisions,
        *(Decision("misses", "what it is for", problem) for problem in offer.problems),
    )


def _on_cores(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
    """Without GPUs: as on a machine of `kubernetes.cpu` cores for each replica, with as much memory as the plan takes."""
    facts = known.facts
    assert facts is not None
    if model.engine_name in ("sglang", "tgi", "triton", "openvino"):
        way = "Name GPUs: `machine: {azure: SIZE}`." if model.engine_name != "openvino" else "Write llamacpp or vllm."
        raise PlanError(f"{model.engine_name} is not rendered for nodes without GPUs.", way)
    machine = Machine(spec.cpu, 2**50, 2**50, quota=True)
    one = model.model_copy(update={"replicas": 1})
    weights = f"{WEIGHTS}/ready" + (".gguf" if facts.format == "gguf" else "")
    planned = plan(Spec(models={name: one}), {name: facts}, {name: weights}, machine, _images(ground.rates)).models[0]
    placement = planned.replicas[0]
    assert isinstance(placement, Placement)
    replicas = model.scale.replicas or (model.replicas, model.replicas)
    seconds = (60 if placement.engine == "vllm" else 5) + ceil(facts.weight_bytes / _READ_RATE)
    return Workload(
        model=name,
        name=object_name(name),
        placement=placement,
        image=_image(name, placement, spec),
        need=Need(spec.cpu, ceil(placement.memory_bytes * 1.1), selector=spec.nodes.labels),
        replicas=replicas,
        concurrency=placement.slots,
        queue=model.scale.queue,
        idle_seconds=model.scale.idle,
        load_seconds=seconds,
        source=known.source,
        weights_bytes=facts.weight_bytes,
        decisions=tuple(d for d in planned.decisions if d.subject in ("engine", "context", "slots", "memory")),
    )


def _images(rates: Rates) -> Here:
    """What images have, in place of what is installed on a machine."""
    there = {"llamacpp": Installed("of the image"), "vllm": Installed(vllm.VERSION), "custom": Installed("of the image")}
    return Here(engines(), there, rates)


def _artifact(name: str, model: ModelSpec, known: Known, spec: KubernetesSpec) -> Workload:
    """What is no language model: code in Headrace's image, a graph in Triton's, a command in an image of the user's."""
    artifact = known.artifact
    assert artifact is not None
    if artifact.format not in ("python", "onnx", "command"):
        raise PlanError(
            f"{artifact.path}, a {artifact.format} file, is not rendered.", "Build an image that serves it: docs/kubernetes.md."
        )
    if artifact.bytes > LARGEST_FILE:
        size = show_bytes(artifact.bytes)
        raise PlanError(
            f"{artifact.path} is {size}, more than a ConfigMap holds.", "Build an image that serves it: docs/kubernetes.md."
        )
    options = _artifact_options(model, artifact)
    file = artifact.path.rpartition("/")[2]
    placement = Placement(
        model=name,
        engine="triton" if artifact.format == "onnx" else "custom",
        task=artifact.tasks[0] if model.task == "auto" else model.task,
        weights="/models" if artifact.format == "onnx" else f"{CODE}/{file}",
        context=0,
        slots=32 if model.slots == "auto" else model.slots,
        threads=spec.cpu,
        memory_bytes=model.memory or 2 * artifact.bytes + 500_000_000,
        options=options,
    )
    replicas = model.scale.replicas or (model.replicas, model.replicas)
    return Workload(
        model=name,
        name=object_name(name),
        placement=placement,
        image=_image(name, placement, spec),
        need=Need(spec.cpu, placement.memory_bytes, selector=spec.nodes.labels),
        replicas=replicas,
        concurrency=placement.slots,
        queue=model.scale.queue,
        idle_seconds=model.scale.idle,
        load_seconds=30,
        files={} if artifact.format == "command" else {file: known.content},
    )


def _artifact_options(model: ModelSpec, artifact: Artifact) -> dict[str, Any]:
    if artifact.format == "onnx":
        asked = model.options(TritonOptions)
        return {"kind": "onnx", "instances": asked.instances}
    given = model.options(CustomOptions)
    if any("{socket}" in word for word in given.command):
        raise PlanError("its command listens on a Unix socket, and a pod is reached by its port.", "Write {host} and {port}.")
    if given.command:
        return {"command": given.command, "ready": given.ready, "speaks": given.speaks}
    return {"class": given.class_ or "", "batch": given.batch, "delay_seconds": given.delay, "limit_seconds": given.limit}


def _image(name: str, placement: Placement, spec: KubernetesSpec) -> str:
    given: Mapping[str, str] = spec.images
    if image := given.get(name) or given.get(placement.engine):
        return image
    if placement.options.get("command"):
        raise PlanError("its command needs an image that has it.", f"Write `kubernetes: {{images: {{{name}: NAME:TAG}}}}`.")
    chosen = CONTAINERS[placement.engine].image
    return chosen(placement) if chosen else ""


def _task(model: ModelSpec, facts: ModelFacts) -> Task:
    if model.task == "auto":
        return "embed" if facts.encoder else "generate"
    return model.task
