"""TGI, Text Generation Inference: for those who have it already. Read in source (@db931fcf, 3.3.7), never run by us: its server
is in no Python package, and its kernels want a GPU.
"""

from collections.abc import Mapping
from typing import Any

from headrace.engines.base import Engine, Installation, Launch, Placement, Probe, Reading
from headrace.engines.labelled import Page
from headrace.facts.model import ModelFacts
from headrace.traffic import Task

VERSION = "3.3.7"
IMAGE = f"ghcr.io/huggingface/text-generation-inference:{VERSION}"
"""Its entrypoint is the launcher: `container(placement)` comes right after it. It serves on port 80."""

MODEL = "tgi"
"""What TGI calls the model it serves; any other name in a request is looked for among its adapters (router/src/lib.rs)."""

DRAIN_SECONDS = 600
"""Longest that requests may run on after SIGTERM; whoever sent it has a shorter limit of their own."""

CONCURRENT_SPARE = 8
"""Requests beyond the slots that it takes in; more get 429 at once. The gateway's queue is in front of it: room for what has
left there and has not begun here."""

DEFAULTS: Mapping[str, Any] = {
    **{"args": (), "device": "cuda", "dtype": "auto", "tensor_parallel": 1, "quantization": ""},
    **{"prefill_tokens": None, "memory_fraction": None},
}
"""Options that a placement leaves out. `prefill_tokens` are those of all prompts computed in one step; it chooses well."""

ENVIRONMENT: Mapping[str, str | None] = {"HF_HUB_OFFLINE": "1", "USAGE_STATS": "off"}

_QUEUE, _BATCH, _REQUESTS = "tgi_queue_size", "tgi_batch_current_size", "tgi_request_count"
_TOKENS = ("tgi_request_input_length_sum", "tgi_request_generated_tokens_sum")


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Why TGI cannot serve the model for `task`, in one sentence with a way out; None if it can, as far as is known."""
    if facts is None:
        return "TGI runs language models, and this is none."
    if facts.format == "gguf":
        return "TGI loads safetensors and this model is GGUF: name the repository it was made from, or set `engine: llamacpp`."
    if facts.encoder or task != "generate":
        return "TGI generates text only: set `engine: vllm` or `engine: llamacpp` to embed."
    return None


def launch(placement: Placement, address: str) -> Launch:
    """The launcher, where there is one, on a loopback port: it has no Unix sockets.

    Without a key. TGI has one (API_KEY), but the launcher hands it on to the router as an argument, which everybody on the
    machine can read in the list of processes: a port of the loopback interface, open to them, hides no less.
    """
    host, _, port = address.removeprefix("http://").rpartition(":")
    argv = ("text-generation-launcher", *container(placement), "--hostname", host, "--port", port)
    return Launch(argv, ENVIRONMENT, tree=True)


def container(placement: Placement) -> tuple[str, ...]:
    """The launcher's arguments in a container; the key of a pod is its variable API_KEY. Long forms only: `-p` is two flags."""
    options = {**DEFAULTS, **placement.options}
    given = {
        "--model-id": placement.weights,
        "--max-total-tokens": placement.context or None,
        "--max-input-tokens": placement.context - 1 if placement.context else None,
        "--max-concurrent-requests": placement.slots + CONCURRENT_SPARE,
        "--max-batch-size": placement.slots,
        "--max-batch-prefill-tokens": options["prefill_tokens"],
        "--cuda-memory-fraction": options["memory_fraction"],
        "--dtype": _dtype(options),
        "--quantize": options["quantization"] or None,
        "--num-shard": options["tensor_parallel"],
        "--cuda-graphs": 0 if options["device"] == "cpu" else None,
        "--lora-adapters": ",".join(f"{name}={path}" for name, path in placement.adapters.items()) or None,
        "--graceful-termination-timeout": DRAIN_SECONDS,
    }
    said = (word for flag, value in given.items() if value is not None for word in (flag, str(value)))
    return (*said, *map(str, options["args"]))  # the last word is the user's


def read(page: str, model: str) -> Reading:
    """What the metrics page says; it has no labels of models. Raises ValueError if it is no such page.

    A series appears with its first use, so before the first request none is there and nothing runs or waits: there, and only
    there, missing means 0. Later it is unknown, as with every engine.
    """
    found = Page(page, model, (_QUEUE, _BATCH, _REQUESTS, *_TOKENS))
    unused = 0 if found.total(_REQUESTS) is None else None
    running, waiting, tokens_in, tokens_out = (found.total(name) for name in (_BATCH, _QUEUE, *_TOKENS))
    return Reading(
        running=unused if running is None else running,
        waiting=unused if waiting is None else waiting,
        tokens_in_total=tokens_in,
        tokens_out_total=tokens_out,
    )


def warm(placement: Placement) -> Probe:
    """One token, as plain text: a model need not have a chat template."""
    return Probe("/generate", b'{"inputs":"a","parameters":{"max_new_tokens":1}}')


def _dtype(options: Mapping[str, Any]) -> str | None:
    """Not beside a quantization: that is an error."""
    return None if options["dtype"] == "auto" or options["quantization"] else str(options["dtype"])


ENGINE = Engine(
    name="tgi",
    title="TGI",
    tasks=("generate",),
    formats=("safetensors",),
    installation=Installation(
        "text_generation_server",
        "text-generation-server",
        elsewhere=f"TGI comes as a container: {IMAGE} (with Docker, on a GPU).",
    ),
    ready_path="/health",
    metrics_path="/metrics",  # on the port that it serves; nothing answers on --prometheus-port
    folds=False,
    sockets=lambda placement: False,
    refuse=refuse,
    overhead=lambda facts, placement: 0,
    launch=launch,
    read=read,
    warm=warm,
    speaks=lambda placement: "tgi",
    grace_seconds=30.0,
    local=False,
    adapters=True,
    note="In maintenance mode since December 2025, its own README says: use vLLM or SGLang. Write `engine: vllm`; "
    "clients notice nothing.",
)
