"""`headrace tune`: settings searched on this very hardware for the user's own load, and the winner kept in the lock."""

import asyncio
import random
import signal
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from headrace import __version__
from headrace.artifacts import artifacts
from headrace.control.replay import lengths
from headrace.engines import engines
from headrace.errors import HeadraceError, PlanError, UsageError
from headrace.facts.hardware import Machine
from headrace.facts.model import of
from headrace.plan import lock as locks
from headrace.plan.here import Here
from headrace.prepare import cache_of, gathered, here, history_of, keep_lock, obey_lock, reporting, this_machine
from headrace.spec.addresses import GATEWAY
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.tune import mix as mixes
from headrace.tune.base import Candidate, Goal, Limits, Mix, Study, Verdict
from headrace.tune.instead import restore, served, stopped, taken_bytes
from headrace.tune.own_defaults import own_defaults
from headrace.tune.planner import Known, Planner, measured, settings_of
from headrace.tune.quiet import quiet
from headrace.tune.run import Course, Runs
from headrace.tune.space import ABLE, Weights, space
from headrace.tune.stopping import Quiet
from headrace.tune.store import Stopped, Trials, alone
from headrace.units import show_bytes, show_duration
from headrace.weights.cache import default_root
from headrace.weights.source import parse


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for. Seconds and tokens; None is planned or found out."""

    model: str | None = None
    users: int | None = None
    prompt: int | None = None
    output: int | None = None
    goal: Goal = "throughput"
    limits: Limits | None = None
    budget: float = 600.0
    weights: tuple[str, ...] = ()
    lossy: bool = False
    instead: bool = False
    url: str = GATEWAY
    force: bool = False
    fresh: bool = False
    offline: bool = False
    seed: int = 1
    served: str = ""
    """The file by its whole path: the history tells models of the same name apart by it."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The study, and the lock that would keep its winner; None where nothing is to be kept. `replaces` is the text of the lock
    that it was made from; None where there was none.
    """

    study: Study
    lock: str | None
    interrupted: bool = False
    replaces: str | None = None


def tune(spec: Spec, lock_file: Path | None, wish: Wish, terminal: Terminal) -> Tuned:
    """Search, measure the best by turns against what is planned, and say what won. Nothing is written but the trials' file.

    Raises HeadraceError. What `--instead` stopped is given back however this ends.
    """
    folder = Path(spec.weights.cache or default_root(), "tune")
    with alone(folder), _ended_by_signals():
        kept = Stopped(folder)
        restore(kept, terminal.say)  # what a tune that was killed had stopped
        name = _model(spec, wish)
        with stopped(wish.url, name, kept, terminal.say) if wish.instead else nullcontext():
            beside = taken_bytes(served(wish.url))
            before = _text(lock_file)
            ground = _Ground.prepared(spec, lock_file, name, beside, wish, terminal)
            return replace(_run(_tuned(ground, folder, wish, terminal, beside)), replaces=before)


def _run(main: Coroutine[Any, Any, Tuned]) -> Tuned:
    """On the loop that the gateway serves on."""
    try:
        import uvloop
    except ImportError:  # Windows, and platforms without a wheel
        return asyncio.run(main)
    found: Tuned = uvloop.run(main)
    return found


def keep(lock_file: Path, tuned: Tuned, terminal: Terminal) -> None:
    """Write the lock that the next `headrace serve` obeys. Raises HeadraceError when others changed it since it was read: it
    has all models in it, and theirs would be as they were.
    """
    if tuned.lock is None:
        return
    if _text(lock_file) != tuned.replaces:
        raise HeadraceError(
            f"{lock_file} was changed meanwhile, by another tune, a graduation or a start: it was not written.",
            "Run tune again: the trials are kept.",
        )
    keep_lock(lock_file, tuned.lock, terminal)


def _text(lock_file: Path | None) -> str | None:
    return lock_file.read_text("utf-8", "replace") if lock_file is not None and lock_file.is_file() else None


def _model(spec: Spec, wish: Wish) -> str:
    """The one to tune. Raises UsageError."""
    ours = [name for name, model in spec.models.items() if model.ours and model.source]
    if wish.model is None and len(ours) != 1:
        raise UsageError(
            f"The file has {len(ours)} models that could be tuned: name one.", f"It has: {', '.join(ours) or 'none'}."
        )
    name = wish.model or ours[0]
    name = spec.aliases.get(name, name)
    if name not in spec.models:
        raise UsageError(f'There is no model "{name}" in the file.', f"It has: {', '.join(spec.models)}.")
    if name not in ours or name in artifacts(spec):
        raise _no_language(name)
    return name


def _no_language(name: str) -> UsageError:
    return UsageError(f"{name} is no language model that Headrace starts here: there are no settings to search.")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: with everything restored."""

    def ended(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is known before anything is tried. `spec` has the lock's choices in it, `asked` is as the file has it."""

    asked: Spec
    spec: Spec
    name: str
    planner: Planner
    here: Here
    machine: Machine
    lock: locks.Lock | None
    kept: frozenset[str]
    sources: Mapping[str, str]
    mix: Mix
    limits: Limits

    @classmethod
    def prepared(
        cls, spec: Spec, lock_file: Path | None, name: str, beside: Mapping[str, int], wish: Wish, terminal: Terminal
    ) -> "_Ground":
        """Weights fetched, the lock obeyed, the mix known. `beside`: bytes of each model that runs now. Raises HeadraceError."""
        found = this_machine(spec)
        engines_here = here(spec, found)
        machine = _emptied(found, spec, beside)
        lock, obeyed = obey_lock(spec, lock_file, machine, engines_here, terminal)
        there = asyncio.run(gathered(obeyed.spec, terminal, engines_here, offline=wish.offline))
        known = {each: Known(facts, there.paths[each]) for each, facts in there.facts.items()}
        more = {source: _weights(source, spec, engines_here, terminal, wish) for source in wish.weights}
        if name not in known:
            raise _no_language(name)
        planner = Planner(obeyed.spec, name, machine, engines_here, known, more, there.artifacts)
        present = planner.present()
        if present.task != "generate":
            what = "makes embeddings" if present.task == "embed" else f"does {present.task}"
            raise UsageError(f"{name} {what}: tune measures answers token by token, and tunes models that generate text.")
        mix = _mix(spec, name, wish)
        if present.context is not None and mix.longest > present.context:
            raise PlanError(
                f"{name} has a context of {present.context} tokens, and the longest request of the load takes {mix.longest}.",
                "Ask for shorter ones, or raise the context in the file.",
            )
        said = spec.models[name].for_
        limits = wish.limits or Limits(said.ttft, said.tpot)
        return cls(spec, obeyed.spec, name, planner, engines_here, machine, lock, obeyed.kept, there.sources, mix, limits)

    def written(self, candidate: Candidate, verdict: Verdict) -> str:
        """The lock with the winner in it."""
        settings = {name: value for name, value in candidate.values.items() if name != "source"}
        made = measured(self.planner.whole(candidate), self.planner.present(self.lock, self.kept), settings)
        tuned = locks.Tuned(settings=settings, evidence=verdict.evidence, when=datetime.now(UTC).date().isoformat())
        if self.lock:
            made = locks.explained(made, self.lock, self.kept - {self.name})
        sources = {**self.sources, self.name: candidate.values.get("source", self.sources[self.name])}
        others = locks.tuned(self.lock, self.kept - {self.name})
        return locks.write(made, self.asked, sources, self.machine, __version__, {**others, self.name: tuned})


def _emptied(machine: Machine, spec: Spec, beside: Mapping[str, int]) -> Machine:
    """The machine as it is when nothing of the file runs: what is planned is all of the file. Other files' models keep theirs."""
    taken = sum(taken for model, taken in beside.items() if model in spec.models)
    return replace(machine, memory_free_bytes=min(machine.memory_bytes, machine.memory_free_bytes + taken))


def _weights(source: str, spec: Spec, engines_here: Here, terminal: Terminal, wish: Wish) -> Known:
    """Another version of the weights, in whatever format it has."""
    try:
        parsed = parse(source)
    except ValueError as error:
        raise UsageError(f"--weights: {error}") from None
    formats = tuple(dict.fromkeys(f for name in engines_here.general for f in engines_here.engines[name].formats))
    found = cache_of(spec).fetch(parsed, reporting(terminal), formats=formats, offline=wish.offline)
    return Known(of(found), found.path)


def _mix(spec: Spec, name: str, wish: Wish) -> Mix:
    """What was asked for; else what was recorded; else what the file says the model is for. Raises UsageError."""
    said, asked = spec.models[name].for_, (wish.prompt, wish.output) != (None, None)
    if not asked:
        with suppress(HeadraceError):  # no history yet
            if found := mixes.recorded(lengths(history_of(spec), wish.served, name), wish.users):
                return found
    users = wish.users or said.users or 8
    whence = "asked for" if asked else "as the file says" if said.prompt or said.output else "made up: no requests are recorded"
    dice = random.Random(wish.seed).random
    return mixes.said(users, wish.prompt or said.prompt or 256, wish.output or said.output or 128, dice, whence)


async def _tuned(ground: _Ground, folder: Path, wish: Wish, terminal: Terminal, beside: Mapping[str, int]) -> Tuned:
    state = await asyncio.to_thread(quiet, ground.machine.cores)
    remarks = _remarks(state, wish, beside, this_machine(ground.asked).memory_free_bytes)
    for remark in remarks:
        terminal.say(remark)
    present = ground.planner.present()
    weights = [Weights(None, ground.planner.others[ground.name].facts)]
    weights += [Weights(source, known.facts) for source, known in ground.planner.weights.items()]
    model, cores = ground.asked.models[ground.name], ground.machine.cores
    found = space(model, present.task, weights, ground.here, cores, ground.mix.users, lossy=wish.lossy)
    if not found.branches:
        raise PlanError(f"There is nothing to tune of {ground.name}: {'; '.join(found.said)}")
    now = next((b for b in found.branches if b.engine == settings_of(present, {})["engine"]), found.branches[0])
    noisy = "-noisy" if state.noise else ""  # what was forced is not taken over by a tune in quiet
    trials = Trials(folder / f"{_question(ground, wish, beside)}{noisy}.jsonl", terminal.say)
    if wish.fresh:
        trials.forget()
    where = ", ".join(dict.fromkeys(branch.engine for branch in found.branches))
    terminal.say(f"{ground.name}: {ground.mix.said}; {found.size} settings on {where}, {show_duration(wish.budget)}.")
    for one in found.said:
        terminal.say(one[0].upper() + one[1:] + ".")
    course = Course(
        planner=ground.planner,
        present=Candidate.of(settings_of(present, now.dimensions)),
        space=found,
        mix=ground.mix,
        goal=wish.goal,
        limits=ground.limits,
        budget=wish.budget,
        seed=wish.seed,
        compiled=Path(ground.spec.weights.cache or default_root(), "engines"),
        engines=engines(),
        as_it_comes={**engines(), "llamacpp": own_defaults(engines()["llamacpp"])},
        free=lambda: this_machine(ground.asked).memory_free_bytes,
    )
    runs = Runs(course, trials, terminal.step)
    await runs.all()
    study = _study(ground, wish, runs, [*remarks, *(f"{one}." for one in found.said), *runs.remarks])
    winner = study.verdict.winner
    text = ground.written(winner.candidate, study.verdict) if winner else None
    return Tuned(study, text, runs.interrupted)


def _remarks(state: Quiet, wish: Wish, beside: Mapping[str, int], free_bytes: int) -> list[str]:
    """Raises HeadraceError when the machine is too noisy to tell settings apart, unless that is forced."""
    found = [f"The machine before: {state.numbers}."]
    if state.noise and not wish.force:
        raise NoisyError(
            f"The machine is too noisy to tune on: {'; '.join(state.noise)}.",
            "Let it rest, or say --force to measure anyway: then what others do may choose the winner.",
        )
    if state.noise:
        found.append(f"Forced on a noisy machine: {'; '.join(state.noise)}.")
    if beside:
        there = ", ".join(f"{model} ({show_bytes(taken)})" for model, taken in beside.items())
        found.append(
            f"Measured beside what runs here: {there}. It keeps its memory: {show_bytes(free_bytes)} are left to try in. "
            "The cores are shared, and its requests are slower meanwhile"
            + ("." if wish.instead else " (--instead stops the model that is tuned).")
        )
    return found


class NoisyError(HeadraceError):
    """Measuring would not tell settings apart."""

    exit_code = 75


def _study(ground: _Ground, wish: Wish, runs: Runs, remarks: Sequence[str]) -> Study:
    machine = ground.machine
    return Study(
        model=ground.name,
        machine=f"{machine.cores} cores, {show_bytes(machine.memory_bytes)}",
        load=ground.mix.said,
        goal=wish.goal,
        limits=ground.limits,
        trials=tuple(runs.trials),
        finalists=tuple(runs.finalists),
        verdict=runs.verdict,
        remarks=tuple(remarks),
        version=__version__,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: one.version for name, one in ground.here.installed.items() if name in ABLE},
    )


def _question(ground: _Ground, wish: Wish, beside: Collection[str]) -> str:
    """What a trial's file is named by: whatever would make its numbers others, so also which models run beside."""
    facts = ground.planner.others[ground.name].facts
    mix = ground.mix
    parts = {
        "source": ground.sources[ground.name],
        "asked": locks.asked(ground.asked.models[ground.name]),
        "weights": [facts.weight_bytes, *sorted(wish.weights)],
        "machine": [ground.machine.cores, ground.machine.memory_bytes >> 30],
        "versions": {name: one.version for name, one in ground.here.installed.items()},
        "mix": [mix.users, round(mix.prompt), round(mix.output)],
        "beside": sorted(beside),
        "headrace": __version__,
    }
    return blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=8).hexdigest()
