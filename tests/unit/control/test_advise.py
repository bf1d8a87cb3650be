"""Right signal, right silence: histories made by hand, one per signal, and one on which nothing holds."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.control.advise import Observed, Request, Sample, Signal, signals, steadied

HOUR = 3600.0


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
    assert {one.holds for one in signals(empty) if one.name != "many models on one machine"} == {"unknown"}


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
