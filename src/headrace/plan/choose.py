"""What one model runs with, before memory has its say: engine, task, context, slots, threads; each with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.engines.base import Engine
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import intent
from headrace.plan.base import Decision, Scale
from headrace.plan.here import Here
from headrace.plan.local_speed import Rates
from headrace.plan.settings import Settings, settings
from headrace.spec.model import ModelSpec
from headrace.traffic import Task
from headrace.units import show_duration

LONGEST_AUTO_CONTEXT = 4096
LEAST_CONTEXT = 256
"""llama.cpp rounds shorter contexts up to this."""

REPACKED = ("Q4_0", "IQ4_NL", "Q8_0")
"""Shared fact sheet engine-llamacpp.md, section on speed: SmolLM2-135M, Q4_0 against Q4_1, the wheel and a native build."""

LOCAL_SLOTS = 4
MOST_AUTO_SLOTS = 8
_LITTLE = "batching more on a CPU gains little, and a burst of prompts delays every first token"
_BATCHES = ("openvino", "vllm")
_BATCHED = (32, "its throughput was measured to rise up to 32 requests on a CPU, and more delay every first token")
SERVER_SLOTS = 256


@dataclass(frozen=True, slots=True)
class Draft:
    """One local model with everything chosen but the memory.

    `fixed` says that the context is not to be lowered: the user set it, or what the model is for takes `least_context` of it.
    """

    name: str
    facts: ModelFacts
    weights: str
    engine: Engine
    task: Task
    replicas: int
    context: int
    fixed: bool
    least_context: int
    slots: int
    settings: Settings
    python: str
    rates: Rates
    adapters: Mapping[str, str]
    decisions: tuple[Decision, ...]
    scale: Scale | None = None
    """With it `replicas` are the most that there may be."""


def task(model: ModelSpec, facts: ModelFacts) -> Decision:
    """generate or embed, as `value`."""
    if model.task != "auto":
        return Decision("task", model.task, "asked for")
    if facts.encoder:
        return Decision("task", "embed", f"{facts.architecture} is an encoder, which embeds and cannot generate")
    return Decision("task", "generate", f"{facts.architecture} is a decoder; set `task: embed` to embed with it")


def engine(model: ModelSpec, facts: ModelFacts, task: Task, here: Here) -> Decision | str:
    """The engine by name, or why there is none. auto: of those that are here and do not refuse, the fastest measured."""
    if model.engine_name != "auto":
        reason = here.missing(model.engine_name) or here.engines[model.engine_name].refuse(facts, task)
        return f"{model.engine_name} cannot serve it: {reason}" if reason else Decision("engine", model.engine_name, "asked for")
    refused = {name: reason for name in here.general if (reason := here.engines[name].refuse(facts, task))}
    able = [name for name in here.general if name not in refused]
    if not able:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in refused.items())
        return f"no engine here can {task} with it ({reasons})."
    return here.rates.fastest(able, facts, task, model.for_.users)


def draft(
    name: str,
    model: ModelSpec,
    facts: ModelFacts,
    weights: str,
    machine: Machine,
    here: Here,
    replicas: int,
    copies: int = 1,
    scale: Scale | None = None,
) -> Draft | str:
    """Everything but the memory for one model, or why it cannot be served. `replicas` are those of all local models, `copies` the
    most of this one.
    """
    if problem := _not_here(model):
        return problem
    chosen_task = task(model, facts)
    what: Task = "embed" if chosen_task.value == "embed" else "generate"
    chosen_engine = engine(model, facts, what, here)
    if isinstance(chosen_engine, str):
        return chosen_engine
    if problem := _too_long(model, facts, what) or no_adapters(model, here.engines[chosen_engine.value]):
        return problem
    context = _context(model, facts, what)
    slots = _local_slots(model, chosen_engine.value)
    chosen = settings(chosen_engine.value, model, machine, replicas, int(context.value), what)
    version, start = here.version(chosen_engine.value), here.start(chosen_engine.value, weights)
    return Draft(
        name=name,
        facts=facts,
        weights=weights,
        engine=here.engines[chosen_engine.value],
        task=what,
        replicas=copies,
        context=int(context.value),
        fixed=model.context_asked is not None or _tokens(model, what) > 0,
        least_context=max(_tokens(model, what), (model.for_.prompt or 0) + (model.for_.output or 0)),
        slots=int(slots.value),
        settings=chosen,
        python=here.installed[chosen_engine.value].python,
        rates=here.rates,
        adapters={name: text.removeprefix("file:") for name, text in model.adapters.items()},
        decisions=(
            *(chosen_task, chosen_engine, version, *_format(facts, chosen_engine.value), context, slots),
            *(*chosen.decisions, *start, *_unchecked(model)),
        ),
        scale=scale,
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


def _not_here(model: ModelSpec) -> str | None:
    """What the spec asks that is for GPUs, which the engine here does not use; None when there is nothing."""
    problems = []
    if model.quantization not in ("auto", "none"):
        instead = "Write auto, and pick a quantized GGUF by its source: hf:org/name:Q4_K_M."
        problems.append(f"quantization {model.quantization} is for GPUs; here weights are served as they are. {instead}")
    if model.tensor_parallel not in ("auto", 1):
        problems.append(f"tensor_parallel {model.tensor_parallel} is for GPUs; here a replica is one process. Write auto.")
    if model.share not in ("auto", "swap"):
        problems.append(f"share {model.share} is for GPUs; here models share the cores. Write auto, or swap to take turns.")
    return " ".join(problems) or None


def _format(facts: ModelFacts, engine: str) -> tuple[Decision, ...]:
    """That another number format would be faster, for those that llama.cpp does not lay out anew for a CPU."""
    if engine != "llamacpp" or facts.encoder or facts.quantization in REPACKED:
        return ()
    faster = f"{', '.join(REPACKED[:-1])} and {REPACKED[-1]} are laid out for the CPU when they are loaded"
    gain = "1.4 to 1.7 times the speed of Q4_1 with the same model (quality not compared)"
    why = f"as the source has it; {faster}, and gave {gain}"
    return (Decision("format", facts.quantization, why),)


def no_adapters(model: ModelSpec, engine: Engine) -> str | None:
    """Why the adapters that are asked for cannot be had, None when they can."""
    if model.adapters and not engine.adapters:
        return f"adapters {', '.join(model.adapters)} are asked for, and {engine.title} serves none here. Write engine: vllm."
    for name, text in model.adapters.items():
        if not text.startswith("file:"):
            return f"adapters.{name}: {text} is elsewhere, and adapters are taken from this machine only yet. Write file:…"
    return None


def _too_long(model: ModelSpec, facts: ModelFacts, task: Task) -> str | None:
    asked, tokens = model.context_asked, _tokens(model, task)
    if facts.context is None or max(asked or 0, tokens) <= facts.context:
        return None
    limit = f"more than the {facts.context} tokens that the model was made for"
    if asked is not None and asked > facts.context:
        return f"context {asked} is {limit}. Lower it."
    return f"prompt and answer of {tokens} tokens are {limit}. Lower for.prompt or for.output."


def _tokens(model: ModelSpec, task: Task) -> int:
    """What an intended request takes of the context; 0 when the spec says nothing of lengths, or sets the context as well."""
    said = model.for_
    if model.context_asked is not None or (said.prompt is None and (said.output is None or task == "embed")):
        return 0
    meant = intent.asked(model)
    return meant.prompt if task == "embed" else meant.prompt + meant.output


def _context(model: ModelSpec, facts: ModelFacts, task: Task) -> Decision:
    if model.context_asked is not None:
        return Decision("context", str(model.context_asked), "asked for")
    if tokens := _tokens(model, task):
        return _holding(tokens, facts, task)
    bound = model.llamacpp.batch if task == "embed" else LONGEST_AUTO_CONTEXT
    limit = "the model does not say its limit" if facts.context is None else f"the model's limit is {facts.context}"
    if facts.context is not None and facts.context <= bound:
        return Decision("context", str(facts.context), "the model's limit")
    if task == "embed":
        return Decision("context", str(bound), f"the longest input that fits in a batch of {bound}; {limit}")
    return Decision("context", str(bound), f"the most that is taken without asking; {limit}")


def _holding(tokens: int, facts: ModelFacts, task: Task) -> Decision:
    what = f"a prompt of {tokens} tokens" if task == "embed" else f"prompt and answer of {tokens} tokens"
    wanted = max(LEAST_CONTEXT, 1 << (tokens - 1).bit_length())
    if facts.context is not None and facts.context < wanted:
        return Decision("context", str(facts.context), f"the model's limit, which holds {what}")
    return Decision("context", str(wanted), f"the power of two that holds {what}")


def _local_slots(model: ModelSpec, engine: str) -> Decision:
    most, why = _BATCHED if engine in _BATCHES else (MOST_AUTO_SLOTS, _LITTLE)
    if model.for_.users is None:
        return _slots(model, LOCAL_SLOTS, why)
    users = -(-model.for_.users // model.replicas)
    whose = f"{users} {'user' if users == 1 else 'users'}" + (" of each replica" if model.replicas > 1 else "")
    if users <= most:
        return _slots(model, users, f"as many as the {whose}")
    return _slots(model, most, f"fewer than the {whose}, who queue: {why}")


def _unchecked(model: ModelSpec) -> tuple[Decision, ...]:
    """That latencies are asked for of which nothing is promised."""
    limits = {"first token within": model.for_.ttft, "a token each": model.for_.tpot}
    asked = [f"{what} {show_duration(limit)}" for what, limit in limits.items() if limit is not None]
    if not asked:
        return ()
    return (Decision("latency", "unchecked", f"{' and '.join(asked)} asked for, which is not checked on this machine yet"),)


def _slots(model: ModelSpec, default: int, why: str) -> Decision:
    if model.slots != "auto":
        return Decision("slots", str(model.slots), "asked for")
    return Decision("slots", str(default), why)
