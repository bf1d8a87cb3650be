"""Plan → text for the terminal: what is served, and why so."""

from collections.abc import Sequence

from headrace.engines.base import Placement
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.units import show_bytes


def explain(plan: Plan) -> str:
    """Every model in one line, its decisions in columns below it, and the memory of all of them last."""
    decisions = [decision for model in plan.models for decision in model.decisions]
    widths = (max((len(d.subject) for d in decisions), default=0), max((len(d.value) for d in decisions), default=0))
    blocks = ["\n".join([_headline(model), *_rows(model.decisions, widths)]) for model in plan.models]
    return "\n\n".join([*blocks, "\n".join([*_sum(plan), *_cards(plan), *plan.remarks])]).rstrip() + "\n"


def _headline(model: PlannedModel) -> str:
    places = [replica for replica in model.replicas if isinstance(replica, Placement)]
    context = f" of {model.context} tokens" if model.context else ""
    slots = f"{_count(model.slots, 'slot')}{context}"
    if model.refused:
        return f"{model.name}: {model.task}, cannot be served here"
    if not places:
        return f"{model.name}: {model.task} at {', '.join(map(str, model.replicas))}, {slots} each"
    what = f" {model.facts.architecture} {model.facts.quantization}" if model.facts else ""
    count = f"{model.scale.least}..{len(places)} replicas" if model.scale else _count(len(places), "replica")
    return f"{model.name}: {model.task} with {places[0].engine}{what}, {count} of {slots}"


def _rows(decisions: Sequence[Decision], widths: tuple[int, int]) -> list[str]:
    return [f"  {d.subject:<{widths[0]}}  {d.value:<{widths[1]}}  {d.reason}" for d in decisions]


def _sum(plan: Plan) -> list[str]:
    placements = [replica for model in plan.models for replica in model.replicas if isinstance(replica, Placement)]
    if not placements:
        return []
    taken = sum(placement.memory_bytes for placement in placements)
    most = "at most " if any(model.scale for model in plan.models) else ""
    if plan.memory_bytes is not None and taken > plan.memory_bytes:
        return [f"{most}{_count(len(placements), 'replica')} here, in turns, in {show_bytes(plan.memory_bytes)} of memory"]
    return [f"{most}{_count(len(placements), 'replica')} here, {show_bytes(taken)} of memory"]


def _cards(plan: Plan) -> list[str]:
    """What is planned on each GPU."""
    there = [one for model in plan.models for one in model.replicas if isinstance(one, Placement)]
    lines = []
    for card in plan.cards:
        taken = sum(one.devices.get(card.uuid, 0) for one in there)
        names = ", ".join(dict.fromkeys(one.model for one in there if card.uuid in one.devices)) or "nothing"
        lines.append(f"GPU {card.place} ({card.gpu.name}): {names}, {show_bytes(taken)} of {show_bytes(card.free_bytes)} free")
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
