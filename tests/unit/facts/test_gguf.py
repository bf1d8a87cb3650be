"""What a GGUF header says of the cache: windows, latent attention, states; one row per rule of llama.cpp."""

import pytest

from headrace.facts.model import Experts, from_gguf
from headrace.weights.headers import GgufHeader, Tensor

PLAIN = {
    "block_count": 8,
    "embedding_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "context_length": 4096,
}
SSM = {"ssm.inner_size": 128, "ssm.state_size": 16, "ssm.conv_kernel": 4, "ssm.group_count": 1}
STATE = 2 * (3 * (128 + 2 * 16) + 16 * 128)


def facts(architecture, changes, tensors=()):
    metadata = {"general.architecture": architecture} | {
        f"{architecture}.{key}": value for key, value in (PLAIN | changes).items()
    }
    found = tensors or (Tensor("token_embd.weight", "F16", (64, 10), 0, 1280),)
    return from_gguf(GgufHeader(3, metadata, tuple(found), 1000), 10**9)


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("llama", {}, [("full", 8, 2, 32, None)]),
        # llama.cpp does not use the window of these
        ("phi3", {"attention.sliding_window": 1024}, [("full", 8, 2, 32, None)]),
        ("gemma2", {"attention.sliding_window": 64}, [("window", 4, 2, 32, 64), ("full", 4, 2, 32, None)]),
        ("gemma3", {"attention.sliding_window": 64}, [("window", 7, 2, 32, 64), ("full", 1, 2, 32, None)]),
        ("gpt-oss", {"attention.sliding_window": 64}, [("window", 4, 2, 32, 64), ("full", 4, 2, 32, None)]),
        # newer files say it layer by layer
        (
            "gemma4",
            {"attention.sliding_window": 64, "attention.sliding_window_pattern": (True, True, True, False) * 2},
            [("window", 6, 2, 32, 64), ("full", 2, 2, 32, None)],
        ),
        ("llama4", {}, [("full", 8, 2, 32, None)]),
        ("llama4", {"context_length": 2**20}, [("chunk", 6, 2, 32, 8192), ("full", 2, 2, 32, None)]),
        # latent attention, and a file from before llama.cpp knew it
        (
            "deepseek2",
            {
                "attention.kv_lora_rank": 512,
                "attention.key_length_mla": 192,
                "rope.dimension_count": 64,
                "attention.head_count_kv": 1,
            },
            [("latent", 8, 1, 576, None)],
        ),
        ("deepseek2", {"attention.kv_lora_rank": 512, "attention.head_count_kv": 4}, [("full", 8, 4, 32, None)]),
        # hybrids: a list with zeros, or every fourth layer
        ("jamba", {**SSM, "attention.head_count_kv": (0, 0, 0, 2) * 2}, [("full", 2, 2, 32, None), ("state", 6, 1, STATE, None)]),
        ("qwen3next", SSM, [("full", 2, 2, 32, None), ("state", 6, 1, STATE, None)]),
        ("falcon-h1", SSM, [("full", 8, 2, 32, None), ("state", 8, 1, STATE, None)]),
        ("mamba2", {**SSM, "attention.head_count": 0}, [("state", 8, 1, STATE, None)]),
    ],
)
def test_what_a_layer_keeps(architecture, changes, expected):
    found = facts(architecture, changes)
    assert [(g.kind, g.layers, g.kv_heads, g.numbers, g.window) for g in found.cache] == expected


def test_experts_are_counted_by_their_tensors():
    tensors = [
        Tensor("blk.0.ffn_up_exps.weight", "F16", (64, 32, 8), 0, 32768),
        Tensor("blk.0.ffn_up_shexp.weight", "F16", (64, 32), 0, 4096),
    ]
    found = facts("qwen3moe", {"expert_count": 8, "expert_used_count": 2}, tensors)
    assert found.experts == Experts(8, 2, 64 * 32 * 8)
    assert found.parameters_active == 64 * 32 * 3


@pytest.mark.parametrize(
    ("architecture", "changes", "doubt"),
    [
        ("novel", {"attention.sliding_window": 64}, "all are counted full"),
        ("deepseek2", {"attention.kv_lora_rank": 512}, "kept in full"),
        ("rwkv7", {"wkv.head_size": 64}, "RWKV"),
    ],
)
def test_what_is_not_understood_is_said(architecture, changes, doubt):
    assert any(doubt in said for said in facts(architecture, changes).doubts)
