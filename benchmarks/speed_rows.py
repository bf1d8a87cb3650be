"""The measurements that speed is fitted to and judged by: read from benchmarks/data, or copied there from the shared table.

`python benchmarks/speed_rows.py SHARED_DATA_FOLDER` writes data/speed_rows.csv (every row of throughput_train.csv that has a
measured TPOT, needed columns only) and data/speed_models.csv. Two things are put right on the way: where the source multiplies
tensor and expert parallelism into `tp` (its run name says tp8_ep8 for "64"), `tp` is the number of GPUs; why a row is not used
stands in `use`.
"""

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.facts.hardware import Gpu
from headrace.facts.model import CacheGroup, Experts, ModelFacts

DATA = Path(__file__).parent / "data"
COLUMNS = (
    "id",
    "model",
    "engine",
    "versions",
    "version",
    "format",
    "gpu",
    "tp",
    "isl",
    "osl",
    "concurrency",
    "ttft_ms",
    "tpot_ms",
    "use",
)
FOUR_BITS = 4.5
"""MXFP4, NVFP4 and INT4 with their scales."""


@dataclass(frozen=True)
class Row:
    """One measurement. `use` is fit, static (all prompts first, then all answers), burst (all requests at once), or why not."""

    id: int
    model: str
    engine: str
    versions: str
    version: str
    format: str
    gpu: str
    tp: int
    isl: float
    osl: float
    concurrency: float
    ttft: float | None
    tpot: float
    use: str

    @property
    def weight_bits(self) -> float:
        return {"bf16": 16.0, "fp8": 8.0}.get(self.format, FOUR_BITS)

    @property
    def kv_bits(self) -> float:
        """NVIDIA's quantized checkpoints for TensorRT-LLM quantize the cache as well."""
        return 8.0 if self.engine == "trtllm" and self.weight_bits <= 8 else 16.0

    @property
    def small(self) -> bool:
        """vLLM starts with smaller batches on cards below 70 GiB and on the A100 (planning.md section 2)."""
        return self.gpu in ("A100", "A10", "910B")


def rows() -> list[Row]:
    with (DATA / "speed_rows.csv").open() as file:
        return [_row(entry) for entry in csv.DictReader(file)]


def gpus() -> dict[str, Gpu]:
    with (DATA / "speed_gpus.csv").open() as file:
        return {entry["gpu"]: _gpu(entry) for entry in csv.DictReader(file)}


def models() -> dict[str, ModelFacts]:
    with (DATA / "speed_models.csv").open() as file:
        return {entry["model"]: _facts(entry) for entry in csv.DictReader(file)}


def _row(entry: Mapping[str, str]) -> Row:
    return Row(
        id=int(entry["id"]),
        **{name: entry[name] for name in ("model", "engine", "versions", "version", "format", "gpu", "use")},
        tp=int(entry["tp"]),
        **{name: float(entry[name] or "nan") for name in ("isl", "osl", "concurrency")},
        ttft=float(entry["ttft_ms"]) / 1e3 if entry["ttft_ms"] else None,
        tpot=float(entry["tpot_ms"]) / 1e3,
    )


def _gpu(entry: Mapping[str, str]) -> Gpu:
    flops = {name: float(entry[f"{name}_tflops"]) * 1e12 for name in ("fp16", "fp8", "fp4") if entry[f"{name}_tflops"]}
    capability = float(entry["compute_capability"]) if entry["compute_capability"] else None
    memory, bandwidth, link = (float(entry[name]) * 1e9 for name in ("memory_gb", "bandwidth_gb_s", "link_gb_s"))
    return Gpu(entry["gpu"], int(memory), bandwidth, flops, entry["link_kind"], link, capability, source=entry["source"])


def _facts(entry: Mapping[str, str]) -> ModelFacts:
    number = {name: int(float(entry[name] or 0)) for name in entry if name not in ("model", "cache", "source")}
    experts = Experts(number["experts"], number["per_token"], number["expert_parameters"]) if number["experts"] else None
    cache = tuple(_group(text) for text in entry["cache"].split(";"))
    return ModelFacts(
        architecture=entry["model"],
        format="safetensors",
        parameters=number["parameters"],
        weight_bytes=2 * number["parameters"],
        layers=number["layers"],
        hidden=number["hidden"],
        heads=number["heads"],
        kv_heads=max(group.kv_heads for group in cache),
        head_dim=128,
        cache_bytes_per_token=0,
        context=None,
        quantization="",
        vocabulary=None,
        chat_template=True,
        encoder=False,
        cache=cache,
        experts=experts,
        parameters_active=number["active"],
    )


def _group(text: str) -> CacheGroup:
    """`window:18x8x128@128` is 18 layers with 8 KV heads of 128 numbers that keep the last 128 tokens."""
    kind, layers, heads, numbers, window = re.fullmatch(r"(\w+):(\d+)x(\d+)x(\d+)(?:@(\d+))?", text).groups()
    return CacheGroup(kind, int(layers), int(heads), int(numbers), int(window) if window else None)


# What follows copies from the shared table.

_CONFIGS: dict[str, str] = {
    "deepseek-v3": "deepseek-ai--DeepSeek-V3",
    "deepseek-v3.2": "deepseek-ai--DeepSeek-V3.2",
    "glm-5": "zai-org--GLM-5-FP8",
    "glm-5.2": "zai-org--GLM-5.2-FP8",
    "kimi-k2": "moonshotai--Kimi-K2.5",
    "gpt-oss-120b": "openai--gpt-oss-120b",
    "gpt-oss-20b": "openai--gpt-oss-20b",
    "minimax-m2": "MiniMaxAI--MiniMax-M2.5",
    "qwen3-235b-a22b": "Qwen--Qwen3-235B-A22B",
    "qwen3-30b-a3b": "Qwen--Qwen3-30B-A3B",
    "qwen3.5-397b-a17b": "Qwen--Qwen3.5-397B-A17B",
    "qwen3.5-35b-a3b": "Qwen--Qwen3.5-35B-A3B",
    "llama-3-70b": "meta-llama--Meta-Llama-3.1-70B",
    "llama-3-8b": "meta-llama--Meta-Llama-3.1-8B",
    "qwen3-8b": "Qwen--Qwen3-8B",
    "qwen3-14b": "blis--qwen3-14b",
    "qwen3-32b": "Qwen--Qwen3-32B",
}
_BY_HAND = """\
llama-2-70b,80,8192,64,68976648192,68976648192,0,0,0,full:80x8x256,config.json of meta-llama/Llama-2-70b-hf (from memory)
llama-3.2-3b,28,3072,24,3212749824,3212749824,0,0,0,full:28x8x256,config.json of meta-llama/Llama-3.2-3B (from memory)
bloom-176b,70,14336,112,176247271424,176247271424,0,0,0,full:70x112x256,config.json of bigscience/bloom (from memory)
phi-4-mini,32,3072,24,3840000000,3840000000,0,0,0,full:32x8x256,model_configs.csv (KAITO's catalogue)
glm-4.x,92,5120,96,355000000000,32000000000,160,8,336055173120,full:92x8x256,config.json of zai-org/GLM-4.6 (from memory)
qwen3.5-9b,32,4096,16,9650000000,9650000000,0,0,0,full:8x4x512;state:24x1x524288,model_configs.csv; linear layers as in 35B-A3B
"""


def _model_lines(shared: Path) -> Iterator[str]:
    yield "model,layers,hidden,heads,parameters,active,experts,per_token,expert_parameters,cache,source"
    with (shared / "model_configs.csv").open() as file:
        known = {Path(entry["file"]).name: entry for entry in csv.DictReader(file) if entry["file"]}
    for model, name in _CONFIGS.items():
        config = json.loads((shared / "model_configs" / f"{name}_config.json").read_text())
        yield _model_line(model, config.get("text_config", config), known[f"{name}_config.json"])
    yield _BY_HAND.rstrip()


def _model_line(model: str, config: Mapping[str, Any], entry: Mapping[str, str]) -> str:
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    count = config.get("n_routed_experts") or config.get("num_local_experts") or config.get("num_experts") or 0
    width = config.get("moe_intermediate_size") or config["intermediate_size"] if count else 0
    experts = (layers - int(entry["first_dense"] or 0)) * count * 3 * hidden * width
    shape = [layers, hidden, config["num_attention_heads"]]
    sizes = [round(float(entry[f"{name}params_B_computed"]) * 1e9) for name in ("", "active_")]
    routed = [count, int(entry["experts_per_tok"] or 0) if count else 0, experts]
    return ",".join(map(str, [model, *shape, *sizes, *routed, _cache(config, layers), f"model_configs.csv: {entry['name']}"]))


def _cache(config: Mapping[str, Any], layers: int) -> str:
    if config.get("kv_lora_rank") or "qk_rope_head_dim" in config:
        return f"latent:{layers}x1x{(config.get('kv_lora_rank') or 512) + config['qk_rope_head_dim']}"
    kinds = config.get("layer_types") or []
    if config.get("full_attention_interval"):
        full = layers // config["full_attention_interval"]
        state = config["linear_num_value_heads"] * config["linear_key_head_dim"] * config["linear_value_head_dim"]
        linear = f";state:{layers - full}x1x{state}"
    else:
        windowed = sum(kind == "sliding_attention" for kind in kinds)
        full = layers - windowed
        linear = ""
    heads, dim = config["num_key_value_heads"], 2 * config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    window = f";window:{layers - full}x{heads}x{dim}@{config['sliding_window']}" if not linear and full < layers else ""
    return f"full:{full}x{heads}x{dim}{linear}{window}"


def _copied(entry: Mapping[str, str]) -> dict[str, str]:
    old = entry["engine_version"] == "2023"
    return {
        "id": entry["id"],
        "model": entry["model_key"],
        "engine": entry["engine_key"].removeprefix("splitwise-"),
        "versions": "2023" if old else "current",
        "version": entry["engine_version"],
        "format": _format(entry),
        "gpu": entry["gpu_key"],
        "tp": str(_tensor_parallel(entry)),
        "isl": entry["isl"],
        "osl": entry["osl"],
        "concurrency": entry["concurrency_or_rate"] if re.fullmatch(r"[\d.]+", entry["concurrency_or_rate"]) else "",
        "ttft_ms": entry["ttft_ms"],
        "tpot_ms": entry["tpot_ms"],
        "use": _use(entry),
    }


def _tensor_parallel(entry: Mapping[str, str]) -> int:
    named = re.search(r"_tp(\d+)(?:_0)?_ep(?:\d+|none)", entry["source_detail"])
    if named:
        return int(named[1])
    # Runs named by number only: nobody has 64 GPUs there; 4 x 4 and 8 x 8 are the same runs as in the named ones.
    return {16: 4, 64: 8}.get(int(entry["tp"]), int(entry["tp"]))


def _format(entry: Mapping[str, str]) -> str:
    precision = entry["precision"].lower()
    if precision == "fp4":
        return "mxfp4" if "gpt-oss" in entry["model_key"] else "nvfp4"
    if precision in ("fp8", "mxfp4", "int4"):
        return precision
    return "fp8" if "FP8" in entry["notes"] or entry["model_key"] == "deepseek-v3.2" else "bf16"


def _use(entry: Mapping[str, str]) -> str:
    reasons = {
        "repeats another row": "repeats_id" in entry["flags"],
        "the source contradicts itself": "tpot_inconsistent" in entry["flags"] or "same_numbers" in entry["flags"],
        "speculative decoding": "speculative" in entry["notes"],
        "attention is data parallel": re.search(r"dp(?!1,)\d", entry["pp_or_other"]) or "enable-dp-attention" in entry["notes"],
        "pipeline parallel": "pp2" in entry["pp_or_other"],
        "concurrency not stated": not re.fullmatch(r"[\d.]+", entry["concurrency_or_rate"]),
        "static": entry["source_class"] == "splitwise",
        "burst": entry["source_class"] == "gpustack",
    }
    return next((reason for reason, holds in reasons.items() if holds), "fit")


def main(shared: Path) -> None:
    (DATA / "speed_models.csv").write_text("\n".join(_model_lines(shared)) + "\n")
    with (shared / "throughput_train.csv").open() as source, (DATA / "speed_rows.csv").open("w", newline="") as target:
        writer = csv.DictWriter(target, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_copied(entry) for entry in csv.DictReader(source) if entry["tpot_ms"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
