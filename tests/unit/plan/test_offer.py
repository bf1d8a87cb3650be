"""Ways to run a model on GPUs: what is offered fits for sure, the best meets the intent, losers keep their reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.facts import catalogue, request
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import offer_text
from headrace.plan.consider import consider
from headrace.plan.fleet import Member, fleet
from headrace.plan.intent import Intent, Wanted, parse
from headrace.plan.offer import Knowledge, cheapest
from headrace.plan.speed_constants import SpeedConstants
from headrace.plan.vllm.constants import parse as constants

KNOWLEDGE = Knowledge(constants(measured("vllm")), SpeedConstants.from_mapping(measured("speed")))
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
BUSY = parse("users=50,context=8k")


def known(name: str = LLAMA_8B) -> ModelFacts:
    facts = catalogue.known_model(name)
    assert facts
    return facts


def machines(text: str) -> tuple[Machine, ...]:
    return request.machine(text, catalogue.gpus(), catalogue.every_sku())


def test_the_weights_stay_as_they_are_where_they_fit() -> None:
    best = consider(known(), machines("A100-80GB")[0], BUSY, KNOWLEDGE).offers[0]
    assert (best.quantization.name, best.tensor_parallel, best.replicas, best.problems) == ("none", 1, 1, ())


def test_a_small_card_is_offered_quantized_weights_and_says_what_they_cost() -> None:
    considered = consider(known(), machines("T4")[0], BUSY, KNOWLEDGE)
    assert considered.offers[0].quantization.name in ("fp8", "awq")
    assert considered.offers[0].quantization.quality
    lost = next(rejected for rejected in considered.rejected if "," not in rejected.way)
    assert lost.shortfall_bytes > 0
    assert "short" in lost.reason


def test_a_model_too_large_for_one_card_is_split() -> None:
    best = consider(known("Qwen/Qwen3-32B"), machines("4 x A100-40GB")[0], Intent(users=8), KNOWLEDGE).offers[0]
    assert best.tensor_parallel > 1
    assert best.quantization.name == "none"
    assert not best.problems


def test_a_limit_on_the_first_token_is_held_against_a_simulation() -> None:
    easy = consider(known(), machines("H100-80GB")[0], parse("users=4,ttft=5s"), KNOWLEDGE).offers[0]
    hard = consider(known(), machines("H100-80GB")[0], parse("users=4,ttft=1ms"), KNOWLEDGE).offers[0]
    assert not easy.problems
    assert any("first token" in problem for problem in hard.problems)


def test_more_users_take_more_replicas() -> None:
    few = consider(known(), machines("8 x A100-40GB")[0], parse("users=4,tpot=30ms"), KNOWLEDGE).offers[0]
    many = consider(known(), machines("8 x A100-40GB")[0], parse("users=200,tpot=30ms"), KNOWLEDGE).offers[0]
    assert many.gpus > few.gpus


def test_the_cheapest_that_meets_the_intent_comes_first() -> None:
    considered = [consider(known(), machine, BUSY, KNOWLEDGE) for machine in machines("azure")]
    best = cheapest(considered)
    assert len(best) == 3
    prices = [offer.usd_per_hour or float("inf") for offer in best if not offer.problems]
    assert prices == sorted(prices)
    meeting = [one.offers[0] for one in considered if one.offers and not one.offers[0].problems and one.offers[0].usd_per_hour]
    assert best[0].usd_per_hour == min(offer.usd_per_hour for offer in meeting)


def test_a_context_beyond_the_model_is_rejected_with_both_numbers() -> None:
    considered = consider(known(), machines("H100-80GB")[0], parse("context=1m"), KNOWLEDGE)
    assert not considered.offers
    assert "131,072" in considered.rejected[0].reason
    assert "1,048,576" in considered.rejected[0].reason


@pytest.mark.parametrize(
    ("name", "machine", "wanted", "ways"),
    [
        (LLAMA_8B, "4 x H100-80GB", Wanted("fp8"), {("fp8", 1), ("fp8", 2), ("fp8", 4)}),  # although the originals fit
        (LLAMA_8B, "4 x H100-80GB", Wanted(tensor_parallel=2), {("none", 2), ("fp8", 2), ("awq", 2)}),
        (LLAMA_8B, "4 x H100-80GB", Wanted("none", 4), {("none", 4)}),
        ("Qwen/Qwen3-32B", "2 x H100-80GB", Wanted("auto", 2), {("none", 2), ("fp8", 2), ("awq", 2)}),
        ("Qwen/Qwen3-8B-AWQ", "A100-80GB", Wanted("awq"), {("none", 1)}),  # they are AWQ: served as they are
        ("Qwen/Qwen3-8B-AWQ", "A100-80GB", Wanted("none"), {("none", 1)}),  # nothing more is done to them
    ],
)
def test_only_what_is_wanted_is_considered(name: str, machine: str, wanted: Wanted, ways: set[tuple[str, int]]) -> None:
    considered = consider(known(name), machines(machine)[0], Intent(), KNOWLEDGE, wanted)
    assert {(offer.quantization.name, offer.tensor_parallel) for offer in considered.offers} == ways
    assert not considered.rejected  # ways that nobody asked for are no news


@pytest.mark.parametrize(
    ("name", "machine", "wanted", "words"),
    [
        (LLAMA_8B, "A100-80GB", Wanted("fp8"), "A100-80GB cannot compute with quantization fp8"),  # since Ada
        (LLAMA_8B, "2 x A100-80GB", Wanted(tensor_parallel=4), "tensor_parallel 4 takes as many GPUs, and there are 2"),
        (LLAMA_8B, "4 x A100-80GB", Wanted(tensor_parallel=3), "tensor parallel 3 does not divide 32 heads"),
        ("Qwen/Qwen3-8B-AWQ", "H100-80GB", Wanted("fp8"), "the weights are awq already"),
        ("Qwen/Qwen3-32B", "T4", Wanted("none"), "short"),  # it would not fit as it is
    ],
)
def test_what_is_wanted_and_cannot_be_says_why(name: str, machine: str, wanted: Wanted, words: str) -> None:
    considered = consider(known(name), machines(machine)[0], Intent(), KNOWLEDGE, wanted)
    assert not considered.offers
    assert words in considered.rejected[0].reason


def test_a_machine_without_gpus_has_no_offer() -> None:
    assert not consider(known(), Machine(8, 2**36, 2**36), BUSY, KNOWLEDGE).offers


@given(
    st.sampled_from(catalogue.known_models()), st.sampled_from(sorted(catalogue.gpus())), st.integers(1, 8), st.integers(1, 300)
)
def test_whatever_is_offered_fits_for_sure(name: str, gpu: str, count: int, users: int) -> None:
    considered = consider(known(name), machines(f"{count} x {gpu}")[0], Intent(users=users), KNOWLEDGE)
    for offer in considered.offers:
        assert offer.memory.fits
        assert offer.memory.total_bytes <= offer.memory.gpu_bytes
        assert offer.gpus <= count
        assert offer.speed.tpot_seconds.low <= offer.speed.tpot_seconds.expected <= offer.speed.tpot_seconds.high
    assert considered.offers or considered.rejected
    best = list(considered.offers[:1])
    assert offer_text.explain(name, [considered], best, Intent(users=users))
    assert considered == consider(known(name), machines(f"{count} x {gpu}")[0], Intent(users=users), KNOWLEDGE)


@given(st.integers(1, 200))
def test_more_memory_never_turns_fit_into_no_fit(users: int) -> None:
    gpu = catalogue.gpus()["A100-40GB"]
    fitted = False
    for gib in (8, 12, 16, 24, 40, 60, 69):  # below the size at which vLLM's own defaults change
        card = replace(gpu, memory_bytes=gib * 2**30)
        considered = consider(known(), Machine(8, 2**37, 2**37, gpus=(card,)), Intent(users=users), KNOWLEDGE)
        fits = any(offer.quantization.name == "none" for offer in considered.offers)
        assert fits or not fitted
        fitted = fits


def test_a_fleet_is_packed_within_its_devices() -> None:
    names = [LLAMA_8B, "Qwen/Qwen3-32B", "Qwen/Qwen3-0.6B"]
    packed = fleet({name: Member(known(name), Intent()) for name in names}, machines("4 x H100-80GB"), KNOWLEDGE)
    assert {each.name for each in packed.packing.assignments} == set(names)
    assert not packed.refused
    taken: dict[tuple[str, int], int] = {}
    for each in packed.packing.assignments:
        for where in each.devices:
            taken[where] = taken.get(where, 0) + each.memory_bytes + each.process_bytes
    assert all(total <= catalogue.gpus()["H100-80GB"].memory_bytes for total in taken.values())


def test_models_of_a_fleet_share_as_the_user_wants() -> None:
    shares = {
        "alone": Wanted(share="exclusive"),
        "cut": Wanted(share="mig"),
        "one": Wanted(share="swap"),
        "two": Wanted(share="swap"),
    }
    members = {name: Member(known("Qwen/Qwen3-0.6B"), Intent(), wanted) for name, wanted in shares.items()}
    packed = fleet(members, machines("3 x H100-80GB"), KNOWLEDGE).packing
    assert {each.name: each.share for each in packed.assignments} == {name: wanted.share for name, wanted in shares.items()}
    assert packed.devices == 3  # the two that are swapped are in turn on one


def test_a_fleet_is_sized_by_what_each_model_is_for() -> None:
    members = {"few": Member(known(), Intent(users=1)), "many": Member(known(), Intent(users=100))}
    few, many = sorted(fleet(members, machines("2 x H100-80GB"), KNOWLEDGE).packing.assignments, key=lambda each: each.name)
    assert few.memory_bytes < many.memory_bytes


def test_a_model_that_fits_nowhere_says_why() -> None:
    packed = fleet({"big": Member(known("Qwen/Qwen3-32B"), Intent())}, machines("T4"), KNOWLEDGE)
    assert not packed.packing.assignments
    assert "short" in packed.refused["big"]
