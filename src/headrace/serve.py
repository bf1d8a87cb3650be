"""`headrace serve`: weights, facts, plan, gateway, control and target put together, until told to stop."""

import asyncio
import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace import foreground
from headrace.announcing import Announcer
from headrace.control.history import History
from headrace.control.loop import Loop
from headrace.control.starts import ColdStarts
from headrace.control.turns import Rules
from headrace.control.wishes import Wish, choices, refused
from headrace.dashboard.advising import Advisor, logged
from headrace.dashboard.app import Dashboard
from headrace.dashboard.asking import Question, question
from headrace.dashboard.plan_page import WhatIf
from headrace.dashboard.sight import Sight
from headrace.engines import engines
from headrace.errors import ReplicaError
from headrace.foreground import LONGEST_ANSWER, Stop, connections, guarded
from headrace.gateway.admin import Admin
from headrace.gateway.audit import Audit, Audited
from headrace.gateway.certificate import Certificate
from headrace.gateway.gateway import Gateway, Limits
from headrace.graduating import graduations, moves
from headrace.handover.line import NOTHING, Held
from headrace.handover.offer import Offer
from headrace.handover.predecessor import Predecessor, predecessor
from headrace.handover.serving import alone, held, take_over
from headrace.keys import begin, follow, watched
from headrace.observing import observe
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.explain import explain
from headrace.prepare import history_of, prepared, servable, starts_of
from headrace.reloading import Parts, Reloads, adapts
from headrace.spec.addresses import joined
from headrace.spec.connections import DEFAULT
from headrace.spec.model import Spec
from headrace.targets.base import Replica
from headrace.targets.local import LocalTarget
from headrace.terminal import Terminal
from headrace.traffic import ModelStatus
from headrace.units import show_duration
from headrace.weights.cache import default_root

PATIENCE = 15.0
"""Seconds that a request waits for memory, before a model that has requests itself makes room: at most a quarter of its wait."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the spec."""

    listen: str | None = None
    """host:port, instead of the spec's."""
    insecure: bool = False
    """Listen beyond loopback although there are no keys."""
    offline: bool = False
    """Fetch nothing: the cache must have it."""
    lock: Path | None = None
    """Where decisions are kept from one run to the next; None keeps none."""
    remark: str = ""
    """Said with the example request, for the demo model."""
    what: str = ""
    """The file or the source that is served."""
    takeover: bool = False
    """Start beside the Headrace that listens there, and take its place when the models are ready."""

    @property
    def served(self) -> str:
        """The same, a file by its whole path: the history tells models of the same name apart by it."""
        return os.path.abspath(self.what) if self.what and os.path.exists(self.what) else self.what

    @property
    def file(self) -> Path | None:
        """The file that is served; None for a model named on the command line."""
        return Path(self.served) if self.what.endswith((".yaml", ".yml")) else None


class View:
    """What the admin application may see; empty until there is a plan."""

    absent = ""

    def __init__(self, moves: Callable[[PlannedModel], Sequence[tuple[str, str]]] = lambda model: ()) -> None:
        self.loop: Loop | None = None
        self._moves = moves

    @property
    def plan(self) -> Plan | None:
        return self.loop.plan if self.loop else None

    @property
    def replicas(self) -> Sequence[Replica]:
        return self.loop.replicas if self.loop else ()

    @property
    def decisions(self) -> Sequence[tuple[float, str, str]]:
        return self.loop.decisions if self.loop else ()

    @property
    def scaled(self) -> Mapping[tuple[str, str], int]:
        return self.loop.scaled if self.loop else {}

    @property
    def wanted(self) -> Mapping[str, int]:
        return self.loop.outcome.counts if self.loop else {}

    @property
    def wants(self) -> Mapping[str, str]:
        return {name: wish.want for name, wish in self.loop.wishes.items()} if self.loop else {}

    @property
    def wishes(self) -> Mapping[str, str]:
        return {name: wish.words for name, wish in self.loop.wishes.items()} if self.loop else {}

    def choices(self, model: str) -> Sequence[tuple[str, str]]:
        planned = self._planned(model)
        return choices(planned) if planned else ()

    def wish(self, model: str, want: str, by: str) -> str:
        if not (why := refused(self._planned(model), want)) and self.loop:
            self.loop.wish(Wish(model, want, by))
        return why

    def moves(self, model: str) -> Sequence[tuple[str, str]]:
        planned = self._planned(model)
        return self._moves(planned) if planned else ()

    def _planned(self, name: str) -> PlannedModel | None:
        return next((model for model in self.plan.models if model.name == name), None) if self.plan else None

    def logs(self, replica: str, lines: int) -> list[str]:
        return self.loop.logs(replica, lines) if self.loop else []


async def serve(spec: Spec, options: Options, terminal: Terminal) -> None:
    """Serve until SIGINT or SIGTERM: the first drains, the second stops at once. Raises HeadraceError."""
    host, port = _checked(spec, options)
    async with contextlib.AsyncExitStack() as leaving:
        front = _front(spec, options, terminal, leaving)
        before = await predecessor("serve", host, port, terminal) if options.takeover else None
        if before is not None:
            leaving.callback(before.close)
        leaving.callback(front.gateway.close)
        where = before.address if before else await front.gateway.listen(host, port)
        address = f"{front.gateway.door.scheme}://{joined(*where)}"
        beside = before.held if before else NOTHING
        planned = await front.stop.unless(prepared(spec, terminal, options.lock, offline=options.offline, beside=beside))
        if planned is not None:
            terminal.say(explain(planned))
            await _Run(front, planned, address, before).until_over()


@dataclass(frozen=True, slots=True)
class _Front:
    """The gateway and what is mounted on it, which are there before the plan is."""

    options: Options
    terminal: Terminal
    stop: Stop
    reloads: Reloads
    view: View
    admin: Admin
    gateway: Gateway


def _front(spec: Spec, options: Options, terminal: Terminal, leaving: contextlib.AsyncExitStack) -> _Front:
    """All of it, to be closed by `leaving`. Raises HeadraceError."""
    reloads = Reloads(spec, options.file, options.lock, terminal, offline=options.offline)
    stop = Stop(terminal)
    view = View(lambda model: moves(reloads.spec, options.lock, model, terminal))
    admin = Admin(view, reloads.aliases, view)
    loading = [ModelStatus(name, None, "loading", "its weights are being fetched") for name in spec.models]
    certificate = Certificate(spec.gateway.tls, terminal.say) if spec.gateway.tls else None
    audit = Audit(history_of(spec).parents[1] / "audit.jsonl", terminal.say)
    leaving.callback(audit.close)
    app = Audited(admin.app, audit)
    gateway = Gateway(_limits(spec), loading, spec.aliases, app, trusted=options.insecure, certificate=certificate)
    admin.gateway, admin.served = gateway, options.served
    clients = begin(spec.gateway, {name: model.price for name, model in spec.models.items()}, gateway, terminal.say)
    admin.graduations.keyed = admin.reloading.keyed = clients is not None
    leaving.callback(observe(gateway, spec.gateway.log, os.environ, terminal.say))
    if clients is not None:
        leaving.push_async_callback(_over, watched(follow(clients, gateway, audit)))
    what_if = _what_if(spec, options)
    leaving.push_async_callback(what_if.worker.close)
    advisor = Advisor(admin.status)
    leaving.push_async_callback(_over, asyncio.create_task(logged(advisor.advice)))
    Dashboard(Sight(admin, view, history_of(spec), spec.usd_per_hour, what_if, advisor)).mount()
    return _Front(options, terminal, stop, reloads, view, admin, gateway)


def _limits(spec: Spec) -> Limits:
    gateway = spec.gateway
    most = connections(), gateway.connections.address or DEFAULT, gateway.connections.key
    return Limits(gateway.queue.limit, gateway.queue.wait, gateway.body, *most)


def _what_if(spec: Spec, options: Options) -> WhatIf:
    sources = {name: model.source for name, model in spec.models.items() if model.source}
    first = next((question(name, model) for name, model in spec.models.items() if model.source), Question())
    return WhatIf(sources, first, spec.weights.cache, spec.memory_limit, spec.usd_per_hour, options.offline)


def _checked(spec: Spec, options: Options) -> tuple[str, int]:
    """Where to listen, when that is allowed and everything that is needed is installed. Raises UsageError, PlanError."""
    servable(spec)
    way = "Make some (headrace key add --name NAME), listen on 127.0.0.1, or say --insecure when something else guards it."
    keys = spec.gateway.keys is not None
    return guarded(options.listen or spec.gateway.listen, way, keys=keys, insecure=options.insecure)


def _pace(spec: Spec) -> tuple[float, Rules]:
    """How long a replica that goes may answer, in seconds, and when models that take turns make room."""
    return max(spec.gateway.drain, LONGEST_ANSWER), Rules(min(PATIENCE, spec.gateway.queue.wait / 4))


class _Run:
    """The models, from their plan to the last answer."""

    def __init__(self, front: _Front, planned: Plan, address: str, before: Predecessor | None) -> None:
        spec, options, terminal = front.reloads.spec, front.options, front.terminal
        remark = options.remark + (" (with a key: -H 'Authorization: Bearer …')" if spec.gateway.keys else "")
        self._front, self._before = front, before
        self._freeing: asyncio.Task[None] | None = None
        self._announcer = Announcer(terminal, planned, address, remark)
        self._history = History(history_of(spec), terminal.say, options.served)
        self._moves = graduations(lambda: front.reloads.spec, options.lock, address, terminal, offline=options.offline)
        self._starts = ColdStarts(planned, starts_of(spec))
        self._target = self._targeted(spec, address)
        self._loop = front.view.loop = self._moves.loop = self._looping(planned)
        self._offer = Offer("serve", front.gateway, terminal, self._held, lambda: self._moving() or front.reloads.under_way)

    async def until_over(self) -> None:
        """Serve until told to stop. Raises ReplicaError when no model could be started, and what the control loop fails with."""
        self._connect()
        task = asyncio.create_task(self._loop.run())
        gc.collect()
        gc.freeze()  # what lives until the end is not looked at again and again
        try:
            await self._begin()
            await self._offer.until_over(self._front.stop, _pace(self._front.reloads.spec)[0], task, self._announcer.failed)
            if self._front.stop.asked:
                await self._drain()
        finally:
            await self._close(task)
        if self._announcer.failed.is_set():
            raise ReplicaError("No model could be started.", self._announcer.reasons())

    def _targeted(self, spec: Spec, address: str) -> LocalTarget:
        # Sockets go into a folder of their own in the system's temporary one, where what a killed Headrace left is swept away.
        runs, logs, cache = Path(tempfile.gettempdir()), _log_folder(spec, address), Path(spec.weights.cache or default_root())
        learned = self._starts.learned
        return LocalTarget(engines(), runs, self._front.reloads.keys, logs=logs, compiled=cache / "engines", learned=learned)

    def _looping(self, planned: Plan) -> Loop:
        drain, rules = _pace(self._front.reloads.spec)
        return Loop(
            planned,
            self._target,
            self._front.gateway,
            self._announcer.heard,
            drain,
            starts=self._starts.seconds,
            wakes=self._starts.wakes,
            rules=rules,
            recorder=self._history,
            mover=self._moves,
            adapts=adapts,
        )

    def _connect(self) -> None:
        """What administrators may ask for finds who does it."""
        self._moves.recover()
        admin, reloads = self._front.admin, self._front.reloads
        known = (self._front.gateway, self._loop, self._starts, _limits, _pace)
        reloads.parts = Parts(*known, lambda: self._moving() or (self._before.remains if self._before else ""))
        admin.graduations.graduations, admin.graduations.busy = self._moves, lambda: reloads.under_way
        admin.reloading.reloads = reloads

    async def _begin(self) -> None:
        """Take the place of the one before, if there is one, and let the next take ours."""
        stop, terminal = self._front.stop, self._front.terminal
        if self._before is not None:
            self._announcer.listens = False
            await stop.unless(take_over(self._before, self._front.gateway, self._announcer.settled))
            self._announcer.listens = True
            self._loop.look_now()  # and announce it
            self._freeing = asyncio.create_task(alone(self._before, self._loop, terminal.say))
        if not stop.asked:
            self._offer.open()

    async def _drain(self) -> None:
        if self._before is not None:
            self._before.farewell()
        seconds = self._front.reloads.spec.gateway.drain
        await self._front.stop.unless(_drained(self._front.gateway, seconds, self._front.terminal), again=True)

    async def _close(self, task: asyncio.Task[None]) -> None:
        self._front.gateway.close()
        self._offer.close()
        await _over(task)  # what it failed with was raised by the offer
        await _over(self._freeing)
        await self._front.reloads.close()
        await self._moves.close()
        await self._front.stop.unless(self._target.close(), again=True)  # engines that are not gone by then die with us
        self._history.close()

    def _held(self) -> Held:
        return held(self._front.gateway, self._loop.replicas)

    def _moving(self) -> str:
        """Why this is no moment to be replaced."""
        moving = [one["model"] for one in self._moves.shown() if not one["over"]]
        return f"{moving[0]} graduates (headrace graduate {moving[0]} --status)" if moving else ""


async def _over(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _log_folder(spec: Spec, address: str) -> Path:
    """Where logs outlive the run: in the cache, by port; elsewhere where that cannot be written."""
    folder = Path(spec.weights.cache or default_root(), "logs", address.rpartition(":")[2])
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="headrace-logs-"))


async def _drained(gateway: Gateway, seconds: float, terminal: Terminal) -> None:
    running = sum(len(model.exchanges) for model in gateway.models.values())
    if running:
        limit = show_duration(seconds)
        terminal.say(f"Draining: {running} requests may finish within {limit}. Press Ctrl-C again to stop at once.")
    unfinished = await gateway.drain(seconds)
    terminal.say(f"Stopped; {unfinished} requests were not finished." if unfinished else "Stopped; every request was answered.")


def run(spec: Spec, options: Options, terminal: Terminal) -> None:
    """Serve on the fastest event loop there is."""
    foreground.run(serve(spec, options, terminal))
