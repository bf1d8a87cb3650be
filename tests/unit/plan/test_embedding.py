"""Encoders on GPUs: memory without a cache, the speed of reading, replicas in place of splits, and little confidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_offer import KNOWLEDGE, machines

from headrace.facts import catalogue
from headrace.facts.model import ModelFacts
from headrace.plan import offer_text
from headrace.plan.consider import consider
from headrace.plan.fleet import Member, fleet
from headrace.plan.intent import Wanted, parse


def encoder(layers: int, hidden: int, heads: int, vocabulary: int, parameters: int, context: int) -> ModelFacts:
    return ModelFacts(
        architecture="bert",
        format="safetensors",
        parameters=parameters,
        weight_bytes=2 * parameters,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        cache_bytes_per_token=0,
        context=context,
        quantization="F16",
        vocabulary=vocabulary,
        chat_template=False,
        encoder=True,
        intermediate=4 * hidden,
    )


BGE_M3 = encoder(24, 1024, 16, 250_002, 568_000_000, 8192)
MINILM = encoder(6, 384, 12, 30_522, 22_700_000, 512)


def test_it_fits_without_a_cache_and_is_said_with_low_confidence() -> None:
    considered = consider(BGE_M3, machines("A10")[0], parse("users=64"), KNOWLEDGE)
    best = considered.offers[0]
    assert best.embeds
    assert best.memory.total_bytes == sum(term.bytes for term in best.memory.terms)
    assert (best.memory.confidence, best.speed.confidence) == ("low", "low")
    text = offer_text.explain("bge", [considered], [best], parse("users=64"))
    assert "no cache: nothing is kept of a text" in text
    assert "tokens/s of texts" in text
    assert "embedding" in text
    assert "per token " not in text


def test_a_whole_text_fits_in_a_batch() -> None:
    """vLLM reads no text of an encoder in pieces."""
    best = consider(BGE_M3, machines("L4")[0], parse("context=8k"), KNOWLEDGE).offers[0]
    assert "--max-num-batched-tokens=8192" in offer_text.flags(best)


def test_it_is_not_split_and_more_users_take_more_replicas() -> None:
    offers = consider(BGE_M3, machines("4 x L4")[0], parse("users=200,prompt=2k,ttft=2s"), KNOWLEDGE).offers
    assert [(offer.way.gpus, offer.replicas) for offer in offers] == [(1, 3)]
    rejected = consider(BGE_M3, machines("4 x L4")[0], parse(""), KNOWLEDGE, Wanted(tensor_parallel=2)).rejected
    assert "more replicas" in rejected[0].reason
    refused = consider(BGE_M3, machines("L4")[0], parse(""), KNOWLEDGE, Wanted("fp8")).rejected
    assert "as they are" in refused[0].reason


@pytest.mark.parametrize(("wanted", "words"), [("ttft=1ms", "ms to the embedding (p90), 1 asked for"), ("tpot=1ms", "")])
def test_what_it_is_for_is_held_against_the_time_to_the_embedding(wanted: str, words: str) -> None:
    problems = consider(BGE_M3, machines("A10")[0], parse(wanted), KNOWLEDGE).offers[0].problems
    assert words in "".join(problems)
    assert bool(words) == bool(problems)


def test_a_text_longer_than_the_model_reads_is_rejected() -> None:
    assert "512 tokens, 1,024" in consider(MINILM, machines("T4")[0], parse("prompt=1k"), KNOWLEDGE).rejected[0].reason


def test_a_fleet_has_room_for_encoders() -> None:
    members = {"a": Member(BGE_M3, parse("")), "b": Member(MINILM, parse(""))}
    packed = fleet(members, machines("A100-80GB"), KNOWLEDGE)
    assert {each.name for each in packed.packing.assignments} == {"a", "b"}


@given(st.sampled_from([BGE_M3, MINILM]), st.sampled_from(sorted(catalogue.gpus())), st.integers(1, 500), st.integers(1, 512))
def test_any_card_gives_an_offer_that_fits_or_a_reason(facts: ModelFacts, gpu: str, users: int, prompt: int) -> None:
    considered = consider(facts, machines(gpu)[0], parse(f"users={users},prompt={prompt},output=1"), KNOWLEDGE)
    assert considered.offers or considered.rejected
    for offer in considered.offers:
        assert offer.memory.total_bytes <= offer.memory.budget_bytes
        assert 0 < offer.speed.tokens_per_second.low <= offer.speed.tokens_per_second.expected
