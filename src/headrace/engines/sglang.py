"""SGLang: as vLLM, and faster where many prompts begin alike. Read in the source of 0.5.23 (the wheel of PyPI); not run here:
it wants a GPU.
"""

from collections.abc import Mapping
from typing import Any

from headrace.engines import vllm
from headrace.engines.base import Engine, Installation, Launch, Placement, Reading
from headrace.engines.labelled import Page
from headrace.facts.model import ModelFacts
from headrace.traffic import Task

VERSION = "0.5.23"

START = (
    "import os, runpy, sys; "
    "sys.argv = ['sglang', *sys.argv[1:], '--api-key', os.environ.pop('ENGINE_KEY')]; "
    "runpy.run_module('sglang.launch_server', run_name='__main__', alter_sys=True)"
)
"""What `python -m sglang.launch_server` does. It knows the key by `--api-key` alone (srt/arg_groups/fields/serving.py), where
everybody on the machine can read it in the list of processes: here it comes from a variable.
"""

DEFAULTS: Mapping[str, Any] = {
    **{"args": (), "device": "cuda", "cache_tokens": None, "memory_fraction": None},
    **{"dtype": "auto", "tensor_parallel": 1, "quantization": ""},
}
"""Options that a placement leaves out. Its cache has no size in bytes: `cache_tokens`, else the share of the GPU's memory that
weights and cache take together, else its own choice.
"""

ENVIRONMENT: Mapping[str, str | None] = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK"), "1"),
    # On SIGTERM it would drop what runs (srt/managers/tokenizer_manager.py, sigterm_watchdog).
    "SGL_FORCE_SHUTDOWN": None,
    "SGLANG_FORCE_SHUTDOWN": None,
}

_COUNTS = (
    *("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:prompt_tokens_total", "sglang:generation_tokens_total"),
    "sglang:max_total_num_tokens",
)
_USAGE = "sglang:token_usage"


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Why SGLang cannot serve the model for `task`, in one sentence with a way out; None if it can, as far as is known."""
    if facts is None:
        return "SGLang runs language models, and this is none."
    if facts.format == "gguf":
        return "SGLang wants safetensors and this model is GGUF: name the repository it was made from, or set `engine: llamacpp`."
    if facts.encoder and task == "generate":
        return f"{facts.architecture} is an encoder: it embeds and cannot generate text; set `task: embed`."
    return None


def launch(placement: Placement, address: str) -> Launch:
    """SGLang's own server in the environment where it is installed, on a loopback port: it has no Unix sockets. It starts a
    process for each GPU, and one for the tokens.
    """
    options = {**DEFAULTS, **placement.options}
    host, _, port = address.removeprefix("http://").rpartition(":")
    argv = (
        *(placement.python or "python", "-P", "-c", START),
        *("--model-path", placement.weights, "--served-model-name", placement.model, "--host", host, "--port", port),
        *("--max-running-requests", str(placement.slots), "--enable-metrics", "--log-level-http", "warning"),
        *("--is-embedding",) * (placement.task == "embed"),
        *_size(placement, options),
        *map(str, options["args"]),  # the last word is the user's
    )
    return Launch(argv, ENVIRONMENT, key_variable="ENGINE_KEY", tree=True)


def read(page: str, model: str) -> Reading:
    """What the metrics page says of `model`, over all data-parallel ranks: only the first tensor-parallel rank of each counts
    (srt/observability/metrics_collector.py). Raises ValueError if it is no such page.
    """
    found = Page(page, model, (*_COUNTS, _USAGE))
    running, waiting, tokens_in, tokens_out, capacity = (found.total(name) for name in _COUNTS)
    return Reading(running, waiting, tokens_in, tokens_out, found.highest(_USAGE), capacity)


def _size(placement: Placement, options: Mapping[str, Any]) -> tuple[str, ...]:
    given = {
        "--device": options["device"],
        "--context-length": placement.context or None,
        "--max-total-tokens": options["cache_tokens"],
        "--mem-fraction-static": options["memory_fraction"],
        "--dtype": options["dtype"],
        "--quantization": options["quantization"] or None,
        "--tp-size": options["tensor_parallel"] if options["tensor_parallel"] > 1 else None,
    }
    return tuple(word for flag, value in given.items() if value is not None for word in (flag, str(value)))


ENGINE = Engine(
    name="sglang",
    title="SGLang",
    tasks=("generate", "embed"),
    formats=("safetensors",),
    installation=Installation("sglang", "sglang", requirements=(f"sglang=={VERSION}",)),
    ready_path="/health",  # generates a token when nothing runs; 503 while it starts and from SIGTERM on
    metrics_path="/metrics",
    folds=False,
    continues="final_message",
    sockets=lambda placement: False,
    refuse=refuse,
    overhead=lambda facts, placement: 0,
    launch=launch,
    read=read,
    warm=vllm.warm,
    grace_seconds=30.0,  # it looks for SIGTERM every 5 s, for the end of the last request as often, and gives its schedulers 15
    adapters=False,  # by MODEL:ADAPTER only (srt/entrypoints/openai/serving_base.py): the bare name would get the base model
    note="Read in its source, not run by us: it wants a GPU.",
)
