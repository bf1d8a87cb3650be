"""How near an engine is to its own ceiling: of the planner, corrected by what was made; of what was made; or not enough data."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.advice.base import Observed, Sample, Signal
from headrace.advice.ceiling import ceiling
from headrace.advice.signals import signals
from headrace.facts.constants import measured
from headrace.plan.local_speed import Rates

HOUR, LOOKS, SLICES = 3600.0, 360, 12
RATES = Rates.parse(measured("local"))
CURVES = {name: (lambda users, name=name: RATES.at(name, users)) for name in ("llamacpp", "openvino")}


def made(rates: list[float], waiting: float = 3, running: float = 2, ready: float = 1) -> list[Sample]:
    """A look every ten seconds, with so many tokens per second in each twelfth of the hour."""
    step = HOUR / LOOKS
    each = (rates[n * SLICES // LOOKS] for n in range(LOOKS))
    return [Sample(step * n, waiting, running, ready, rate * step) for n, rate in enumerate(each)]


def seen(rates: list[float], engine: str = "llamacpp", *, curve: bool = True, **how: Any) -> Observed:
    looks = {key: how.pop(key) for key in ("waiting", "running", "ready") if key in how}
    known = {engine: CURVES[engine]} if curve else {}
    about = {"slots": 2, "most": 1, "samples": made(rates, **looks), "rates": known} | how
    return Observed("chat", engine, 0.0, HOUR, **about)


TABLE: list[tuple[str, Observed, str, str]] = [
    # Two of two slots busy, and always the same: that is what it can.
    ("always full", seen([60] * 12), "holds", "near its ceiling: as planned, corrected by what it made"),
    # Others took the machine for most of the hour: it made twice as much while they did not.
    ("crowded out", seen([60] * 4 + [30] * 8), "holds not", "of 60 tokens/s, below its ceiling"),
    # It fell below 85 % of the ceiling, but not below 70 %: still near.
    ("between the thresholds", seen([60] * 6 + [46] * 6), "holds", "near its ceiling"),
    ("never above 85 %", seen([45] * 2 + [60] * 3 + [40] * 7), "holds not", "below its ceiling"),
    # One request at a time in four slots: the planner's curve says that four at once make a quarter more.
    ("one of four", seen([50] * 12, slots=4, running=1, waiting=0), "holds not", "below its ceiling"),
    # OpenVINO makes five times as much of eight at once.
    ("one of eight", seen([50] * 12, "openvino", slots=8, running=1, waiting=0), "holds not", "50 of 272 tokens/s"),
    # Two replicas: the ceiling is of each.
    ("two replicas", seen([120] * 12, most=2, ready=2, running=4), "holds", "a replica makes 60 of 60 tokens/s"),
    # No curve: what was made with every slot busy.
    ("no curve", seen([60] * 12, curve=False), "holds", "the most that it made with every slot busy"),
    ("no curve, never full", seen([60] * 12, curve=False, running=1), "unknown", "hardly ever all busy"),
    ("no curve, no slots", seen([60] * 12, curve=False, slots=None), "unknown", "how many slots it has is not said"),
    # Answers without a count of tokens.
    ("nothing counted", seen([0] * 12), "unknown", "too few tokens were counted"),
    ("two slices", seen([60] * 2 + [0] * 10), "unknown", "too few tokens were counted"),
]


@pytest.mark.parametrize(("about", "words"), [(row[1:3], row[3]) for row in TABLE], ids=[row[0] for row in TABLE])
def test_how_near_it_is(about: tuple[Observed, str], words: str) -> None:
    found = ceiling(about[0])
    assert found.near == about[1], found
    assert words in found.said


def test_a_series_that_is_missing_is_not_zero() -> None:
    blind = [replace(one, tokens=None) for one in made([60] * 12)]
    assert ceiling(replace(seen([60] * 12), samples=blind)).near == "unknown"


def test_where_nobody_looked_nothing_was_made_slowly() -> None:
    """Between two runs of Headrace there is no look: that time does not count."""
    looks = [one for one in made([60] * 12) if not 1000 < one.at < 2000]
    assert ceiling(replace(seen([60] * 12), samples=looks)).near == "holds"


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 50), st.lists(st.sampled_from([30.0, 45.0, 60.0, 80.0]), min_size=12, max_size=12))
def test_only_the_shape_of_the_planners_curve_counts(factor: float, rates: list[float]) -> None:
    """A machine that is faster or slower than the measured one by any factor is as near to its own ceiling."""
    as_fast = ceiling(seen(rates))
    other = ceiling(seen([rate * factor for rate in rates]))
    assert (as_fast.near, as_fast.sure) == (other.near, other.sure)


def one(of: Observed, name: str) -> Signal:
    return next(row for row in signals(of) if row.name == name)


def test_throughput_tells_the_ceiling_and_is_only_as_sure_as_that() -> None:
    found = one(seen([60] * 12), "throughput insufficient")
    assert found.holds == "holds"
    assert "a replica makes 60 of 60 tokens/s, near its ceiling" in found.numbers
    assert found.confidence == 1.0
    late = one(seen([44] * 2 + [60] * 10), "throughput insufficient")
    assert late.confidence == pytest.approx(10 / 12)


def test_who_waits_below_the_ceiling_looks_first_at_what_else_takes_the_machine() -> None:
    found = one(seen([60] * 4 + [30] * 8), "throughput insufficient")
    assert found.holds == "holds"
    assert "what keeps it below" in found.change
    assert found.command == "headrace top --once"


SLOTS: list[tuple[str, Observed, str]] = [
    # OpenVINO batches: eight at once make more than twice of what two make.
    ("batches", seen([100] * 12, "openvino", waiting=8), "holds"),
    # llama.cpp on a CPU makes hardly more of eight than of two: its ceiling is the engine's.
    ("does not batch", seen([60] * 12, waiting=8), "holds not"),
    ("nobody waits", seen([100] * 12, "openvino", waiting=0), "holds not"),
    # Another replica may still come: that comes first.
    ("may grow", seen([100] * 12, "openvino", waiting=8, most=2), "holds not"),
    ("no curve", seen([100] * 12, "openvino", waiting=8, curve=False), "unknown"),
    ("slots unknown", seen([100] * 12, "openvino", waiting=8, slots=None), "unknown"),
    ("no looks", replace(seen([1] * 12, "openvino"), samples=()), "unknown"),
]


@pytest.mark.parametrize(("about", "holds"), [row[1:] for row in SLOTS], ids=[row[0] for row in SLOTS])
def test_too_few_slots(about: Observed, holds: str) -> None:
    found = one(about, "too few slots")
    assert found.holds == holds, found.numbers


def test_it_names_the_fewest_slots_that_bring_it() -> None:
    found = one(seen([100] * 12, "openvino", waiting=8), "too few slots")
    assert found.change.startswith("write slots: 10 into the file")
    assert "about 2.3 times the tokens/s" in found.gain
    assert found.command == "headrace reload"
    many = one(seen([100] * 12, "openvino", waiting=400), "too few slots")
    assert many.change.startswith("write slots: 32 into the file"), "the planner knows of no more"
