"""Triton Inference Server: ONNX, scikit-learn, PyTorch, Python and GGUF models, and model repositories, in one server.

Here it is the tritonserver of NVIDIA's wheel, 2.51.0, run by `runners/triton.py`; in containers NVIDIA's images, whose
repositories `triton_config.py` writes. Facts measured with nvidia-pytriton 0.7.0 on x86-64.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.engines import llamacpp
from headrace.engines.base import Engine, Installation, Launch, Placement, Probe, Reading
from headrace.engines.labelled import Page
from headrace.facts.model import ModelFacts
from headrace.traffic import Speaks, Task

SERVER_BYTES = 75_000_000
"""The runner (24 MB) and tritonserver (37 to 42 MB, 168 threads), rounded up."""

PROCESS_BYTES: Mapping[str, int] = {
    "onnx": 85_000_000,
    "sklearn": 160_000_000,
    "torch": 400_000_000,
    "python": 50_000_000,
    "gguf": 50_000_000,
    "repository": 50_000_000,
}
"""A process of the python backend with what it imports: 68 MB with onnxruntime, 140 MB with scikit-learn and skops, 37 MB
with numpy alone, 329 MB with torch 2.13; rounded up for buffers of requests.
"""

DEFAULTS: Mapping[str, Any] = {"batch": 8, "delay_seconds": 0.002, "queue": 64, "instances": 1}
"""Options a placement leaves out. Triton's own queue has no bound."""

WARM_TOKENS = 1


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Why Triton cannot serve the model for `task`, in one sentence with a way out; None if it can."""
    if task in ("embed", "rerank"):
        return f"Triton has no API to {task}: use llamacpp, or `task: infer` with a model that takes tensors."
    if facts is None:
        return None if task == "infer" else "Triton generates text from a GGUF file, and this is none: set `task: infer`."
    if task == "infer":
        return f"{facts.architecture} is a language model, which takes text and no tensors: set `task: generate`."
    if facts.format != "gguf":
        return f"Triton runs language models from GGUF files here and this is {facts.format}: name a GGUF of it, or use vllm."
    return llamacpp.refuse(facts, task)


def overhead(facts: ModelFacts | None, placement: Placement) -> int:
    """Bytes beyond one copy of the weights and the KV cache: the server, and a process for each instance or model.

    Each instance beyond the first loads the weights again: `placement.memory_bytes` has to count those. A text model's
    process also takes what llama.cpp takes.
    """
    options = _options(placement)
    processes = max(1, len(placement.also)) if options["kind"] == "repository" else int(options["instances"])
    own = SERVER_BYTES + processes * PROCESS_BYTES[options["kind"]]
    return own + (llamacpp.overhead(facts, replace(placement, options={})) if options["kind"] == "gguf" else 0)


def launch(placement: Placement, address: str) -> Launch:
    """A Python process that runs `headrace.runners.triton`; the spec is its one argument, as JSON.

    Triton's metrics are one port on, those of llama.cpp, which alone knows what a text model does, two.
    """
    host, _, port = address.rpartition(":")
    spec = {
        **_options(placement),
        "name": placement.model,
        "model": placement.weights,
        "address": address,
        "python": placement.python,
        "threads": placement.threads,
        "context": placement.context,
        "slots": placement.slots,
    }
    argv = ("python", "-P", "-m", "headrace.runners.triton", json.dumps(spec, sort_keys=True))
    if spec["kind"] == "gguf":
        return Launch(argv, key_variable="ENGINE_KEY", metrics_address=f"{host}:{int(port) + 2}")
    return Launch(argv, metrics_address=f"{host}:{int(port) + 1}")


def read(page: str, model: str) -> Reading:
    """What a metrics page says of `model`: Triton's, or llama.cpp's. Raises ValueError if it is no such page.

    Triton's count of pending requests is true for models that answer from within `execute`. For those that hand requests on
    and return it stays 0, so for text llama.cpp is asked. What the page has not, the models of a repository under another
    name included, is None.
    """
    if "\nllamacpp:" in page:
        return llamacpp.read(page, model)
    found = Page(page, model, (_PENDING,), label="model")
    return Reading(waiting=found.total(_PENDING))


_PENDING = "nv_inference_pending_request_count"


def warm(placement: Placement) -> Probe | None:
    """A token, for text. Models of tensors compute once before they count as loaded."""
    if speaks(placement) != "generate":
        return None
    parameters = json.dumps({"max_tokens": WARM_TOKENS, "seed": 1})
    body = json.dumps({"text_input": "Hello", "sampling_parameters": parameters})
    return Probe(f"/v2/models/{placement.model}/generate", body.encode())


def speaks(placement: Placement) -> Speaks:
    """Triton's `generate` for text, the Open Inference Protocol for tensors."""
    return "generate" if placement.task == "generate" else "v2"


def _options(placement: Placement) -> dict[str, Any]:
    kind = "gguf" if placement.task == "generate" else "repository"
    return {**DEFAULTS, "kind": kind, **placement.options}


ENGINE = Engine(
    name="triton",
    title="Triton Inference Server",
    tasks=("infer", "generate"),
    formats=("onnx", "skops", "joblib", "torch", "python", "gguf", "repository"),
    installation=Installation(
        "pytriton",
        "nvidia-pytriton",
        requirements=(
            "nvidia-pytriton==0.7.0",
            "numpy>=1.26,<2",
            "onnxruntime==1.32.0",
            "scikit-learn==1.9.1",
            "skops==0.16.0",
            "xllamacpp==2026.10.11549",
        ),
    ),
    ready_path="/v2/health/ready",
    metrics_path="/metrics",
    folds=True,
    sockets=lambda placement: False,
    refuse=refuse,
    overhead=overhead,
    launch=launch,
    read=read,
    warm=warm,
    speaks=speaks,
    cause=llamacpp.cause,
    ports=3,
    grace_seconds=15.0,
    note="It knows no keys: every account of this machine can reach its models. What could change it is closed.",
)
