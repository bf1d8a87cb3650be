"""HR3xx, HR4xx: whether the model fits the card that the manifest names."""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from headrace.facts import catalogue
from headrace.facts.base import ModelFacts
from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context
from headrace.lint.gpus import gpu_of, known_model, memory_of, weights_held
from headrace.lint.serving import Served, engines
from headrace.units import show_bytes

_UTILISATION = 0.92
"""vLLM's default of --gpu-memory-utilization (0.32, vllm/config/cache.py)."""
_OTHERWISE = (
    *("--quantization", "--cpu-offload-gb", "--hf-overrides", "--load-format", "--kv-cache-dtype"),
    "--prefill-context-parallel-size",
)
"""Flags with which weights or a cache take another number of bytes on a GPU than is counted here."""
_ROOM = 0.6
"""Part of a card that BF16 weights may take and still leave room for a cache that quantization would not help much."""
_FAST = ("A100-40GB", "A100-80GB", "A100-80GB-PCIe", "H100-80GB", "H100-80GB-PCIe", "H100-NVL-94GB", "H200-141GB")
_REMOVED = re.compile(r"Standard_(?:NC\d+r?s(?:_v[23])?|NC\d+r?|ND\d+r?s(?:_v2)?|NV\d+s?(?:_v[23])?|NC\d+as_T4_v3)")
"""Sizes with K80, P40, P100, V100, M60 and T4, which KAITO's table has no more (kaito#2185)."""


def _facts(one: Served) -> ModelFacts | None:
    return known_model(one.hub) if one.hub else None


@rule(
    "HR403",
    "error",
    "tensor parallelism that does not divide the model",
    "https://github.com/llm-d-incubation/llm-d-planner/pull/205",
)
def undivided(context: Context) -> Iterator[Say]:
    """Attention heads are split over the GPUs, so their number has to be a multiple of the GPUs': else the engine fails at
    start."""
    for one in engines(context):
        flag = one.flag("--tensor-parallel-size", "--tp-size", "--num-shard")
        facts = _facts(one)
        if flag is None or facts is None or one.tensor_parallel < 2 or facts.heads % one.tensor_parallel == 0:
            continue
        if one.flag("--enable-dp-attention"):  # SGLang then splits heads over the GPUs of a rank alone
            continue
        most = [number for number in (1, 2, 4, 8, 16) if facts.heads % number == 0]
        what = f"{one.hub} has {facts.heads} attention heads, which {one.tensor_parallel} GPUs cannot share evenly."
        yield Say(flag.at, what, f"Write one of {', '.join(map(str, most))}.")


@rule("HR405", "warning", "four bits where there is room for sixteen", "https://docs.gpustack.ai/latest/performance-lab/")
def needless_quantization(context: Context) -> Iterator[Say]:
    """AWQ and GPTQ save memory and cost arithmetic. On A100 and H100, where memory is not the limit, they were measured slower
    than BF16; FP8 was 27 % faster on an H100. (On an RTX 4090 AWQ was 46 % faster.)"""
    for one in engines(context):
        gpu, memory = gpu_of(one), memory_of(one)
        flag = one.flag("--quantization")
        named = re.search(r"-(AWQ|GPTQ)\b", one.hub, re.I)
        how = (flag.value if flag else named[1] if named else "").lower()
        billions = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)B\b", one.hub, re.I)
        if not how.startswith(("awq", "gptq")) or gpu is None or memory is None or gpu.name not in _FAST or not billions:
            continue
        need = float(billions[1]) * 2e9 / one.tensor_parallel
        if need < _ROOM * memory:
            room = f"{show_bytes(need)} of BF16 weights fit its {show_bytes(memory)}"
            what = f"{how.upper()} is slower than BF16 on {gpu.name}, and {room}."
            yield Say(flag.at if flag else one.model_at, what, "Serve the model unquantized, or in FP8 on Hopper.")


@rule("HR406", "error", "a number format that the card does not have", "https://github.com/kaito-project/kaito/issues/2114")
def missing_format(context: Context) -> Iterator[Say]:
    """BF16 needs compute capability 8.0 (not T4 or V100), FP8 arithmetic 8.9 (not A100): the engine fails at start, or falls
    back to something slower."""
    for one in engines(context):
        gpu, dtype, quantization = gpu_of(one), one.flag("--dtype"), one.flag("--quantization")
        if gpu is None or gpu.compute_capability is None:
            continue
        have = gpu.compute_capability
        if dtype and dtype.value == "bfloat16" and have < 8:
            what = f"bfloat16 needs compute capability 8.0, and {gpu.name} has {have}: it does not start."
            yield Say(dtype.at, what, "Write --dtype half, or use a newer card.")
        if quantization and quantization.value == "fp8" and have < 8:
            what = f"FP8 needs compute capability 8.0 at least, and {gpu.name} has {have}: it does not start."
            yield Say(quantization.at, what, "Use AWQ, or a newer card.")
        elif quantization and quantization.value == "fp8" and have < 8.9:
            what = f"{gpu.name} has no FP8 arithmetic (8.9 is needed, it has {have}): weights get smaller, and nothing faster."
            yield Say(quantization.at, what, "Leave it out, or use Ada or Hopper.", (), "warning")


@rule("HR407", "error", "it does not fit", "https://docs.vllm.ai/en/latest/configuration/conserving_memory/")
def does_not_fit(context: Context) -> Iterator[Say]:
    """Weights and the cache of one request are more than the memory of the GPUs: it ends with out of memory, or is refused.
    Counted here is only what is certain; `headrace plan` counts all of it. With data parallelism vLLM spreads experts over the
    ranks; of all other weights each has a copy, on its own GPUs."""
    for one in engines(context):
        facts, memory, split = _facts(one), memory_of(one), one.split
        flag, share = one.flag("--max-model-len"), one.flag("--gpu-memory-utilization")
        gpu = gpu_of(one)
        if facts is None or memory is None or gpu is None or one.flag(*_OTHERWISE) or one.engine != "vllm":
            continue
        weights = weights_held(one, facts)
        if weights is None or split is None:
            continue
        tokens = (flag.number if flag else None) or 1
        cache = min(tokens, facts.context or tokens) * facts.cache_bytes_per_token
        have = round(memory * split * _share(share.value if share else ""))
        if (need := weights + cache) > have:
            each = f" on each of {one.ranks} ranks" if (one.ranks or 1) > 1 else ""
            what = (
                f"{one.hub} takes {show_bytes(weights)} of weights{each} and {show_bytes(cache)} for a request;"
                f" {split} × {gpu.name} give {show_bytes(have)}: {show_bytes(need - have)} are missing."
            )
            whole = facts.weight_bytes + cache
            more = next((count for count in (2, 4, 8, 16, 32) if count > split and whole * split <= have * count), 64)
            yield Say(one.model_at, what, f"Ask what would: headrace plan hf:{one.hub} --machine '{more} x {gpu.name}'.")


def _share(text: str) -> float:
    try:
        return min(1.0, float(text))
    except ValueError:
        return _UTILISATION


@rule("HR408", "error", "a size that cannot be had", "https://github.com/kaito-project/kaito/issues/2185")
def unknown_size(context: Context) -> Iterator[Say]:
    """KAITO knows each cloud's sizes by a table: one that is not in it is refused, and those with V100 and T4 were taken out of
    it. Its own quick start still names one of them."""
    known = {name: name for name in catalogue.skus("azure")}
    for at in _sizes(context):
        text = at.text
        if not text.startswith("Standard_") or re.search(r"[{$<]", text):
            continue
        if _REMOVED.fullmatch(text):
            yield Say(
                at,
                f"KAITO has removed {text}: its GPUs are too old for what it runs.",
                "Use Standard_NC24ads_A100_v4, or an A10.",
            )
        elif text not in known and (right := _respelled(text, known)) is not None:
            yield Say(at, f"Azure has no {text}.", f"Write {right}.")


def _sizes(context: Context) -> Iterator[At]:
    for one in context.of("Workspace", "RAGEngine"):
        yield one.at.get("resource", "instanceType")
        yield one.spec.get("compute", "instanceType")
        yield one.spec.get("resource", "instanceType")
    for one in context.of("InferenceSet"):
        yield one.spec.get("template", "resource", "instanceType")


def _respelled(text: str, known: dict[str, str]) -> str | None:
    """The size that was meant, where only its spelling differs: other sizes may exist that are not in the catalogue."""
    plain = {re.sub(r"[_-]", "", name).lower(): name for name in known}
    near = get_close_matches(re.sub(r"[_-]", "", text).lower(), plain, 1, 0.999)
    return plain[near[0]] if near else None


@rule("HR413", "warning", "an engine that does not know the card", "https://github.com/kubeai-project/kubeai/issues/533")
def unknown_card(context: Context) -> Iterator[Say]:
    """Engines are built for some generations of cards and CUDA: on another one they load for minutes, and fail."""
    for one in engines(context):
        gpu, version = gpu_of(one), one.version
        if one.engine != "vllm" or gpu is None or gpu.compute_capability is None:
            continue
        if gpu.compute_capability < 7.5 and (one.newest or (version or (0, 0)) >= (0, 11)):
            what = f"{gpu.name} has compute capability {gpu.compute_capability}, and this vLLM needs 7.5."
            yield Say(one.image, what, "Use a newer card, or a vLLM before 0.11.")
        elif gpu.compute_capability >= 10 and version is not None and version < (0, 8):
            what = f"{gpu.name} (compute capability {gpu.compute_capability}) is newer than vLLM {version[0]}.{version[1]}."
            yield Say(one.image, what, "Use vLLM 0.9 or newer, whose images have CUDA 12.8.")
