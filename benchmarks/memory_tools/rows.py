"""The measured starts of vLLM and the models they are of, as values."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.facts.model import CacheGroup, Experts, ModelFacts

DATA = Path(__file__).parents[1] / "data"
GIB = 2**30

VARIANTS = {
    "3": "llama-3-70b-fp8",
    "9": "llama-3-70b-fp8",
    "41": "qwen2.5-7b-4bit",
    "48": "llama-3-8b+eagle",
    "56": "qwen3-235b-a22b-fp8",
    "58": "qwen3-vl-30b-a3b-fp8",
    "60": "mistral-7b-gptq",
    "67": "gemma-4-e2b-w4a16",
    "69": "qwen3-4b-fp8",
    "75": "phi-4-4bit",
    "76": "qwen2.5-0.5b-4bit",
}
"""Rows whose weights are not those that their model_key names."""

ASSUMED_GIB = {"H100-80": 79.18, "A100-80": 79.15, "80GB-class": 79.15, "48GB-class": 44.42, "RTX3090": 23.56}
"""What other rows saw of the same card, where a row does not say; 48GB-class is taken as L40S or A40."""

NAMES = {"80GB-class": "A100", "48GB-class": "L40S"}

VERSIONS = {"0.2x": "0.21", "0.3x": "0.33", "0.20.2": "0.20.2", "0.2.x": "0.2.0", "": "0.28", "gemma4-unified image": "0.21"}
"""Versions that are not stated: by the defaults and cards of the row."""


@dataclass(frozen=True)
class Start:
    """One measured start; GiB are per GPU. `known` says that model, GPU memory and utilization are stated (grade A or B)."""

    id: str
    model_key: str
    model: str
    facts: ModelFacts | None
    card: str
    total_gib: float | None
    tp: int
    utilization: float | None
    context: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    version: str
    weights: float | None
    activation: float | None
    runtime: float | None
    graphs: float | None
    cache: float | None
    logged_cache: bool
    tokens: int | None
    failed: bool
    grade: str
    known: bool


def starts() -> list[Start]:
    models = {row["model"]: facts_of(row) for row in _read("vllm_models.csv")}
    return [_start(row, models) for row in _read("vllm_memory.csv")]


def _read(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _start(row: Mapping[str, str], models: Mapping[str, ModelFacts]) -> Start:
    total = _number(row["gpu_total_gib"])
    graded = row["grade"] in "AB" and row["util_stated"] in ("yes", "yes (README default)", "default")
    facts = models.get(VARIANTS.get(row["id"], row["model_key"]))
    return Start(
        id=row["id"],
        model_key=row["model_key"],
        model=row["model"],
        facts=facts,
        card=NAMES.get(row["gpu_key"], row["gpu_key"]),
        total_gib=total or ASSUMED_GIB.get(row["gpu_key"]),
        tp=int(row["tp"]),
        utilization=_number(row["gpu_mem_util"]) or (0.92 if row["vllm_version"] == "0.28.0" else None),
        context=_count(row["max_model_len"]),
        max_num_seqs=_count(row["max_num_seqs"]),
        max_num_batched_tokens=_count(row["max_num_batched_tokens"]),
        version=VERSIONS.get(row["vllm_version"], row["vllm_version"]),
        weights=None if row["id"] in ("68", "69") else _number(row["weights_gib_per_gpu"]),
        activation=_number(row["activation_gib"]),
        runtime=_number(row["non_torch_gib"]),
        graphs=_number(row["cudagraph_gib"]),
        cache=_number(row["kv_cache_gib_per_gpu"]) or _from_tokens(row, facts),
        logged_cache=bool(row["kv_cache_gib_per_gpu"]),
        tokens=_count(row["kv_tokens"]),
        failed=row["outcome"] != "ok",
        grade=row["grade"],
        known=graded and bool(total or row["gpu_key"] in ("H100-80", "A100-80")),
    )


def _from_tokens(row: Mapping[str, str], facts: ModelFacts | None) -> float | None:
    """The pool by what its tokens take, where the log says only tokens and every layer keeps every one."""
    tokens = _count(row["kv_tokens"])
    if not tokens or not facts or len(facts.cache) != 1 or facts.cache[0].kind != "full" or int(row["tp"]) > 1:
        return None
    return tokens * facts.cache_bytes_per_token / GIB


def _number(text: str) -> float | None:
    return float(text) if text else None


def _count(text: str) -> int | None:
    return int(float(text)) if text else None


def facts_of(row: Mapping[str, str]) -> ModelFacts:
    groups = tuple(_group(text) for text in row["cache"].split())
    growing = sum(2 * g.layers * g.kv_heads * g.numbers for g in groups if g.kind in ("full", "latent"))
    count, used, parameters = (int(n) for n in (row["experts"] or "0:0:0").split(":"))
    facts = ModelFacts(
        architecture=row["architecture"],
        format="safetensors",
        parameters=int(row["parameters"]),
        weight_bytes=int(row["weight_bytes"]),
        layers=int(row["layers"]),
        hidden=int(row["hidden"]),
        heads=int(row["heads"]),
        kv_heads=int(row["kv_heads"]),
        head_dim=int(row["head_dim"]),
        cache_bytes_per_token=growing,
        context=int(row["context"]),
        quantization=row["quantization"],
        vocabulary=int(row["vocabulary"]),
        chat_template=True,
        encoder=False,
        cache=groups,
        intermediate=int(row["intermediate"]),
    )
    return replace(facts, experts=Experts(count, used, parameters)) if count else facts


def _group(text: str) -> CacheGroup:
    kind, layers, kv_heads, numbers, window = text.split(":")
    return CacheGroup(kind, int(layers), int(kv_heads), int(numbers), int(window) if window else None)  # type: ignore[arg-type]
