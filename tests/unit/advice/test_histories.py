"""Advice replayed on histories that the real engine made under designed loads: right signal, right silence.

benchmarks/advice_histories.py records them anew: the demo model on llama.cpp, two minutes each, on a busy machine.
"""

import json
from pathlib import Path

import pytest

from headrace.advice.base import Holds, Observed, Request, Sample
from headrace.advice.signals import signals
from headrace.facts.constants import measured
from headrace.plan.local_speed import Rates

DATA = Path(__file__).parents[2] / "data" / "advice"
THROUGHPUT, ENGINE, MEMORY = "throughput insufficient", "another engine is faster here", "memory binds"
COLD, CONTEXT, SPARE, PREFIXES = "cold starts dominate", "context wasted", "over-provisioned", "prefix reuse unexploited"

TABLE: list[tuple[str, set[str], set[str]]] = [
    # One client that pauses, on one replica: stay.
    ("steady", set(), {PREFIXES}),
    # Ten clients without a pause on two slots: they wait all the time, and OpenVINO does more at once.
    ("saturated", {THROUGHPUT, ENGINE}, {PREFIXES}),
    # One request each ten seconds, asleep after three: most of them wake it. Too few for a word on lengths.
    ("bursts", {COLD}, {CONTEXT, PREFIXES}),
    # Prompts that begin alike, one at a time: the one replica has them cached, and nothing is to be changed.
    ("prefixes", set(), {PREFIXES}),
    # A dozen tokens in slots of 4,096: the context is the waste. Three clients at once without a pause: OpenVINO does more.
    ("short", {CONTEXT, ENGINE}, {PREFIXES}),
    # One client on two replicas of four slots.
    ("spare", {SPARE}, {PREFIXES}),
    # Two models whose clients want two replicas each, on a memory that holds one of each: memory lacks, not throughput.
    ("memory", {MEMORY, ENGINE}, {PREFIXES}),
]


def history(name: str) -> Observed:
    """The recorded one, with the rates of the two engines that were there."""
    about, *rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    rates = Rates.parse(measured("local"))
    return Observed(
        since=0.0,
        until=about.pop("seconds"),
        **about,
        requests=[Request(*row["request"]) for row in rows if "request" in row],
        samples=[Sample(*row["look"]) for row in rows if "look" in row],
        short_of_memory=[row["short"] for row in rows if "short" in row],
        rates={one: (lambda users, one=one: rates.at(one, users)) for one in ("llamacpp", "openvino")},
    )


@pytest.mark.parametrize(("name", "right", "unknown"), TABLE, ids=[name for name, *_ in TABLE])
def test_right_signal_and_right_silence(name: str, right: set[str], unknown: set[str]) -> None:
    found = signals(history(name))

    def named(holds: Holds) -> set[str]:
        return {one.name for one in found if one.holds == holds}

    assert named("holds") == right, [(one.name, one.numbers) for one in found if one.holds != "holds not"]
    assert unknown <= named("unknown")


@pytest.mark.parametrize("name", [name for name, *_ in TABLE])
def test_a_few_seconds_are_not_enough(name: str) -> None:
    """The same load, seen in a twelfth of a day's window: a verdict takes slices, not one burst."""
    seen = history(name)
    of_the_load = {THROUGHPUT, ENGINE, COLD, CONTEXT}
    brief = Observed(
        **{field: getattr(seen, field) for field in Observed.__dataclass_fields__} | {"since": seen.until - 86_400.0},
    )
    assert not {one.name for one in signals(brief) if one.holds == "holds"} & of_the_load


def test_requests_that_wait_below_the_ceiling_are_told_apart() -> None:
    """While `saturated` was recorded other programs had the cores: that is what to look at first."""
    one = next(row for row in signals(history("saturated")) if row.name == THROUGHPUT)
    assert "below its ceiling: as planned, corrected by what it made" in one.numbers
    assert one.change.startswith("see first what keeps it below")
