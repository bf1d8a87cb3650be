"""What is no language model → its placement: engine, task, slots, batching and the memory it is given, each with its reason."""

from dataclasses import dataclass, replace
from typing import Any

from headrace.engines.base import Placement
from headrace.facts.artifact import ENGINES, Artifact
from headrace.plan.base import Decision, PlannedModel
from headrace.plan.here import Here
from headrace.plan.ranges import Size, most, scale_of
from headrace.spec.engines import CustomOptions, TritonOptions
from headrace.spec.model import ModelSpec
from headrace.traffic import Task
from headrace.units import show_bytes, show_duration

LOADED_FACTOR = 2
"""Memory per byte of a file: arrays are often kept as read and as used. An estimate; `memory` in the file says better."""
UNBATCHED_SLOTS = 32


@dataclass(frozen=True, slots=True)
class Occupied:
    """A model with its placements, and what they take."""

    model: PlannedModel
    size: Size


def placed(name: str, model: ModelSpec, artifact: Artifact, here: Here) -> Occupied | str:
    """The model as it is run, or why it cannot be. It gets a thread for its work: language models have the cores' use."""
    engine = _engine(model, artifact, here)
    if isinstance(engine, str):
        return engine
    task = _task(model, artifact)
    if isinstance(task, str):
        return task
    options, decisions = _options(engine.value, model, artifact)
    if isinstance(options, str):
        return options
    slots = _slots(model, artifact, options)
    placement = Placement(
        name,
        engine.value,
        _TASKS[task.value],
        artifact.path,
        context=0,
        slots=int(slots.value),
        threads=1,
        memory_bytes=0,
        options=options,
        python=here.installed[engine.value].python,
        also=artifact.also,
    )
    copies = int(options.get("instances", 1))
    memory = _memory(model, copies * artifact.bytes, here.engines[engine.value].overhead(None, placement))
    placement = replace(placement, memory_bytes=int(memory.value))
    shown = Decision("memory", show_bytes(placement.memory_bytes), memory.reason)
    version = (here.version(engine.value),) if engine.value != "custom" else ()  # which has Headrace's
    start = here.start(engine.value, artifact.path)
    told = (task, engine, *version, slots, *decisions, *start, shown)
    scale, copies = scale_of(model), most(model)
    runs = (placement,) * copies
    planned = PlannedModel(name, placement.task, None, runs, placement.slots, told, also=artifact.also, scale=scale)
    return Occupied(planned, Size(name, placement.memory_bytes, copies if scale is None else scale.least, copies))


_TASKS: dict[str, Task] = {"generate": "generate", "embed": "embed", "rerank": "rerank", "infer": "infer"}


def _engine(model: ModelSpec, artifact: Artifact, here: Here) -> Decision | str:
    """The engine asked for, or the one for such a file; or why it cannot serve."""
    usual = ENGINES.get(artifact.format, "triton")
    name = usual if model.engine_name == "auto" else model.engine_name
    if name not in ("custom", "triton") or (name == "custom" and usual == "triton"):
        return f"{name} cannot serve {artifact.path}, a {artifact.format} file. Write engine: {usual}."
    if missing := here.missing(name):
        return missing
    why = "asked for" if model.engine_name != "auto" else f"serves {artifact.format} files"
    return Decision("engine", name, why)


def _task(model: ModelSpec, artifact: Artifact) -> Decision | str:
    if model.task == "auto":
        return Decision("task", artifact.tasks[0], "what it can do" if artifact.format == "python" else "tensors in and out")
    if model.task not in artifact.tasks and artifact.format == "python":
        can = " and ".join(artifact.tasks)
        return f"task {model.task} is asked for, and the class in {artifact.path} can {can}. Add the method, or change the task."
    return Decision("task", model.task, "asked for")


def _options(engine: str, model: ModelSpec, artifact: Artifact) -> tuple[dict[str, Any] | str, tuple[Decision, ...]]:
    """(`Placement.options`, what was decided about batching); text in place of the options says why it cannot be."""
    if engine == "triton":
        triton = model.options(TritonOptions)
        if artifact.format == "pickle" and not triton.pickle:
            return (
                f"{artifact.path} may be a pickle, which can run any code when it is loaded. Save it with skops, or write "
                "engine: {triton: {pickle: true}} if it is your own.",
                (),
            )
        options = {
            "kind": {"skops": "sklearn", "pickle": "sklearn"}.get(artifact.format, artifact.format),
            "batch": triton.batch,
            "delay_seconds": triton.delay,
            "queue": triton.queue,
            "instances": triton.instances,
            "pickle": triton.pickle,
            "class": triton.class_ or "",
            "trusted": triton.trusted,
        }
        return options, (_batching(triton.batch, triton.delay),)
    custom = model.options(CustomOptions)
    folder = custom.folder or ""
    if custom.command:
        return {"command": custom.command, "ready": custom.ready, "speaks": custom.speaks, "folder": folder}, ()
    options = {
        "class": custom.class_ or "",
        "batch": custom.batch,
        "delay_seconds": custom.delay,
        "limit_seconds": custom.limit,
        "folder": folder,
    }
    return options, (_batching(custom.batch, custom.delay),)


def _batching(batch: int, delay: float) -> Decision:
    return Decision("batch", str(batch), f"inputs computed together; the first waits {show_duration(delay)} at most for others")


def _slots(model: ModelSpec, artifact: Artifact, options: dict[str, Any]) -> Decision:
    if model.slots != "auto":
        return Decision("slots", str(model.slots), "asked for")
    batch, instances = int(options.get("batch", 0)), int(options.get("instances", 1))
    if not batch:
        return Decision("slots", str(UNBATCHED_SLOTS), "a server of your own: how much it takes at once is not known")
    most = 2 * batch * instances
    return Decision("slots", str(most), "two batches: one is computed while the next one fills")


def _memory(model: ModelSpec, file_bytes: int, overhead: int) -> Decision:
    """Bytes as `value`; `file_bytes` are those of all copies in the process."""
    if model.memory is not None:
        return Decision("memory", str(model.memory), "asked for")
    loaded = LOADED_FACTOR * file_bytes
    why = f"an estimate: {LOADED_FACTOR} x the file's {show_bytes(file_bytes)} + runtime {show_bytes(overhead)}"
    return Decision("memory", str(loaded + overhead), f"{why}; `memory` in the file says better")
