"""llama.cpp, embedded through `xllamacpp`: the engine for machines without a GPU. Facts measured with 2026.10.11549."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.engines.base import Engine, Installation, Launch, Placement, Reading
from headrace.facts.model import ModelFacts
from headrace.traffic import Task

RUNTIME_BYTES = 60_000_000
VOCABULARY_BYTES = 180
VOCABULARY_BYTES_PER_SLOT = 64
ACTIVATION_BYTES = 64
LARGEST_VOCABULARY = 262_144
POINTS_UP = "gives the cause in the lines before"
"""What the last line says where its library, which writes by itself, has given the cause."""

_LINE = re.compile(r"\d+\.\d+\.\d+\.\d+ (?P<level>[A-Z]) (?:\S+ +)*?[\w ]+?: (?P<said>.+)")
"""Its log: `0.00.006.953 E llama_model_load: error loading model: unknown model architecture: 'foo'`."""

DEFAULTS: Mapping[str, Any] = {"wait": "passive", "batch": 512, "cache_type": "f16", "poll": 50}
"""Options a placement leaves out. `passive` because spinning threads on shared cores are 10 to 30 times slower."""


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Why llama.cpp cannot serve the model for `task`, in one sentence with a way out; None if it can."""
    if facts is None:
        return "llama.cpp runs language models, and this is none."
    if facts.format != "gguf":
        return f"llama.cpp loads GGUF files and this model is {facts.format}: name a GGUF of it, or convert it."
    if facts.encoder and task == "generate":
        return f"{facts.architecture} is an encoder: it embeds and cannot generate text; set `task: embed`."
    return None


def overhead(facts: ModelFacts | None, placement: Placement) -> int:
    """Bytes beyond weights and KV cache: runtime + vocabulary + logits and candidates of every slot + activations.

    Fitted to the resident memory, after a prompt in every slot, of SmolLM2-135M (1 to 32 slots), Gemma-3-270m (1 to 8
    slots, vocabulary 262,144) and MiniLM (1 to 8), xllamacpp 2026.10.11549 on x86-64: 60 MB for the process, 180 bytes
    and in every slot 64 bytes per vocabulary entry, 64 bytes per hidden value of every token of a batch; an encoder also
    keeps an f32 score for each pair of tokens in a batch and head. The tests have the figures; it is never below them,
    and above by at most 115 MB. Not measured with large models. An unknown vocabulary counts as the largest in use.
    """
    assert facts  # `refuse` has seen to it
    batch = int(_options(placement)["batch"])
    vocabulary = facts.vocabulary or LARGEST_VOCABULARY
    per_entry = VOCABULARY_BYTES + placement.slots * VOCABULARY_BYTES_PER_SLOT
    scores = batch * batch * facts.heads * 4 if facts.encoder else 0
    return RUNTIME_BYTES + vocabulary * per_entry + batch * facts.hidden * ACTIVATION_BYTES + scores


def launch(placement: Placement, address: str) -> Launch:
    """A Python process that runs `headrace.runners.llamacpp`; the spec is its one argument, as JSON."""
    spec = {
        **_options(placement),
        "name": placement.model,
        "model": placement.weights,
        "address": address,
        "slots": placement.slots,
        "context": placement.context,
        "threads": placement.threads,
        "embedding": placement.task == "embed",
    }
    argv = ("python", "-P", "-m", "headrace.runners.llamacpp", json.dumps(spec, sort_keys=True))
    return Launch(argv, key_variable="ENGINE_KEY")


def read(page: str, model: str) -> Reading:
    """What the metrics page says. It has no labels: `model` is not looked for. Raises ValueError if it is no such
    page.
    """
    # Imported here: it takes longer than the rest of `headrace --help`.
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(page)
    values = {sample.name: sample.value for family in families for sample in family.samples}

    def count(name: str) -> int | None:
        value = values.get(f"llamacpp:{name}")
        return None if value is None else int(value)

    return Reading(
        running=count("requests_processing"),
        waiting=count("requests_deferred"),
        tokens_in_total=_sum(count("prompt_tokens_total"), count("prompt_tokens_cached_total")),
        tokens_out_total=count("tokens_predicted_total"),
    )


def cause(lines: Sequence[str]) -> str | None:
    """Why a model could not be loaded: the first error since it began to be. What comes after it only says where it was noticed.
    None where the last line is of something else.
    """
    if not lines or POINTS_UP not in lines[-1]:
        return None
    begun = next((at for at in range(len(lines) - 2, -1, -1) if lines[at].startswith(("cannot load ", "serving "))), -1)
    errors = [found["said"] for line in lines[begun + 1 : -1] if (found := _LINE.match(line)) and found["level"] == "E"]
    return errors[0] if errors else None


def _sum(computed: int | None, cached: int | None) -> int | None:
    """Prompt tokens are counted apart from those found in the cache; without the first, the sum is unknown."""
    return None if computed is None else computed + (cached or 0)


def _options(placement: Placement) -> dict[str, Any]:
    return {**DEFAULTS, **placement.options}


ENGINE = Engine(
    name="llamacpp",
    title="llama.cpp",
    tasks=("generate", "embed"),
    formats=("gguf",),
    installation=Installation("xllamacpp", "xllamacpp", extra="local"),
    ready_path="/health",
    metrics_path="/metrics",
    folds=True,
    continues="prefill",
    caches="slots",
    sockets=lambda placement: True,
    refuse=refuse,
    overhead=overhead,
    launch=launch,
    read=read,
    cause=cause,
)
