"""A language model on GPUs: the best way that its engine can be told, whole, on a part of a GPU, or over several machines."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from headrace.engines import engines, vllm
from headrace.engines.base import Placement
from headrace.errors import PlanError
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import intent
from headrace.plan.base import Decision
from headrace.plan.consider import consider
from headrace.plan.offer import Offer, Rejected, cheapest
from headrace.spec.engines import SglangOptions, TgiOptions, VllmOptions
from headrace.spec.kubernetes import KubernetesSpec
from headrace.spec.model import ModelSpec
from headrace.targets.manifests.base import Need, Workload, called
from headrace.targets.manifests.known import READ_RATE, READY, Ground, Known, image_of, task_of
from headrace.targets.manifests.seats import Seat, seat
from headrace.units import show_bytes

GPU_ENGINES = ("vllm", "sglang", "tgi", "triton")
_START_SECONDS = 90
"""Of an engine on a GPU, without reading weights: vLLM's compile and capture of graphs took 20 to 90 s in published logs."""

_GPU_CORES = 8
"""Cores that one GPU's engine is given at most: requests bind, and the last replica of a node stays Pending on CPU."""

_NODE_SHARE = 0.8
"""Part of a node that is planned with; the system's and DaemonSets' pods take of the rest."""

_HOST_BYTES = 16 * 2**30
"""Memory of the machine for each GPU's process at most, beyond what it reads weights through."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The way that is taken: `machines` one replica is split over, `seat` where others share its GPU."""

    offer: Offer
    machines: int = 1
    seat: Seat | None = None
    spare: bool = False


def on_gpus(name: str, model: ModelSpec, known: Known, ground: Ground, spec: KubernetesSpec) -> Workload:
    """The model on the machines with GPUs that are asked about. Raises PlanError with the reason and a way out."""
    facts = known.facts
    assert facts is not None
    engine = "vllm" if model.engine_name == "auto" else model.engine_name
    task = task_of(model, facts)
    refused = engines()[vllm.ENGINE.name if engine == "triton" else engine].refuse(facts, task)
    if engine == "triton" and task != "generate":
        refused = "Triton has no API to embed: write engine: vllm."
    if refused:
        raise PlanError(f"{engine} cannot serve it: {refused}")
    place = _place(name, model, facts, ground, engine, spec)
    offer = place.offer
    replicas = model.scale.replicas or (offer.replicas, offer.replicas)
    need = _need(place, spec)
    if spec.on_kaito(name):
        _refuse_on_kaito(need, replicas, spec)
    slots = offer.memory.batching.max_num_seqs if model.slots == "auto" else model.slots
    placement = Placement(
        model=name,
        engine=engine,
        task=task,
        weights=READY,
        context=offer.memory.context,
        slots=slots,
        threads=0,
        memory_bytes=offer.memory.total_bytes,
        options=_options(engine, model, place),
    )
    users = model.for_.users
    return Workload(
        model=name,
        name=called(name, spec),
        placement=placement,
        image=image_of(name, placement, spec),
        need=need,
        replicas=replicas,
        concurrency=min(slots, ceil(users / offer.replicas)) if users else slots,
        queue=model.scale.queue,
        idle_seconds=model.scale.idle,
        load_seconds=_START_SECONDS + ceil(facts.weight_bytes / READ_RATE),
        source=known.source,
        weights_bytes=facts.weight_bytes,
        preset=known.preset if engine == "vllm" and place.machines == 1 else None,
        machines=place.machines,
        weights_image=spec.storage.images.get(name, ""),
        decisions=_decisions(engine, place),
    )


def _refuse_on_kaito(need: Need, replicas: tuple[int, int], spec: KubernetesSpec) -> None:
    """What KAITO would take, and never run. Raises PlanError."""
    if spec.kaito == "workspace" and replicas != (1, 1):
        least, most = replicas
        count = str(most) if least == most else f"{least}..{most}"
        raise PlanError(f"a Workspace is one replica, and this is {count}.", "Write `kaito: inferenceset`, or replicas: 1.")
    if need.instance_type is None and not spec.nodes.labels:
        raise PlanError(
            "KAITO brings machines of a cloud's size or takes nodes by their labels, and there is neither.",
            "Write `machine: {azure: SIZE}`, or name nodes that are there: `kubernetes: {nodes: {labels: {KEY: VALUE}}}`.",
        )


def _place(name: str, model: ModelSpec, facts: ModelFacts, ground: Ground, engine: str, spec: KubernetesSpec) -> _Place:
    if name in spec.split:
        return _split(name, model, facts, ground, engine, spec)
    if ground.shared and (sits := seat(name, engine, ground.shared, spec.sharing)):
        replicas = model.scale.replicas[1] if model.scale.replicas else model.replicas
        return _Place(replace(ground.shared.offers[name], replicas=replicas), seat=sits)
    offer = _offer(model, facts, ground, engine)
    most = model.scale.replicas[1] if model.scale.replicas else offer.replicas
    room = ground.machines.count(offer.machine) * (len(offer.machine.gpus) // offer.way.gpus)
    return _Place(offer, spare=room > most)


def _split(name: str, model: ModelSpec, facts: ModelFacts, ground: Ground, engine: str, spec: KubernetesSpec) -> _Place:
    """One replica over several machines: planned as one machine with all their GPUs, a stage for each of them."""
    machines = spec.split[name]
    if engine != "vllm" or spec.on_kaito(name):
        raise PlanError("kubernetes.split is for vLLM with `target: deployment`.", "Remove it, or write engine: vllm.")
    if model.share not in ("auto", "exclusive"):
        raise PlanError(f"it is split over {machines} machines and shares none.", "Write share: exclusive.")
    whole = tuple(_joined(machine, machines) for machine in _kinds(ground))
    wanted = replace(intent.wanted(model), stages=machines, replicas=model.replicas)
    return _Place(_best(facts, replace(ground, machines=whole), engine, intent.asked(model), wanted), machines)


def _joined(machine: Machine, count: int) -> Machine:
    return replace(machine, gpus=machine.gpus * count, cores=machine.cores * count, memory_bytes=machine.memory_bytes * count)


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
    considered = [
        consider(facts, machine, asked, ground.knowledge, wanted, max(ground.machines.count(machine), nodes, _nodes(wanted)))
        for machine in _kinds(ground)
    ]
    sayable = [replace(one, offers=tuple(offer for offer in one.offers if _sayable(offer, facts, engine))) for one in considered]
    if best := cheapest(sayable, 1):
        return best[0]
    rejected: list[Rejected] = [reason for one in considered for reason in one.rejected]
    why = rejected[0] if rejected else Rejected("it", f"no way that {engine} can be told")
    short = f" ({show_bytes(why.shortfall_bytes)} short)" if why.shortfall_bytes else ""
    raise PlanError(
        f"it does not fit: {why.way}: {why.reason}{short}.",
        "headrace plan says more; kubernetes.split has it on several machines.",
    )


def _kinds(ground: Ground) -> list[Machine]:
    return [machine for place, machine in enumerate(ground.machines) if machine not in ground.machines[:place]]


def _nodes(wanted: intent.Wanted) -> int:
    return wanted.replicas if wanted.replicas != "auto" else 1


def _sayable(offer: Offer, facts: ModelFacts, engine: str) -> bool:
    """AWQ needs a checkpoint made with it; pipelines are told vLLM alone; TGI and SGLang call fp8 the same."""
    made = offer.quantization.name != "awq" or facts.quantization == "awq"
    return made and (engine in ("vllm", "triton") or offer.pipeline_parallel == 1)


def _options(engine: str, model: ModelSpec, place: _Place) -> dict[str, Any]:
    offer, sits = place.offer, place.seat
    quantization = "" if offer.quantization.name in ("none", "awq") else offer.quantization.name
    options: dict[str, Any] = {"device": "cuda", "tensor_parallel": offer.tensor_parallel, "quantization": quantization}
    if engine == "tgi":
        return {**options, "args": model.options(TgiOptions).args}
    if engine == "sglang":
        return {**options, "args": model.options(SglangOptions).args}
    part = sits.utilization if sits else None
    cache = sits.cache_bytes if sits else _cache(offer)
    steps = str(offer.memory.batching.max_num_batched_tokens)
    if engine == "triton":
        own = {"kind": "vllm", "cache_bytes": cache, "step_tokens": int(steps), "pipeline": offer.pipeline_parallel}
        return {**options, **own, "utilization": part}
    asked = model.options(VllmOptions)
    stages = ("--pipeline-parallel-size", str(offer.pipeline_parallel)) if offer.pipeline_parallel > 1 else ()
    share = ("--gpu-memory-utilization", str(part)) if part else ()
    args = ("--max-num-batched-tokens", str(asked.batch or steps), *stages, *share, *asked.args)
    return {**options, "cache_bytes": cache, "dtype": asked.dtype, "version": offer.version, "args": args}


def _cache(offer: Offer) -> int | None:
    """What is promised, not what is expected."""
    return offer.memory.cache_low_bytes if offer.memory.request_bytes else None


def _need(place: _Place, spec: KubernetesSpec) -> Need:
    """Of one pod: its part of a machine, and of that its part of a GPU."""
    machine, gpus, sits = place.offer.machine, place.offer.way.gpus, place.seat
    parts = sits.slices if sits else 1
    share = gpus / len(machine.gpus) / parts
    each = gpus // place.machines
    cores = max(1, min(_GPU_CORES * each, int(_NODE_SHARE * share * machine.cores / place.machines)))
    memory = min(int(_NODE_SHARE * share * machine.memory_bytes / place.machines), _HOST_BYTES * each)
    size = machine.sku.name if machine.sku and machine.sku.cloud else None
    selector = dict(spec.nodes.labels) or (
        {"node.kubernetes.io/instance-type": size} if size else {"nvidia.com/gpu.present": "true"}
    )
    if sits is None:
        return Need(cores, memory, each, selector, place.spare, size)
    return Need(cores, memory, each, {**selector, **sits.selector}, False, size, sits.resource, sits.own_shm)


def _decisions(engine: str, place: _Place) -> tuple[Decision, ...]:
    offer = place.offer
    over = f"a stage of its layers on each of {place.machines} machines; the network between them is in no estimate"
    return (
        Decision("engine", engine, "asked for" if engine != "vllm" else "serves safetensors to many users on GPUs"),
        *(place.seat.decisions if place.seat else [Decision("GPUs", offer.way.on(offer.gpu), str(offer.memory))]),
        *([Decision("split", f"{place.machines} machines", over)] if place.machines > 1 else []),
        *offer.decisions,
        *(Decision("misses", "what it is for", problem) for problem in offer.problems),
    )
