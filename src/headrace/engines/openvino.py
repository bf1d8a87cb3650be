"""OpenVINO GenAI in a server of our own: continuous batching on x86 CPUs. Facts measured with openvino-genai 2026.4.1."""

import json
from collections.abc import Mapping
from typing import Any

from headrace.engines import own
from headrace.engines.base import Engine, Installation, Launch, Placement, Probe
from headrace.facts.model import ModelFacts
from headrace.traffic import Task

ARCHITECTURES = ("llama", "qwen2", "qwen3")
AS_THEY_ARE = ("F16", "Q8_0", "Q4_0")
WIDE = ("F32", "BF16")
"""Quantizations that OpenVINO takes as they are, and those that become F16; all others become Q8_0 (`openvino_gguf.py`)."""

Q8_0_BYTES = 34 / 32
RUNTIME_BYTES = 240_000_000
LAYER_BYTES = 5_000_000
COPY, COPY_F16 = 1.15, 3.0
ACTIVATION_BYTES = 64
DEFAULTS: Mapping[str, Any] = {"batch": 256, "cache_bytes": 0}
"""Options a placement leaves out; no bytes are enough for every slot."""


def refuse(facts: ModelFacts | None, task: Task) -> str | None:
    """Why OpenVINO cannot serve the model for `task`, in one sentence with a way out; None if it can, as far as facts say.

    Two things they do not say are found when it is loaded: a tokenizer that is no byte-level BPE, and scaled positions
    (Llama 3.1 and later), which OpenVINO's reader would ignore.
    """
    if facts is None:
        return "OpenVINO GenAI runs language models, and this is none."
    if facts.format != "gguf":
        return f"OpenVINO GenAI loads GGUF files and this model is {facts.format}: name a GGUF of it."
    if task != "generate" or facts.encoder:
        return f"OpenVINO GenAI generates text here and does not {task}: use llamacpp."
    if facts.architecture not in ARCHITECTURES:
        return f"OpenVINO GenAI reads {', '.join(ARCHITECTURES)} from GGUF files, not {facts.architecture}: use llamacpp."
    if facts.experts is not None:
        return "OpenVINO GenAI reads no mixture of experts from a GGUF file: use llamacpp."
    return None


def overhead(facts: ModelFacts | None, placement: Placement) -> int:
    """Bytes beyond weights and KV cache: the process, graph and kernels per layer, activations of a step's tokens, a second
    copy of the weights in the layout of the CPU (at F16 a larger one), and by how much they grow when they are converted.

    Fitted to the resident memory, with every slot's context full, of SmolLM2-135M (Q4_1, Q8_0, F16; 1 to 32 slots) and of
    made-up models of 170 and 740 million parameters (Q4_0, Q8_0), openvino-genai 2026.4.1 on x86-64 with AVX-512. The
    tests have the figures; it is never below them, and above by at most 210 MB. Not measured with large models.
    """
    assert facts  # `refuse` has seen to it
    loaded = loaded_bytes(facts)
    copy = COPY_F16 if facts.quantization in ("F16", *WIDE) else COPY
    batch = int(placement.options.get("batch", DEFAULTS["batch"]))
    activations = max(batch, placement.slots) * facts.hidden * ACTIVATION_BYTES
    grown = loaded - facts.weight_bytes
    return max(0, grown) + RUNTIME_BYTES + facts.layers * LAYER_BYTES + int(loaded * copy) + activations


def loaded_bytes(facts: ModelFacts) -> int:
    """What the weights take in the format that OpenVINO gets them in."""
    if facts.quantization in AS_THEY_ARE:
        return facts.weight_bytes
    return int(facts.parameters * (2 if facts.quantization in WIDE else Q8_0_BYTES))


def cache_bytes_per_token(facts: ModelFacts) -> int:
    """What a token takes of the KV cache, which is 8-bit here: a byte for each number, scale and zero point in 8 bytes, for
    keys per channel of 32 tokens and for values per token. Measured: blocks of 32 tokens of 437,760 bytes for SmolLM2.
    """
    return facts.layers * facts.kv_heads * (facts.head_dim + facts.head_dim // 4 + facts.head_dim + 8)


def launch(placement: Placement, address: str) -> Launch:
    """A Python process that runs `headrace.runners.openvino`; the spec is its one argument, as JSON."""
    spec = {
        **DEFAULTS,
        **placement.options,
        "name": placement.model,
        "model": placement.weights,
        "address": address,
        "slots": placement.slots,
        "context": placement.context,
        "threads": placement.threads,
    }
    argv = ("python", "-P", "-m", "headrace.runners.openvino", json.dumps(spec, sort_keys=True))
    return Launch(argv, key_variable="ENGINE_KEY")


def warm(placement: Placement) -> Probe:
    """One token: the first step of a process compiles its kernels, which takes longer than a hundred others."""
    body = {"model": placement.model, "prompt": "Hi", "max_tokens": 1}  # no chat: a base model has no template
    return Probe("/v1/completions", json.dumps(body).encode())


ENGINE = Engine(
    name="openvino",
    title="OpenVINO GenAI",
    tasks=("generate",),
    formats=("gguf",),
    installation=Installation("openvino_genai", "openvino-genai", extra="openvino"),
    ready_path="/health",
    metrics_path="/metrics",
    folds=False,
    continues="prompt",
    sockets=lambda placement: True,
    refuse=refuse,
    overhead=overhead,
    launch=launch,
    read=own.read,
    warm=warm,
    note="Twice the throughput of llama.cpp on a CPU with 32 requests at once; it converts a model once, most of them to 8 bits.",
)
