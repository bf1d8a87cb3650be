"""The lock: what was decided, read back so that the same file gives the same deployment until the user asks to plan anew.

A lock holds, for each model with weights, what the spec asked, what was chosen and why. It is obeyed for a model as long as the
spec asks the same of it and the machine has the same shape; otherwise that model is planned anew, and the reason is said.
"""

from collections.abc import Mapping
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
from headrace.spec.engines import OPTIONS, EngineOptions
from headrace.spec.model import ModelSpec, Spec

VERSION = 1
_OF_THE_MOMENT = ("memory", "wait", "speed", "start", "turns")
"""Decided at each start: the memory that is free, whether others use the cores; and what only follows from the rest."""
_HEAD = (
    "# Written by Headrace, and read back so that the same file gives the same deployment. Plan anew: headrace plan --update\n"
)
_MACHINE_SIZE = 2**30  # memory is compared in GiB: the kernel keeps a little more or less for itself at each start


class LockError(HeadraceError):
    """A lock that cannot be read."""

    exit_code = 78


class LockedModel(BaseModel):
    """One model of a lock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: dict[str, Any]
    source: str
    """With the version or revision that was fetched."""
    chosen: dict[str, str]
    why: dict[str, str]


class Lock(BaseModel):
    """A lock, as it is written. `machine` is its shape: cores and GiB of memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    headrace: str
    machine: dict[str, int]
    models: dict[str, LockedModel]


def write(plan: Plan, spec: Spec, sources: Mapping[str, str], machine: Machine, headrace: str) -> str:
    """The lock of `plan` as text. `sources` are the pinned sources by model name."""
    models = {
        model.name: {
            "asked": asked(spec.models[model.name]),
            "source": sources[model.name],
            "chosen": {decision.subject: decision.value for decision in _lasting(model)},
            "why": {decision.subject: decision.reason for decision in _lasting(model)},
        }
        for model in plan.models
        if model.name in sources
    }
    value = {"version": VERSION, "headrace": headrace, "machine": shape(machine, spec), "models": models}
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
    return {"cores": machine.cores, "memory_gib": round(machine.memory_bytes / _MACHINE_SIZE), "replicas": replicas}


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
    if lock.machine != here:
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
            models[name] = _checked(name, model, locked)
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
    return f"{replicas} replicas on {cores} cores and {memory} GiB"


def _checked(name: str, model: ModelSpec, locked: LockedModel) -> ModelSpec:
    try:
        return _filled(model, locked)
    except (KeyError, ValueError) as error:  # pydantic's errors are ValueErrors
        what = f"The lock has no usable values for {name} ({type(error).__name__})."
        raise LockError(what, "It is not to be written by hand: delete it, and it is written anew.") from None


def _filled(model: ModelSpec, locked: LockedModel) -> ModelSpec:
    chosen = locked.chosen
    update: dict[str, Any] = {"task": chosen["task"], "engine": _engine(model, chosen), "slots": _count(chosen["slots"])}
    if model.source:
        update["source"] = locked.source
    if "context" in chosen:
        update["context"] = _count(chosen["context"])
    return model.model_copy(update=update)


def _engine(model: ModelSpec, chosen: Mapping[str, str]) -> EngineOptions:
    """The engine with the settings that were chosen, but for what is decided at each start; others are as the spec says."""
    name = chosen["engine"]
    kind = OPTIONS[name]
    settings = model.options(kind).model_dump(by_alias=True)
    lasting = (key for key in settings if key in chosen and key not in _OF_THE_MOMENT)
    settings |= {key: yaml.safe_load(chosen[key]) for key in lasting}
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
    decisions = tuple(
        replace(decision, reason=locked.why.get(decision.subject, decision.reason))
        if locked.chosen.get(decision.subject) == decision.value
        else decision
        for decision in model.decisions
    )
    return replace(model, decisions=decisions)


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
    return lines


def _change(decision: Decision, locked: LockedModel) -> str | None:
    before = locked.chosen.get(decision.subject)
    if decision.subject in _OF_THE_MOMENT or before == decision.value:
        return None
    return f"{decision.subject}: {before or 'nothing'} → {decision.value}: {decision.reason}"
