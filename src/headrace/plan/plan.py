"""plan(spec, facts, machine) → Plan: which replicas run, with what, and why. The entry of the planning room."""

from collections.abc import Mapping
from dataclasses import replace

from headrace.engines.base import Engine
from headrace.errors import PlanError
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.choose import Draft, draft, servers
from headrace.plan.place import Placed, shorter, total
from headrace.plan.shortage import shortage
from headrace.spec.model import ModelSpec, Spec
from headrace.units import show_bytes

__all__ = ["Decision", "Plan", "PlannedModel", "plan"]


def plan(
    spec: Spec,
    facts: Mapping[str, ModelFacts],
    weights: Mapping[str, str],
    machine: Machine,
    engines: Mapping[str, Engine],
) -> Plan:
    """What should run. `facts` and `weights` (paths) are by model name, for the models with a `source`.

    Raises PlanError with every model's problem, or with the memory that is missing and what would fit.
    """
    placed = _settled(_drafts(spec, facts, weights, machine, engines), machine.memory_free_bytes)
    local = {one.draft.name: _local(one, _memory(one, placed, machine.memory_free_bytes)) for one in placed}
    return Plan(tuple(local.get(name) or _remote(name, model) for name, model in spec.models.items()))


def _drafts(
    spec: Spec,
    facts: Mapping[str, ModelFacts],
    weights: Mapping[str, str],
    machine: Machine,
    engines: Mapping[str, Engine],
) -> list[Draft]:
    local = {name: model for name, model in spec.models.items() if model.source}
    replicas = sum(model.replicas for model in local.values())
    drafts, problems = [], []
    for name, model in local.items():
        made = draft(name, model, facts[name], weights[name], machine, engines, replicas)
        if isinstance(made, str):
            problems.append(f"models.{name}: {made}")
        else:
            drafts.append(made)
    if problems:
        raise PlanError("\n".join(problems))
    return drafts


def _settled(drafts: list[Draft], free_bytes: int) -> list[Placed]:
    """The drafts with the longest contexts that fit together."""
    placed: list[Placed] = []
    for placed in shorter(drafts):
        if total(placed) <= free_bytes:
            return placed
    raise PlanError(*shortage(placed, free_bytes))


def _local(one: Placed, memory: Decision) -> PlannedModel:
    draft, placement = one.draft, one.placement
    decisions = tuple(_lowered(one) if decision.subject == "context" else decision for decision in draft.decisions)
    replicas = Decision("replicas", str(draft.replicas), "as many as the spec says")
    return PlannedModel(
        name=draft.name,
        task=draft.task,
        facts=draft.facts,
        replicas=(placement,) * draft.replicas,
        slots=placement.slots,
        decisions=(*decisions, replicas, memory),
        context=placement.context,
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
