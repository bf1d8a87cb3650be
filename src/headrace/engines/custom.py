"""Code of the user's own: a Python class in a server of ours, or a command that starts a server of theirs."""

import json
from collections.abc import Mapping
from typing import Any

from headrace.engines import own
from headrace.engines.base import Engine, Installation, Launch, Placement
from headrace.facts.model import ModelFacts
from headrace.traffic import Speaks, Task

RUNTIME_BYTES = 60_000_000
"""The server with a class that does nothing, after requests: 56 MB measured with Python 3.11 and numpy 2.4 on x86-64."""

DEFAULTS: Mapping[str, Any] = {"class": "", "batch": 8, "delay_seconds": 0.005, "limit_seconds": 60.0}
"""Options of a class that a placement leaves out."""


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Nothing: code says itself what it can do (see `custom_code.py`)."""
    return None


def overhead(facts: ModelFacts | None, placement: Placement) -> int:
    """What the server around a class takes. What the class itself loads is not known, nor what a command takes."""
    return 0 if _command(placement) else RUNTIME_BYTES


def sockets(placement: Placement) -> bool:
    """A command listens on a Unix socket when it has a place for its path."""
    command = _command(placement)
    return not command or any("{socket}" in word for word in command)


def speaks(placement: Placement) -> Speaks:
    """What the command says it understands; a class understands OpenAI's API, or V2 where it predicts."""
    said: Speaks = placement.options.get("speaks", "openai")
    if _command(placement):
        return said
    return "v2" if placement.task == "infer" else "openai"


def launch(placement: Placement, address: str) -> Launch:
    """The command as it is, with its places filled in; else `headrace.runners.custom` with its spec as JSON.

    A command gets its key as ENGINE_KEY, which it may ask of whoever connects.
    """
    folder = str(placement.options.get("folder") or "")
    # What numpy's and torch's own libraries take as their number of threads: all cores each, unless told.
    environment = {"OMP_NUM_THREADS": str(placement.threads)}
    if command := _command(placement):
        words = tuple(_filled(word, address) for word in command)
        program = placement.python or "python" if words[0] == "python" else words[0]
        return Launch((program, *words[1:]), environment, key_variable="ENGINE_KEY", folder=folder, tree=True)
    options = {name: placement.options.get(name, value) for name, value in DEFAULTS.items()}
    about = {"name": placement.model, "model": placement.weights, "address": address, "task": placement.task, "folder": folder}
    argv = (placement.python or "python", "-P", "-m", "headrace.runners.custom", json.dumps(options | about, sort_keys=True))
    return Launch(argv, environment, key_variable="ENGINE_KEY")


def _command(placement: Placement) -> tuple[str, ...]:
    return tuple(placement.options.get("command", ()))


def _filled(word: str, address: str) -> str:
    """Other braces are the user's: no str.format."""
    if address.startswith("unix:"):
        return word.replace("{socket}", address.removeprefix("unix:"))
    host, _, port = address.removeprefix("http://").rpartition(":")
    return word.replace("{host}", host).replace("{port}", port)


ENGINE = Engine(
    name="custom",
    title="custom code",
    tasks=("infer", "generate", "embed", "rerank"),
    formats=("python",),
    installation=Installation("headrace", "headrace", elsewhere="It comes with Headrace."),
    ready_path="/health",
    metrics_path="/metrics",
    folds=False,
    sockets=sockets,
    refuse=refuse,
    overhead=overhead,
    launch=launch,
    read=own.read,
    speaks=speaks,
    note="runs Python of your own: a class with predict, chat, embed or rerank, or any command that serves HTTP",
)
