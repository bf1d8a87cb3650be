"""Whatever a config or a header says: facts or a ModelError, soon and small."""

import copy
import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import ModelError
from headrace.facts.model import from_config, from_gguf
from headrace.weights.headers import GgufHeader, Tensor

ZOO = [model["config"] for model in json.loads((Path(__file__).parent / "zoo.json").read_text())["models"]]

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, 3, 7, 2**60, 10**9]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-1, 9), st.text(max_size=4), st.none()), max_size=8),
    st.dictionaries(
        st.sampled_from(["weights", "group_0", "num_bits", "quant_algo", "attention", "ffn"]), st.integers(-1, 9), max_size=3
    ),
)
TENSORS = st.lists(
    st.builds(
        lambda name, kind, shape: Tensor(name, kind, tuple(shape), 0, 8),
        st.sampled_from(["a.weight", "a.qweight", "a.weight_packed", "e.experts.0.w1.weight", "e_blocks", "a.weight_scale", ""]),
        st.sampled_from(["BF16", "U8", "I8", "I32", "F8_E4M3", "X"]),
        st.lists(st.integers(0, 2**40), max_size=4),
    ),
    max_size=4,
)


def mutate(config, changes):
    """The config with keys of any level set to anything, or gone."""
    config = copy.deepcopy(config)
    for level, at, value in changes:
        part = config
        for name in ("text_config", "quantization_config")[: level % 3]:
            part = part[name] if isinstance(part.get(name), dict) else part
        if part:
            names = sorted(part)
            part[names[at % len(names)]] = value
    return config


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(ZOO),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 99), VALUES), min_size=1, max_size=6),
    TENSORS,
)
def test_a_mutated_config_gives_facts_or_a_model_error(config, changes, tensors):
    try:
        facts = from_config(mutate(config, changes), tensors)
    except ModelError:
        return
    assert facts.parameters > 0
    assert facts.weight_bytes >= 0
    assert 0 < facts.parameters_active <= facts.parameters
    assert facts.cache_bytes_per_token >= 0
    assert len(facts.cache) <= facts.layers * 2


KEYS = (
    *("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length"),
    *("attention.sliding_window", "attention.sliding_window_pattern", "attention.kv_lora_rank", "attention.key_length_mla"),
    *(
        "ssm.inner_size",
        "ssm.state_size",
        "ssm.conv_kernel",
        "expert_count",
        "expert_used_count",
        "feed_forward_length",
        "vocab_size",
    ),
)
COUNTS = st.one_of(
    st.integers(0, 64),
    st.sampled_from([2**32 - 1, 2**64 - 1, -1]),
    st.lists(st.integers(0, 9), max_size=8).map(tuple),
    st.text(max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["llama", "gemma3", "deepseek2", "qwen3next", "llama4", "jamba", "gpt-oss", "falcon-h1", "mamba", "zzz"]),
    st.dictionaries(st.sampled_from(KEYS), COUNTS),
    st.lists(st.integers(0, 2**63), max_size=3),
)
def test_any_gguf_metadata_gives_facts_or_a_model_error(architecture, values, shape):
    metadata = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": 8 for key in KEYS[:3]},
        **{f"{architecture}.{key}": value for key, value in values.items()},
    }
    header = GgufHeader(3, metadata, (Tensor("a.weight", "F16", tuple(shape), 0, 16),), 1000)
    try:
        facts = from_gguf(header, 2000)
    except ModelError:
        return
    assert facts.parameters > 0
    assert facts.cache_bytes_per_token >= 0
    assert all(group.layers > 0 for group in facts.cache)
