"""`headrace plan` and `headrace pull`: what would run where, before anything is fetched or paid for."""

import asyncio
import json
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from headrace import __version__
from headrace.artifacts import artifacts, data_ways, fetched_artifact
from headrace.elsewhere import Answer, Question, intents_of, planned
from headrace.errors import ModelError, PlanError, UsageError, WeightsError
from headrace.facts import catalogue, request
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine, Price
from headrace.facts.model import ModelFacts, of
from headrace.learned import forget
from headrace.plan import lock as locks
from headrace.plan.base import Plan
from headrace.plan.explain import explain
from headrace.plan.fleet import Member
from headrace.plan.intent import wanted
from headrace.plan.plan import plan
from headrace.prepare import (
    cache_of,
    check_installed,
    fetched,
    here,
    obey_lock,
    prepared,
    read_lock,
    reporting,
    this_machine,
    ways_of,
)
from headrace.spec.model import ModelSpec, Spec
from headrace.terminal import Terminal
from headrace.units import show_bytes
from headrace.weights.cache import Cache
from headrace.weights.model import Progress, Report, Weights
from headrace.weights.remote import describe
from headrace.weights.source import Source, parse
from headrace.weights.store import free_bytes


def answer(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> Answer:
    """The plan as text or JSON. Raises HeadraceError."""
    if (elsewhere := _asked_about(spec, question)) is not None:
        if question.update:
            raise _no_lock(elsewhere)
        return _elsewhere(spec, question, terminal)
    return Answer(_at_home(spec, lock_file, question, terminal))


def _at_home(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> str:
    if question.wanted:
        raise UsageError("--for needs --machine: for this machine, write `for` in the file.")
    if question.learn or question.second_opinion:
        raise UsageError(f"{'--learn' if question.learn else '--second-opinion'} needs --machine: it is about vLLM on GPUs.")
    if question.update:
        made = asyncio.run(prepared(spec, terminal, lock_file, offline=question.offline, update=True))
        return json.dumps(_plan_data(made), indent=2) if question.as_json else explain(made)
    made = plan_here(spec, lock_file, question, terminal)
    cost = f"The machine costs ${spec.usd_per_hour:g} an hour, as the file says.\n" if spec.usd_per_hour else ""
    return json.dumps(_plan_data(made), indent=2) if question.as_json else explain(made) + cost


def difference(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> str:
    """What planning anew would change of the lock, a line each; as JSON a list of them. Raises HeadraceError."""
    if (elsewhere := _asked_about(spec, question)) is not None:
        raise _no_lock(elsewhere)
    lock = read_lock(lock_file)
    if lock is None:
        raise UsageError(f"There is no {lock_file or 'lock'} to compare with.", "headrace serve FILE writes one.")
    lines = [] if lock.headrace == __version__ else [f"~ headrace: {lock.headrace} → {__version__}"]
    lines += locks.difference(lock, plan_here(spec, None, question, terminal))
    if question.as_json:
        return json.dumps(lines, indent=2)
    return "\n".join(lines or ["Planned anew, everything would be as the lock says."])


def _no_lock(elsewhere: str) -> UsageError:
    return UsageError(f"A lock is of this machine, and the plan is for {elsewhere}.", "Say --machine auto.")


def plan_here(spec: Spec, lock_file: Path | None, question: Question, terminal: Terminal) -> Plan:
    """The plan for this machine. Facts are read without fetching weights; the lock is obeyed and not written."""
    machine_here = this_machine(spec)
    engines_here = here(spec, machine_here)
    check_installed(spec, engines_here)
    lock, obeyed = obey_lock(spec, lock_file, machine_here, engines_here, terminal)
    formats = ("safetensors", "gguf") if engines_here.knowledge else ("gguf", "safetensors")
    facts, others = known_of(obeyed.spec, formats, terminal, offline=question.offline)
    places = {name: str(model.source) for name, model in obeyed.spec.models.items() if model.source}
    try:
        made = plan(obeyed.spec, facts, places, machine_here, engines_here, others)
    except PlanError as error:
        raise PlanError(str(error), "For a machine with GPUs: --machine.") from None
    return locks.explained(made, lock, obeyed.kept) if lock else made


def _elsewhere(spec: Spec, question: Question, terminal: Terminal) -> Answer:
    """The plan for machines that are asked about."""
    members, machines = members_of(spec, question, terminal)
    return planned(spec, question, members, machines, terminal)


def members_of(spec: Spec, question: Question, terminal: Terminal) -> tuple[dict[str, Member], tuple[Machine, ...]]:
    """The models that are to be planned for machines that are asked about, and those machines. Raises HeadraceError."""
    machines, intents = machines_of(spec, question), intents_of(spec, question)
    facts = facts_of(spec, ("safetensors", "gguf"), terminal, offline=question.offline)
    return {name: Member(known, intents[name], wanted(spec.models[name])) for name, known in facts.items()}, machines


def forgotten(spec: Spec) -> str:
    """Remove what logs of starts have taught; what that was. Raises UsageError."""
    return forget(cache_of(spec).root)


def engine_table(*, as_json: bool = False) -> str:
    """Which engine is for what, and what this version does with it."""
    if as_json:
        return json.dumps([asdict(use) for use in catalogue.engine_uses()], indent=2)
    blocks = [
        f"{use.name}\n  for      {use.good_for}\n  not for  {use.not_for}\n  here     {use.here}"
        for use in catalogue.engine_uses()
    ]
    return "\n".join(blocks)


def _asked_about(spec: Spec, question: Question) -> str | None:
    """The machine to plan for; None for the one we are on."""
    return spec.elsewhere if question.machine is None else None if question.machine == "auto" else question.machine


def machines_of(spec: Spec, question: Question) -> tuple[Machine, ...]:
    """The machines asked about. Raises UsageError."""
    try:
        found = request.machine(_asked_about(spec, question) or "", catalogue.gpus(), catalogue.every_sku())
        if question.machine is not None or spec.usd_per_hour is None:
            return found
        return tuple(replace(machine, price=Price(spec.usd_per_hour)) for machine in found)  # the file's price is of its machine
    except ValueError as error:
        raise UsageError(f"{'machine' if question.machine is None else '--machine'}: {error}") from None


def without(spec: Spec, names: Collection[str]) -> Spec:
    """`spec` without the models of these names."""
    return spec.model_copy(update={"models": {name: model for name, model in spec.models.items() if name not in names}})


def facts_of(spec: Spec, formats: tuple[str, ...], terminal: Terminal, *, offline: bool) -> dict[str, ModelFacts]:
    """The facts of every model with a source, all of them language models, by name. Raises WeightsError with all that could not
    be learned.
    """
    ways = [(format,) for format in formats]
    return _learned(spec, lambda model: ways, terminal, offline=offline)[0]


def known_of(
    spec: Spec, formats: tuple[str, ...], terminal: Terminal, *, offline: bool
) -> tuple[dict[str, ModelFacts], dict[str, Artifact]]:
    """(facts of language models, artifacts) of all models with a source, by name. `formats` are those of language models. Raises
    WeightsError with all that could not be learned.
    """
    local, ways = artifacts(spec), [(format,) for format in formats]
    languages = without(spec, local)
    facts, data = _learned(languages, lambda model: data_ways(model) or ways, terminal, offline=offline)
    return facts, local | data


def _learned(
    spec: Spec, ways: Callable[[ModelSpec], Sequence[tuple[str, ...]]], terminal: Terminal, *, offline: bool
) -> tuple[dict[str, ModelFacts], dict[str, Artifact]]:
    cache = cache_of(spec)
    facts, data, problems = {}, {}, []
    for name, model in spec.models.items():
        if model.source is None:
            continue
        try:
            found = _looked_up(parse(model.source), cache, ways(model), terminal, offline=offline)
            if isinstance(found, Weights) and (artifact := fetched_artifact(found)):
                data[name] = artifact
            else:
                facts[name] = of(found) if isinstance(found, Weights) else found
        except (WeightsError, ModelError) as error:
            problems.append(f"models.{name}: {error}")
    if problems:
        raise WeightsError("\n".join(problems))
    return facts, data


def _looked_up(
    source: Source, cache: Cache, ways: Sequence[tuple[str, ...]], terminal: Terminal, *, offline: bool
) -> Weights | ModelFacts:
    """From the cache, else from the headers of what is elsewhere, else (a known model, and no network) from the catalogue."""
    report = reporting(terminal)
    if found := _in_cache(source, cache, ways, report):
        return found
    try:
        if offline:
            raise WeightsError(f"{source} is not in the cache, and fetching is off.")
        return describe(source, os.environ, report, formats=_all(ways))
    except WeightsError:
        known = catalogue.known_model(source.location) if source.kind == "hf" else None
        if known is None:
            raise
        return known


def _in_cache(source: Source, cache: Cache, ways: Sequence[tuple[str, ...]], report: Report) -> Weights | None:
    """What is on this machine, in the first of the ways that it is here in. Raises WeightsError for the user's own files."""
    if source.kind == "file":
        return cache.fetch(source, report, formats=_all(ways), offline=True)
    for way in ways:
        with suppress(WeightsError):
            return cache.fetch(source, report, formats=way, offline=True)
    return None


def _all(ways: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(format for way in ways for format in way)


def _silent(progress: Progress) -> None:
    """Nobody is told."""


def _plan_data(made: Plan) -> dict[str, object]:
    return {
        model.name: {
            "task": model.task,
            "replicas": len(model.replicas),
            "decisions": [{"subject": d.subject, "value": d.value, "reason": d.reason} for d in model.decisions],
        }
        for model in made.models
    }


def pull(spec: Spec, terminal: Terminal, link: Path | None = None) -> None:
    """Fetch the weights that the plan needs, their total size said before. Raises HeadraceError.

    `link`, for one model, leads to its weights from then on: it is made once they are complete, and says so.
    """
    if link is not None and len(spec.models) != 1:
        raise UsageError("--link is to the weights of one model, and there are several.")
    cache, total, local, engines_here = cache_of(spec), 0, frozenset(artifacts(spec)), here(spec)
    for name, model in without(spec, local).models.items():
        if model.source is None:
            continue
        size = _size(parse(model.source), cache, ways_of(model, engines_here))
        terminal.say(f"{name}: {model.source}: {'in the cache' if size == 0 else show_bytes(size) + ' to fetch'}")
        total += size
    free = free_bytes(cache.root)
    if total > free:
        raise WeightsError(f"{show_bytes(total)} are to be fetched, and {cache.root} has {show_bytes(free)} free.", "Make room.")
    terminal.say(f"{show_bytes(total)} to fetch, {show_bytes(free)} free at {cache.root}.")
    there = asyncio.run(fetched(spec, terminal, engines_here, leave=local))
    terminal.say("Everything is in the cache.")
    for weights in there.values():
        if link is not None:
            link_weights(link, weights.path, terminal)


def link_weights(link: Path, path: str, terminal: Terminal) -> None:
    """`link` leads to `path` from now on: in one step, and relative, as its folder may be mounted elsewhere. Or UsageError."""
    draft = link.with_name(link.name + ".new")
    try:
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.path.relpath(path, link.parent))
        os.replace(draft, link)
    except OSError as error:
        raise UsageError(f"{link} cannot be made: {error.strerror}.") from None
    terminal.say(f"{link} leads to {path}.")


def _size(source: Source, cache: Cache, ways: Sequence[tuple[str, ...]]) -> int:
    """The bytes that fetching would still bring; 0 for what is here."""
    if _in_cache(source, cache, ways, _silent):
        return 0
    return cache.missing(describe(source, os.environ, _silent, formats=_all(ways)))
