"""`headrace serve`: weights, facts, plan, gateway, control and target put together, until told to stop."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import tempfile
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

from headrace.artifacts import artifacts
from headrace.control.loop import Loop
from headrace.engines import engines
from headrace.errors import PlanError, ReplicaError, UsageError
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.plan.base import Plan
from headrace.plan.explain import explain
from headrace.prepare import here, prepared, starts_of
from headrace.spec.addresses import host_port
from headrace.spec.model import Spec
from headrace.targets.base import Replica
from headrace.targets.local import LocalTarget
from headrace.terminal import Terminal
from headrace.traffic import ModelStatus, Task
from headrace.units import show_duration
from headrace.weights.cache import default_root

T = TypeVar("T")

_OTHER_FILES = 64
_MOST_FILES = 1_000_000
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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

    def logs(self, replica: str, lines: int) -> list[str]:
        return self.loop.logs(replica, lines) if self.loop else []


async def serve(spec: Spec, options: Options, terminal: Terminal) -> None:
    """Serve until SIGINT or SIGTERM: the first drains, the second stops at once. Raises HeadraceError."""
    (host, port), keys = _checked(spec, options), _keys(spec)
    stop = _Stop(terminal)
    view = View()
    admin = Admin(view, spec.aliases)
    limits = Limits(spec.gateway.queue.limit, spec.gateway.queue.wait, spec.gateway.body, _connections())
    loading = [ModelStatus(name, None, "loading", "its weights are being fetched") for name in spec.models]
    gateway = Gateway(limits, loading, spec.aliases, admin.app, trusted=options.insecure)
    admin.gateway = gateway
    address = "http://" + _authority(*await gateway.listen(host, port))
    try:
        planned = await stop.unless(prepared(spec, terminal, options.lock, offline=options.offline))
        if planned is not None:
            terminal.say(explain(planned))
            await _run(spec, planned, keys, gateway, view, stop, _Announcer(terminal, planned, address, options.remark))
    finally:
        gateway.close()


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked(spec: Spec, options: Options) -> tuple[str, int]:
    """Where to listen, when that is allowed and everything that is needed is installed. Raises UsageError, PlanError."""
    if spec.elsewhere is not None:
        raise PlanError(
            f"machine: {spec.elsewhere} is to be planned for, and models are served on this machine only.",
            "Write machine: auto to serve here; headrace plan answers for the other.",
        )
    for name, model in spec.models.items():
        if model.scale.replicas is not None:
            least, most = model.scale.replicas
            raise PlanError(
                f"models.{name}.replicas: {least}..{most} is a range, which only a cluster scales in.",
                f"Write a number to serve here; headrace render takes {least}..{most}.",
            )
    listen = options.listen or spec.gateway.listen
    try:
        host, port = host_port(listen)
    except ValueError as error:
        raise UsageError(f"--listen: {error}") from None
    if host not in _LOOPBACK and not options.insecure:
        raise UsageError(
            f"The gateway should listen on {listen}: anybody who reaches it could use the models, for there are no keys.",
            "Listen on 127.0.0.1, or say --insecure when something else guards it.",
        )
    languages = any(model.source and model.engine_name in ("auto", "llamacpp") for model in spec.models.values())
    if languages and not here(spec).general and not artifacts(spec):
        raise UsageError("No engine is installed that serves language models.", "Run: pip install 'headrace[local]'")
    return host, port


async def _run(
    spec: Spec, planned: Plan, keys: Mapping[str, str], gateway: Gateway, view: View, stop: "_Stop", announcer: "_Announcer"
) -> None:
    # Sockets go into a folder of their own in the system's temporary one, where what a killed Headrace left is swept away.
    cache = Path(spec.weights.cache or default_root())
    logs = _log_folder(spec, announcer.address)
    runs = Path(tempfile.gettempdir())
    target = LocalTarget(engines(), runs, keys, logs=logs, compiled=cache / "engines", learned=starts_of(spec).keep)
    loop = view.loop = Loop(planned, target, gateway, announcer.heard, spec.gateway.drain)
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
        await asyncio.gather(task, return_exceptions=True)  # what it failed with was raised by `first`
        await stop.unless(target.close(), again=True)  # engines that are not gone by then die with us
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


class _Stop:
    """SIGINT, SIGTERM and SIGHUP as events: the first asks to drain, the second to stop at once."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)

    @property
    def asked(self) -> bool:
        return self._first.is_set()

    def _signalled(self) -> None:
        if self._first.is_set():
            self._terminal.say("Stopping at once.")
            self._second.set()
        self._first.set()

    async def first(self, task: asyncio.Task[None], failed: asyncio.Event) -> None:
        """Return when asked to stop or when nothing could be started; raises what `task` failed with."""
        waits = [asyncio.create_task(self._first.wait()), asyncio.create_task(failed.wait())]
        done, _ = await asyncio.wait((task, *waits), return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if task in done:
            task.result()

    async def unless(self, work: Awaitable[T], *, again: bool = False) -> T | None:
        """What `work` gives, or None when asked to stop before (with `again`: asked a second time)."""
        task = asyncio.ensure_future(work)
        asked = asyncio.create_task((self._second if again else self._first).wait())
        await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None


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
        if not self._welcomed and "ready" in phases and not on_its_way:
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


def _connections() -> int:
    """How many clients may be connected: each may need a second descriptor at an engine, and some are for everything else.

    The usual soft limit of files is 1,024: it is raised to all that the system allows.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 500
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, _MOST_FILES)
    return max(8, (files - _OTHER_FILES) // 2)


def run(spec: Spec, options: Options, terminal: Terminal) -> None:
    """Serve on the fastest event loop there is."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("headrace").setLevel(logging.INFO)  # every change of control, with its reason
    try:
        import uvloop
    except ImportError:  # Windows, and platforms without a wheel
        asyncio.run(serve(spec, options, terminal))
    else:
        uvloop.run(serve(spec, options, terminal))
