"""Pipelines: layers cut as vLLM cuts them, each stage's memory and time, and when a pipeline is offered."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_offer import KNOWLEDGE, known, machines
from vllm_models import ALL, GIB, KIMI, LLAMA_8B

from headrace.facts import catalogue
from headrace.facts.model import ModelFacts
from headrace.plan import offer_text
from headrace.plan.consider import consider
from headrace.plan.fleet import Member, fleet
from headrace.plan.intent import Intent, Wanted, parse
from headrace.plan.offer import Offer
from headrace.plan.pipeline import Pipeline
from headrace.plan.roofline import card, decode_step, decode_work
from headrace.plan.speed import estimate
from headrace.plan.stages import part, stages
from headrace.plan.vllm.memory import vllm_memory
from headrace.plan.vllm.weights import weights_bytes

LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
A100 = catalogue.gpus()["A100-80GB"]
RATES = KNOWLEDGE.speed.any.rates

CUTS = [
    (61, 1, [61]),
    (61, 2, [31, 30]),  # the last has the output head
    (61, 4, [15, 15, 16, 15]),  # and the first the embedding
    (80, 3, [27, 27, 26]),
    (32, 32, [1] * 32),
    (7, 4, [2, 2, 2, 1]),
]


@pytest.mark.parametrize(("layers", "pp", "each"), CUTS)
def test_layers_are_cut_as_vllm_cuts_them(layers: int, pp: int, each: list[int]) -> None:
    assert [stage.layers for stage in stages(layers, pp)] == each


@given(st.sampled_from(ALL), st.integers(1, 16))
def test_nothing_of_a_model_is_lost_between_stages(facts: ModelFacts, pp: int) -> None:
    parts = [part(facts, stage) for stage in stages(facts.layers, pp)]
    assert sum(one.layers for one in parts) == facts.layers
    assert facts.parameters <= sum(one.parameters for one in parts) <= facts.parameters + pp
    held = sum(weights_bytes(facts, 1, stage).expected for stage in stages(facts.layers, pp))
    assert held >= facts.weight_bytes * (1 - 1e-12)
    for group, *cut in zip(facts.cache, *(one.cache for one in parts), strict=True):
        assert sum(one.layers for one in cut) >= group.layers


def test_the_embedding_is_on_the_first_stage_and_the_head_on_the_last() -> None:
    first, middle, last = (weights_bytes(LLAMA_8B, 1, stage).expected for stage in stages(30, 3))
    assert first == last == middle + 128_256 * 4096 * 2


def test_a_tied_embedding_is_feared_on_both_ends() -> None:
    """The facts do not say whether head and embedding are one: the worst is that the checkpoint has one and two are loaded."""
    one = weights_bytes(LLAMA_8B, 1, stages(32, 2)[1])
    assert one.worst > (LLAMA_8B.weight_bytes + 128_256 * 4096 * 2) / 2


def test_each_stage_has_its_own_terms() -> None:
    memory = vllm_memory(LLAMA_8B, 24 * GIB, 1, 3, 8192, version="0.33.0", constants=KNOWLEDGE.memory, card="L4")
    first, middle, last = memory.stages
    assert [term.name for term in first.terms] == ["weights", "activations", "runtime", "graphs"]
    assert [term.name for term in middle.terms] == ["weights", "activations", "runtime", "received", "graphs"]
    assert middle.term("activations").bytes < last.term("activations").bytes  # only the last samples
    assert "embedding" in first.term("weights").source
    assert "output head" in last.term("weights").source
    assert memory.cache_tokens == min(stage.cache_tokens for stage in memory.stages)
    assert str(memory).startswith("stage 1 of 3 (11 of 32 layers): weights ")
    assert "no start of a pipeline was measured" in memory.why


def test_a_latent_cache_is_cut_by_stages_and_not_by_tensor_parallelism() -> None:
    asked = {"version": "0.33.0", "constants": KNOWLEDGE.memory, "card": "B200"}
    flat, deep = (vllm_memory(KIMI, 180 * GIB, 8 // pp, pp, 32_768, **asked) for pp in (1, 2))
    assert deep.request_bytes < 0.6 * flat.request_bytes


def test_one_stage_is_the_plain_roofline() -> None:
    gpu = card(A100, 16, "BF16")
    whole = decode_step(decode_work(LLAMA_8B, 1, 9, 700, 16, 16), gpu, RATES)
    assert Pipeline.of(LLAMA_8B, 1, 1, 16, 16, gpu, RATES).decode(9, 700) == whole


def test_latency_adds_up_and_micro_batches_keep_throughput() -> None:
    """One user waits for every stage, as long as on one GPU; many fill all stages, with a batch that is smaller for each."""
    facts = known("Qwen/Qwen3-32B")
    one, three = (Pipeline.of(facts, 1, pp, 16, 16, card(A100, 16, "BF16"), RATES) for pp in (1, 3))
    assert three.decode(1, 700).seconds == pytest.approx(one.decode(1, 700).seconds, rel=0.25)
    assert three.decode(1, 700).seconds > one.decode(1, 700).seconds
    per_second = [batch / three.decode(batch, 700).seconds for batch in (1, 3, 30)]
    assert per_second[1] == pytest.approx(3 * per_second[0], rel=0.02)
    assert per_second[2] > 5 * per_second[1]


def test_time_per_token_is_near_nvidias_own_planner() -> None:
    """aiconfigurator 0.12.0, vLLM on a100_sxm, prompts of 512 and answers of 256 tokens, 8 requests in each stage: 99 ms."""
    facts = known(LLAMA_70B)
    staged = estimate(facts, A100, 3, 1, 512, 256, 24, KNOWLEDGE.speed, 1e6, pp=3).tpot_seconds
    assert staged.low < 0.0992 < staged.high
    assert staged.expected == pytest.approx(0.0992, rel=0.25)


def best(name: str, machine: str, intent: str = "") -> Offer:
    return consider(known(name), machines(machine)[0], parse(intent), KNOWLEDGE).offers[0]


OFFERED = [
    # model, machine, intent, tensor x pipeline, why
    (LLAMA_70B, "3 x A100-80GB", "context=32k", (1, 3), "4.0 GiB short; tensor parallel 3 does not divide 64 heads"),
    (LLAMA_70B, "3 x A100-80GB", "", (2, 1), ""),  # two hold it
    (LLAMA_70B, "8 x L4", "users=50", (4, 2), "no NVLink"),  # all-reduces over PCIe cost more than stages
    (LLAMA_70B, "8 x H100-80GB", "users=50", (4, 1), ""),  # NVLink: no pipeline is looked at
]


@pytest.mark.parametrize(("name", "machine", "intent", "split", "why"), OFFERED)
def test_a_pipeline_is_offered_where_it_does_better(
    name: str, machine: str, intent: str, split: tuple[int, int], why: str
) -> None:
    offer = best(name, machine, intent)
    assert (offer.tensor_parallel, offer.pipeline_parallel) == split
    assert offer.quantization.name == "none"
    assert why in "".join(each.reason for each in offer.decisions)
    staged = {f"--pipeline-parallel-size={split[1]}"} if split[1] > 1 else set()
    assert {flag for flag in offer_text.flags(offer) if "pipeline" in flag} == staged


def test_a_split_that_the_user_fixed_has_no_stages() -> None:
    machine = machines("8 x L4")[0]
    considered = consider(known(LLAMA_70B), machine, Intent(), KNOWLEDGE, Wanted(tensor_parallel=4))
    assert all(offer.pipeline_parallel == 1 for offer in considered.offers)


def test_a_pipeline_that_does_not_fit_is_rejected_at_its_most() -> None:
    considered = consider(known(LLAMA_70B), machines("3 x L4")[0], Intent(), KNOWLEDGE, Wanted("none"))
    assert [one.way for one in considered.rejected] == ["1 x L4", "2 x L4", "3 x L4 (tensor 1 x pipeline 3)"]
    assert "short" in considered.rejected[-1].reason


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(catalogue.known_models()),
    st.sampled_from(["A100-80GB", "L4", "L40S", "RTX-4090", "H100-80GB"]),
    st.integers(1, 40),
    st.sampled_from([None, 4096, 32_768]),
)
def test_more_gpus_never_turn_fit_into_no_fit(name: str, gpu: str, users: int, context: int | None) -> None:
    fitted: set[str] = set()
    for count in range(1, 9):
        considered = consider(known(name), machines(f"{count} x {gpu}")[0], Intent(users=users, context=context), KNOWLEDGE)
        fits = {offer.quantization.name for offer in considered.offers}
        assert fitted <= fits
        fitted = fits
        for offer in considered.offers:
            assert offer.gpus <= count
            assert all(stage.fits for stage in offer.memory.stages)
            assert all(stage.total_bytes <= stage.gpu_bytes for stage in offer.memory.stages)


def test_a_fleet_packs_stages_onto_devices_of_one_node() -> None:
    members = {"big": Member(known(LLAMA_70B), Intent(context=32_768), Wanted("none"))}
    packed = fleet(members, machines("3 x A100-80GB"), KNOWLEDGE).packing
    assert len(packed.assignments[0].devices) == 3
    assert replace(packed.assignments[0], devices=()).name == "big"
