"""plan(spec, facts, machine) → Plan: which replicas run, with what, and why. The entry of the planning room."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.artifacts import Occupied, placed
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.choose import Draft, draft, servers
from headrace.plan.devices import OnCards, for_gpus_only, on_cards, remarks
from headrace.plan.here import Here
from headrace.plan.place import Placed, total
from headrace.plan.ranges import (
    Size,
    explained,
    fitting,
    kept_bytes,
    most,
    refused,
    scale_of,
    settled,
    sharing,
    size_of,
    together,
)
from headrace.plan.shortage import too_much
from headrace.spec.model import ModelSpec, Spec
from headrace.units import show_bytes

__all__ = ["Decision", "Plan", "PlannedModel", "plan"]


def plan(
    spec: Spec,
    facts: Mapping[str, ModelFacts],
    weights: Mapping[str, str],
    machine: Machine,
    here: Here,
    artifacts: Mapping[str, Artifact] = MappingProxyType({}),
) -> Plan:
    """What should run. By model name, for those to be started: `facts` and `weights` (paths) of language models, `artifacts`
    of all else.

    Raises PlanError with every model's problem, or with the memory that is missing and what would fit.
    """
    seated = on_cards(spec, {name: known for name, known in facts.items() if name not in artifacts}, weights, machine, here)
    elsewhere = {*artifacts, *seated.models}  # than in the engines that share the cores
    replicas = sharing(model for name, model in spec.models.items() if model.ours and name not in elsewhere)
    drafts: dict[str, Draft] = {}
    occupied: dict[str, Occupied] = dict(seated.models)
    problems = []
    for name, model in spec.models.items():
        made: Draft | Occupied | str | None = None
        if name in artifacts:
            made = placed(name, model, artifacts[name], here)
        elif model.ours and name not in seated.models:
            copies, scale = most(model), scale_of(model)
            made = _beside_cards(name, model, facts[name], seated) or draft(
                name, model, facts[name], weights[name], machine, here.on_cpu, replicas, copies, scale
            )
            made = _told(made, seated.stay.get(name))
        if isinstance(made, str):
            problems.append(f"models.{name}: {made}")
        elif isinstance(made, Draft):
            drafts[name] = made
        elif made is not None:
            occupied[name] = made
    if problems:
        raise PlanError("\n".join(problems), " ".join(remarks(machine, here)))
    found = _together(spec, list(drafts.values()), occupied, machine)
    said = remarks(machine, here) if drafts else ()
    return replace(found, cards=machine.cards if seated.models else (), remarks=said)


def _beside_cards(name: str, model: ModelSpec, facts: ModelFacts, seated: OnCards) -> str | None:
    """Why a model that is for GPUs alone cannot be served; None when the CPU may have it."""
    stays = seated.stay.get(name)
    return f"no GPU here can serve it: {stays.reason}" if stays and for_gpus_only(model, facts) else None


def _told(made: Draft | str, stays: Decision | None) -> Draft | str:
    """With why it is not on a GPU, where there are some."""
    if stays is None:
        return made
    if isinstance(made, str):
        return made if stays.reason in made else f"{made} No GPU here can serve it either: {stays.reason}."
    return replace(made, decisions=(*made.decisions, stays))


def _together(spec: Spec, drafts: list[Draft], occupied: Mapping[str, Occupied], machine: Machine) -> Plan:
    """All models in the memory that is free: what is no language model takes what it takes, contexts give way. What may sleep
    has to fit alone beside what never does.
    """
    free = machine.memory_free_bytes
    others = [one.size for one in occupied.values()]
    if kept_bytes(others) > free:
        raise PlanError(*too_much({size.model: size.bytes_each * size.least for size in others}, free))
    fitted = settled(drafts, others, free, alone=bool(drafts) and len(drafts) == len(spec.models))
    ground = _Ground((*map(size_of, fitted), *others), free, refused([*map(size_of, fitted), *others], free))
    local = {one.draft.name: _local(one, _memory(one, fitted, free - kept_bytes(others)), machine, ground) for one in fitted}
    local |= {name: _occupied(one, ground) for name, one in occupied.items()}
    models = tuple(local.get(name) or _remote(name, model) for name, model in spec.models.items())
    return Plan(models, free if local else None)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all models of this machine take, of how much, and which can never be there."""

    sizes: tuple[Size, ...]
    free_bytes: int
    refused: Mapping[str, str]

    def counted(self, model: PlannedModel) -> PlannedModel:
        """The model with as many replicas as fit, and the decision on their number before the one on memory."""
        size = next(size for size in self.sizes if size.model == model.name)
        if why := self.refused.get(model.name):
            told = Decision("memory", "too large", why)
            return replace(model, replicas=(), decisions=(*model.decisions, told), refused=why)
        count = fitting(size, self.sizes, self.free_bytes) if model.scale else size.most
        decisions = [explained(size, model.scale, self.sizes, self.free_bytes)]
        if model.sleeps and (turns := together(self.sizes, self.free_bytes)):
            alone, on_gpus = "turns" in turns, any(decision.subject == "GPU turns" for decision in model.decisions)
            decisions += [] if on_gpus and not alone else [Decision("turns", "alone" if alone else "none", turns)]
        at = next((n for n, decision in enumerate(model.decisions) if decision.subject == "memory"), len(model.decisions))
        told_all = (*model.decisions[:at], *decisions, *model.decisions[at:])
        return replace(model, replicas=model.replicas[:count], decisions=told_all)


def _occupied(one: Occupied, ground: _Ground) -> PlannedModel:
    return ground.counted(one.model)


def _local(one: Placed, memory: Decision, machine: Machine, ground: _Ground) -> PlannedModel:
    draft, placement = one.draft, one.placement
    decisions = tuple(_lowered(one) if decision.subject == "context" else decision for decision in draft.decisions)
    model = PlannedModel(
        name=draft.name,
        task=draft.task,
        facts=draft.facts,
        replicas=(placement,) * draft.replicas,
        slots=placement.slots,
        decisions=(*decisions, memory, *one.speed(machine.cores)),
        context=placement.context,
        also=placement.also,
        scale=draft.scale,
    )
    return ground.counted(model)


def _lowered(one: Placed) -> Decision:
    """The decision on the context, as it came out once memory was counted."""
    chosen = next(decision for decision in one.draft.decisions if decision.subject == "context")
    if one.placement.context == one.draft.context:
        return chosen
    why = f"lowered from {one.draft.context} to fit the memory; {chosen.reason}"
    return Decision("context", str(one.placement.context), why)


def _memory(one: Placed, placed: list[Placed], free_bytes: int) -> Decision:
    if one.draft.scale is not None:
        each = show_bytes(one.memory.total_bytes)
        return Decision("memory", each, f"each replica: {replace(one.memory, free_bytes=free_bytes)}")
    each = f"{one.draft.replicas} replicas, each " if one.draft.replicas > 1 else ""
    if len(placed) == 1 and one.draft.replicas == 1:
        return Decision("memory", show_bytes(one.total_bytes), str(replace(one.memory, free_bytes=free_bytes)))
    fixed = [other for other in placed if other.draft.scale is None]
    every = f"all together {show_bytes(total(fixed))} of {show_bytes(free_bytes)} free"
    return Decision("memory", show_bytes(one.total_bytes), f"{each}{one.memory}; {every}")


def _remote(name: str, model: ModelSpec) -> PlannedModel:
    decisions = servers(model)
    slots = next(int(decision.value) for decision in decisions if decision.subject == "slots")
    return PlannedModel(
        name=name,
        task="embed" if model.task == "embed" else "generate",
        facts=None,
        replicas=model.url,
        slots=slots,
        decisions=decisions,
        context=None if model.context == "auto" else model.context,
        key=model.key,
    )
