"""What one model runs with, before memory has its say: engine, task, context, slots, threads; each with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.engines.base import Engine
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.base import Decision
from headrace.spec.model import ModelSpec
from headrace.traffic import Task

LONGEST_AUTO_CONTEXT = 4096
LOCAL_SLOTS = 4
SERVER_SLOTS = 256
BUSY_SHARE = 0.25
"""Part of the cores in use by others from which spinning threads stop paying."""

# Measured with SmolLM2-135M, 2 threads on 2 cores, one client: xllamacpp 2026.10, HTTP and SSE.
_SPIN_LOSES = "spinning threads gave 2.3 tokens/s against 29.8 for sleeping ones when measured on shared cores"
_SPIN_WINS = "spinning threads gave 75.6 tokens/s against 33.7 for sleeping ones when measured on free cores"


@dataclass(frozen=True, slots=True)
class Draft:
    """One local model with everything chosen but the memory. `fixed` says that the user set the context."""

    name: str
    facts: ModelFacts
    weights: str
    engine: Engine
    task: Task
    replicas: int
    context: int
    fixed: bool
    slots: int
    threads: int
    wait: str
    batch: int
    cache_type: str
    decisions: tuple[Decision, ...]


def task(model: ModelSpec, facts: ModelFacts) -> Decision:
    """generate or embed, as `value`."""
    if model.task != "auto":
        return Decision("task", model.task, "asked for")
    if facts.encoder:
        return Decision("task", "embed", f"{facts.architecture} is an encoder, which embeds and cannot generate")
    return Decision("task", "generate", f"{facts.architecture} is a decoder; set `task: embed` to embed with it")


def engine(model: ModelSpec, facts: ModelFacts, task: Task, engines: Mapping[str, Engine]) -> Decision | str:
    """The engine by name, or why there is none. auto: the first that does not refuse."""
    names = list(engines) if model.engine_name == "auto" else [model.engine_name]
    refused = []
    for name in names:
        reason = engines[name].refuse(facts, task) if name in engines else "it is not installed"
        if reason is None:
            asked = model.engine_name != "auto"
            return Decision("engine", name, "asked for" if asked else f"can {task} with {facts.format} weights")
        refused.append(f"{name}: {reason.rstrip('.')}")
    return f"no engine can {task} with it ({'; '.join(refused)})."


def draft(
    name: str,
    model: ModelSpec,
    facts: ModelFacts,
    weights: str,
    machine: Machine,
    engines: Mapping[str, Engine],
    replicas: int,
) -> Draft | str:
    """Everything but the memory for one model, or why it cannot be served. `replicas` are those of all local models."""
    chosen_task = task(model, facts)
    what: Task = "embed" if chosen_task.value == "embed" else "generate"
    chosen_engine = engine(model, facts, what, engines)
    if isinstance(chosen_engine, str):
        return chosen_engine
    if problem := _too_long(model, facts):
        return problem
    options = model.llamacpp
    context = _context(model, facts, what)
    slots = _slots(model, LOCAL_SLOTS, "batching more on a CPU gains little, and a burst of prompts delays every first token")
    threads = _threads(options.threads, machine, replicas)
    wait = _wait(options.wait, machine, replicas)
    batch = _batch(options.batch, int(context.value), what)
    cache = _cache(options.cache_type)
    return Draft(
        name=name,
        facts=facts,
        weights=weights,
        engine=engines[chosen_engine.value],
        task=what,
        replicas=model.replicas,
        context=int(context.value),
        fixed=model.context != "auto",
        slots=int(slots.value),
        threads=int(threads.value),
        wait=wait.value,
        batch=int(batch.value),
        cache_type=cache.value,
        decisions=(chosen_task, chosen_engine, context, slots, threads, wait, batch, cache),
    )


def servers(model: ModelSpec) -> tuple[Decision, ...]:
    """The decisions for servers that run already."""
    return (
        Decision("task", "embed" if model.task == "embed" else "generate", _asked(model.task, "generate is the default")),
        Decision("replicas", str(len(model.url)), "one per address in `url`"),
        _slots(model, SERVER_SLOTS, "the servers queue by themselves past what they can run at once"),
    )


def _asked(value: object, default: str) -> str:
    return default if value == "auto" else "asked for"


def _too_long(model: ModelSpec, facts: ModelFacts) -> str | None:
    if model.context == "auto" or facts.context is None or model.context <= facts.context:
        return None
    return f"context {model.context} is more than the {facts.context} tokens that the model was made for. Lower it."


def _context(model: ModelSpec, facts: ModelFacts, task: Task) -> Decision:
    if model.context != "auto":
        return Decision("context", str(model.context), "asked for")
    bound = model.llamacpp.batch if task == "embed" else LONGEST_AUTO_CONTEXT
    limit = "the model does not say its limit" if facts.context is None else f"the model's limit is {facts.context}"
    if facts.context is not None and facts.context <= bound:
        return Decision("context", str(facts.context), "the model's limit")
    if task == "embed":
        return Decision("context", str(bound), f"the longest input that fits in a batch of {bound}; {limit}")
    return Decision("context", str(bound), f"the most that is taken without asking; {limit}")


def _slots(model: ModelSpec, default: int, why: str) -> Decision:
    if model.slots != "auto":
        return Decision("slots", str(model.slots), "asked for")
    return Decision("slots", str(default), why)


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
    if why := _shared(machine, replicas):
        return Decision("wait", "passive", f"{why}; {_SPIN_LOSES}")
    idle = "is unknown" if machine.busy_cores is None else f"is {machine.busy_cores:.1f} of {machine.cores} cores"
    return Decision("wait", "active", f"the cores are free (use by others {idle}); {_SPIN_WINS}")


def _shared(machine: Machine, replicas: int) -> str | None:
    """Why the cores are not one replica's own, or None when they are."""
    if machine.quota:
        return f"a cgroup limits the CPU to {machine.cores} cores"
    if replicas > 1:
        return f"{replicas} replicas share {machine.cores} cores"
    if machine.busy_cores is not None and machine.busy_cores > BUSY_SHARE * machine.cores:
        return f"others use {machine.busy_cores:.1f} of {machine.cores} cores"
    return None


def _batch(asked: int, context: int, task: Task) -> Decision:
    if task == "embed" and context > asked:
        return Decision("batch", str(context), f"raised from {asked}: an embedding's input must fit in one batch")
    return Decision("batch", str(asked), "tokens computed at once")


def _cache(asked: str) -> Decision:
    why = {
        "f16": "16 bits per cached number",
        "q8_0": "8.5 bits per cached number",
        "q4_0": "4.5 bits per cached number",
    }
    return Decision("cache_type", asked, why[asked])
