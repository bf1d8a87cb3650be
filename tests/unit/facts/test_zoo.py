"""What configs of the real zoo say, against the planner's data table; every difference has its reason here."""

import json
from pathlib import Path

import pytest

from headrace.facts.model import from_config

ZOO = json.loads((Path(__file__).parent / "zoo.json").read_text())["models"]

PARAMETERS = {
    # The table leaves out the shared expert of every layer: 48 x 3 x 5120 x 8192 = 6.0 billion. Meta says 109 billion with the
    # vision tower and 17 active.
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": (107.770, 17.173),
    "llama-4-scout-17b-16e-instruct-fp8-dynamic": (107.770, 17.173),
    # The table counts linear attention as attention (it says so: APPROX). KAITO's catalogue has 51.75 GiB in BF16 for the 27B,
    # that is 27.8 billion with the vision tower and the draft layer; 232.99 GiB, that is 125.1, for the 122B.
    "Qwen/Qwen3.5-27B": (26.896, 26.896),
    "nvidia/Qwen3.6-27B-NVFP4": (26.896, 26.896),
    "Qwen/Qwen3.5-35B-A3B": (34.661, 3.455),
    "nvidia/Qwen3.6-35B-A3B-NVFP4": (34.661, 3.455),
    "Qwen/Qwen3.5-122B-A10B": (122.111, 9.771),
    "nvidia/Qwen3.5-122B-A10B-NVFP4": (122.111, 9.771),
    "Qwen/Qwen3.5-397B-A17B": (396.346, 17.349),
    "nvidia/Qwen3.5-397B-A17B-NVFP4": (396.346, 17.349),
    # The table leaves out the indexer of the sparse attention, 0.85 billion, which is 2.3 % of the active parameters.
    "deepseek-ai/DeepSeek-V3.2": (671.878, 38.404),
    "nvidia/DeepSeek-V3.2-NVFP4": (671.878, 38.404),
}
"""Billions of parameters and of active ones where they are not within 2 % of the table."""

GROWING = {
    # Three of four layers see a chunk of 8,192 tokens; the table counts all as growing.
    **dict.fromkeys(
        (
            "meta-llama/Llama-4-Scout-17B-16E-Instruct",
            "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
            "llama-4-scout-17b-16e-instruct-fp8-dynamic",
        ),
        12 * 8 * 256 * 2,
    ),
    # Global layers have 2 (4) KV heads of 512; the table takes the nominal heads, and says so.
    "google/gemma-4-26B-A4B": 5 * 2 * 1024 * 2,
    "nvidia/Gemma-4-26B-A4B-NVFP4": 5 * 2 * 1024 * 2,
    "nvidia/Gemma-4-31B-IT-NVFP4": 10 * 4 * 1024 * 2,
    # hybrid_layer_pattern: 9 of 48 layers see everything, with values of 128; the table takes all, with values of 192.
    "XiaomiMiMo/MiMo-V2-Flash": 9 * 4 * (192 + 128) * 2,
    # linear_attn_config: 24 of 93 layers keep a latent vector, the others a state.
    "moonshotai/Kimi-K3": 24 * 576 * 2,
    # layers_block_type instead of hybrid_override_pattern: 6 of 52 layers have attention.
    "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4": 6 * 2 * 256 * 2,
}
"""Bytes per token of the growing cache where they are not exactly those of the table."""

UNSTATED = {
    # Models for which the table has no number of parameters: ours, in billions, in all and active; what is known beside.
    "deepseek-ai/DeepSeek-V4-Flash": (283.8, 13.3),  # its card: 284 and 13
    "deepseek-ai/DeepSeek-V4-Pro": (1571.7, 48.5),  # its card: 1.6 trillion and 49
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": (400.7, 17.2),  # its name: 17; its card: 400
    "XiaomiMiMo/MiMo-V2-Flash": (308.8, 15.4),  # its card: 309 and 15
    "google/gemma-4-26B-A4B": (25.2, 3.82),  # 48.07 GiB in BF16 with the tower: 25.8
    "nvidia/Gemma-4-31B-IT-NVFP4": (30.7, 30.7),  # 58.25 GiB in BF16 with the tower: 31.3
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1": (49.9, 49.9),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (31.58, 3.58),  # 58.82 GiB in BF16: 31.58
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8": (120.7, 12.8),
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": (549.3, 56.1),
    "nvidia/Nemotron-H-56B-Base-8K": (56.3, 56.3),
}


def facts(model):
    return from_config(model["config"], ())


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model["name"])
def test_parameters_are_those_of_the_table(model):
    found = facts(model)
    in_all, active = PARAMETERS.get(model["name"], (model["parameters_b"], model["active_b"]))
    tolerance = 0.0005 if model["name"] in PARAMETERS else 0.02
    if in_all is not None:
        assert found.parameters == pytest.approx(in_all * 1e9, rel=tolerance)
    if active is not None:
        assert found.parameters_active == pytest.approx(active * 1e9, rel=tolerance)


def test_an_exception_is_one():
    """Who mends the table also clears the list."""
    for model in ZOO:
        found = facts(model)
        if model["name"] in PARAMETERS:
            off = (found.parameters / 1e9 / model["parameters_b"], found.parameters_active / 1e9 / model["active_b"])
            assert max(abs(ratio - 1) for ratio in off) > 0.02, model["name"]
        if model["name"] in GROWING:
            assert found.cache_bytes_per_token != model["growing_bytes"], model["name"]


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model["name"])
def test_the_growing_cache_is_exactly_that_of_the_table(model):
    expected = GROWING.get(model["name"], model["growing_bytes"])
    if expected is not None:
        assert facts(model).cache_bytes_per_token == expected


@pytest.mark.parametrize("model", [model for model in ZOO if model["name"] in UNSTATED], ids=lambda model: model["name"])
def test_parameters_that_the_table_does_not_have(model):
    found = facts(model)
    assert (found.parameters / 1e9, found.parameters_active / 1e9) == pytest.approx(UNSTATED[model["name"]], rel=0.005)


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model["name"])
def test_every_decoder_has_its_cache_described_and_says_that_it_was_computed(model):
    found = facts(model)
    kinds = {group.kind for group in found.cache}
    assert kinds <= {"full", "window", "chunk", "latent", "state"}
    assert sum(group.layers for group in found.cache if group.kind != "state") <= found.layers
    assert all(group.numbers > 0 and group.layers > 0 for group in found.cache)
    assert any("computed from the shapes" in doubt for doubt in found.doubts)
    assert 0 < found.parameters_active <= found.parameters
    assert found.weight_bytes > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-8B", [("full", 36, 8, 256, None)]),
        ("deepseek-ai/DeepSeek-V3", [("latent", 61, 1, 576, None)]),
        ("openai/gpt-oss-20b", [("window", 12, 8, 128, 128), ("full", 12, 8, 128, None)]),
        ("google/gemma-4-26B-A4B", [("window", 25, 8, 512, 1024), ("full", 5, 2, 1024, None)]),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", [("chunk", 36, 8, 256, 8192), ("full", 12, 8, 256, None)]),
        # Mamba: 3 positions of a convolution over 4096 + 2 x 8 x 128, and 64 x 64 x 128 numbers of 32 bits
        (
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            [("state", 23, 1, 3 * 6144 + 2 * 64 * 64 * 128, None), ("full", 6, 2, 256, None)],
        ),
        # gated delta net: 3 positions of 2 x 2048 + 6144, and 48 matrices of 128 x 128 in 32 bits
        ("Qwen/Qwen3.5-27B", [("state", 48, 1, 3 * 10240 + 2 * 48 * 128 * 128, None), ("full", 16, 4, 512, None)]),
        ("XiaomiMiMo/MiMo-V2-Flash", [("full", 9, 4, 320, None), ("window", 39, 8, 320, 128)]),
        # architecture search: a third of the layers have no attention at all
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", [("full", 49, 8, 256, None)]),
    ],
)
def test_the_cache_layer_by_layer(name, expected):
    model = next(model for model in ZOO if model["name"] == name)
    groups = [(g.kind, g.layers, g.kv_heads, g.numbers, g.window) for g in facts(model).cache]
    assert groups == expected


@pytest.mark.parametrize(
    ("name", "doubt"),
    [
        ("deepseek-ai/DeepSeek-V3.2", "sparse: an index of 128 numbers per token and layer"),
        ("deepseek-ai/DeepSeek-V4-Flash", "compressed layer by layer"),
        ("zai-org/GLM-5.2", "sparse"),
        ("MiniMaxAI/MiniMax-M3", "sparse"),
        ("moonshotai/Kimi-K2.5", "without its vision part"),
    ],
)
def test_what_is_not_understood_is_said(name, doubt):
    model = next(model for model in ZOO if model["name"] == name)
    assert any(doubt in said for said in facts(model).doubts)


@pytest.mark.parametrize(
    ("name", "gib", "tolerance"),
    [
        # vLLM "Model loading took"; a runtime adds little to what is in the files
        ("Qwen/Qwen3-32B", 61.03, 0.001),
        ("llama-3.1-8b-instruct", 14.96, 0.001),
        ("qwen3-14b", 27.52, 0.001),
        ("llama-3.1-70b-instruct", 4 * 32.86, 0.001),
        ("yi-34b", 2 * 32.03, 0.001),
        # vLLM pads MXFP4 for its kernels: the files have 12.8 and 60.8
        ("openai/gpt-oss-20b", 13.47, 0.06),
        ("openai/gpt-oss-120b", 64.38, 0.06),
        # the files, by KAITO's catalogue: MTP layers and the vision tower are in there
        ("MiniMaxAI/MiniMax-M2.7", 214.34, 0.001),
        ("moonshotai/Kimi-K2.5", 554.32, 0.002),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 58.82, 0.0005),
        ("deepseek-ai/DeepSeek-V3.2", 642.14, 0.025),
    ],
)
def test_the_bytes_are_those_of_the_real_weights(name, gib, tolerance):
    model = next(model for model in ZOO if model["name"] == name)
    assert facts(model).weight_bytes / 2**30 == pytest.approx(gib, rel=tolerance)
