"""The memory ledger: one table per rule, then a machine of models on one memory (test_turns_devices.py: on several)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from turns_machine import RULES, Machine, Model

from headrace.control.accounts import RAM
from headrace.control.claims import Claim
from headrace.control.turns import Grants, grants

NOW = 1000.0


def claim(model: str, size: int = 1, wanted: int = 1, **facts: Any) -> Claim:
    return Claim(model, size, wanted, **{"reload_seconds": 2.0, **facts})


def resident(model: str, size: int = 1, *, here: float = 100.0, **facts: Any) -> Claim:
    """In memory and ready for `here` seconds."""
    return claim(model, size, **{"up": 1, "ready": 1, "since": NOW - here, "used": NOW - here, **facts})


def asleep(model: str, size: int = 1, *, waits: float | None = 1.0, **facts: Any) -> Claim:
    """Not in memory, with a request that has waited so long."""
    waiting = {} if waits is None else {"waiting": 1, "oldest": NOW - waits}
    return claim(model, size, **{**waiting, **facts})


def granted(*claims: Claim, capacity: int = 2) -> Grants:
    return grants(claims, {RAM: capacity}, NOW, RULES)


CASES = [
    # there is room
    ([resident("a"), asleep("b")], {"a": 1, "b": 1}),
    # an unused model makes room
    ([resident("a", 2), asleep("b")], {"a": 0, "b": 0}),
    # what is on its way out is still in memory: no start before it is gone
    ([claim("a", 2, 0, leaving=1), asleep("b")], {"a": 0, "b": 0}),
    # one that has just come stays for a moment, used or not
    ([resident("a", 2, here=0.5), asleep("b")], {"a": 1, "b": 0}),
    # a model with requests keeps its place, so that they are served together
    ([resident("a", 2, running=1), asleep("b", waits=9)], {"a": 1, "b": 0}),
    # one that has just been used is held while more requests are likely to gather, for it or for the other
    ([resident("a", 2, used=NOW - 3, rate=0.1), asleep("b", rate=0.1)], {"a": 1, "b": 0}),
    # not where enough are there
    ([resident("a", 2, used=NOW - 3, rate=0.1), asleep("b", rate=0.1, waiting=2)], {"a": 0, "b": 0}),
    # nor where few ever come
    ([resident("a", 2, used=NOW - 3, rate=0.05), asleep("b", rate=0.05)], {"a": 0, "b": 0}),
    # nor for long
    ([resident("a", 2, used=NOW - 4, rate=0.1), asleep("b", rate=0.1)], {"a": 0, "b": 0}),
    # nor when somebody has waited too long
    ([resident("a", 2, used=NOW - 3, rate=0.1), asleep("b", rate=0.1, waits=11)], {"a": 0, "b": 0}),
    # until somebody has waited too long
    ([resident("a", 2, running=1), asleep("b", waits=11)], {"a": 0, "b": 0}),
    # though not when its own turn has just begun
    ([resident("a", 2, running=1, here=3.5), asleep("b", waits=11)], {"a": 1, "b": 0}),
    # what loads is not thrown away
    ([claim("a", 2, up=1, since=NOW - 30), asleep("b", waits=20)], {"a": 1, "b": 0}),
    # unless it never gets ready
    ([claim("a", 2, up=1, since=NOW - 61), asleep("b", waits=20)], {"a": 0, "b": 0}),
    # models that never sleep stay
    ([resident("a", 2, least=1), asleep("b", waits=99)], {"a": 1, "b": 0}),
    # of two that could go, the one that is less likely to be used
    ([resident("a", rate=1.0), resident("b", rate=0.1), asleep("c")], {"a": 1, "b": 0, "c": 0}),
    # or that is quicker to load
    ([resident("a", rate=1.0, reload_seconds=9.0), resident("b", rate=2.0), asleep("c")], {"a": 1, "b": 0, "c": 0}),
    # or was used longer ago
    ([resident("a", used=NOW - 1), resident("b", used=NOW - 2), asleep("c")], {"a": 1, "b": 0, "c": 0}),
    # a second replica goes before the only one of another model
    ([resident("a", 1, wanted=2, up=2, ready=2, rate=9.0), asleep("c")], {"a": 1, "c": 0}),
    # no more go than are needed: b alone frees enough
    ([resident("a", 1, used=NOW - 9), resident("b", 2, used=NOW - 5), asleep("c", 2)], {"a": 1, "b": 0, "c": 0}),
    # who waits longest is next, and nobody later takes what is free for it
    ([resident("a", 1, running=1), asleep("b", 2, waits=5), asleep("c", 1, waits=4)], {"a": 1, "b": 0, "c": 0}),
    # more replicas come from free memory only
    ([resident("a", 1, wanted=2, waiting=9, running=1), resident("b", 1)], {"a": 1, "b": 1}),
    # fewer wanted than there are
    ([resident("a", 1, wanted=0), asleep("b")], {"a": 0, "b": 1}),
    # nobody asks for it: nobody makes room
    ([resident("a", 2), asleep("b", waits=None)], {"a": 1, "b": 0}),
    # one that never sleeps comes back, whoever took its place meanwhile
    ([resident("a", 2), claim("b", 1, least=1)], {"a": 0, "b": 0}),
]


@pytest.mark.parametrize(("claims", "counts"), CASES, ids=range(len(CASES)))
def test_who_may_be_there(claims: list[Claim], counts: dict[str, int]) -> None:
    capacity = 3 if claims[-1].model == "c" and claims[-1].bytes_each == 2 else 2
    assert granted(*claims, capacity=capacity).counts == counts


def test_one_that_is_too_big_is_told_alone_and_stands_in_nobodys_way() -> None:
    found = granted(asleep("huge", 3, waits=99), asleep("b", waits=1), resident("kept", 1, least=1))
    assert found.counts == {"huge": 0, "b": 1, "kept": 1}
    assert "more than the 2 B there are beside 1 B of models that never sleep" in found.reasons["huge"]
    assert found.blocked == ()


def test_what_makes_room_and_what_waits_say_so() -> None:
    found = granted(resident("a", 2, here=60), asleep("b", waits=3))
    assert found.blocked == ("b",)
    assert found.evicted == {"a": "b"}
    assert found.reasons["a"] == "unused for 1m, it makes room for b, which waits for 3s"
    assert "a makes room" in found.reasons["b"]


def test_while_room_is_being_made_nobody_else_has_to_go() -> None:
    claims = [claim("a", 1, 0, leaving=1), resident("b", 1), asleep("c", 1)]
    assert granted(*claims).counts == {"a": 0, "b": 1, "c": 0}


def test_who_waits_too_long_is_not_passed_by_smaller_ones() -> None:
    """Two small models come in turn, so that one of them has always just come: the large one still gets its turn."""
    claims = [
        resident("small", 1, here=0.5),
        resident("other", 1, here=50),
        asleep("large", 2, waits=12),
        asleep("third", 1, waits=3),
    ]
    assert granted(*claims).counts["other"] == 1, "third may not take its place now"


class OnOne(Machine):
    """Models on a memory of 10."""

    @initialize(sizes=st.lists(st.tuples(st.integers(1, 10), st.sampled_from([0.5, 2.0, 5.0])), min_size=2, max_size=6))
    def models_are(self, sizes: list[tuple[int, float]]) -> None:
        self.models = {f"m{n}": Model({RAM: size}, reload) for n, (size, reload) in enumerate(sizes)}


TestOneMemory = OnOne.TestCase
TestOneMemory.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_requests_are_grouped_by_the_model_that_is_there() -> None:
    """A B A A C A B C, one model at a time: A A A A B B C C."""
    machine = Machine()
    machine.models = {name: Model(machine.capacity, 1.0) for name in "abc"}
    served: list[str] = []
    live = machine.live

    def watched(model: Model) -> None:
        before = len(model.waiting)
        live(model)
        served.extend(name for name, one in machine.models.items() if one is model for _ in range(before - len(model.waiting)))

    machine.live = watched  # type: ignore[method-assign]
    for name in "abaacabc":
        machine.models[name].waiting.append(machine.now)
        machine.step(0.01)
    for _ in range(200):
        machine.step(0.1)
    assert "".join(served) == "aaaabbcc"


def test_a_claim_without_requests_is_not_busy() -> None:
    assert not claim("a").busy
    assert replace(claim("a"), running=1).busy
