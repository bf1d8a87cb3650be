"""llama.cpp on one GPU: what was published lies within the range, more users are never promised than fit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.facts import catalogue
from headrace.plan.fleet import UTILIZATION
from headrace.plan.intent import Intent
from headrace.plan.llamacpp_gpu import on_llamacpp
from tests.unit.plan.vllm_models import LLAMA_8B, QWEN3_32B

Q4 = replace(LLAMA_8B, format="gguf", quantization="Q4_K_M", weight_bytes=4_920_000_000)


@pytest.mark.parametrize(("gpu", "published"), [("Apple-M1-Max-64GB", 46.2), ("Apple-M4-32GB", 20.9)])
def test_published_speeds_are_within_the_range(gpu: str, published: float) -> None:
    low, high = on_llamacpp(Q4, catalogue.gpus()[gpu], Intent(users=1, prompt=1, output=128)).one
    assert low <= published <= high


def test_a_small_model_is_bound_by_its_steps() -> None:
    """TinyLlama-1.1B on an M1 Ultra, published: 243 tokens/s, a fifth of what its bandwidth would allow."""
    tiny = replace(Q4, parameters=1_100_000_000, weight_bytes=667_000_000, cache_bytes_per_token=22_528)
    low, high = on_llamacpp(tiny, catalogue.gpus()["Apple-M1-Ultra-128GB"], Intent(users=1, prompt=1, output=128)).one
    assert low <= 243 <= high


@given(
    st.sampled_from(list(catalogue.gpus().values())), st.integers(1, 500), st.integers(1, 4000), st.sampled_from([Q4, QWEN3_32B])
)
def test_what_is_promised_fits(gpu, users, prompt, facts) -> None:  # type: ignore[no-untyped-def]
    made = on_llamacpp(facts, gpu, Intent(users=users, prompt=prompt))
    assert made.slots <= users
    assert (made.memory.total_bytes <= gpu.memory_bytes * UTILIZATION) == (made.slots > 0)
    assert made.together[0] >= made.one[0] * 0.99
    assert gpu.name in str(made)


def test_weights_that_are_no_gguf_are_taken_to_be_made_one() -> None:
    made = on_llamacpp(LLAMA_8B, catalogue.gpus()["Apple-M4-32GB"], Intent())
    assert made.memory.weights_bytes == pytest.approx(4.92e9, rel=0.02)
    assert "a GGUF in Q4_K_M" in str(made)
