"""What logs of vLLM's starts have taught, kept in the cache folder: read by plans, written by --learn, removed by --forget."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from headrace.errors import PlanError, UsageError
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.offer import Knowledge
from headrace.plan.speed_constants import SpeedConstants
from headrace.plan.vllm.constants import Constants, VersionConstants
from headrace.plan.vllm.constants import parse as parse_constants
from headrace.plan.vllm.learn import correct, learn
from headrace.plan.vllm.learned import entry, merged, with_entries
from headrace.terminal import Terminal

_FORGET = "headrace plan --forget removes it."
_HEAD = f"# What `headrace plan --learn` has read in logs of vLLM's starts, in bytes; {_FORGET}\n"


def place(root: str) -> Path:
    """The file, below the cache folder `root`."""
    return Path(root) / "learned" / "vllm.yaml"


def knowledge(root: str) -> Knowledge:
    """What was measured of vLLM, with what was learned here. Raises UsageError for a file that is not ours any more."""
    constants = parse_constants(measured("vllm"))
    try:
        constants = with_entries(constants, _entries(root))
    except PlanError as mistake:
        raise UsageError(f"{place(root)}: {mistake}", _FORGET) from None
    return Knowledge(constants, SpeedConstants.from_mapping(measured("speed")))


def learned(
    log: Path, root: str, facts: Mapping[str, ModelFacts], machines: tuple[Machine, ...], terminal: Terminal
) -> Knowledge:
    """With what this log teaches of its version and card, which is kept. Raises UsageError."""
    if len(facts) != 1 or len({gpu.name for one in machines for gpu in one.gpus}) != 1:
        raise UsageError("--learn needs one model on one kind of GPU: those that the log is of.")
    known, gpu = knowledge(root), machines[0].gpus[0]
    taught = _taught(log, next(iter(facts.values())), gpu.name, gpu.memory_bytes, known.memory)
    kept = merged(_entries(root), entry(taught))
    terminal.say(f"Corrected for vLLM {taught.version} on {gpu.name} by {log}.")
    _keep(place(root), kept, gpu.name, terminal)
    return replace(known, memory=with_entries(known.memory, kept), version=taught.version)


def forget(root: str) -> str:
    """Remove what was learned; what that was, in words. Raises UsageError."""
    try:
        place(root).unlink()
    except FileNotFoundError:
        return f"Nothing was learned: there is no {place(root)}."
    except OSError as error:
        raise UsageError(f"{place(root)} cannot be removed: {error.strerror}.") from None
    return f"Forgotten: {place(root)} is removed, and plans are made with the constants that Headrace ships."


def _taught(log: Path, facts: ModelFacts, card: str, gpu_bytes: int, constants: Constants) -> VersionConstants:
    try:
        said = learn(log.read_text("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"{log} cannot be read: {error.strerror}.") from None
    if said.pipeline_parallel > 1:
        raise UsageError(f"{log} is of a pipeline, whose GPUs hold different parts: nothing is learned from it.")
    taught = correct(said, facts, card, gpu_bytes, constants, log.name)
    if taught is None:
        what = "It needs the version, `Model loading took`, and `Available KV cache memory`."
        raise UsageError(f"{log} does not say enough of a start of vLLM.", what)
    return taught


def _entries(root: str) -> Any:
    """What the file says; an empty list where there is none. Raises PlanError."""
    try:
        return yaml.safe_load(place(root).read_text("utf-8")) or []
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise PlanError(f"It cannot be read: {' '.join(str(error).split())}.") from None


def _keep(file: Path, kept: list[Mapping[str, Any]], card: str, terminal: Terminal) -> None:
    """A folder that cannot be written is no reason not to plan."""
    text = _HEAD + yaml.safe_dump([dict(one) for one in kept], sort_keys=False, width=130)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}.new")
        draft.write_text(text, "utf-8")
        os.replace(draft, file)
    except OSError as error:
        terminal.say(f"{file} could not be written: {error.strerror}. Only this plan is corrected.")
    else:
        terminal.say(f"Kept in {file}: later plans for {card} use it; {_FORGET}")
