"""`headrace serve`: weights, facts, plan, gateway, control and target put together, until told to stop."""

import asyncio
import contextlib
import gc
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from headrace import foreground
from headrace.artifacts import artifacts
from headrace.control.graduate import Graduations
from headrace.control.history import History
from headrace.control.loop import Loop
from headrace.control.starts import ColdStarts
from headrace.control.turns import Rules
from headrace.control.wishes import Wish, choices, refused
from headrace.dashboard.app import Dashboard
from headrace.dashboard.sight import Sight
from headrace.engines import engines
from headrace.errors import PlanError, ReplicaError, UsageError
from headrace.foreground import Stop, connections, guarded
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.graduations import Asked
from headrace.graduating import graduations
from headrace.keys import Source, follow
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.explain import explain
from headrace.prepare import here, history_of, prepared, starts_of
from headrace.spec.model import Spec
from headrace.targets.base import Replica
from headrace.targets.local import LocalTarget
from headrace.terminal import Terminal
from headrace.traffic import ModelStatus, Task
from headrace.units import show_duration
from headrace.weights.cache import default_root

LONGEST_ANSWER = 600.0
"""Seconds: a replica that is not needed any more stays so long for what it answers. Nobody is in a hurry to cut an answer off."""
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


class View:
    """What the admin application may see; empty until there is a plan."""

    def __init__(self) -> None:
        self.loop: Loop | None = None

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
    def wishes(self) -> Mapping[str, str]:
        return {name: wish.words for name, wish in self.loop.wishes.items()} if self.loop else {}

    def choices(self, model: str) -> Sequence[tuple[str, str]]:
        planned = self._planned(model)
        return choices(planned) if planned else ()

    def wish(self, model: str, want: str, by: str) -> str:
        if not (why := refused(self._planned(model), want)) and self.loop:
            self.loop.wish(Wish(model, want, by))
        return why

    def _planned(self, name: str) -> PlannedModel | None:
        return next((model for model in self.plan.models if model.name == name), None) if self.plan else None

    def logs(self, replica: str, lines: int) -> list[str]:
        return self.loop.logs(replica, lines) if self.loop else []


async def serve(spec: Spec, options: Options, terminal: Terminal) -> None:
    """Serve until SIGINT or SIGTERM: the first drains, the second stops at once. Raises HeadraceError."""
    (host, port), keys = _checked(spec, options), _keys(spec)
    clients = Source(spec.gateway.keys, os.environ, terminal.say) if spec.gateway.keys else None
    remark = options.remark + (" (with a key: -H 'Authorization: Bearer …')" if clients else "")
    stop = Stop(terminal)
    view = View()
    admin = Admin(view, spec.aliases, view)
    limits = Limits(spec.gateway.queue.limit, spec.gateway.queue.wait, spec.gateway.body, connections())
    loading = [ModelStatus(name, None, "loading", "its weights are being fetched") for name in spec.models]
    gateway = Gateway(limits, loading, spec.aliases, admin.app, trusted=options.insecure)
    admin.gateway = gateway
    gateway.keys = clients.first() if clients else None
    Dashboard(Sight(admin, view, history_of(spec))).mount()
    address = "http://" + _authority(*await gateway.listen(host, port))
    following = asyncio.create_task(follow(clients, gateway)) if clients else None
    try:
        planned = await stop.unless(prepared(spec, terminal, options.lock, offline=options.offline))
        if planned is not None:
            terminal.say(explain(planned))
            announcer = _Announcer(terminal, planned, address, remark)
            moves = graduations(spec, options.lock, address, terminal, offline=options.offline)
            admin.graduations.keyed = clients is not None
            await _run(spec, planned, keys, gateway, view, stop, announcer, moves, admin.graduations)
    finally:
        gateway.close()
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked(spec: Spec, options: Options) -> tuple[str, int]:
    """Where to listen, when that is allowed and everything that is needed is installed. Raises UsageError, PlanError."""
    if spec.elsewhere is not None:
        raise PlanError(
            f"machine: {spec.elsewhere} is to be planned for, and models are served on this machine only.",
            "Write machine: auto to serve here; headrace plan answers for the other.",
        )
    way = "Make some (headrace key add --name NAME), listen on 127.0.0.1, or say --insecure when something else guards it."
    keys = spec.gateway.keys is not None
    host, port = guarded(options.listen or spec.gateway.listen, way, keys=keys, insecure=options.insecure)
    languages = any(model.source and model.engine_name in ("auto", "llamacpp") for model in spec.models.values())
    if languages and not here(spec).general and not artifacts(spec):
        raise UsageError("No engine is installed that serves language models.", "Run: pip install 'headrace[local]'")
    return host, port


async def _run(
    spec: Spec,
    planned: Plan,
    keys: Mapping[str, str],
    gateway: Gateway,
    view: View,
    stop: Stop,
    announcer: "_Announcer",
    moves: Graduations,
    asked: Asked,
) -> None:
    # Sockets go into a folder of their own in the system's temporary one, where what a killed Headrace left is swept away.
    cache = Path(spec.weights.cache or default_root())
    logs = _log_folder(spec, announcer.address)
    runs = Path(tempfile.gettempdir())
    starts = ColdStarts(planned, starts_of(spec))
    target = LocalTarget(engines(), runs, keys, logs=logs, compiled=cache / "engines", learned=starts.learned)
    history = History(history_of(spec), announcer.terminal.say)
    drain, rules = max(spec.gateway.drain, LONGEST_ANSWER), Rules(min(PATIENCE, spec.gateway.queue.wait / 4))
    loop = view.loop = moves.loop = Loop(
        planned, target, gateway, announcer.heard, drain, starts=starts.seconds, rules=rules, recorder=history, mover=moves
    )
    moves.recover()
    asked.graduations = moves
    task = asyncio.create_task(loop.run())
    gc.collect()
    gc.freeze()  # what lives until the end is not looked at again and again
    try:
        await stop.first(task, announcer.failed)
        if stop.asked:
            await stop.unless(_drained(gateway, spec.gateway.drain, announcer.terminal), again=True)
    finally:
        gateway.close()
        task.cancel()
        await moves.close()
        await asyncio.gather(task, return_exceptions=True)  # what it failed with was raised by `first`
        await stop.unless(target.close(), again=True)  # engines that are not gone by then die with us
        history.close()
    if announcer.failed.is_set():
        raise ReplicaError("No model could be started.", announcer.reasons())


def _log_folder(spec: Spec, address: str) -> Path:
    """Where logs outlive the run: in the cache, by port; elsewhere where that cannot be written."""
    folder = Path(spec.weights.cache or default_root(), "logs", address.rpartition(":")[2])
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="headrace-logs-"))


def _keys(spec: Spec) -> dict[str, str]:
    """The API keys of servers that are not ours, by model, from the environment. Raises UsageError for one that is not set."""
    keys = {}
    for name, model in spec.models.items():
        if model.key is not None:
            variable = model.key.removeprefix("env:")
            if variable not in os.environ:
                raise UsageError(f"models.{name}.key: the environment has no {variable}.", f"Set it: export {variable}=…")
            keys[name] = os.environ[variable]
    return keys


async def _drained(gateway: Gateway, seconds: float, terminal: Terminal) -> None:
    running = sum(len(model.exchanges) for model in gateway.models.values())
    if running:
        limit = show_duration(seconds)
        terminal.say(f"Draining: {running} requests may finish within {limit}. Press Ctrl-C again to stop at once.")
    unfinished = await gateway.drain(seconds)
    terminal.say(f"Stopped; {unfinished} requests were not finished." if unfinished else "Stopped; every request was answered.")


class _Announcer:
    """Tells the user what becomes of the models; `failed` when none could be started."""

    def __init__(self, terminal: Terminal, planned: Plan, address: str, remark: str) -> None:
        self.terminal = terminal
        self.failed = asyncio.Event()
        self._tasks: dict[str, Task | None] = {model.name: model.task for model in planned.models}
        self.address = address
        self._remark = remark
        self._began = monotonic()
        self._statuses: dict[str, ModelStatus] = {}
        self._welcomed = False

    def heard(self, statuses: Sequence[ModelStatus]) -> None:
        """The statuses after a look of the control loop."""
        for status in statuses:
            old = self._statuses.get(status.model)
            self._statuses[status.model] = status
            if old is None or old.phase != status.phase or self._failing(status, old):
                self._changed(status, old)
        phases = {status.phase for status in statuses}
        on_its_way = any(status.phase == "loading" and "failed" not in status.reason for status in statuses)
        if not self._welcomed and phases & {"ready", "asleep"} and not on_its_way:
            self._welcomed = True
            self.terminal.say(self._welcome())
        if not self._welcomed and phases == {"failed"}:
            self.failed.set()

    def reasons(self) -> str:
        """Why each model failed."""
        return "\n".join(f"{name}: {status.reason}" for name, status in self._statuses.items())

    def _failing(self, status: ModelStatus, old: ModelStatus | None) -> bool:
        """A replica failed and will be started again: worth a line, for it may be all that the user ever sees."""
        return status.phase != "failed" and "failed" in status.reason and (old is None or old.reason != status.reason)

    def _changed(self, status: ModelStatus, old: ModelStatus | None) -> None:
        if status.phase == "asleep" and old is None:
            return  # the plan has said it
        if status.phase == "ready" and not self._welcomed:
            self.terminal.say(f"{status.model} is ready after {show_duration(monotonic() - self._began)}.")
        elif status.phase != "loading" or old is not None:
            self.terminal.say(f"{status.model} is {status.phase}: {status.reason}")

    def _welcome(self) -> str:
        name, task = next(iter(self._tasks.items()))
        return f"""
Listening on {self.address}/v1 (OpenAI's API). Try:{self._remark and " " + self._remark}

  {_example(self.address, name, task)}

Ctrl-C drains and stops; headrace status and headrace logs {name} tell more."""


def _example(address: str, name: str, task: Task | None) -> str:
    path, body = {
        "embed": ("/v1/embeddings", f'{{"model": "{name}", "input": "Explain what a queue is."}}'),
        "rerank": ("/v1/rerank", f'{{"model": "{name}", "query": "queue", "documents": ["a line of people", "a river"]}}'),
        "infer": (f"/v1/models/{name}:predict", '{"instances": [ … ]}'),
    }.get(task or "generate", ("/v1/chat/completions", _chat(name)))
    return f"curl {address}{path} -H 'Content-Type: application/json' -d '{body}'"


def _chat(name: str) -> str:
    message = '{"role": "user", "content": "Explain what a queue is, briefly."}'
    return f'{{"model": "{name}", "messages": [{message}], "max_tokens": 120}}'


def run(spec: Spec, options: Options, terminal: Terminal) -> None:
    """Serve on the fastest event loop there is."""
    foreground.run(serve(spec, options, terminal))
