"""vLLM's KV cache: bytes per token and request of one GPU, in whole blocks."""

from dataclasses import replace

import pytest
from vllm_models import ALL, GIB, GPT_OSS_120B, KIMI, LLAMA_8B, NEMOTRON, QWEN3_235B

from headrace.errors import PlanError
from headrace.facts.model import CacheGroup, ModelFacts
from headrace.plan.stages import part, stages
from headrace.plan.vllm.cache import layout

TOKENS = [
    # facts, tp, dtype, bytes of a token on one GPU
    (LLAMA_8B, 1, "auto", 131_072),
    (LLAMA_8B, 2, "auto", 65_536),
    (LLAMA_8B, 16, "auto", 16_384),  # 8 heads over 16 GPUs: one each, twice over
    (LLAMA_8B, 1, "fp8", 65_536),
    (QWEN3_235B, 8, "auto", 48_128),  # 4 heads on 8 GPUs: 10.65 GiB held 238,208 tokens (id 56)
    (KIMI, 8, "auto", 70_272),  # latents are on every rank: 46.80 GiB held 715,072 tokens (id 25)
    (GPT_OSS_120B, 1, "auto", 36_864),  # only half of the layers grow
    (NEMOTRON, 1, "auto", 6_144),  # as planning.md counts it
]


@pytest.mark.parametrize(("facts", "tp", "dtype", "size"), TOKENS)
def test_bytes_of_a_token(facts: ModelFacts, tp: int, dtype: str, size: int) -> None:
    assert layout(facts, tp, dtype, 8192).token_bytes == size


def test_a_request_takes_whole_blocks() -> None:
    kept = layout(LLAMA_8B, 1, "auto", 8192)
    assert kept.request_bytes(1) == kept.request_bytes(16) == 16 * 131_072
    assert kept.request_bytes(17) == 32 * 131_072


def test_a_window_stops_growing_at_what_is_in_flight() -> None:
    """ceil(min(128 - 1 + 8192, context) / 16) + 1 blocks in each of 18 layers (planning.md, section 2)."""
    kept = layout(GPT_OSS_120B, 1, "auto", 8192)
    full, page = 18 * 2048, 16 * 18 * 2048
    assert kept.request_bytes(131_072) == 131_072 * full + (-(-(127 + 8192) // 16) + 1) * page
    assert kept.request_bytes(160) == 160 * full + 11 * page


def test_a_chunk_keeps_itself_and_what_is_in_flight() -> None:
    chunked = replace(LLAMA_8B, cache=(CacheGroup("chunk", 32, 8, 256, 8192),))
    assert layout(chunked, 1, "auto", 2048).request_bytes(100_000) == (8192 + 2048) * 131_072


def test_pages_of_layers_with_other_heads_are_of_one_size() -> None:
    """Gemma: windows of 8 heads, full attention of one head twice as wide; its blocks hold more tokens."""
    groups = (CacheGroup("full", 8, 1, 1024), CacheGroup("window", 40, 8, 512, 1024))
    kept = layout(replace(LLAMA_8B, layers=48, cache=groups), 1, "auto", 2048)
    assert [pages.block for pages in kept.groups] == [64, 16]
    assert kept.token_bytes == 8 * 1024 * 2


def test_a_state_is_one_page_and_blocks_grow_to_its_size() -> None:
    kept = layout(NEMOTRON, 1, "auto", 2048)
    state, attention = kept.groups[1], kept.groups[0]
    assert kept.page_bytes >= 2 * 1_100_000
    assert attention.block % 16 == 0
    assert kept.page_bytes == attention.block * 1024
    assert state.layers == 24  # 23, padded to groups of 6


def test_stages_keep_their_own_layers() -> None:
    each = [layout(part(LLAMA_8B, stage), 1, "auto", 0).token_bytes for stage in stages(32, 3)]
    assert each == [131_072 * layers / 32 for layers in (11, 11, 10)]


@pytest.mark.parametrize("facts", ALL, ids=lambda facts: facts.architecture)
def test_requests_never_shrink(facts: ModelFacts) -> None:
    kept = layout(facts, 1, "auto", 8192)
    sizes = [kept.request_bytes(context) for context in range(1, 40_000, 97)]
    assert sizes == sorted(sizes)


def test_an_unknown_dtype_is_refused_with_those_known() -> None:
    with pytest.raises(PlanError, match=r'"int3" is not a type of KV cache\. Known are auto'):
        layout(LLAMA_8B, 1, "int3", 0)


def test_the_pool_of_one_gpu_holds_the_tokens_that_were_logged() -> None:
    """Id 25 of the measurements, exact."""
    assert int(46.80 * GIB / layout(KIMI, 8, "auto", 0).token_bytes) == pytest.approx(715_072, rel=2e-4)
