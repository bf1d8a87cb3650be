"""Graduations on this machine: what a model would be on another engine, whether it fits beside the present one, and its lock."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import yaml

from headrace import __version__
from headrace.control.graduate import Graduations
from headrace.control.graduation import Aim
from headrace.control.journal import Journal, written
from headrace.control.under_way import Prospect
from headrace.engines.base import Placement
from headrace.errors import HeadraceError, PlanError, UsageError
from headrace.facts.hardware import Card, Machine
from headrace.plan import lock as locks
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.here import Here
from headrace.plan.plan import plan
from headrace.prepare import gathered, here, in_thread, obey_lock, this_machine
from headrace.spec.model import ModelSpec, Spec
from headrace.targets.base import IN_MEMORY, Replica
from headrace.terminal import Terminal
from headrace.units import show_bytes
from headrace.weights.cache import default_root
from headrace.weights.source import parse


def graduations(
    spec: Callable[[], Spec], lock_file: Path | None, address: str, terminal: Terminal, *, offline: bool
) -> Graduations:
    """Graduations of the models of the spec in force; journals are kept by the lock's place, else by the gateway's port."""

    def planner() -> _Planner:
        return _Planner(spec(), lock_file, terminal, offline)

    async def prospect(aim: Aim, present: Plan, replicas: Sequence[Replica]) -> Prospect:
        return await planner().prospect(aim, present, replicas)

    return Graduations(prospect, lambda found: planner().commit(found), Journal(_folder(spec(), lock_file, address)))


def moves(spec: Spec, lock_file: Path | None, model: PlannedModel, terminal: Terminal) -> list[tuple[str, str]]:
    """Every other engine for a language model, with why it cannot be moved to; empty for those that may be tried.

    Only what is known before anything is fetched. Raises HeadraceError where the model cannot be moved at all.
    """
    planner, engines_here = _Planner(spec, lock_file, terminal, offline=True), here(spec)
    now, found = planner.present(model), []
    kind = parse(spec.models[model.name].source or "").kind if spec.models[model.name].source else "file"
    for name, engine in engines_here.engines.items():
        if name == now.engine or model.facts is None or name in ("triton", "custom"):
            continue
        why = ""
        if kind != "hf" and model.facts.format not in engine.formats:  # a repository may have other formats as well
            why = f"it loads {' and '.join(engine.formats)}, and the weights are {model.facts.format}"
        elif model.task not in engine.tasks:
            why = f"it cannot {model.task}"
        try:
            planner.check(Aim(model.name, name), engines_here)
        except HeadraceError as error:
            why = why or str(error)
        found.append((name, why))
    return sorted(found, key=lambda one: bool(one[1]))


def _folder(spec: Spec, lock_file: Path | None, address: str) -> Path:
    from hashlib import blake2b

    place = str(lock_file.absolute()) if lock_file else "port " + address.rpartition(":")[2]
    digest = blake2b(place.encode(), digest_size=8).hexdigest()
    return Path(spec.weights.cache or default_root(), "graduations", digest)


@dataclass(frozen=True, slots=True)
class _Planner:
    spec: Spec
    lock_file: Path | None
    terminal: Terminal
    offline: bool

    async def prospect(self, aim: Aim, present: Plan, replicas: Sequence[Replica]) -> Prospect:
        """What the aim comes to. Raises HeadraceError."""
        model = next(model for model in present.models if model.name == aim.model)
        machine = await asyncio.to_thread(this_machine, self.spec)
        engines_here = await asyncio.to_thread(here, self.spec, machine)
        now = self.present(model)
        self.check(aim, engines_here)
        lock, obeyed = obey_lock(self.spec, self.lock_file, machine, engines_here, self.terminal)
        spec = _aimed(obeyed.spec, aim, now)
        there = await gathered(spec, self.terminal, engines_here, offline=self.offline)
        room = machine if present.memory_bytes is None else replace(machine, memory_free_bytes=present.memory_bytes)
        room = replace(room, cards=present.cards or machine.cards)
        made = await in_thread(lambda: plan(spec, there.facts, there.paths, room, engines_here, there.artifacts))
        if lock:
            made = locks.explained(made, lock, obeyed.kept - {aim.model})
        made = _reasoned(made, aim, now)
        new = next(one for one in made.models if one.name == aim.model)
        sentence = _fits(aim, new, now, replace(present, cards=made.cards), replicas, machine)
        measured = locks.tuned(lock, obeyed.kept - {aim.model})
        text = locks.write(made, self.spec, there.sources, machine, __version__, measured) if self.lock_file else None
        told = sentence if text else f"{sentence}; no file is served, so it holds until Headrace stops"
        return Prospect(new, told, text, made.cards)

    def commit(self, prospect: Prospect) -> None:
        """Write the lock, whole or not at all. Raises OSError."""
        if self.lock_file is not None and prospect.lock is not None:
            written(self.lock_file, prospect.lock.encode())

    def present(self, model: PlannedModel) -> Placement:
        """What it runs on. Raises PlanError."""
        if model.refused:
            raise PlanError(f"{model.name} is not served: {model.refused}.")
        first = next((one for one in model.replicas if isinstance(one, Placement)), None)
        if first is None:
            raise PlanError(f"{model.name} runs on servers elsewhere (`url`): Headrace starts no others in their place.")
        return first

    def check(self, aim: Aim, engines_here: Here) -> None:
        """Raises HeadraceError when the engine is not here, or the file says another."""
        if aim.to == "kaito":
            raise UsageError("A move to KAITO needs a cluster, which this version does not do.", "See docs/limits.md.")
        if aim.to not in engines_here.engines:
            near = get_close_matches(aim.to, engines_here.engines, 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(engines_here.engines)}."
            raise UsageError(f'"{aim.to}" is not an engine.', hint)
        if why := engines_here.missing(aim.to):
            raise PlanError(why)
        self._agrees(aim)

    def _agrees(self, aim: Aim) -> None:
        """The file may leave a choice to the lock, or make it: then the next start would go back."""
        model = self.spec.models[aim.model]
        asked: Mapping[str, tuple[object, object]] = {
            "engine": (model.engine_name, aim.to),
            "context": (model.context, aim.context),
        }
        for key, (in_file, aimed) in asked.items():
            if aimed is not None and in_file not in ("auto", aimed):
                where = self._line(aim.model, key)
                fix = f"Write {key}: auto (the next start plans it anew, and keeps it in the lock), then graduate."
                raise UsageError(f"{where}models.{aim.model}.{key} says {in_file}: the next start would go back to it.", fix)

    def _line(self, model: str, key: str) -> str:
        """`file:line: ` of a key in the file, as far as it is found."""
        for suffix in (".yaml", ".yml"):
            file = self.lock_file.with_suffix(suffix) if self.lock_file else None
            if file is not None and file.is_file():
                try:
                    node = yaml.compose(file.read_text("utf-8", "replace"), yaml.SafeLoader)
                except yaml.YAMLError:  # it was changed since it is served
                    return ""
                for name in ("models", model, key):
                    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
                    node = next((value for found, value in pairs if found.value == name), None)
                if node is not None:
                    return f"{file.name}:{node.start_mark.line + 1}: "
        return ""


def _aimed(spec: Spec, aim: Aim, now: Placement) -> Spec:
    """The spec with the aim in it; the context stays what it is, for clients count on it."""
    model = spec.models[aim.model]
    update: dict[str, object] = {"engine": aim.to, "source": source_of(model, aim)}
    if model.engine_name != aim.to:
        update["slots"] = "auto"  # those of another engine say nothing of this one
    if (context := aim.context or now.context or None) is not None:
        update["context"] = context
    return spec.model_copy(update={"models": {**spec.models, aim.model: model.model_copy(update=update)}})


def source_of(model: ModelSpec, aim: Aim) -> str | None:
    """The source with the revision and the format that are aimed at. Raises UsageError where it has no others."""
    if model.source is None or (aim.revision is None and aim.quantization is None):
        return model.source
    source = parse(model.source)
    if aim.quantization is not None and source.kind not in ("hf", "pypi"):
        raise UsageError(f"{model.source} is one file: other formats of it are other files.", "Name one in the file: source.")
    pick = aim.quantization if aim.quantization is not None else source.pick
    return str(replace(source, revision=aim.revision or source.revision, pick=pick))


def _reasoned(made: Plan, aim: Aim, now: Placement) -> Plan:
    """The plan with the reason for the engine that the lock will tell."""

    def reason(one: Decision) -> Decision:
        if one.subject == "engine" and aim.to != now.engine:
            return replace(one, reason=f"graduated from {now.engine}")
        return replace(one, reason="graduated to it") if one.subject == "context" and aim.context is not None else one

    return replace(
        made,
        models=tuple(
            replace(model, decisions=tuple(map(reason, model.decisions))) if model.name == aim.model else model
            for model in made.models
        ),
    )


def _fits(aim: Aim, new: PlannedModel, now: Placement, present: Plan, replicas: Sequence[Replica], machine: Machine) -> str:
    """What it takes, in a sentence. Raises PlanError when it does not fit beside what runs, UsageError when it runs already."""
    placements = [one for one in new.replicas if isinstance(one, Placement)]
    if not placements:
        raise PlanError(f"{aim.model} cannot be served by {aim.to}: {new.refused}.")
    if placements[0] == now:
        raise UsageError(f"{aim.model} runs on {aim.to} already, in the same way.")
    runs = [one.placement for one in replicas if one.state in IN_MEMORY and isinstance(one.placement, Placement)]
    count = max(1, sum(one.model == aim.model for one in runs)) if new.scale else len(placements)
    if all(one.model != aim.model for one in runs):
        runs = [*runs, now]  # it sleeps, and is woken to be compared with
    needed, taken = count * placements[0].memory_bytes, sum(one.memory_bytes for one in runs)
    planned = (present.memory_bytes if present.memory_bytes is not None else machine.memory_free_bytes) - taken
    free = max(0, min(planned, machine.memory_free_bytes))
    if needed > free:
        raise PlanError(
            f"{aim.model} on {aim.to} takes {show_bytes(needed)} beside the {show_bytes(taken)} of what runs, and "
            f"{show_bytes(free)} are free: {show_bytes(needed - free)} are missing to run both.",
            "Ask for a smaller --context, or let another model sleep. Without room for both it has to stop meanwhile: "
            f"write engine: {aim.to} in the file, and start again.",
        )
    _fits_on_cards(aim, new.replicas[:count], present.cards, runs)
    each = f"{count} x " if count > 1 else ""
    return (
        f"{now.engine} → {aim.to}: {each}{show_bytes(placements[0].memory_bytes)} beside the {show_bytes(taken)} of what runs, "
        f"{show_bytes(free)} are free"
    )


def _fits_on_cards(aim: Aim, new: Sequence[Placement | str], cards: Sequence[Card], runs: Sequence[Placement]) -> None:
    """Raises PlanError when a GPU does not hold the new replicas beside what runs there."""
    for card in cards:
        wanted, taken = (sum(one.devices.get(card.uuid, 0) for one in each if isinstance(one, Placement)) for each in (new, runs))
        if wanted and wanted + taken > card.free_bytes:
            raise PlanError(
                f"{aim.model} on {aim.to} takes {show_bytes(wanted)} of GPU {card.place} beside the {show_bytes(taken)} of what "
                f"runs there, and {show_bytes(card.free_bytes)} are for models: it does not hold both.",
                f"Without room for both the old one has to stop meanwhile: write engine: {aim.to} in the file, and start again.",
            )
