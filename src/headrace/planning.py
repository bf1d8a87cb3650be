"""`headrace plan` and `headrace pull`: what would run where, before anything is fetched or paid for."""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace import __version__
from headrace.engines import engines
from headrace.errors import ModelError, PlanError, UsageError, WeightsError
from headrace.facts import catalogue, request
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts, of
from headrace.facts.probe import machine
from headrace.plan import intent, offer_text, rivals
from headrace.plan import lock as locks
from headrace.plan.base import Plan
from headrace.plan.explain import explain
from headrace.plan.fleet import Fleet, Member, fleet
from headrace.plan.intent import Intent, wanted
from headrace.plan.offer import Knowledge, cheapest, consider
from headrace.plan.packing.explain import explain as explain_packing
from headrace.plan.plan import plan
from headrace.plan.speed_constants import SpeedConstants
from headrace.plan.vllm.constants import parse as parse_constants
from headrace.plan.vllm.learn import correct, learn
from headrace.prepare import cache_of, fetched, obey_lock, prepared, read_lock, reporting
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.units import show_bytes
from headrace.weights.cache import Cache
from headrace.weights.remote import describe
from headrace.weights.source import Source, parse
from headrace.weights.store import free_bytes


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


def answer(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> str:
    """The plan as text or JSON. Raises HeadraceError."""
    if (elsewhere := _asked_about(spec, question)) is not None:
        if question.update:
            raise _no_lock(elsewhere)
        return _elsewhere(spec, question, terminal)
    if question.wanted:
        raise UsageError("--for needs --machine: for this machine, write `for` in the file.")
    if question.update:
        made = asyncio.run(prepared(spec, terminal, lock_file, offline=question.offline, update=True))
        return explain(made)
    made = _here(spec, lock_file, question, terminal)
    return json.dumps(_plan_data(made), indent=2) if question.as_json else explain(made)


def difference(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> str:
    """What planning anew would change of the lock, a line each. Raises HeadraceError."""
    if (elsewhere := _asked_about(spec, question)) is not None:
        raise _no_lock(elsewhere)
    lock = read_lock(lock_file)
    if lock is None:
        raise UsageError(f"There is no {lock_file or 'lock'} to compare with.", "headrace serve FILE writes one.")
    lines = [] if lock.headrace == __version__ else [f"~ headrace: {lock.headrace} → {__version__}"]
    lines += locks.difference(lock, _here(spec, None, question, terminal))
    return "\n".join(lines or ["Planned anew, everything would be as the lock says."])


def _no_lock(elsewhere: str) -> UsageError:
    return UsageError(f"A lock is of this machine, and the plan is for {elsewhere}.", "Say --machine auto.")


def _here(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> Plan:
    """The plan for this machine. Facts are read without fetching weights; the lock is obeyed and not written."""
    here = machine()
    lock, obeyed = obey_lock(spec, lock_file, here, terminal)
    facts = facts_of(obeyed.spec, ("gguf", "safetensors"), terminal, offline=question.offline)
    places = {name: str(model.source) for name, model in obeyed.spec.models.items() if model.source}
    try:
        made = plan(obeyed.spec, facts, places, here, engines())
    except PlanError as error:
        raise PlanError(str(error), "For a machine with GPUs: --machine.") from None
    return locks.explained(made, lock, obeyed.kept) if lock else made


def _elsewhere(spec: Spec, question: Question, terminal: Terminal) -> str:
    """Models on machines that are asked about: the best way for each, or all of them packed together."""
    machines, intents = _machines(spec, question), _intents(spec, question)
    facts = facts_of(spec, ("safetensors", "gguf"), terminal, offline=question.offline)
    members = {name: Member(known, intents[name], wanted(spec.models[name])) for name, known in facts.items()}
    knowledge = _knowledge(question, facts, machines, terminal)
    if len(members) > 1 or any(member.wanted.share not in ("auto", "exclusive") for member in members.values()):
        packed = fleet(members, machines, knowledge)
        return json.dumps(_packed_data(packed), indent=2) if question.as_json else _packed(members, packed)
    ((name, one),) = members.items()
    considered = [consider(one.facts, machine, one.intent, knowledge, one.wanted) for machine in machines]
    best = cheapest(considered) if len(considered) > 1 else list(considered[0].offers[:1])
    if not best:
        raise PlanError(offer_text.explain(name, considered, best, one.intent).rstrip(), "Ask for less, or for other machines.")
    if question.as_json:
        return json.dumps(offer_text.data(name, considered, best), indent=2)
    text = offer_text.explain(name, considered, best, one.intent)
    text += _engines(one.facts, best[0].machine, _preset(spec, name)) + _doubts(one.facts)
    return text + "\n" + offer_text.formulas(best[0]) if question.explain else text


def _knowledge(
    question: Question, facts: Mapping[str, ModelFacts], machines: tuple[Machine, ...], terminal: Terminal
) -> Knowledge:
    """What was measured of vLLM; with the log of a start, what it teaches of its version and card. Raises UsageError."""
    constants, speed = parse_constants(measured("vllm")), SpeedConstants.from_mapping(measured("speed"))
    if question.learn is None:
        return Knowledge(constants, speed)
    if len(facts) != 1 or len({gpu.name for one in machines for gpu in one.gpus}) != 1:
        raise UsageError("--learn needs one model on one kind of GPU: those that the log is of.")
    gpu = machines[0].gpus[0]
    try:
        learned = learn(question.learn.read_text("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"{question.learn} cannot be read: {error.strerror}.") from None
    corrected = correct(learned, next(iter(facts.values())), gpu.name, gpu.memory_bytes, constants)
    if corrected is None:
        what = "It needs the version, `Model loading took`, and `Available KV cache memory`."
        raise UsageError(f"{question.learn} does not say enough of a start of vLLM.", what)
    terminal.say(f"Corrected for vLLM {learned.version} on {gpu.name} by {question.learn}.")
    return Knowledge(constants.with_learned(corrected), speed, str(learned.version))


def engine_table() -> str:
    """Which engine is for what, and what this version does with it."""
    blocks = [
        f"{use.name}\n  for      {use.good_for}\n  not for  {use.not_for}\n  here     {use.here}"
        for use in catalogue.engine_uses()
    ]
    return "\n".join(blocks)


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
    return f"{alike}\n\nEach replica by itself:\n{sized}\n{explain_packing(packed.packing)}{refused}"


def _doubts(facts: ModelFacts) -> str:
    doubts = [*facts.doubts]
    if facts.format == "gguf":
        doubts.append("vLLM loads GGUF files experimentally: prefer the safetensors that they were made from")
    return "".join(f"Doubt: {doubt}.\n" for doubt in doubts)


def _engines(facts: ModelFacts, here: Machine, preset: str | None) -> str:
    rows = [f"  {each.value:<8}  {each.reason}\n" for each in rivals.engine(facts, here, preset)]
    return f"\nEngines, the one planned for first:\n{''.join(rows)}\n"


def _preset(spec: Spec, name: str) -> str | None:
    """What KAITO calls the model, if it has a preset for it."""
    text = spec.models[name].source or ""
    return catalogue.kaito_preset(parse(text).location) if text.startswith("hf:") else None


def _intents(spec: Spec, question: Question) -> dict[str, Intent]:
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


def _asked_about(spec: Spec, question: Question) -> str | None:
    """The machine to plan for; None for the one we are on."""
    return spec.elsewhere if question.machine is None else None if question.machine == "auto" else question.machine


def _machines(spec: Spec, question: Question) -> tuple[Machine, ...]:
    try:
        return request.machine(_asked_about(spec, question) or "", catalogue.gpus(), catalogue.every_sku())
    except ValueError as error:
        raise UsageError(f"{'machine' if question.machine is None else '--machine'}: {error}") from None


def facts_of(spec: Spec, formats: tuple[str, ...], terminal: Terminal, *, offline: bool) -> dict[str, ModelFacts]:
    """The facts of every model with a source, by name. Raises WeightsError with all that could not be learned."""
    cache = cache_of(spec)
    facts, problems = {}, []
    for name, model in spec.models.items():
        if model.source is None:
            continue
        try:
            facts[name] = _learned(parse(model.source), cache, formats, terminal, offline=offline)
        except (WeightsError, ModelError) as error:
            problems.append(f"models.{name}: {error}")
    if problems:
        raise WeightsError("\n".join(problems))
    return facts


def _learned(source: Source, cache: Cache, formats: tuple[str, ...], terminal: Terminal, *, offline: bool) -> ModelFacts:
    """From the cache, else from the headers of what is elsewhere, else (a known model, and no network) from the catalogue."""
    report = reporting(terminal)
    for format in formats if source.kind != "file" else (formats,):
        try:
            return of(cache.fetch(source, report, formats=(format,) if isinstance(format, str) else format, offline=True))
        except WeightsError:
            if source.kind == "file":
                raise
    try:
        if offline:
            raise WeightsError(f"{source} is not in the cache, and fetching is off.")
        return of(describe(source, os.environ, report, formats=formats))
    except WeightsError:
        known = catalogue.known_model(source.location) if source.kind == "hf" else None
        if known is None:
            raise
        return known


def _plan_data(made: Plan) -> dict[str, object]:
    return {
        model.name: {
            "task": model.task,
            "replicas": len(model.replicas),
            "decisions": [{"subject": d.subject, "value": d.value, "reason": d.reason} for d in model.decisions],
        }
        for model in made.models
    }


def pull(spec: Spec, terminal: Terminal) -> None:
    """Fetch the weights that the plan needs, their total size said before. Raises HeadraceError."""
    cache, total = cache_of(spec), 0
    for name, model in spec.models.items():
        if model.source is None:
            continue
        size = _size(parse(model.source), cache)
        terminal.say(f"{name}: {model.source}: {'in the cache' if size == 0 else show_bytes(size) + ' to fetch'}")
        total += size
    free = free_bytes(cache.root)
    if total > free:
        raise WeightsError(f"{show_bytes(total)} are to be fetched, and {cache.root} has {show_bytes(free)} free.", "Make room.")
    terminal.say(f"{show_bytes(total)} to fetch, {show_bytes(free)} free at {cache.root}.")
    asyncio.run(fetched(spec, terminal))
    terminal.say("Everything is in the cache.")


def _size(source: Source, cache: Cache) -> int:
    """The bytes that fetching would bring; 0 for what is here."""
    try:
        cache.fetch(source, lambda progress: None, offline=True)
    except WeightsError:
        if source.kind == "file":
            raise
        return sum(
            file.size for file in describe(source, os.environ, lambda progress: None, formats=("gguf", "safetensors")).files
        )
    return 0
