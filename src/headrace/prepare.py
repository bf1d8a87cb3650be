"""From a spec to a plan for this machine: fetch weights, read facts, look at the machine, obey the lock, decide."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from headrace import __version__
from headrace.artifacts import artifacts, data_ways, fetched_artifact
from headrace.control.recording import in_cache
from headrace.engines import engines
from headrace.engines.base import Installed
from headrace.environments import installed
from headrace.errors import HeadraceError, PlanError, UsageError, WeightsError
from headrace.facts.artifact import Artifact
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts, of
from headrace.facts.probe import machine
from headrace.handover.line import NOTHING, Held
from headrace.learned import knowledge
from headrace.plan import lock as locks
from headrace.plan.base import Plan
from headrace.plan.here import Here
from headrace.plan.local_speed import Rates
from headrace.plan.offer import Knowledge
from headrace.plan.plan import plan
from headrace.spec.engines import EngineOptions
from headrace.spec.model import ModelSpec, Spec
from headrace.starts import Starts
from headrace.terminal import Terminal
from headrace.weights.cache import Cache, default_root
from headrace.weights.formats import FormatMissing
from headrace.weights.model import Report, Weights
from headrace.weights.source import parse

T = TypeVar("T")


async def prepared(
    spec: Spec,
    terminal: Terminal,
    lock_file: Path | None,
    *,
    offline: bool = False,
    update: bool = False,
    beside: Held = NOTHING,
) -> Plan:
    """The plan for this machine, its weights fetched. `lock_file` is obeyed (not with `update`) and kept up to date. `beside` is
    what another Headrace here holds meanwhile.

    Raises WeightsError, PlanError, LockError, ModelError.
    """
    machine_here = await asyncio.to_thread(this_machine, spec, beside)
    engines_here = here(spec, machine_here)
    check_installed(spec, engines_here)
    lock, obeyed = obey_lock(spec, None if update else lock_file, machine_here, engines_here, terminal)
    made = await decided(spec, lock, obeyed, machine_here, engines_here, terminal, offline=offline)
    if lock_file is not None and made.lock:
        if update:
            with contextlib.suppress(locks.LockError):  # one that cannot be read is replaced
                lock = read_lock(lock_file)
        _say_dropped(lock, obeyed.kept, terminal)
        keep_lock(lock_file, made.lock, terminal)
    return made.plan


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan, and the lock that keeps it; empty when nothing is to be kept."""

    plan: Plan
    lock: str


async def decided(
    spec: Spec,
    lock: locks.Lock | None,
    obeyed: locks.Obeyed,
    machine_here: Machine,
    engines_here: Here,
    terminal: Terminal,
    *,
    offline: bool,
) -> Decided:
    """Fetch the weights and decide; nothing is written but the cache. Requests are served meanwhile. Raises as `prepared`."""
    there = await gathered(obeyed.spec, terminal, engines_here, offline=offline)

    def work() -> Decided:
        made = plan(obeyed.spec, there.facts, there.paths, machine_here, engines_here, there.artifacts)
        if lock:
            made = locks.explained(made, lock, obeyed.kept)
        measured_here = locks.tuned(lock, obeyed.kept)
        pinned = there.sources
        return Decided(made, locks.write(made, spec, pinned, machine_here, __version__, measured_here, lock) if pinned else "")

    return await in_thread(work)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a spec's models are, by name: `facts` and `paths` of language models, `artifacts` of all else; `sources` with the
    version that was fetched.
    """

    facts: Mapping[str, ModelFacts]
    paths: Mapping[str, str]
    artifacts: Mapping[str, Artifact]
    sources: Mapping[str, str]


async def gathered(spec: Spec, terminal: Terminal, engines_here: Here, *, offline: bool) -> Gathered:
    """What every model is, once it is on this machine. Requests are served meanwhile. Raises WeightsError, ModelError."""
    local = await in_thread(lambda: artifacts(spec))
    weights = await fetched(spec, terminal, engines_here, offline=offline, leave=frozenset(local))
    data = {name: one for name, each in weights.items() if (one := fetched_artifact(each))}
    languages = {name: each for name, each in weights.items() if name not in data}
    sources = {name: spec.models[name].source or "" for name in local}
    sources |= {name: str(replace(each.source, revision=each.revision)) for name, each in weights.items()}
    facts = await in_thread(lambda: {name: of(each) for name, each in languages.items()})
    return Gathered(facts, {name: each.path for name, each in languages.items()}, {**local, **data}, sources)


def _say_dropped(lock: locks.Lock | None, kept: Collection[str], terminal: Terminal) -> None:
    """Of every model that is planned anew or gone."""
    for name, tuned in locks.tuned(lock, [name for name in lock.models if name not in kept] if lock else ()).items():
        terminal.say(f"{name}: what headrace tune had measured on {tuned.when} is dropped ({tuned.evidence}).")


def this_machine(spec: Spec, beside: Held = NOTHING) -> Machine:
    """The machine that we are on, with no more memory than the spec allows, less what another Headrace holds or will yet take."""
    found, limit = machine(), spec.memory_limit
    free = found.memory_free_bytes - max(0, beside.planned_bytes - beside.resident_bytes)
    if limit is not None:
        free = min(free, limit - beside.planned_bytes)
    return replace(found, memory_free_bytes=max(0, free))


def here(spec: Spec, machine_here: Machine | None = None) -> Here:
    """The engines that are on this machine, where the spec or the environment says. With `machine_here` also what is known of
    vLLM on its GPUs, where it has some and a vLLM for them.
    """
    configured = {}
    for model in spec.models.values():
        if isinstance(model.engine, EngineOptions):
            name = model.engine.given[0]
            if folder := getattr(getattr(model.engine, name), "environment", None):
                configured[name] = folder
    root = spec.weights.cache or default_root()
    there = installed(engines(), root, configured)
    known = _on_gpus(there["vllm"], root) if machine_here and machine_here.cards and "vllm" in there else None
    return Here(engines(), there, Rates.parse(measured("local")), starts_of(spec).expected(), known)


def _on_gpus(vllm: Installed, root: str) -> Knowledge | None:
    """What is known of this vLLM on GPUs; None for a build for CPUs, which has its platform in its version. One that was built
    from source and has no number is taken to be the newest.
    """
    version, _, build = vllm.version.partition("+")
    return None if "cpu" in build else replace(knowledge(root), version=version if version[:1].isdigit() else None)


def check_installed(spec: Spec, engines_here: Here) -> None:
    """Raises PlanError for engines that are asked for and not here: before anything is fetched for them."""
    asked = {name: model.engine_name for name, model in spec.models.items() if model.ours and model.engine_name != "auto"}
    missing = {name: why for name, engine in asked.items() if (why := engines_here.missing(engine))}
    if missing:
        raise PlanError("\n".join(f"models.{name}: {why}" for name, why in missing.items()))


def servable(spec: Spec) -> None:
    """Raises PlanError for a spec of another machine, UsageError where no engine is installed that serves language models."""
    if spec.elsewhere is not None:
        raise PlanError(
            f"machine: {spec.elsewhere} is to be planned for, and models are served on this machine only.",
            "Write machine: auto to serve here; headrace plan answers for the other.",
        )
    languages = any(
        model.source and model.engine_name in ("auto", "llamacpp") and not data_ways(model) for model in spec.models.values()
    )
    if languages and not here(spec).general and not artifacts(spec):
        raise UsageError("No engine is installed that serves language models.", "Run: pip install 'headrace[local]'")


def server_keys(spec: Spec) -> dict[str, str]:
    """The API keys of servers that are not ours, by model, from the environment. Raises UsageError for one that is not set."""
    keys = {}
    for name, model in spec.models.items():
        if model.key is not None:
            variable = model.key.removeprefix("env:")
            if variable not in os.environ:
                raise UsageError(f"models.{name}.key: the environment has no {variable}.", f"Set it: export {variable}=…")
            keys[name] = os.environ[variable]
    return keys


def starts_of(spec: Spec) -> Starts:
    """How long starts took on this machine."""
    return Starts(Path(spec.weights.cache or default_root(), "history", "starts.jsonl"))


def history_of(spec: Spec) -> Path:
    """The file with what happened on this machine."""
    return in_cache(spec.weights.cache or default_root())


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


def keep_lock(lock_file: Path, text: str, terminal: Terminal) -> None:
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
    """In a format of the engine asked for; with none asked for, GGUF, else what an engine here loads. What keeps the first
    from being fetched is said, and another taken only if it is here already: then it was the one that the source had.
    """
    source = parse(model.source or "")
    *firsts, last = ways_of(model, engines_here)
    for at, formats in enumerate(firsts):
        try:
            return cache.fetch(source, report, formats=formats, offline=offline)
        except FormatMissing:
            continue
        except WeightsError:
            for other in (*firsts[at + 1 :], last):
                with contextlib.suppress(WeightsError):
                    return cache.fetch(source, report, formats=other, offline=True)
            raise
    return cache.fetch(source, report, formats=last, offline=offline)


def ways_of(model: ModelSpec, engines_here: Here) -> list[tuple[str, ...]]:
    """The formats to try one after the other. A way of its own each: a BERT is converted to GGUF when only that will do. GPUs
    want safetensors. What names data, or is Triton's to serve, may be no language model.
    """
    if ways := data_ways(model):
        return ways
    if model.engine_name != "auto" and model.engine_name in engines_here.engines:
        return [tuple(one for one in engines_here.engines[model.engine_name].formats if one in ("gguf", "safetensors"))]
    loads = any("safetensors" in engines_here.engines[name].formats for name in engines_here.general)
    both: list[tuple[str, ...]] = [("gguf",), ("safetensors",)]
    return both[::-1] if engines_here.knowledge else both if loads else both[:1]


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
