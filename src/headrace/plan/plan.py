"""plan(spec, facts, machine) → Plan: which replicas run, with what, and why. The entry of the planning room."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.artifacts import Occupied, placed
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.choose import Draft, draft, servers
from headrace.plan.here import Here
from headrace.plan.place import Placed, shorter, total
from headrace.plan.shortage import shortage, too_much
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
    replicas = sum(model.replicas for name, model in spec.models.items() if model.ours and name not in artifacts)
    drafts: dict[str, Draft] = {}
    occupied: dict[str, Occupied] = {}
    problems = []
    for name, model in spec.models.items():
        made: Draft | Occupied | str | None = None
        if name in artifacts:
            made = placed(name, model, artifacts[name], here)
        elif model.ours:
            made = draft(name, model, facts[name], weights[name], machine, here, replicas)
        if isinstance(made, str):
            problems.append(f"models.{name}: {made}")
        elif isinstance(made, Draft):
            drafts[name] = made
        elif made is not None:
            occupied[name] = made
    if problems:
        raise PlanError("\n".join(problems))
    return _together(spec, list(drafts.values()), occupied, machine)


def _together(spec: Spec, drafts: list[Draft], occupied: Mapping[str, Occupied], machine: Machine) -> Plan:
    """All models in the memory that is free: what is no language model takes what it takes, contexts give way."""
    taken = sum(one.total_bytes for one in occupied.values())
    free = machine.memory_free_bytes - taken
    if free < 0:
        raise PlanError(*too_much({name: one.total_bytes for name, one in occupied.items()}, machine.memory_free_bytes))
    fitted = _settled(drafts, free)
    local = {one.draft.name: _local(one, _memory(one, fitted, free), machine) for one in fitted}
    local |= {name: one.model for name, one in occupied.items()}
    return Plan(tuple(local.get(name) or _remote(name, model) for name, model in spec.models.items()))


def _settled(drafts: list[Draft], free_bytes: int) -> list[Placed]:
    """The drafts with the longest contexts that fit together."""
    placed: list[Placed] = []
    for placed in shorter(drafts):
        if total(placed) <= free_bytes:
            return placed
    raise PlanError(*shortage(placed, free_bytes))


def _local(one: Placed, memory: Decision, machine: Machine) -> PlannedModel:
    draft, placement = one.draft, one.placement
    decisions = tuple(_lowered(one) if decision.subject == "context" else decision for decision in draft.decisions)
    replicas = Decision("replicas", str(draft.replicas), "as many as the spec says")
    return PlannedModel(
        name=draft.name,
        task=draft.task,
        facts=draft.facts,
        replicas=(placement,) * draft.replicas,
        slots=placement.slots,
        decisions=(*decisions, replicas, memory, *one.speed(machine.cores)),
        context=placement.context,
        also=placement.also,
    )


def _lowered(one: Placed) -> Decision:
    """The decision on the context, as it came out once memory was counted."""
    chosen = next(decision for decision in one.draft.decisions if decision.subject == "context")
    if one.placement.context == one.draft.context:
        return chosen
    why = f"lowered from {one.draft.context} to fit the memory; {chosen.reason}"
    return Decision("context", str(one.placement.context), why)


def _memory(one: Placed, placed: list[Placed], free_bytes: int) -> Decision:
    each = f"{one.draft.replicas} replicas, each " if one.draft.replicas > 1 else ""
    if len(placed) == 1 and one.draft.replicas == 1:
        return Decision("memory", show_bytes(one.total_bytes), str(replace(one.memory, free_bytes=free_bytes)))
    every = f"all together {show_bytes(total(placed))} of {show_bytes(free_bytes)} free"
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
