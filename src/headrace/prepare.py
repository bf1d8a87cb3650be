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
from headrace.engines import engines
from headrace.errors import HeadraceError, WeightsError
from headrace.facts.hardware import Machine
from headrace.facts.model import of
from headrace.facts.probe import machine
from headrace.plan import lock as locks
from headrace.plan.base import Plan
from headrace.plan.plan import plan
from headrace.spec.model import Spec
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
    here = await asyncio.to_thread(machine)
    lock, obeyed = obey_lock(spec, None if update else lock_file, here, terminal)
    weights = await fetched(obeyed.spec, terminal, offline=offline)
    facts = {name: of(found) for name, found in weights.items()}
    made = plan(obeyed.spec, facts, {name: found.path for name, found in weights.items()}, here, engines())
    if lock:
        made = locks.explained(made, lock, obeyed.kept)
    if lock_file is not None and weights:
        sources = {name: str(replace(found.source, revision=found.revision)) for name, found in weights.items()}
        _keep(lock_file, locks.write(made, spec, sources, here, __version__), terminal)
    return made


def obey_lock(spec: Spec, lock_file: Path | None, here: Machine, terminal: Terminal) -> tuple[locks.Lock | None, locks.Obeyed]:
    """The lock in the file, if there is one, and the spec with its choices; says what is planned anew. Raises LockError."""
    lock = read_lock(lock_file)
    obeyed = locks.obey(spec, lock, here) if lock else locks.Obeyed(spec, frozenset(), ())
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


async def fetched(spec: Spec, terminal: Terminal, *, offline: bool = False) -> Mapping[str, Weights]:
    """The weights of every model that has a source, fetched at once. Raises WeightsError with all that went wrong."""
    cache, report = cache_of(spec), reporting(terminal)

    def fetch(text: str) -> Callable[[], Weights]:
        return lambda: cache.fetch(parse(text), report, offline=offline)

    wanted = {name: fetch(model.source) for name, model in spec.models.items() if model.source}
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
