"""Bars add up, whatever is on them; costs are parts of a price that somebody gave, or nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.dashboard.bars import device, memory_bars, sum_bar
from headrace.dashboard.costs import cost
from headrace.engines.base import Placement
from headrace.facts import catalogue
from headrace.facts.hardware import Card
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Replica, State

PLACED = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 100)
MIB = 2**20


@given(st.dictionaries(st.sampled_from(["weights", "cache", "runtime", "graphs"]), st.integers(0, 2**40)), st.integers(1, 2**40))
def test_a_device_is_as_long_as_what_is_on_it_or_as_it_is(taken: dict[str, int], size: int) -> None:
    bar = device("One GPU", "", taken, size)
    assert sum(one.width for one in bar.segments) == pytest.approx(100, abs=0.1)
    used = sum(taken.values())
    assert ("free" in {one.kind for one in bar.segments}) == (used < size)
    assert bar.end == pytest.approx(100 * size / max(size, used), abs=0.001)


def test_replicas_are_counted_while_they_are_in_memory_and_never_overflow() -> None:
    plan = Plan((), 150)  # less than what runs: the bar is as long as that
    replicas = [Replica(f"m{i}-1", f"m{i}", PLACED, State.READY) for i in range(30)]
    replicas.append(Replica("gone-1", "gone", PLACED, State.STOPPED))
    by_part, by_model = memory_bars(plan, replicas)
    assert [one.kind for one in by_part.segments] == ["memory"]
    assert len(by_model.segments) == 25
    assert by_model.segments[-1].name == "6 others"
    assert sum(one.width for one in by_model.segments) == pytest.approx(100, abs=0.1)
    assert by_part.said.startswith("2.93 KiB of 150 B")


def test_what_is_left_is_free_and_nothing_is_drawn_where_nothing_is_taken_here() -> None:
    by_part, by_model = memory_bars(Plan((), 400), [Replica("chat-1", "chat", PLACED, State.READY)])
    assert [(one.kind, one.width) for one in by_part.segments] == [("memory", 25.0), ("free", 75.0)]
    assert [one.name for one in by_model.segments] == ["chat", "free"]
    assert memory_bars(Plan((), None), [Replica("far-1", "far", "http://there", State.READY)]) == ()


def test_every_gpu_has_a_bar_with_who_is_on_it() -> None:
    cards = tuple(Card(f"GPU-{n}", str(n), catalogue.gpus()["T4"], 1000) for n in (0, 1))
    runs = replace(PLACED, devices={"GPU-1": 250})
    _, _, first, second = memory_bars(Plan((), 400, cards), [Replica("chat-1", "chat", runs, State.READY)])
    assert [one.name for one in first.segments] == ["free"]
    assert [(one.name, one.width) for one in second.segments] == [("chat", 25.0), ("free", 75.0)]
    assert second.title == "GPU 1, T4"


def test_a_model_that_nothing_is_known_of_is_one_part_and_one_elsewhere_none() -> None:
    bar = sum_bar(PlannedModel("chat", "generate", None, (PLACED,), 2, ()))
    assert bar
    assert [one.kind for one in bar.segments] == ["memory"]
    assert sum_bar(PlannedModel("chat", "generate", None, ("http://there",), 2, ())) is None


def test_costs_of_models_are_parts_of_the_machines() -> None:
    other = Placement("big", "llamacpp", "generate", "w.gguf", 512, 2, 1, 300)
    replicas = [Replica("chat-1", "chat", PLACED, State.READY), Replica("big-1", "big", other, State.READY)]
    whole = cost(4.0, replicas, None, tokens=2_000_000, seconds=3600)
    assert (whole.hour, whole.part) == ("$4.00", "")
    assert whole.million.startswith("$2.00 per million tokens out in the last 60 min")
    mine = cost(4.0, replicas, "chat", tokens=0, seconds=0)
    assert (mine.hour, mine.part, mine.million) == (
        "$1.00",
        "25% of what the machine costs, by memory",
        "no tokens in the last hour",
    )
    assert cost(4.0, [], "chat", 0, 0).hour == "$0.00"  # it sleeps
