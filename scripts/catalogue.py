"""Make the catalogue's generated files, and the test's zoo of configs, from the shared data tables.

    python scripts/catalogue.py FOLDER_OF_THE_CSV_FILES

Writes facts/catalogue/{azure,models,kaito}.yaml and tests/unit/facts/zoo.json. gpus.yaml and cpus.yaml are written by hand.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.facts.base import ModelFacts
from headrace.facts.model import from_config

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "src" / "headrace" / "facts" / "catalogue"
GPUS = {
    "A10": "A10",
    "A100-80": "A100-80GB",
    "A100-40": "A100-40GB",
    "H100-NVL-94": "H100-NVL-94GB",
    "H100-80": "H100-80GB",
    "H200-141": "H200-141GB",
    "MI300X-192": "MI300X-192GB",
    "T4": "T4",
}
VGPU_SHARE = 0.95
"""Of a vGPU's nominal memory, what an engine can count on: the driver keeps some of each slice (our caution, not measured)."""

REPOSITORIES = {
    "codellama-34b-instruct-hf": "codellama/CodeLlama-34b-Instruct-hf",
    "deepseek-v2-lite": "deepseek-ai/DeepSeek-V2-Lite",
    "glm-5.2-fp8": "zai-org/GLM-5.2-FP8",
    "llama-2-7b-hf": "meta-llama/Llama-2-7b-hf",
    "llama-3.1-70b-instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-4-scout-17b-16e-instruct-fp8-dynamic": "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic",
    "mistral-nemo-instruct-2407": "mistralai/Mistral-Nemo-Instruct-2407",
    "mixtral-8x7b-v0.1": "mistralai/Mixtral-8x7B-v0.1",
    "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-14b": "Qwen/Qwen3-14B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "yi-34b": "01-ai/Yi-34B",
}
"""Where inference-sim's files are from: it names them without their owner."""

LIKE = {
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.3-70B-Instruct": "meta-llama/Meta-Llama-3.1-70B",
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-ai/DeepSeek-R1",
    "deepseek-ai/DeepSeek-V3-0324": "deepseek-ai/DeepSeek-V3",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
    "nvidia/Nemotron-Cascade-2-30B-A3B": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "Qwen/Qwen3-8B-AWQ": "Qwen/Qwen3-8B",
    "google/gemma-4-31B-it": "nvidia/Gemma-4-31B-IT-NVFP4",
    "google/gemma-4-26B-A4B-it": "google/gemma-4-26B-A4B",
    "Qwen/Qwen3.5-122B-A10B-GPTQ-Int4": "Qwen/Qwen3.5-122B-A10B",
    "Qwen/Qwen3.5-397B-A17B-GPTQ-Int4": "Qwen/Qwen3.5-397B-A17B",
    "Qwen/Qwen3.6-35B-A3B-FP8": "nvidia/Qwen3.6-35B-A3B-NVFP4",
    "Qwen/Qwen3.6-35B-A3B": "nvidia/Qwen3.6-35B-A3B-NVFP4",
    "Qwen/Qwen3.6-27B": "nvidia/Qwen3.6-27B-NVFP4",
    "moonshotai/Kimi-K2.6": "moonshotai/Kimi-K2.5",
    "moonshotai/Kimi-K2.7-Code": "moonshotai/Kimi-K2.5",
    "deepseek-ai/DeepSeek-V4-Flash-0731": "deepseek-ai/DeepSeek-V4-Flash",
}
"""Models without a config of their own here, and one with the same layers: a fine-tune, a quantization, a later release."""

QUANTIZED = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
FAMILIES = {
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "MistralForCausalLM": "mistral",
    "Mistral3ForConditionalGeneration": "mistral3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "MistralLarge3ForCausalLM": "mistral_large_3",
    "NemotronHForCausalLM": "nemotron_h",
    "NemotronH_Nano_VL_V2": "nemotron_h_nano_vl_v2",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Gemma4UnifiedForConditionalGeneration": "gemma4",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "GraniteForCausalLM": "granite",
}
BITS = {"": 16, "fp8": 8, "float-quantized": 8, "nvfp4-pack-quantized": 4.5}
HYBRIDS = ("nemotron_h", "nemotron_h_nano_vl_v2", "qwen3_5", "gemma3", "gemma4")


def main() -> None:
    data = Path(sys.argv[1])
    rows = list(csv.DictReader((data / "model_configs.csv").open()))
    (CATALOGUE / "azure.yaml").write_text(azure(csv.DictReader((data / "azure_gpu_skus.csv").open())))
    (CATALOGUE / "kaito.yaml").write_text(kaito(csv.DictReader((data / "kaito_presets.csv").open())))
    configs = {row["name"]: json.loads((data / row["file"]).read_text()) for row in rows if row["file"]}
    (CATALOGUE / "models.yaml").write_text(models(rows, configs))
    (ROOT / "tests" / "unit" / "facts" / "zoo.json").write_text(zoo(rows, configs))


def azure(rows: Iterator[Mapping[str, str]]) -> str:
    """Sizes whose name, memory and cores were read; the table's rows for series and the V620 lack one of these."""
    lines = [
        "# Azure's GPU sizes, one entry each. Made by scripts/catalogue.py from shared data; add others by hand below.",
        "#   gpu_memory  GiB that one device offers, for vGPU slices only: 95 % of the slice",
        "#   memory      GiB of the machine",
        "#   price       pay as you go, Linux; never without region and date. None was read from Azure itself: see each source.",
        "# Left out because the source does not give their name, cores or memory: ND_GB200_v6, ND_GB300_v6, NC_RTXPRO6000BSE_v6,",
        "# NG32ads_V620.",
        "",
    ]
    for row in rows:
        if row["gpu_model"] not in GPUS or not row["ram_gib"].isdecimal():
            continue
        gpu = GPUS[row["gpu_model"]]
        if row["sku"].startswith("Standard_NC") and gpu == "A100-80GB":
            gpu += "-PCIe"
        slice_ = "/" in row["gpu_count"]
        lines.append(f"{row['sku']}:")
        lines.append(f"  gpu: {gpu}")
        lines.append(f"  gpus: {1 if slice_ else row['gpu_count']}")
        if slice_:
            lines.append(f"  gpu_memory: {round(float(row['usable_gpu_mem_gb']) * VGPU_SHARE, 2)}")
        lines += [f"  cores: {row['vcpus']}", f"  memory: {row['ram_gib']}"]
        lines += price(row)
        note = f"; {row['notes']}" if row["notes"] else ""
        lines.append(f"  source: {json.dumps(row['spec_source'] + note, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def price(row: Mapping[str, str]) -> list[str]:
    usd, region, date, source = row["price_usd_per_hour_payg"], "not stated", "2026-03", row["price_source"]
    if usd:
        if row["price_provenance"].startswith("derived"):
            region, date = row["low_priority_region"], "2026-03-12"
        elif "eastus" in source:
            region, date = "eastus", "2026-09-16"
        source = f"{row['price_provenance']}: {source}"
        if "doubtful" in row["notes"]:
            source += "; doubtful"
    elif row["price_koreacentral_payg_usd_per_hour"]:
        usd, region, date = row["price_koreacentral_payg_usd_per_hour"], "koreacentral", "2026-08"
        source = row["koreacentral_source"]
    else:
        return []
    return [f'  price: {{usd_per_hour: {usd}, region: {region}, date: "{date}", source: {json.dumps(source)}}}']


def kaito(rows: Iterator[Mapping[str, str]]) -> str:
    lines = [
        "# KAITO's presets by repository: kaito-project/kaito @056b8280 presets/workspace/models/model_catalog.yaml, Apache-2.0.",
        "# Entries of its catalogue that never had a short name are named by their repository, as KAITO does since then.",
        "# Made by scripts/catalogue.py from shared data.",
        "",
    ]
    named = [row for row in rows if row["hf_repo"]]
    lines += [f"{row['hf_repo']}: {row['legacy_preset_names'].split(';')[0].split(' ')[0] or row['hf_repo']}" for row in named]
    return "\n".join(lines) + "\n"


def models(rows: list[dict[str, str]], configs: Mapping[str, Any]) -> str:
    lines = [
        "# Known models by their name on the Hugging Face hub: the facts that planning without a network needs, one entry each.",
        "#   cache: one list per group of like layers: kind, layers, KV heads, numbers per token (state: per request), window",
        "# Made by scripts/catalogue.py from shared data (copies of config.json, Apache-2.0: aiconfigurator-core 0.12.0 and",
        "# inference-sim @f90a1e3a; KAITO's model catalogue @056b8280, Apache-2.0).",
        "",
    ]
    seen = set()
    for row in rows:
        name = REPOSITORIES.get(row["name"], row["name"])
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        entry = from_file(name, row, configs) if row["file"] or name in LIKE else from_table(row)
        lines.append(f"{name}: {json.dumps(entry, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def from_file(name: str, row: Mapping[str, str], configs: Mapping[str, Any]) -> dict[str, Any]:
    like = LIKE.get(name)
    config = dict(configs[like or row["name"]])
    source = (
        "computed from a copy of its config.json"
        if not like
        else f"computed from the config.json of {like}, which has the same layers"
    )
    doubts = []
    if like and "Kimi" not in name and config.get("quantization_config", {}).get("quant_method") != row["quant"]:
        config.pop("quantization_config", None)
        if row["quant"] in QUANTIZED:
            config["quantization_config"] = QUANTIZED[row["quant"]]
    stated = next((word for word in ("NVFP4", "FP8") if word in name.upper()), None)
    if stated and not config.get("quantization_config") and "text_config" not in config:
        config["quantization_config"] = {"quant_algo": stated}
        doubts.append(f"that it is quantized ({stated}) is known by its name alone: which parts are not is not known")
    facts = from_config(config, ())
    stated_bytes = files_bytes(row)
    if stated_bytes and (facts.weight_bytes < 0.95 * stated_bytes or any("part: no tensors" in doubt for doubt in facts.doubts)):
        facts = replace(facts, weight_bytes=stated_bytes)
        doubts.append("the bytes are those of its files by KAITO's catalogue, towers and draft layers included")
    return dumped(name, facts, source, [*kept(facts.doubts), *doubts])


def files_bytes(row: Mapping[str, str]) -> int:
    """The bytes of a model's files by KAITO's catalogue, which has gpt-oss twice; 0 when it has none."""
    return 0 if row["name"].startswith("openai/") else round(float(row["weights_GiB_kaito"] or 0) * 2**30)


def kept(doubts: tuple[str, ...]) -> list[str]:
    """What the entry's source does not say already."""
    return [doubt for doubt in doubts if not doubt.startswith("a quantization that config.json")]


def dumped(name: str, facts: ModelFacts, source: str, doubts: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        key: getattr(facts, key)
        for key in (
            "architecture",
            "quantization",
            "parameters",
            "weight_bytes",
            "layers",
            "hidden",
            "heads",
            "kv_heads",
            "head_dim",
        )
    }
    entry |= {key: value for key in ("context", "vocabulary", "intermediate") if (value := getattr(facts, key))}
    groups = ((g.kind, g.layers, g.kv_heads, g.numbers, g.window) for g in facts.cache)
    entry["cache"] = [[*group[:4]] if group[4] is None else [*group] for group in groups]
    if facts.experts:
        entry["experts"] = {
            "count": facts.experts.count,
            "per_token": facts.experts.per_token,
            "parameters": facts.experts.parameters,
        }
    if chats(name):
        entry["chat"] = True
    return entry | {"source": source} | ({"doubts": doubts} if doubts else {})


def chats(name: str) -> bool:
    """Base models are named so, or by the bare name of a family whose instructed members say Instruct."""
    bare = ("Base", "-hf", "v0.1", "v0.3", "Meta-Llama-3.1", "google/gemma-4-26B-A4B", "Yi-34B")
    return "nstruct" in name or name.endswith("-it") or not any(word in name for word in bare)


def from_table(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of KAITO's catalogue: no vocabulary, and every layer is taken for full attention."""
    family = FAMILIES[row["architecture"]]
    weights = round(float(row["weights_GiB_kaito"]) * 2**30)
    bits = BITS[row["quant"]]
    cache: list[Any] = ["full", int(row["layers"]), int(row["kv_heads"]), 2 * int(row["head_dim"] or 0)]
    if row["kv_lora_rank"]:
        cache = ["latent", int(row["layers"]), 1, int(row["kv_lora_rank"]) + int(row["qk_rope_head_dim"])]
    doubts = ["parameters are taken from the bytes of the weights; the vocabulary is not known"]
    if family in HYBRIDS:
        doubts.append("every layer is counted as full attention, which this family has not: the cache is an upper bound")
    entry = {
        "architecture": family,
        "quantization": {"": "BF16", "float-quantized": "fp8", "nvfp4-pack-quantized": "nvfp4"}.get(row["quant"], row["quant"]),
        "parameters": round(weights * 8 / bits),
        "weight_bytes": weights,
        **{key: int(row[key]) for key in ("layers", "hidden", "heads", "kv_heads")},
        "head_dim": int(row["head_dim"] or 0),
        "context": int(row["max_position"]) if row["max_position"] else None,
        "cache": [cache],
        "chat": True,
        "source": "KAITO's model catalogue",
        "doubts": doubts,
    }
    return {key: value for key, value in entry.items() if value is not None}


def zoo(rows: list[dict[str, str]], configs: Mapping[str, Any]) -> str:
    """The configs with only the keys that are read, and what the table says of them, one model a line."""
    lines = []
    for row in rows:
        if row["name"] in configs:
            used: dict[str, Any] = {}
            from_config(_Recording(configs[row["name"]], used), ())
            figures = {
                "parameters_b": float(row["params_B_computed"]) if row["params_B_computed"] else None,
                "active_b": float(row["active_params_B_computed"]) if row["active_params_B_computed"] else None,
                "growing_bytes": int(row["kv_bytes_per_token_fp16_growing"]) if row["kv_bytes_per_token_fp16_growing"] else None,
            }
            lines.append(json.dumps({"name": row["name"], **figures, "config": small(used)}))
    note = (
        "config.json of these models, only the keys that Headrace reads, without lists of modules left unquantized; figures "
        "of the planner's data table. Copies as in aiconfigurator-core 0.12.0 (PyPI) and, for names without an owner, "
        "inference-sim/inference-sim @f90a1e3a; both Apache-2.0. They describe architectures; "
        "the models' weights have licences of their own."
    )
    return '{"source": ' + json.dumps(note) + ',\n"models": [\n' + ",\n".join(lines) + "\n]}\n"


class _Recording(dict):  # type: ignore[type-arg]
    """A mapping that copies what is read of it into `used`."""

    def __init__(self, values: Mapping[str, Any], used: dict[str, Any]) -> None:
        super().__init__(values)
        self._used = used

    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        if value is None or key not in self:
            return value
        if isinstance(value, dict) and key not in ("quantization_config", "vision_config", "audio_config"):
            if not isinstance(self._used.get(key), dict):
                self._used[key] = {}
            return _Recording(value, self._used[key])
        self._used[key] = {} if key in ("vision_config", "audio_config") else value
        return value

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


def small(config: dict[str, Any]) -> dict[str, Any]:
    """Without the long lists of a quantization: bytes are checked elsewhere."""
    for values in (config, config.get("text_config", {})):
        settings = values.get("quantization_config")
        if isinstance(settings, dict):
            values["quantization_config"] = {
                key: value for key, value in settings.items() if len(json.dumps(value)) < 400 and key != "producer"
            }
    return config


if __name__ == "__main__":
    main()
