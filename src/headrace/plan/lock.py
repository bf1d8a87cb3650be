"""The lock: what was decided, read back so that the same file gives the same deployment until the user asks to plan anew.

A lock holds, for each model with weights, what the spec asked, what was chosen and why. It is obeyed for a model as long as the
spec asks the same of it and the machine has the same shape; otherwise that model is planned anew, and the reason is said.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from headrace.engines.base import Installed, Placement
from headrace.errors import HeadraceError
from headrace.facts.hardware import Machine
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.ranges import sharing
from headrace.plan.settings import shared
from headrace.spec.engines import OPTIONS, EngineOptions
from headrace.spec.model import ModelSpec, Spec

VERSION = 1
_OF_THE_MOMENT = ("memory", "wait", "speed", "start", "turns", "tuned", "GPU", "GPUs", "split")
"""Decided at each start: the memory that is free, here and on GPUs, whether others use the cores; and what only follows from
the rest.
"""
_HEAD = (
    "# Written by Headrace, and read back so that the same file gives the same deployment. Plan anew: headrace plan --update\n"
)
_MACHINE_SIZE = 2**30  # memory is written in GiB: the kernel keeps a little more or less for itself at each start


class LockError(HeadraceError):
    """A lock that cannot be read."""

    exit_code = 78


class Tuned(BaseModel):
    """What `headrace tune` measured to be better than what was planned: settings by the subject of their decision, the evidence
    in one sentence, and the day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, str]
    evidence: str
    when: str


class LockedModel(BaseModel):
    """One model of a lock. What `tuned` says comes before what was `chosen`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: dict[str, Any]
    source: str
    """With the version or revision that was fetched."""
    chosen: dict[str, str]
    why: dict[str, str]
    tuned: Tuned | None = None


class Lock(BaseModel):
    """A lock, as it is written. `machine` is its shape: cores and GiB of memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    headrace: str
    machine: dict[str, int]
    models: dict[str, LockedModel]


def write(
    plan: Plan,
    spec: Spec,
    sources: Mapping[str, str],
    machine: Machine,
    headrace: str,
    tuned: Mapping[str, Tuned] = MappingProxyType({}),
    before: Lock | None = None,
) -> str:
    """The lock of `plan` as text. `sources` are the pinned sources by model name, `tuned` what was measured of some. The machine
    stays as the lock `before` has it where it is alike: else a GiB more or less would add up.
    """
    here = shape(machine, spec)
    models = {
        model.name: {
            "asked": asked(spec.models[model.name]),
            "source": sources[model.name],
            "chosen": {decision.subject: decision.value for decision in _lasting(model)},
            "why": {decision.subject: decision.reason for decision in _lasting(model)},
            **({"tuned": tuned[model.name].model_dump()} if model.name in tuned else {}),
        }
        for model in plan.models
        if model.name in sources
    }
    shaped = before.machine if before and _alike(before.machine, here) else here
    value = {"version": VERSION, "headrace": headrace, "machine": shaped, "models": models}
    return _HEAD + yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=130)


def _lasting(model: PlannedModel) -> list[Decision]:
    """What is decided for good: not what depends on who else uses the machine at this moment."""
    return [decision for decision in model.decisions if decision.subject not in _OF_THE_MOMENT]


def read(text: str, file: str) -> Lock:
    """The lock in `text`. Raises LockError."""
    again = f"Delete {file}, and it is written anew."
    try:
        value = yaml.safe_load(text)
        lock = Lock.model_validate(value)
    except (yaml.YAMLError, ValidationError, RecursionError, ValueError):
        raise LockError(f"{file} is not a lock that Headrace wrote.", again) from None
    if lock.version != VERSION:
        raise LockError(f"{file} has version {lock.version}; this Headrace reads {VERSION}.", again)
    return lock


def asked(model: ModelSpec) -> dict[str, Any]:
    """What the spec asks of a model, without what is left at its default."""
    value: dict[str, Any] = model.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    return value


def shape(machine: Machine, spec: Spec) -> dict[str, int]:
    """What of a machine, and of the replicas that share it, makes a plan another one."""
    replicas = sharing(model for model in spec.models.values() if model.ours)
    gpus = {"gpus": len(machine.cards)} if machine.cards else {}
    return {"cores": machine.cores, "memory_gib": round(machine.memory_bytes / _MACHINE_SIZE), "replicas": replicas, **gpus}


def _alike(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two shapes are of one machine: what the kernel keeps changes with it, and may round to another GiB."""
    apart = abs(one.get("memory_gib", 0) - other.get("memory_gib", 0))
    return apart <= 1 and {**one, "memory_gib": 0} == {**other, "memory_gib": 0}


def held(lock: Lock, spec: Spec) -> Lock:
    """The lock as it holds for a running gateway that gets another `spec`: what runs keeps what was chosen for it, however many
    replicas share the machine from now on, and whatever adapters and replicas are asked for.
    """
    models = {}
    for name, locked in lock.models.items():
        now = asked(spec.models[name]) if name in spec.models else {}
        models[name] = locked.model_copy(update={"asked": now}) if _lasts(now) == _lasts(locked.asked) else locked
    replicas = sharing(model for model in spec.models.values() if model.ours)
    return lock.model_copy(update={"models": models, "machine": {**lock.machine, "replicas": replicas}})


def _lasts(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if key not in ("adapters", "replicas", "scale")}


@dataclass(frozen=True, slots=True)
class Obeyed:
    """A spec in which a lock's choices are filled in for the models of `kept`; `notes` say why others are planned anew."""

    spec: Spec
    kept: frozenset[str]
    notes: tuple[str, ...]


def obey(spec: Spec, lock: Lock, machine: Machine, installed: Mapping[str, Installed] = MappingProxyType({})) -> Obeyed:
    """Fill in what `lock` chose, for the models that it still holds for; an engine of another version than then is told.
    Raises LockError for values that cannot be.
    """
    here = shape(machine, spec)
    if not _alike(lock.machine, here):
        note = f"the lock is of {_shared(lock.machine)}, now it is {_shared(here)}: planned anew"
        return Obeyed(spec, frozenset(), (note,))
    models, kept, notes = dict(spec.models), [], []
    for name, model in spec.models.items():
        locked = lock.models.get(name)
        if not model.ours:
            continue
        if locked is None:
            notes.append(f"{name} is not in the lock: planned")
        elif locked.asked != asked(model):
            notes.append(f"{name} is asked for otherwise than when the lock was written: planned anew")
        else:
            models[name] = _checked(name, model, locked, shared(machine, here["replicas"]))
            kept.append(name)
            notes += _newer(name, locked, installed)
    return Obeyed(spec.model_copy(update={"models": models}), frozenset(kept), tuple(notes))


def _newer(name: str, locked: LockedModel, installed: Mapping[str, Installed]) -> list[str]:
    engine, version = locked.chosen.get("engine", ""), locked.chosen.get("version")
    there = installed.get(engine)
    if there is None or version in (None, there.version):
        return []
    return [
        f"{name} was planned for {engine} {version}, and {there.version} is installed: headrace plan --diff says what changes"
    ]


def _shared(machine: Mapping[str, int]) -> str:
    cores, memory, replicas = (machine.get(key) for key in ("cores", "memory_gib", "replicas"))
    gpus = f" with {machine['gpus']} GPUs" if "gpus" in machine else ""
    return f"{replicas} replicas on {cores} cores and {memory} GiB{gpus}"


def tuned(lock: Lock | None, names: Collection[str]) -> dict[str, Tuned]:
    """What was measured of the models of these names."""
    found = {name: lock.models[name].tuned for name in names if name in lock.models} if lock else {}
    return {name: one for name, one in found.items() if one is not None}


def _checked(name: str, model: ModelSpec, locked: LockedModel, contended: str | None) -> ModelSpec:
    settings = dict(locked.tuned.settings) if locked.tuned else {}
    if contended:
        settings.pop("wait", None)  # it was measured on cores that were free: threads that spin lose on shared ones
    try:
        return filled(model, locked.chosen, settings, locked.source)
    except (KeyError, ValueError) as error:  # pydantic's errors are ValueErrors
        what = f"The lock has no usable values for {name} ({type(error).__name__})."
        raise LockError(what, "It is not to be written by hand: delete it, and it is written anew.") from None


def filled(model: ModelSpec, chosen: Mapping[str, str], tuned: Mapping[str, str], source: str | None) -> ModelSpec:
    """`model` with what was `chosen`, and before it what was `tuned`, both by the subject of their decision. Raises KeyError and
    ValueError for values that cannot be.
    """
    values = {**{key: value for key, value in chosen.items() if key not in _OF_THE_MOMENT}, **tuned}
    update: dict[str, Any] = {"task": values["task"], "engine": _engine(model, values), "slots": _count(values["slots"])}
    if model.source:
        update["source"] = source
    if "context" in values:
        update["context"] = _count(values["context"])
    return model.model_copy(update=update)


def _engine(model: ModelSpec, values: Mapping[str, str]) -> EngineOptions:
    """The engine with the settings of `values`; others are as the spec says."""
    name = values["engine"]
    settings = model.options(OPTIONS[name]).model_dump(by_alias=True)
    settings |= {key: yaml.safe_load(values[key]) for key in settings if key in values}
    return EngineOptions.model_validate({name: settings})


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ValueError(text)
    return int(text)


def explained(plan: Plan, lock: Lock, kept: frozenset[str]) -> Plan:
    """`plan` with the reasons that the lock gives for what it chose: "asked for" would hide that nobody asked."""
    models = (_explained(model, lock.models[model.name]) if model.name in kept else model for model in plan.models)
    return replace(plan, models=tuple(models))


def _explained(model: PlannedModel, locked: LockedModel) -> PlannedModel:
    decisions = [_with_reason(decision, locked) for decision in model.decisions]
    if locked.tuned:
        decisions.append(Decision("tuned", locked.tuned.when, locked.tuned.evidence))
    return replace(model, decisions=tuple(decisions))


def _with_reason(decision: Decision, locked: LockedModel) -> Decision:
    if locked.tuned and locked.tuned.settings.get(decision.subject) == decision.value:
        return replace(decision, reason="measured by headrace tune")
    if locked.chosen.get(decision.subject) == decision.value:
        return replace(decision, reason=locked.why.get(decision.subject, decision.reason))
    return decision


def difference(lock: Lock, plan: Plan) -> list[str]:
    """What `plan` would change of what `lock` holds, a line each with the new reason."""
    lines = [f"- {name}: no longer in the spec" for name in lock.models if name not in {model.name for model in plan.models}]
    for model in plan.models:
        locked = lock.models.get(model.name)
        if locked is None:
            if any(isinstance(replica, Placement) for replica in model.replicas):
                lines.append(f"+ {model.name}: new")
            continue
        lines += [f"~ {model.name}.{line}" for decision in model.decisions if (line := _change(decision, locked))]
        if locked.tuned:
            lines.append(f"- {model.name}.tuned: {locked.tuned.evidence} (of {locked.tuned.when}): planning anew drops it")
    return lines


def _change(decision: Decision, locked: LockedModel) -> str | None:
    measured = locked.tuned.settings.get(decision.subject) if locked.tuned else None
    before = measured or locked.chosen.get(decision.subject)
    if before == decision.value or (decision.subject in _OF_THE_MOMENT and measured is None):
        return None
    was = f"{measured} (tuned)" if measured else before or "nothing"
    return f"{decision.subject}: {was} → {decision.value}: {decision.reason}"
