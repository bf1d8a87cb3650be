"""`headrace serve` on a machine with GPUs, by a fake nvidia-smi and a fake vLLM: planned, started on its cards, served."""

import json
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Served
from tests.nvidia_smi import H100S, H100S_LISTED, nvidia_smi, vllm_for_gpus

SHAPE = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "tie_word_embeddings": False},
    **{"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8},
    **{"num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 8192},
}


def weights(folder: Path) -> Path:
    """What a plan reads of a Llama: its configuration and the heads of its tensors; the rest is a hole."""
    shapes = {"model.embed_tokens.weight": [4096, 512], "lm_head.weight": [4096, 512], "model.norm.weight": [512]}
    for layer in range(2):
        names = {"self_attn.q_proj": [512, 512], "self_attn.k_proj": [256, 512], "self_attn.v_proj": [256, 512]}
        names |= {"self_attn.o_proj": [512, 512], "mlp.gate_proj": [1024, 512], "mlp.up_proj": [1024, 512]}
        names |= {"mlp.down_proj": [512, 1024], "input_layernorm": [512], "post_attention_layernorm": [512]}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in names.items()}
    tensors, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(tensors).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + end)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": nvidia_smi(tmp_path / "smi", H100S, H100S_LISTED),
        "CUDA_VISIBLE_DEVICES": "1,2,3",
        "HEADRACE_VLLM": str(vllm_for_gpus(tmp_path / "vllm")),
        "HEADRACE_CACHE": str(tmp_path / "cache"),
    }


def ask(address: str, model: str) -> dict[str, Any]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def starts(tmp_path: Path) -> list[tuple[str, str]]:
    """(CUDA_VISIBLE_DEVICES, the model that was started)."""
    lines = [line.split() for line in (tmp_path / "vllm" / "started").read_text().splitlines()]
    return [(words[0], words[words.index("--served-model-name") + 1]) for words in lines]


@pytest.mark.skipif(psutil.virtual_memory().available < 12 * 2**30, reason="three GPUs' engines are planned with 9 GiB of RAM")
def test_models_are_served_by_vllm_on_the_cards_that_were_planned(
    tmp_path: Path, environment: dict[str, str], serve: Callable[..., Served]
) -> None:
    model = weights(tmp_path / "llama")
    text = f"""
models:
  chat: {{source: 'file:{model}', tensor_parallel: 2, share: exclusive}}
  later: {{source: 'file:{model}', scale: {{replicas: 0..1}}}}
"""
    served = serve(yaml=text, environment=environment)
    assert ask(served.url, "chat")["choices"][0]["message"]["content"]
    ((cards, name),) = starts(tmp_path)
    assert name == "chat"
    assert len(set(cards.split(","))) == 2
    assert ask(served.url, "later")["choices"][0]["message"]["content"]  # asleep until now
    (_, (other, name)) = starts(tmp_path)
    assert name == "later"
    assert {*cards.split(","), other} == {"GPU-a1", "GPU-a2", "GPU-a3"}
    assert "GPU 1 (H100-80GB)" in served.output
    (replica,) = served.status("chat")["replicas"]
    assert set(replica["gpus"]) == set(cards.split(","))
    assert "GPU 1, H100-80GB" in served.get("/admin/pages/memory")


SMALL = "0, NVIDIA RTX 9999, GPU-ff, 1500, 1460, 4, 12.0, [N/A]"


@pytest.mark.skipif(psutil.virtual_memory().available < 12 * 2**30, reason="two engines are planned with 6 GiB of RAM")
def test_two_models_take_turns_on_one_card_and_sleep_in_place_meanwhile(
    tmp_path: Path, environment: dict[str, str], serve: Callable[..., Served]
) -> None:
    model = weights(tmp_path / "llama")
    environment |= {"PATH": nvidia_smi(tmp_path / "small", SMALL), "CUDA_VISIBLE_DEVICES": "0"}
    turns = dict.fromkeys(("chat", "later"), f"{{source: 'file:{model}', engine: vllm, share: swap}}")
    served = serve(yaml="models:\n" + "".join(f"  {name}: {said}\n" for name, said in turns.items()), environment=environment)
    for name in ("chat", "later", "chat", "later"):
        assert ask(served.url, name)["choices"][0]["message"]["content"]
    assert [name for _, name in starts(tmp_path)] == ["chat", "later"], "each was started once, and woken after that"
    (replica,) = served.status("chat")["replicas"]
    assert replica["state"] == "asleep"
    for path in ("/sleep?level=1", "/wake_up", "/collective_rpc", "/is_sleeping"):
        request = urllib.request.Request(f"{served.url}{path}", b"{}", {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        refused.value.close()
        assert refused.value.code in (404, 405), "what the dev mode of an engine opens is nobody else's"
