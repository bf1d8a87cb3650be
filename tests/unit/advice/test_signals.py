"""Right signal, right silence: histories made by hand, one per signal, and one on which nothing holds."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.advice.base import Kaito, Observed, Prefixes, Request, Sample, Signal, steadied
from headrace.advice.signals import signals

HOUR = 3600.0


OF_THE_SET_UP = ("many models on one machine", "models behind separate addresses", "not in KAITO's list")
"""Signals that take no history."""


def looks(waiting: float = 0, running: float = 1, ready: float = 1, count: int = 360) -> list[Sample]:
    """A look every ten seconds."""
    return [Sample(HOUR * n / count, waiting, running, ready) for n in range(count)]


def requests(tokens: int = 900, waited: float = 0.0, count: int = 360) -> list[Request]:
    return [Request(HOUR * n / count, 200, tokens, 100, waited) for n in range(count)]


CALM = Observed(
    "chat", "llamacpp", 0.0, HOUR, slots=4, most=1, context=1024, requests=requests(), samples=looks(),
    rates={"llamacpp": lambda users: 67.0 + users, "openvino": lambda users: 53.0 + 20 * users},
)  # fmt: skip

CASES: list[tuple[str, dict[str, Any]]] = [
    ("throughput insufficient", {"samples": looks(waiting=3, running=4), "rates": {}}),
    ("another engine is faster here", {"samples": looks(running=4)}),
    ("memory binds", {"short_of_memory": [HOUR * n / 60 for n in range(60)]}),
    ("cold starts dominate", {"sleeps": True, "samples": looks(running=0, ready=0), "requests": requests(waited=3.0, count=24)}),
    ("context wasted", {"context": 16_384}),
    ("over-provisioned", {"most": 3, "samples": looks(running=1, ready=3), "rates": {}}),
    ("many models on one machine", {"models": 6}),
    ("models behind separate addresses", {"models": 2, "addresses": 2}),
    ("not in KAITO's list", {"kaito": Kaito("org/own-7b", None, "0.9.0")}),
    ("prefix reuse unexploited", {"prefixes": [Prefixes(HOUR * n / 60, 0.8, 0.1) for n in range(60)]}),
]


def holding(seen: Observed) -> list[str]:
    return [one.name for one in signals(seen) if one.holds == "holds"]


def test_where_nothing_holds_it_says_stay() -> None:
    assert holding(CALM) == []
    assert {one.holds for one in signals(CALM)} <= {"holds not", "unknown"}


@pytest.mark.parametrize(("name", "changed"), CASES, ids=[name for name, _ in CASES])
def test_each_signal_holds_alone_where_it_should(name: str, changed: dict[str, Any]) -> None:
    assert holding(replace(CALM, **changed)) == [name]


@pytest.mark.parametrize(("name", "changed"), CASES, ids=[name for name, _ in CASES])
def test_what_holds_has_numbers_and_what_to_do(name: str, changed: dict[str, Any]) -> None:
    one = next(one for one in signals(replace(CALM, **changed)) if one.name == name)
    assert one.numbers
    assert one.change
    assert 0 < one.confidence <= 1


def test_without_data_nothing_is_said() -> None:
    empty = replace(CALM, requests=(), samples=(), most=2, sleeps=True)
    judged = [one for one in signals(empty) if one.name not in OF_THE_SET_UP]
    assert {one.holds for one in judged} == {"unknown"}


def test_a_value_between_the_thresholds_changes_nothing() -> None:
    assert steadied([0.5, 0.2, 0.2, 0.2], 0.3, 0.1)[0] == "holds"
    assert steadied([0.0, 0.2, 0.2, 0.2], 0.3, 0.1)[0] == "holds not"
    assert steadied([0.5, 0.05, 0.2, 0.2], 0.3, 0.1)[0] == "holds not"
    assert steadied([None, 1.0, None, 1.0], 0.3, 0.1) == ("unknown", 0.0)


def test_one_busy_slice_is_not_sure() -> None:
    samples = [one if one.at < HOUR * 11 / 12 else replace(one, waiting=3) for one in looks(running=4)]
    found: Signal = next(one for one in signals(replace(CALM, samples=samples, rates={})) if one.name.startswith("throughput"))
    assert found.holds == "unknown", "it may pass"
    assert found.confidence < 0.1


SILENT: list[tuple[str, dict[str, Any], str]] = [
    # Idle models share nothing: one that is busy is no reason to pack.
    ("many models on one machine", {"models": 6, "idle": 1}, "holds not"),
    # Another engine pages its cache: unused context costs nothing there.
    ("context wasted", {"context": 16_384, "engine": "vllm", "rates": {}}, "holds not"),
    ("not in KAITO's list", {"kaito": Kaito("microsoft/phi-4", "phi-4", "0.9.0")}, "holds not"),
    # What is repeated is found in the cache.
    ("prefix reuse unexploited", {"prefixes": [Prefixes(HOUR * n / 60, 0.8, 0.75) for n in range(60)]}, "holds not"),
    # How many replicas there may be is not known: busy is not at its end.
    ("throughput insufficient", {"most": None, "samples": looks(waiting=3, running=4)}, "unknown"),
    ("over-provisioned", {"most": 3, "slots": None}, "unknown"),
    # Series that are missing are not zero.
    ("memory binds", {"short_of_memory": None, "here": False}, "unknown"),
    ("throughput insufficient", {"samples": [Sample(HOUR * n / 360, None, None, 1) for n in range(360)]}, "unknown"),
]


@pytest.mark.parametrize(("name", "changed", "holds"), SILENT, ids=[f"{name} {holds}" for name, _, holds in SILENT])
def test_each_signal_is_silent_where_it_should(name: str, changed: dict[str, Any], holds: str) -> None:
    found = next(one for one in signals(replace(CALM, **changed)) if one.name == name)
    assert found.holds == holds, found.numbers


def test_many_alike_count_as_many() -> None:
    few = [Request(HOUR * n / 60, 200, 900, 100, 0.0, 6.0) for n in range(60)]
    assert [one.holds for one in signals(replace(CALM, requests=few))] == [one.holds for one in signals(CALM)]


def test_what_is_spare_most_of_the_time_is_not_spare_where_the_busiest_moment_needs_it() -> None:
    """4 replicas of 4 slots, 16 at once in the first half and 2 in the second: fewer than all 4 would not have done."""

    def spare(busiest: int) -> Signal:
        samples = [replace(one, running=busiest if one.at < HOUR / 2 else 2) for one in looks(ready=4)]
        return next(one for one in signals(replace(CALM, most=4, samples=samples)) if one.name == "over-provisioned")

    assert (spare(16).holds, spare(16).confidence) == ("holds not", 1.0)
    assert spare(9).holds == "holds not", "9 of 12 slots of one replica fewer: a quarter is unused"
    assert spare(8).holds == "holds"
    assert "expect the memory of 1 of 4 replicas" in spare(8).advice


def test_more_replicas_do_not_keep_awake_what_makes_room_for_others() -> None:
    asleep = replace(CALM, **dict(CASES)["cold starts dominate"])
    changes = [
        next(one.change for one in signals(replace(asleep, swaps=swaps)) if one.name.startswith("cold"))
        for swaps in (False, True)
    ]
    assert changes[0] == "write replicas: 1, or a longer scale.idle, into the file"
    assert changes[1].startswith("write replicas: 1 and no share: swap into the file, where memory has room for it")
