"""The file of a running `headrace serve`, read again when asked: planned beside what runs, then made true, nothing dropped."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from headrace import __version__
from headrace.control.loop import Loop
from headrace.control.replan import Changed, Standing, changed, kept, lasting, others, planned, standing
from headrace.control.starts import ColdStarts
from headrace.control.status import status
from headrace.control.turns import Rules
from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.errors import HeadraceError, UsageError, WeightsError
from headrace.gateway.gateway import Gateway, Limits
from headrace.keys import prices
from headrace.plan import lock as locks
from headrace.plan.base import Plan
from headrace.prepare import Decided, check_installed, decided, here, keep_lock, read_lock, servable, server_keys, this_machine
from headrace.spec.load import load
from headrace.spec.model import Spec
from headrace.targets.changes import in_memory
from headrace.terminal import Terminal
from headrace.units import show_duration
from headrace.weights.source import parse

Phase = Literal["reading", "planning", "changing", "done", "failed", "refused"]
OVER = ("done", "failed", "refused")
LOOK_SECONDS = 0.1
"""How often it is looked whether what is wanted is so."""

log = logging.getLogger("headrace")


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked for. `file` is the one that is served, or another version of it in the same folder: any other could be
    somebody else's, and a file may name commands to run.
    """

    file: str | None = None
    dry_run: bool = False


@dataclass(slots=True)
class Parts:
    """What a reload changes of a running Headrace. `limits` and `pace` are those of a spec: `pace` is how long a replica may
    answer that goes, in seconds, and the rules of turns.
    """

    gateway: Gateway
    loop: Loop
    starts: ColdStarts
    limits: Callable[[Spec], Limits]
    pace: Callable[[Spec], tuple[float, Rules]]
    busy: Callable[[], str]
    """What keeps the file from being read again now; empty when nothing does."""


@dataclass(slots=True)
class Reload:
    """One reload, as far as it is. `lines` are what it changes."""

    dry_run: bool
    phase: Phase = "reading"
    lines: list[str] = field(default_factory=list)
    story: list[tuple[float, str]] = field(default_factory=list)
    fetching: tuple[str, int, int | None] | None = None
    """What is fetched: which weights, bytes so far, bytes in all."""
    models: list[str] = field(default_factory=list)
    """Those that it waits for."""
    error: str = ""
    exit_code: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        return self.phase in OVER


class _Listened(Terminal):
    """A terminal whose progress is seen by whoever asked for the reload, too."""

    def __init__(self, terminal: Terminal, one: Reload) -> None:
        self._terminal, self._one = terminal, one

    def say(self, text: str = "") -> None:
        self._terminal.say(text)

    def progress(self, what: str, done: int, total: int | None) -> None:
        self._terminal.progress(what, done, total)
        self._one.fetching = what, done, total


class Reloads:
    """Reloads of one file (None: no file is served), one at a time; once what one made is in force, another may correct it, for
    it may never come true. `spec` is what is in force; `parts` are set once it runs.

    Raises UsageError for a key of a server elsewhere that the environment does not have.
    """

    def __init__(self, spec: Spec, file: Path | None, lock_file: Path | None, terminal: Terminal, *, offline: bool) -> None:
        self.spec = spec
        self.aliases, self.keys = dict(spec.aliases), server_keys(spec)
        """What is in force, for those who know them by name: the mappings stay, what is in them changes."""
        self._file, self._lock_file, self._terminal, self._offline = file, lock_file, terminal, offline
        self._newest: Reload | None = None
        self._task: asyncio.Task[None] | None = None
        self.parts: Parts = None  # type: ignore[assignment]  # set before anybody can ask

    # ---- what others ask

    def asked(self, body: bytes) -> None:
        """Begin one as JSON says. Raises UsageError, and msgspec's ValidationError or DecodeError."""
        wish = msgspec.json.decode(body or b"{}", type=Asked)
        if self._file is None:
            raise UsageError("This gateway serves a model without a file, so there is none to read again.", "headrace serve FILE")
        file = self._file if wish.file is None else Path(wish.file)
        if "\0" in str(file) or not _same(file.parent, self._file.parent) or file.suffix not in (".yaml", ".yml"):
            fix = "Another version of it has to be a .yaml beside it; any other file takes a start of its own."
            raise UsageError(f"This gateway serves {self._file}, not {file}.", fix)
        corrects = self._newest is not None and self._newest.phase == "changing" and not wish.dry_run
        if why := ("" if corrects else self.under_way) or self.parts.busy():
            raise UsageError(f"The file is not read again now: {why}.", "Ask again once that is over.")
        if self._task is not None:
            self._task.cancel()  # if it is not over, what it made is in force, and it only looks on
        unfinished = self._newest.models if corrects and self._newest else []
        self._newest = Reload(wish.dry_run, models=list(unfinished))
        self._task = asyncio.create_task(self._run(self._newest, file))

    @property
    def under_way(self) -> str:
        """A sentence on the reload that is not over; empty when there is none."""
        one = self._newest
        if one is None or one.over:
            return ""
        last = one.story[-1][1] if one.story else one.phase
        return f"a reload began {show_duration(time.monotonic() - one.began)} ago ({last})"

    def shown(self) -> Mapping[str, Any] | None:
        """The newest, for machines; None when there was none."""
        one = self._newest
        if one is None:
            return None
        story = [{"at": at, "said": said} for at, said in one.story]
        told = {"phase": one.phase, "over": one.over, "dry_run": one.dry_run, "changes": one.lines, "story": story}
        return {"file": str(self._file), **told, "fetching": one.fetching, "error": one.error, "exit_code": one.exit_code}

    async def close(self) -> None:
        """Leave everything as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ---- one reload

    async def _run(self, one: Reload, file: Path) -> None:
        try:
            await self._reload(one, file)
        except HeadraceError as error:
            one.phase, one.error, one.exit_code = "refused", str(error), error.exit_code
            self._terminal.say(f"The file was not taken, what runs goes on: {error}")
        except Exception as error:
            log.exception("a reload failed")
            one.phase, one.error, one.exit_code = "failed", f"a bug of ours: {error!r}", HeadraceError.exit_code

    async def _reload(self, one: Reload, file: Path) -> None:
        spec, said = lasting(self.spec, await asyncio.to_thread(load, file, parse))
        if not (served := _same(file, self._file)):
            said.append(f"! {file.name} is in force until {self._file and self._file.name} is read again, also by the next start")
        keys = server_keys(spec)
        await asyncio.to_thread(servable, spec)
        found, present = changed(self.spec, spec), self.parts.loop.plan
        besides = [*others(self.spec, spec), *said]
        one.phase, one.lines = "planning", [*map(str, found), *besides]
        self._tell(one, f"{file} read" + ("" if one.lines else ": it asks for what runs"))
        try:
            terminal = _Listened(self._terminal, one)
            made = await self._decided(spec, present, terminal, offline=one.dry_run or self._offline)
        except WeightsError as error:
            if not one.dry_run or self._offline:
                raise
            self._tell(one, f"whether it fits is known once the weights are here: {error}")
            one.phase = "done"
            return
        plan = kept(present, made.plan)
        found = planned(found, present, plan, self.parts.loop.replicas, adapts)
        one.lines = [*map(str, found), *besides]
        if one.dry_run:
            one.phase = "done"
            return
        if served and self._lock_file is not None and made.lock:
            await asyncio.to_thread(keep_lock, self._lock_file, made.lock, self._terminal)
        self._apply(spec, plan, keys, found)
        one.models = list(dict.fromkeys([*one.models, *(change.model for change in found)]))
        one.phase = "changing"
        await self._until_so(one, one.models)

    async def _decided(self, spec: Spec, present: Plan, terminal: Terminal, *, offline: bool) -> Decided:
        """The plan for the new spec beside what runs, and its lock; nothing is changed yet. Raises HeadraceError."""
        machine = await asyncio.to_thread(this_machine, spec)
        engines_here = await asyncio.to_thread(here, spec, machine)
        check_installed(spec, engines_here)
        free = min(machine.memory_bytes, machine.memory_free_bytes + in_memory(self.parts.loop.replicas))
        if spec.memory_limit is not None:
            free = min(free, spec.memory_limit)
        if spec.memory_limit == self.spec.memory_limit and present.memory_bytes is not None:
            free = min(free, present.memory_bytes)  # what is mapped counts as free as well, so the sum may be too much
        machine = replace(machine, memory_free_bytes=free, cards=present.cards or machine.cards)
        lock = read_lock(self._lock_file) or locks.read(self._in_force(present, machine), "what is in force")
        lock = locks.held(lock, spec)
        obeyed = locks.obey(spec, lock, machine, engines_here.installed)
        return await decided(spec, lock, obeyed, machine, engines_here, terminal, offline=offline)

    def _in_force(self, present: Plan, machine: Any) -> str:
        """A lock of what runs, where none is kept."""
        sources = {name: model.source or "" for name, model in self.spec.models.items() if model.ours}
        return locks.write(present, self.spec, sources, machine, __version__)

    def _apply(self, spec: Spec, plan: Plan, keys: Mapping[str, str], found: Sequence[Changed]) -> None:
        """From now on this is in force. Nothing is awaited here, so that nobody sees a half of it."""
        parts, gateway = self.parts, self.parts.gateway
        self.spec = spec
        for known, now in ((self.aliases, spec.aliases), (self.keys, keys)):
            known.clear()
            known.update(now)
        parts.starts.follow(plan)
        statuses = {model.name: status(model, ()) for model in plan.models}
        statuses |= {name: model.status for name, model in gateway.models.items() if name in statuses}
        gateway.replace(parts.limits(spec), statuses.values(), spec.aliases)
        gateway.prices = prices({name: model.price for name, model in spec.models.items()})
        parts.loop.replan(plan, *parts.pace(spec), {one.model: one.sentence for one in found})

    async def _until_so(self, one: Reload, names: Sequence[str]) -> None:
        """Tell how far the models are until all are as planned, or do not come by themselves."""
        told: dict[str, str] = {}
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = {name: self._standing(name) for name in names}
            for name, now in found.items():
                if told.get(name) != (said := now.failed or now.coming or now.so):
                    told[name] = said
                    self._tell(one, f"{name}: {said}")
            if not any(now.coming for now in found.values()):
                break
        one.error = "\n".join(f"{name}: {now.failed}" for name, now in found.items() if now.failed)
        one.phase, one.exit_code = ("failed", 1) if one.error else ("done", 0)

    def _standing(self, name: str) -> Standing:
        loop = self.parts.loop
        refused = next((model.refused for model in loop.plan.models if model.name == name), "")
        model = next((model for model in loop.held.models if model.name == name), None)
        return Standing(failed=refused) if refused else standing(name, model, loop.replicas)

    def _tell(self, one: Reload, sentence: str) -> None:
        one.story.append((time.time(), sentence))
        self._terminal.say(f"reload: {sentence}")


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def adapts(running: Placement, wanted: Placement) -> bool:
    """Whether an engine can make a replica run other adapters without a restart."""
    return engines()[running.engine].adapt(running, wanted) is not None
