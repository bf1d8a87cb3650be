"""The settings of each engine for one model on this machine, each with its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.facts.hardware import Machine
from headrace.plan.base import Decision
from headrace.spec.engines import LlamaCppOptions, OpenVinoOptions, TritonOptions, VllmOptions
from headrace.spec.model import ModelSpec
from headrace.traffic import Task

BUSY_SHARE = 0.25
"""Part of the cores in use by others from which spinning threads stop paying."""

# benchmarks/openmp.py: SmolLM2-135M, 2 threads on 2 cores, one client; threads that spin on came to 2.8 on shared cores.
_SPIN_LOSES = "threads that sleep at once gave 55 tokens/s against 28 for those that spin briefly, measured on shared cores"
_SPIN_WINS = "threads that spin briefly gave 103 tokens/s against 44 for those that sleep at once, measured on free cores"


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is started with: `threads`, the number format and `batch` that its memory depends on, further `options`
    by the names of `Placement.options`, and the decisions that led there.
    """

    threads: int
    cache_type: str
    batch: int
    options: Mapping[str, Any]
    decisions: tuple[Decision, ...]


def settings(engine: str, model: ModelSpec, machine: Machine, replicas: int, context: int, task: Task) -> Settings:
    """The settings of `engine`; `replicas` are those of all local models, which share the cores."""
    return _SETTINGS.get(engine, _plain)(model, machine, replicas, context, task)


def _llamacpp(model: ModelSpec, machine: Machine, replicas: int, context: int, task: Task) -> Settings:
    options = model.options(LlamaCppOptions)
    threads = _threads(options.threads, machine, replicas)
    wait = _wait(options.wait, machine, replicas)
    batch = _batch(options.batch, context, task)
    cache = Decision("cache_type", options.cache_type, _CACHE[options.cache_type])
    kept: dict[str, Any] = {"wait": wait.value, "batch": int(batch.value), "cache_type": cache.value}
    if sleep := _sleep(model):
        kept["sleep"] = int(sleep.value)
    return Settings(
        int(threads.value), cache.value, int(batch.value), kept, (threads, wait, batch, cache, *filter(None, (sleep,)))
    )


def _openvino(model: ModelSpec, machine: Machine, replicas: int, context: int, task: Task) -> Settings:
    options = model.options(OpenVinoOptions)
    threads = _threads(options.threads, machine, replicas)
    batch = Decision("batch", str(options.batch), "tokens computed in one step")
    cache = Decision("cache_type", "u8", _CACHE["u8"])
    return Settings(int(threads.value), "u8", options.batch, {"batch": options.batch}, (threads, batch, cache))


def _vllm(model: ModelSpec, machine: Machine, replicas: int, context: int, task: Task) -> Settings:
    options = model.options(VllmOptions)
    threads = _threads("auto", machine, replicas)
    wide = options.dtype == "float32"
    cache = Decision("cache_type", "f32" if wide else "f16", _CACHE["f32" if wide else "f16"])
    step = ("--max-num-batched-tokens", str(options.batch)) if options.batch else ()
    batch = (Decision("batch", str(options.batch), "tokens computed in one step"),) if options.batch else ()
    kept = {"args": (*step, *options.args), "dtype": options.dtype, "device": "cpu"}
    return Settings(int(threads.value), cache.value, 0, kept, (threads, *batch, cache))


def _triton(model: ModelSpec, machine: Machine, replicas: int, context: int, task: Task) -> Settings:
    """A GGUF in Triton: llama.cpp in a process of its Python backend."""
    options = model.options(TritonOptions)
    threads = _threads("auto", machine, replicas)
    kept = {"kind": "gguf", "batch": 1, "delay_seconds": options.delay, "queue": options.queue, "instances": 1}
    return Settings(int(threads.value), "f16", 512, kept, (threads, Decision("cache_type", "f16", _CACHE["f16"])))


def _plain(model: ModelSpec, machine: Machine, replicas: int, context: int, task: Task) -> Settings:
    threads = _threads("auto", machine, replicas)
    return Settings(int(threads.value), "f16", 0, {}, (threads,))


_SETTINGS: Mapping[str, Callable[[ModelSpec, Machine, int, int, Task], Settings]] = {
    "llamacpp": _llamacpp,
    "openvino": _openvino,
    "vllm": _vllm,
    "triton": _triton,
}
_CACHE: Mapping[str, str] = {
    "f32": "32 bits per cached number",
    "f16": "16 bits per cached number",
    "q8_0": "8.5 bits per cached number",
    "u8": "8 bits per cached number, as OpenVINO keeps it on a CPU",
    "q4_0": "4.5 bits per cached number",
}


def _threads(asked: int | str, machine: Machine, replicas: int) -> Decision:
    if isinstance(asked, int) and asked <= machine.cores:
        return Decision("threads", str(asked), "asked for")
    if isinstance(asked, int):
        why = f"{asked} asked for, but more threads than the {machine.cores} usable cores stall one another"
        return Decision("threads", str(machine.cores), why)
    shared = f" shared by {replicas} replicas" if replicas > 1 else ""
    return Decision("threads", str(max(1, machine.cores // replicas)), f"usable cores: {machine.cores}{shared}")


def _wait(asked: str, machine: Machine, replicas: int) -> Decision:
    if asked != "auto":
        return Decision("wait", asked, "asked for")
    if why := shared(machine, replicas):
        return Decision("wait", "passive", f"{why}; {_SPIN_LOSES}")
    idle = "is unknown" if machine.busy_cores is None else f"is {machine.busy_cores:.1f} of {machine.cores} cores"
    return Decision("wait", "brief", f"the cores are free (use by others {idle}); {_SPIN_WINS}")


def shared(machine: Machine, replicas: int) -> str | None:
    """Why the cores are not one replica's own, or None when they are."""
    if machine.quota:
        return f"a cgroup limits the CPU to {machine.cores} cores"
    if replicas > 1:
        return f"{replicas} replicas share {machine.cores} cores"
    if machine.busy_cores is not None and machine.busy_cores > BUSY_SHARE * machine.cores:
        return f"others use {machine.busy_cores:.1f} of {machine.cores} cores"
    return None


def _sleep(model: ModelSpec) -> Decision | None:
    """For a model that may sleep: when the engine unloads it in its own process, before the process is stopped."""
    if model.share != "swap" and (model.scale.replicas is None or model.scale.replicas[0] > 0):
        return None
    seconds = max(1, int(model.scale.idle / 2))
    return Decision("sleep", str(seconds), "seconds unused until llama.cpp gives its memory back; it loads again in its process")


def _batch(asked: int, context: int, task: Task) -> Decision:
    if task == "embed" and context > asked:
        return Decision("batch", str(context), f"raised from {asked}: an embedding's input must fit in one batch")
    return Decision("batch", str(asked), "tokens computed at once")
