"""Numbers as pages show them, and bars that add up."""

import pytest

from headrace.dashboard.rows import ago, memory_bar, number, seconds, sum_bar
from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Replica, State

PLACED = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 100)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0471, "0.047"), (0.999, "1.0"), (3.21, "3.2"), (9.96, "10"), (47.4, "47"), (476, "480"), (1234567, "1200000")],
)
def test_numbers_have_two_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (12.3, "12 s"), (7200, "2 h")])
def test_seconds_are_in_their_unit(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(4.9, "4 s"), (60, "1 min"), (12_000, "3 h 20 min"), (5e5, "5 d")])
def test_spans_have_two_units_at_most(value: float, text: str) -> None:
    assert ago(value) == text


def test_the_memory_bar_counts_what_is_there_and_never_overflows() -> None:
    plan = Plan((), 150)  # less than what runs: the bar is as long as that
    replicas = [Replica(f"m{i}-1", f"m{i}", PLACED, State.READY) for i in range(30)]
    replicas.append(Replica("gone-1", "gone", PLACED, State.STOPPED))
    bar, said = memory_bar(plan, replicas)
    assert len(bar) == 25
    assert bar[-1].title.startswith("6 others")
    assert sum(one.width for one in bar) == pytest.approx(100, abs=0.1)
    assert said.startswith("3000 B") or "2.93 KiB" in said


def test_a_model_that_nothing_is_known_of_is_one_part_and_one_elsewhere_none() -> None:
    bar, said = sum_bar(PlannedModel("chat", "generate", None, (PLACED,), 2, ()))
    assert [one.kind for one in bar] == ["memory"]
    assert said.startswith("memory")
    assert sum_bar(PlannedModel("chat", "generate", None, ("http://there",), 2, ())) == ([], "")
