"""What an engine is: how a server is started and read. One frozen value per engine, in a file of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.facts.model import ModelFacts
from headrace.traffic import Task


@dataclass(frozen=True, slots=True)
class Placement:
    """One replica of one model on a share of a machine.

    `weights` is the path of the file or folder to load, `context` tokens per request, `slots` requests at once,
    `threads` CPU threads, `memory_bytes` what the plan expects it to take, `options` the engine's own settings,
    complete.
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


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a replica, whatever starts it.

    `argv[0] == "python"` means the interpreter that runs Headrace. `environment` is added to the inherited one. The
    replica's API key, made by the target, is passed in the variable named `key_variable` and appears nowhere else.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    key_variable: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine reports of itself at one moment. None is unknown, which is not zero."""

    running: int | None = None
    waiting: int | None = None
    tokens_in_total: int | None = None
    tokens_out_total: int | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine, as data and four pure functions.

    `refuse(facts, task)` gives the reason why the engine cannot serve the model, or None. `overhead(facts, placement)`
    is the memory in bytes beyond weights and KV cache. `launch(placement, address)` starts a replica that listens on
    `address` (`unix:/path.sock` or `http://127.0.0.1:port`). `read(page, model)` reads its metrics page (Prometheus
    text).
    """

    name: str
    formats: tuple[str, ...]
    ready_path: str
    metrics_path: str
    folds: bool
    """Notices a lost client only while it streams (see `Endpoint.folds`)."""
    sockets: bool
    """Can listen on a Unix socket; otherwise on a loopback port."""
    refuse: Callable[[ModelFacts, Task], str | None]
    overhead: Callable[[ModelFacts, Placement], int]
    launch: Callable[[Placement, str], Launch]
    read: Callable[[str, str], Reading]
