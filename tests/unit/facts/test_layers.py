"""The many ways in which configs say what a layer keeps, one row each."""

import pytest

from headrace.errors import ModelError
from headrace.facts.model import from_config

PLAIN = {
    "model_type": "llama",
    "num_hidden_layers": 8,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
}
JAMBA = {
    **{"model_type": "jamba", "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_expand": 2},
    **{"mamba_d_conv": 4, "num_experts": 4, "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1},
}
MLA = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
FULL = ("full", 8, 2, 32, None)


def groups(changes):
    facts = from_config({**PLAIN, **changes}, ())
    return [(g.kind, g.layers, g.kv_heads, g.numbers, g.window) for g in facts.cache]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [FULL]),
        # Mistral 7B 0.1: a window in every layer
        ({"model_type": "mistral", "sliding_window": 1024}, [("window", 8, 2, 32, 1024)]),
        # a window as long as the context is none (Phi-3 128k)
        ({"model_type": "phi3", "sliding_window": 4096}, [FULL]),
        # Qwen writes a window down and does not use it
        ({"model_type": "qwen2", "sliding_window": 1024}, [FULL]),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": False}, [FULL]),
        # where it does, the first layers have none
        (
            {"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True, "max_window_layers": 6},
            [("full", 6, 2, 32, None), ("window", 2, 2, 32, 1024)],
        ),
        # Gemma 2 takes turns, Gemma 3 sees everything at each sixth layer
        ({"model_type": "gemma2", "sliding_window": 64}, [("window", 4, 2, 32, 64), ("full", 4, 2, 32, None)]),
        ({"model_type": "gemma3_text", "sliding_window": 64}, [("window", 7, 2, 32, 64), ("full", 1, 2, 32, None)]),
        (
            {"model_type": "cohere2", "sliding_window": 64, "sliding_window_pattern": 2},
            [("window", 4, 2, 32, 64), ("full", 4, 2, 32, None)],
        ),
        (
            {"model_type": "exaone4", "sliding_window": 64, "sliding_window_pattern": "LLLG"},
            [("window", 6, 2, 32, 64), ("full", 2, 2, 32, None)],
        ),
        # layer_types say it better than any default
        (
            {"model_type": "gemma3", "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 4},
            [("window", 4, 2, 32, 64), ("full", 4, 2, 32, None)],
        ),
        # Llama 4 without a list: every fourth layer sees everything
        ({"model_type": "llama4_text", "attention_chunk_size": 512}, [("chunk", 6, 2, 32, 512), ("full", 2, 2, 32, None)]),
        (
            {"model_type": "llama4_text", "attention_chunk_size": 512, "no_rope_layers": [1, 0] * 4},
            [("chunk", 4, 2, 32, 512), ("full", 4, 2, 32, None)],
        ),
        # latent attention
        ({"model_type": "deepseek_v3", **MLA}, [("latent", 8, 1, 576, None)]),
        # Jamba: one layer of eight has attention, the others 3 x 128 + 128 x 16 numbers
        (JAMBA, [("state", 7, 1, 3 * 128 + 128 * 16, None), ("full", 1, 2, 32, None)]),
        # Mamba: no attention and no heads
        (
            {"model_type": "mamba", "num_attention_heads": None, "state_size": 16, "conv_kernel": 4, "expand": 2},
            [("state", 8, 1, 3 * 128 + 128 * 16, None)],
        ),
        # the small Gemma 4 read the cache of earlier layers
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 3}, [("full", 5, 2, 32, None)]),
        # an encoder keeps nothing
        ({"model_type": "bert"}, []),
        # multi-query
        ({"model_type": "falcon", "multi_query": True}, [("full", 8, 1, 32, None)]),
    ],
)
def test_what_a_layer_keeps(changes, expected):
    assert groups(changes) == expected


def test_an_unknown_kind_of_layer_is_counted_in_full_and_said():
    facts = from_config({**PLAIN, "layer_types": ["full_attention"] * 7 + ["telepathy"]}, ())
    assert facts.cache[0].layers == 8
    assert any('"telepathy"' in doubt for doubt in facts.doubts)


def test_an_unknown_family_is_said():
    facts = from_config({**PLAIN, "model_type": "quux"}, ())
    assert any('the family "quux" is not known' in doubt for doubt in facts.doubts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer_types": ["full_attention"] * 3}, "describes 3 layers one by one and says there are 8"),
        ({"layer_types": [1, 2]}, "a list of names is needed"),
        ({"num_hidden_layers": 2**30}, "which no model has"),
        ({"num_hidden_layers": 2**60}, "a number above 0 is needed"),
        ({"hybrid_layer_pattern": ["x"] * 8}, "a list of numbers is needed"),
        ({"num_experts": 8}, 'does not say "num_experts_per_tok"'),
        ({"num_experts": 8, "num_experts_per_tok": 9}, "uses 9 experts of only 8"),
        ({"vocab_size": None}, 'does not say "vocab_size"'),
        ({"block_configs": [{"attention": {"n_heads_in_group": 3}}] * 8}, "groups of 3 heads"),
        ({"moe_layer_freq": [1], "num_experts": 4, "num_experts_per_tok": 2}, "too few for layer 1"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(changes, reason):
    with pytest.raises(ModelError, match=reason.replace("(", r"\(")):
        from_config({key: value for key, value in {**PLAIN, **changes}.items() if value is not None}, ())


@pytest.mark.parametrize(
    ("changes", "tied"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({}, False),
        # what a family does when it does not say
        ({"model_type": "gemma3_text"}, True),
    ],
)
def test_tied_embeddings_are_counted_once(changes, tied):
    one = from_config({**PLAIN, **changes, "tie_word_embeddings": True}, ()).parameters
    assert from_config({**PLAIN, **changes}, ()).parameters == one + (0 if tied else 100 * 64)


def test_active_parameters_leave_out_the_experts_that_a_token_is_not_sent_to():
    moe = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
    facts = from_config({**PLAIN, **moe}, ())
    assert facts.experts.parameters == 7 * 8 * 3 * 16 * 64
    assert facts.parameters_active == facts.parameters - facts.experts.parameters * 6 // 8
