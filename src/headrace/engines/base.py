"""What an engine is: how a server is started and read. One frozen value per engine, in a file of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.facts.model import ModelFacts
from headrace.traffic import Caches, Continues, Speaks, Task


@dataclass(frozen=True, slots=True)
class Bed:
    """What a replica holds while it sleeps in place at `level`: RAM, and of GPUs by UUID."""

    level: int
    memory_bytes: int
    devices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """One replica of one model on a share of a machine.

    `weights` is the path of the file or folder to load, `context` tokens per request (0 where there are none), `slots`
    requests at once, `threads` CPU threads, `memory_bytes` what the plan expects it to take, `options` the engine's own
    settings, complete. `python` is the interpreter of the engine's environment; empty is the one that runs Headrace.
    `devices` are the GPUs that it runs on, by UUID with the bytes that it takes of each; none: it runs on the CPU.
    `adapters` are paths of LoRA adapters by the names that clients call them, `template` is the model's chat template where
    the engine cannot render it, `also` are further names that the engine knows (see `Endpoint.also`).
    `beds` are the ways in which it can sleep in place, the preferred one first, that which holds least last; none: it cannot.
    """

    model: str
    engine: str
    task: Task
    weights: str
    context: int
    slots: int
    threads: int
    memory_bytes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)
    template: str | None = field(default=None, repr=False)
    also: tuple[str, ...] = ()
    devices: Mapping[str, int] = field(default_factory=dict)
    beds: tuple[Bed, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a replica, whatever starts it.

    `argv[0] == "python"` means the interpreter that runs Headrace. `environment` is added to the inherited one; what is
    None there is taken out of it. The replica's API key, made by the target, is passed in the variable named
    `key_variable` and appears nowhere else. `metrics_address` is where its metrics are, when not where it serves. `folder` is
    where it runs, empty: where Headrace does. `tree` says that it starts processes of its own: a supervisor
    (runners/supervisor.py) stays with it, so that none is left behind. `cache_variable` is the variable that names it the folder
    in Headrace's cache where it may keep what it compiles.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    key_variable: str | None = None
    metrics_address: str | None = None
    folder: str = ""
    tree: bool = False
    cache_variable: str = "HEADRACE_ENGINE_CACHE"


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine reports of itself at one moment. None is unknown, which is not zero."""

    running: int | None = None
    waiting: int | None = None
    tokens_in_total: int | None = None
    tokens_out_total: int | None = None
    cache_usage: float | None = None
    """Part of the KV cache in use, 0 to 1."""
    cache_tokens: int | None = None
    """Tokens that the KV cache holds."""


@dataclass(frozen=True, slots=True)
class Installation:
    """How an engine comes onto a machine. It is there when `module` can be found; `distribution` has its version.

    `extra` is the one of Headrace's that brings it into Headrace's own environment. An engine whose dependencies clash with
    others' has `requirements` instead, which `headrace engines install NAME` puts into an environment of its own; an engine
    with neither is nothing that pip can bring: `elsewhere` says where it comes from.
    """

    module: str
    distribution: str
    extra: str | None = None
    requirements: tuple[str, ...] = ()
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine that is here: its version, and the interpreter of its environment (empty: the one that runs Headrace)."""

    version: str
    python: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A POST that a replica must answer with 200: to count as ready, for a server may say it is and be none, or to be changed."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine, as data and pure functions.

    `refuse(facts, task)` gives the reason why the engine cannot serve the model, or None; facts are None for what is no
    language model (code, ONNX, trees). `overhead(facts, placement)` is the memory in bytes beyond weights and KV cache.
    `launch(placement, address)` starts a replica that listens on `address` (`unix:/path.sock` or
    `http://127.0.0.1:port`). `read(page, model)` reads its metrics page (Prometheus text). `warm(placement)` is the first
    request, None where readiness says it all.
    """

    name: str
    title: str
    """As its makers write it."""
    tasks: tuple[Task, ...]
    formats: tuple[str, ...]
    """Of weights, the preferred first."""
    installation: Installation
    ready_path: str
    """Answers 200 when it is ready, 503 (or nothing) while it loads."""
    metrics_path: str | None
    folds: bool
    """Notices a lost client only while it streams (see `Endpoint.folds`)."""
    sockets: Callable[[Placement], bool]
    """Whether it can listen on a Unix socket; otherwise it does on a loopback port."""
    refuse: Callable[[ModelFacts | None, Task], str | None]
    overhead: Callable[[ModelFacts | None, Placement], int]
    launch: Callable[[Placement, str], Launch]
    read: Callable[[str, str], Reading]
    warm: Callable[[Placement], Probe | None] = lambda placement: None
    speaks: Callable[[Placement], Speaks] = lambda placement: "openai"
    continues: Continues | None = None
    """How it goes on with a text that another replica began (see `Endpoint.continues`)."""
    caches: Caches = "blocks"
    """What it keeps of prompts that it has read."""
    ports: int = 1
    """Consecutive loopback ports that it needs, the first to serve."""
    grace_seconds: float = 5.0
    """From SIGTERM to SIGKILL: how long it takes to end once nothing runs."""
    local: bool = True
    """Runs on this machine; otherwise only where containers do."""
    cause: Callable[[Sequence[str]], str | None] = lambda lines: None
    """The line of those that it wrote, oldest first, which says why it ended, where that is not its last one."""
    adapters: bool = False
    """Serves LoRA adapters."""
    adapt: Callable[[Placement, Placement], tuple[tuple[Probe, Placement], ...] | None] = lambda running, wanted: None
    """The requests that bring a replica from one placement to another that differs in adapters only, each with what it runs after
    it; None: it is to be replaced.
    """
    sleep: Callable[[Placement, int], tuple[Probe, ...]] = lambda placement, level: ()
    """The requests that put a replica to sleep in place at one of the levels of its `beds`; it must have nothing to do."""
    wake: Callable[[Placement, int], tuple[Probe, ...]] = lambda placement, level: ()
    """Those that wake it from there."""
    note: str = ""
    """What a user should know before choosing it."""

    def ready(self, placement: Placement) -> str:
        """The path that says whether this replica is ready: the user's own for a server of the user's."""
        return str(placement.options.get("ready") or self.ready_path)
