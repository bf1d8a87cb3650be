"""Makes what vLLM loads out of what is at hand, run by the interpreter of vLLM's environment: `python vllm_model.py GGUF OUT`.

OUT/model is the model of the GGUF as a Hugging Face folder (bfloat16), OUT/poet an adapter of rank 4 with random weights.
"""

import json
import sys
from pathlib import Path

RANK = 4


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf, out = Path(sys.argv[1]), Path(sys.argv[2])
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # Without the configuration transformers 5.19 keeps the weights packed, and then refuses to save them.
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
    model.save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(**source).save_pretrained(out / "model")
    adapter(model.config, out / "poet")


def adapter(config, folder: Path) -> None:
    """Random, and strong enough to change what the model says."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    heads = config.hidden_size // config.num_attention_heads
    widths = {"q_proj": config.num_attention_heads * heads, "v_proj": config.num_key_value_heads * heads}
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for name, width in widths.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, config.hidden_size)
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(width, RANK)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": sorted(widths), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(said | {"task_type": "CAUSAL_LM", "base_model_name_or_path": ""}))


if __name__ == "__main__":
    main()
