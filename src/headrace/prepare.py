"""From a spec to a plan for this machine: fetch weights, read facts, look at the machine, obey the lock, decide."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from headrace import __version__
from headrace.artifacts import artifacts
from headrace.engines import engines
from headrace.environments import installed
from headrace.errors import HeadraceError, PlanError, WeightsError
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import of
from headrace.facts.probe import machine
from headrace.plan import lock as locks
from headrace.plan.base import Plan
from headrace.plan.here import Here
from headrace.plan.local_speed import Rates
from headrace.plan.plan import plan
from headrace.spec.engines import EngineOptions
from headrace.spec.model import ModelSpec, Spec
from headrace.starts import Starts
from headrace.terminal import Terminal
from headrace.weights.cache import Cache, default_root
from headrace.weights.model import Report, Weights
from headrace.weights.source import parse

T = TypeVar("T")


async def prepared(
    spec: Spec, terminal: Terminal, lock_file: Path | None, *, offline: bool = False, update: bool = False
) -> Plan:
    """The plan for this machine, its weights fetched. `lock_file` is obeyed (not with `update`) and kept up to date.

    Raises WeightsError, PlanError, LockError, ModelError.
    """
    machine_here, engines_here = await asyncio.to_thread(this_machine, spec), here(spec)
    check_installed(spec, engines_here)
    lock, obeyed = obey_lock(spec, None if update else lock_file, machine_here, engines_here, terminal)
    others = artifacts(obeyed.spec)
    weights = await fetched(obeyed.spec, terminal, engines_here, offline=offline, leave=frozenset(others))
    facts = {name: of(found) for name, found in weights.items()}
    paths = {name: found.path for name, found in weights.items()}
    made = plan(obeyed.spec, facts, paths, machine_here, engines_here, others)
    if lock:
        made = locks.explained(made, lock, obeyed.kept)
    if lock_file is not None and (weights or others):
        sources = {name: str(replace(found.source, revision=found.revision)) for name, found in weights.items()}
        sources |= {name: spec.models[name].source or "" for name in others}
        _keep(lock_file, locks.write(made, spec, sources, machine_here, __version__), terminal)
    return made


def this_machine(spec: Spec) -> Machine:
    """The machine that we are on, with no more memory than the spec allows."""
    found, limit = machine(), spec.memory_limit
    return found if limit is None else replace(found, memory_free_bytes=min(found.memory_free_bytes, limit))


def here(spec: Spec) -> Here:
    """The engines that are on this machine, where the spec or the environment says."""
    configured = {}
    for model in spec.models.values():
        if isinstance(model.engine, EngineOptions):
            name = model.engine.given[0]
            if folder := getattr(getattr(model.engine, name), "environment", None):
                configured[name] = folder
    root = spec.weights.cache or default_root()
    there = installed(engines(), root, configured)
    return Here(engines(), there, Rates.parse(measured("local")), starts_of(spec).expected())


def check_installed(spec: Spec, engines_here: Here) -> None:
    """Raises PlanError for engines that are asked for and not here: before anything is fetched for them."""
    asked = {name: model.engine_name for name, model in spec.models.items() if model.ours and model.engine_name != "auto"}
    missing = {name: why for name, engine in asked.items() if (why := engines_here.missing(engine))}
    if missing:
        raise PlanError("\n".join(f"models.{name}: {why}" for name, why in missing.items()))


def starts_of(spec: Spec) -> Starts:
    """How long starts took on this machine."""
    return Starts(Path(spec.weights.cache or default_root(), "history", "starts.jsonl"))


def history_of(spec: Spec) -> Path:
    """The file with what happened on this machine."""
    return Path(spec.weights.cache or default_root(), "history", "history.db")


def obey_lock(
    spec: Spec, lock_file: Path | None, machine_here: Machine, engines_here: Here, terminal: Terminal
) -> tuple[locks.Lock | None, locks.Obeyed]:
    """The lock in the file, if there is one, and the spec with its choices; says what is planned anew. Raises LockError."""
    lock = read_lock(lock_file)
    if lock is None:
        return None, locks.Obeyed(spec, frozenset(), ())
    obeyed = locks.obey(spec, lock, machine_here, engines_here.installed)
    for note in obeyed.notes:
        terminal.say(f"{lock_file}: {note}")
    return lock, obeyed


def read_lock(lock_file: Path | None) -> locks.Lock | None:
    """The lock in the file; None when there is none. Raises LockError."""
    if lock_file is None or not lock_file.is_file():
        return None
    return locks.read(lock_file.read_text("utf-8", "replace"), str(lock_file))


def _keep(lock_file: Path, text: str, terminal: Terminal) -> None:
    """Write the lock where it says something new; a folder that cannot be written is no reason not to serve."""
    try:
        if lock_file.is_file() and lock_file.read_text("utf-8") == text:
            return
        draft = lock_file.with_name(lock_file.name + ".new")
        draft.write_text(text, "utf-8")
        os.replace(draft, lock_file)
    except OSError as error:
        terminal.say(f"{lock_file} could not be written: {error.strerror}. The next start plans anew.")
    else:
        terminal.say(f"Decisions are kept in {lock_file}.")


async def fetched(
    spec: Spec, terminal: Terminal, engines_here: Here, *, offline: bool = False, leave: frozenset[str] = frozenset()
) -> Mapping[str, Weights]:
    """The weights of every model that has a source and is not among `leave`, fetched at once. Raises WeightsError with all that
    went wrong.
    """
    cache, report = cache_of(spec), reporting(terminal)

    def fetch(model: ModelSpec) -> Callable[[], Weights]:
        return lambda: _in_some_format(cache, model, engines_here, report, offline=offline)

    wanted = {name: fetch(model) for name, model in spec.models.items() if model.source and name not in leave}
    results = await asyncio.gather(*(in_thread(work) for work in wanted.values()), return_exceptions=True)
    problems = []
    for name, result in zip(wanted, results, strict=True):
        if isinstance(result, HeadraceError):
            problems.append(f"models.{name}: {result}")
        elif isinstance(result, BaseException):
            raise result
    if problems:
        raise WeightsError("\n".join(problems))
    return {name: result for name, result in zip(wanted, results, strict=True) if isinstance(result, Weights)}


def _in_some_format(cache: Cache, model: ModelSpec, engines_here: Here, report: Report, *, offline: bool) -> Weights:
    """In a format of the engine asked for; with none asked for, GGUF, else what an engine here loads besides."""
    source = parse(model.source or "")
    ways = ways_of(model, engines_here)
    for formats in ways[:-1]:
        with contextlib.suppress(WeightsError):
            return cache.fetch(source, report, formats=formats, offline=offline)
    return cache.fetch(source, report, formats=ways[-1], offline=offline)


def ways_of(model: ModelSpec, engines_here: Here) -> list[tuple[str, ...]]:
    """The formats to try one after the other. A way of its own each: a BERT is converted to GGUF when only that will do."""
    if model.engine_name != "auto" and model.engine_name in engines_here.engines:
        return [tuple(one for one in engines_here.engines[model.engine_name].formats if one in ("gguf", "safetensors"))]
    loads = any("safetensors" in engines_here.engines[name].formats for name in engines_here.general)
    return [("gguf",), ("safetensors",)] if loads else [("gguf",)]


def cache_of(spec: Spec) -> Cache:
    """The one cache, where the spec or else the environment says."""
    return Cache(spec.weights.cache or default_root())


def reporting(terminal: Terminal) -> Report:
    """Progress of fetching, as the terminal shows it."""
    return lambda progress: terminal.progress(progress.what, progress.done_bytes, progress.total_bytes)


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` gives, from a thread that does not keep the process alive: a download must not hold up Ctrl-C."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # a T: there was no error

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = work(), None
        except BaseException as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await future
