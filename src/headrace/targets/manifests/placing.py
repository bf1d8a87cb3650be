"""A model of the spec → the Workload that runs it in the cluster: engine, GPUs, sizes and image, or why it cannot be."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from headrace.engines import engines, vllm
from headrace.engines.base import Installed, Placement
from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.plan import intent
from headrace.plan.base import Decision
from headrace.plan.fleet import Member
from headrace.plan.here import Here
from headrace.plan.local_speed import Rates
from headrace.plan.plan import plan
from headrace.plan.sharing import SHARED, Shared, shared
from headrace.spec.engines import CustomOptions, TritonOptions
from headrace.spec.kubernetes import KubernetesSpec, ScaleSpec
from headrace.spec.model import ModelSpec, Spec
from headrace.targets.manifests.base import Need, Workload, called
from headrace.targets.manifests.known import CODE, LARGEST_FILE, READ_RATE, READY, Ground, Known, image_of
from headrace.targets.manifests.on_gpus import GPU_ENGINES, on_gpus
from headrace.targets.manifests.seats import refuse
from headrace.units import show_bytes

__all__ = ["Ground", "Known", "sharing_of", "workload"]


def workload(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
    """The model as it runs in the cluster. Raises PlanError with the reason and a way out."""
    if model.adapters:
        raise PlanError("adapters are not rendered for Kubernetes yet.", "Serve a merged model, or leave them out.")
    _scalable(model, spec)
    if known.artifact is not None:
        return _artifact(name, model, known, ground, spec)
    assert known.facts is not None, "a model has facts or is an artifact"
    most = model.scale.replicas[1] if model.scale.replicas else model.replicas
    if spec.storage.access == "once" and name not in spec.storage.images and (most > 1 or name in spec.split):
        raise PlanError(f"{most} replicas cannot share a volume that one node mounts.", "Write `storage: {access: many}`.")
    if goes_on_gpus(model, known, ground):
        return on_gpus(name, model, known, ground, spec)
    if name in spec.split:
        raise PlanError("kubernetes.split is for models on GPUs.", "Name machines with GPUs, or remove it.")
    return _on_cores(name, model, known, ground, spec)


def sharing_of(
    models: Mapping[str, ModelSpec], known: Mapping[str, Known], ground: Ground, spec: KubernetesSpec
) -> Shared | None:
    """Where models sit on GPUs, if any of them shares one: all are packed together, as `headrace nodepool` does. Raises
    UsageError, and PlanError where they do not fit together.
    """
    members: dict[str, Member] = {}
    for name, about in known.items():
        model = models[name]
        if about.facts and goes_on_gpus(model, about, ground) and name not in spec.split:
            wanted = intent.wanted(model)
            most = replace(wanted, replicas=model.scale.replicas[1]) if model.scale.replicas else wanted
            members[name] = Member(about.facts, intent.asked(model), most)
    asking = [name for name, member in members.items() if member.wanted.share in SHARED]
    if not asking:
        return None
    if on_kaito := [name for name in asking if spec.on_kaito(name)]:
        raise PlanError(
            f"models.{on_kaito[0]}.share: KAITO gives whole GPUs.", "Write `target: deployment`, or share: exclusive."
        )
    made = shared(members, ground.machines, ground.knowledge)
    refuse(made, spec.sharing)
    return made


def goes_on_gpus(model: ModelSpec, known: Known, ground: Ground) -> bool:
    """Whether a language model goes to GPUs, where there are any."""
    facts = known.facts
    return bool(ground.machines and facts and facts.format == "safetensors" and model.engine_name in ("auto", *GPU_ENGINES))


def _scalable(model: ModelSpec, spec: KubernetesSpec) -> None:
    if model.scale.replicas is None:
        return
    least, most = model.scale.replicas
    if spec.scaler == "none":
        raise PlanError(
            f"replicas {least}..{most} need something that scales.", "Write `kubernetes: {scaler: keda}`, or a number."
        )


def _on_cores(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
    """Without GPUs: as on a machine of `kubernetes.cpu` cores for each replica, with as much memory as the plan takes."""
    facts = known.facts
    assert facts is not None
    if model.engine_name in ("sglang", "tgi", "triton", "openvino"):
        way = "Name GPUs: `machine: {azure: SIZE}`." if model.engine_name != "openvino" else "Write llamacpp or vllm."
        raise PlanError(f"{model.engine_name} is not rendered for nodes without GPUs.", way)
    machine = Machine(spec.cpu, 2**50, 2**50, quota=True)
    one = model.model_copy(update={"replicas": 1, "scale": ScaleSpec(), "share": "auto"})
    weights = _path(name, facts.format, spec)
    planned = plan(Spec(models={name: one}), {name: facts}, {name: weights}, machine, _images(ground.rates)).models[0]
    placement = planned.replicas[0]
    assert isinstance(placement, Placement)
    replicas = model.scale.replicas or (model.replicas, model.replicas)
    seconds = (60 if placement.engine == "vllm" else 5) + ceil(facts.weight_bytes / READ_RATE)
    return Workload(
        model=name,
        name=called(name, spec),
        placement=placement,
        image=image_of(name, placement, spec),
        need=Need(spec.cpu, ceil(placement.memory_bytes * 1.1), selector=_labels(ground, spec)),
        replicas=replicas,
        concurrency=placement.slots,
        queue=model.scale.queue,
        idle_seconds=model.scale.idle,
        load_seconds=seconds,
        source=known.source,
        weights_bytes=facts.weight_bytes,
        weights_image=spec.storage.images.get(name, ""),
        decisions=tuple(_anywhere(d) for d in planned.decisions if d.subject in ("engine", "context", "slots", "memory")),
    )


def _anywhere(decision: Decision) -> Decision:
    """A decision without the memory that is free: which node it will be is the cluster's matter."""
    if decision.subject != "memory":
        return decision
    return replace(decision, reason=decision.reason.partition(" of ")[0])


def _labels(ground: Ground, spec: KubernetesSpec) -> Mapping[str, str]:
    """Of the nodes for a model without GPUs. Where there are GPUs they name the nodes that have them, whose taints it has no
    business to tolerate: it would be pending for ever.
    """
    return {} if ground.machines else spec.nodes.labels


def _path(name: str, form: str, spec: KubernetesSpec) -> str:
    """Of the weights. An image with a GGUF has it as model.gguf at its root."""
    if form != "gguf":
        return READY
    return f"{READY}/model.gguf" if name in spec.storage.images else f"{READY}.gguf"


def _images(rates: Rates) -> Here:
    """What images have, in place of what is installed on a machine."""
    there = {"llamacpp": Installed("of the image"), "vllm": Installed(vllm.VERSION), "custom": Installed("of the image")}
    return Here(engines(), there, rates)


def _artifact(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
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
        name=called(name, spec),
        placement=placement,
        image=image_of(name, placement, spec),
        need=Need(spec.cpu, placement.memory_bytes, selector=_labels(ground, spec)),
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
