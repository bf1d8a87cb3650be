"""`headrace plan` for machines that are asked about: the best way for one model, or several packed together, as text or JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.errors import PlanError, UsageError
from headrace.facts import catalogue
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.learned import knowledge, learned
from headrace.plan import intent, offer_text, rivals
from headrace.plan.consider import consider
from headrace.plan.fleet import Fleet, Member, fleet
from headrace.plan.intent import Intent
from headrace.plan.llamacpp_gpu import OnLlamaCpp, on_llamacpp
from headrace.plan.offer import Considered, Knowledge, Offer, cheapest
from headrace.plan.packing.explain import explain as explain_packing
from headrace.prepare import cache_of
from headrace.second_opinion import second_opinion
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.weights.source import parse

_TURNS = "\nModels that need not be there at once can take turns on a device: write `share: swap` for each of them.\n"


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asks of a plan."""

    machine: str | None = None
    """Instead of the spec's; auto is the one we are on."""
    wanted: str = ""
    as_json: bool = False
    explain: bool = False
    diff: bool = False
    update: bool = False
    offline: bool = False
    learn: Path | None = None
    """The log of a vLLM start."""
    second_opinion: bool = False
    """NVIDIA's aiconfigurator beside our numbers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan as text or JSON, and in one line what of the intent it misses; empty when it misses nothing."""

    text: str
    missed: str = ""


def planned(
    spec: Spec, question: Question, members: Mapping[str, Member], machines: tuple[Machine, ...], terminal: Terminal
) -> Answer:
    """The plan for `machines`. Raises HeadraceError."""
    root, facts = cache_of(spec).root, {name: member.facts for name, member in members.items()}
    known = learned(question.learn, root, facts, machines, terminal) if question.learn else knowledge(root)
    if len(members) > 1 and question.second_opinion:
        raise UsageError("--second-opinion is about one model: name it, or write a file with it alone.")
    if together(members):
        return _together(fleet(members, machines, known), members, question)
    ((name, member),) = members.items()
    return _alone(spec, name, member, machines, known, question)


def together(members: Mapping[str, Member]) -> bool:
    """Whether they are packed onto devices, and not each offered machines of its own."""
    return len(members) > 1 or any(member.wanted.share not in ("auto", "exclusive") for member in members.values())


def intents_of(spec: Spec, question: Question) -> dict[str, Intent]:
    """What every model with weights is for, --for on top. Raises UsageError, and PlanError for what no GPU can do."""
    models = {name: model for name, model in spec.models.items() if model.source}
    if not models:
        raise UsageError("There is nothing to plan: every model runs elsewhere already (`url`).")
    if inside := [name for name, model in models.items() if model.share == "process"]:
        raise PlanError(
            f"models.{inside[0]}: share process is for engines that hold several models, and vLLM holds one per process.",
            "Write auto, time-slice or swap.",
        )
    try:
        return {name: intent.parse(question.wanted, intent.asked(model)) for name, model in models.items()}
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None


def weighed(member: Member, machines: tuple[Machine, ...], known: Knowledge) -> tuple[list[Considered], list[Offer]]:
    """All ways on each kind of machine, and the best: of one kind the best way, of several those of the cheapest machines."""
    different = [machine for place, machine in enumerate(machines) if machine not in machines[:place]]
    considered = [
        consider(member.facts, machine, member.intent, known, member.wanted, machines.count(machine)) for machine in different
    ]
    return considered, cheapest(considered) if len(considered) > 1 else list(considered[0].offers[:1])


def _alone(spec: Spec, name: str, member: Member, machines: tuple[Machine, ...], known: Knowledge, question: Question) -> Answer:
    considered, best = weighed(member, machines, known)
    others = _on_llamacpp(member, machines)
    if not best:
        if question.as_json and any(one.slots for one in others):
            return Answer(json.dumps({"llamacpp": [one.data() for one in others]}, indent=2))
        if any(one.slots for one in others):
            return Answer(_without_vllm(name, member, considered, others))
        text = "\n\n".join([offer_text.explain(name, considered, best, member.intent).rstrip(), *map(str, others)])
        raise PlanError(f"{text}\n\nAsk for less, or for other machines.")
    missed = offer_text.missed(best[0])
    opinion = (
        second_opinion(spec.models[name].source or "", member.facts, best[0], member.intent) if question.second_opinion else None
    )
    if question.as_json:
        more: dict[str, Any] = {"second_opinion": opinion.data()} if opinion else {}
        more |= {"llamacpp": [one.data() for one in others]} if others else {}
        return Answer(json.dumps(offer_text.data(name, considered, best) | more, indent=2), missed)
    text = _text(spec, name, member, considered, best, question) + "".join(f"\n{one}\n" for one in others)
    return Answer("".join([text, f"\n{opinion}\n" if opinion else "", f"\n{missed}" if missed else ""]), missed)


def _on_llamacpp(member: Member, machines: tuple[Machine, ...]) -> list[OnLlamaCpp]:
    """With llama.cpp on one GPU of each kind, for what vLLM is not for: GGUF, and Apple's GPUs."""
    kinds = {machine.gpus[0].name: machine.gpus[0] for machine in machines if machine.gpus}
    for_it = [gpu for gpu in kinds.values() if member.facts.format == "gguf" or gpu.name.startswith("Apple")]
    return [] if member.facts.encoder else [on_llamacpp(member.facts, gpu, member.intent) for gpu in for_it]


def _without_vllm(name: str, member: Member, considered: Sequence[Considered], others: Sequence[OnLlamaCpp]) -> str:
    lines = [str(one) for one in others]
    why = [f"Not with vLLM on {no.way}: {no.reason}." for one in considered for no in one.rejected]
    return "\n\n".join([f"{name}, for {member.intent}:", *lines, *why]) + "\n"


def _text(
    spec: Spec, name: str, member: Member, considered: Sequence[Considered], best: Sequence[Offer], question: Question
) -> str:
    text = offer_text.explain(name, considered, best, member.intent)
    text += _engines(member.facts, best[0].machine, preset(spec, name)) + _doubts(member.facts)
    return text + "\n" + offer_text.formulas(best[0]) if question.explain else text


def _together(packed: Fleet, members: Mapping[str, Member], question: Question) -> Answer:
    missed = _unmet(packed)
    if question.as_json:
        return Answer(json.dumps(_packed_data(packed), indent=2), missed)
    return Answer(_packed(members, packed) + (f"\n{missed}" if missed else ""), missed)


def _unmet(packed: Fleet) -> str:
    """What finds no place, and what is placed and misses what it is for."""
    nowhere = sorted({*packed.refused, *(each.name for each in packed.packing.unplaced)})
    said = [f"{name} finds no place" for name in nowhere]
    missing = {name: offer.problems for name, offer in packed.offers.items() if offer.problems and name not in nowhere}
    said += [f"{name}: {'; '.join(problems)}" for name, problems in missing.items()]
    return f"Missed: {'. '.join(said)}." if said else ""


def _packed_data(packed: Fleet) -> dict[str, object]:
    return {
        "assignments": [asdict(each) for each in packed.packing.assignments],
        "unplaced": [asdict(each) for each in packed.packing.unplaced],
        "refused": dict(packed.refused),
        "sized": {name: offer_text.offer_data(offer) for name, offer in packed.offers.items()},
        "devices": packed.packing.devices,
        "least_devices": packed.packing.least_devices,
        "warnings": list(packed.packing.warnings),
    }


def _packed(members: Mapping[str, Member], packed: Fleet) -> str:
    refused = "".join(f"\n{name} fits nowhere: {reason}" for name, reason in packed.refused.items())
    each = {str(member.intent) for member in members.values()}
    alike = f"Each for {each.pop()}:" if len(each) == 1 else "\n".join(f"{name} for {m.intent}" for name, m in members.items())
    sized = "".join(f"  {name}: {offer_text.summary(offer)}\n" for name, offer in packed.offers.items())
    turns = "" if not packed.packing.unplaced else _TURNS
    return f"{alike}\n\nEach replica by itself:\n{sized}\n{explain_packing(packed.packing)}{turns}{refused}"


def _doubts(facts: ModelFacts) -> str:
    doubts = [*facts.doubts]
    if facts.format == "gguf":
        doubts.append("vLLM loads GGUF files experimentally: prefer the safetensors that they were made from")
    return "".join(f"Doubt: {doubt}.\n" for doubt in doubts)


def _engines(facts: ModelFacts, here: Machine, kaito: str | None) -> str:
    rows = [f"  {each.value:<8}  {each.reason}\n" for each in rivals.engine(facts, here, kaito)]
    return f"\nEngines, the one planned for first:\n{''.join(rows)}\n"


def preset(spec: Spec, name: str) -> str | None:
    """What KAITO calls the model, if it has a preset for it."""
    text = spec.models[name].source or ""
    return catalogue.kaito_preset(parse(text).location) if text.startswith("hf:") else None
