"""The memory ledger with an account for each GPU, and models that sleep in place: tables, then a machine of models."""

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
FIRST, SECOND = {"GPU 0": 8}, {"GPU 1": 8}
CAPACITY = {RAM: 10, "GPU 0": 8, "GPU 1": 8}
BEDS = {1: {RAM: 5, "GPU 0": 1}, 2: {RAM: 1, "GPU 0": 1}}


def claim(model: str, devices: dict[str, int], *, ram: int = 1, **facts: Any) -> Claim:
    return Claim(model, ram, **{"wanted": 1, "reload_seconds": 2.0, "devices": (devices,) if devices else (), **facts})


def resident(model: str, devices: dict[str, int], **facts: Any) -> Claim:
    return claim(model, devices, **{"up": 1, "ready": 1, "since": NOW - 100, "used": NOW - 100, **facts})


def asked(model: str, devices: dict[str, int], *, waits: float = 1.0, **facts: Any) -> Claim:
    return claim(model, devices, waiting=1, oldest=NOW - waits, **facts)


def granted(*claims: Claim, capacity: dict[str, int] = CAPACITY) -> Grants:
    return grants(claims, capacity, NOW, RULES)


@pytest.mark.parametrize(
    ("claims", "counts"),
    [
        # each on a card of its own
        ([resident("a", {"GPU 0": 8}), asked("b", {"GPU 1": 8})], {"a": 1, "b": 1}),
        # on the same one
        ([resident("a", {"GPU 0": 8}), asked("b", {"GPU 0": 8})], {"a": 0, "b": 0}),
        # the cheaper one of another card does not help
        (
            [resident("a", {"GPU 0": 8}, rate=9.0), resident("x", {"GPU 1": 8}), asked("b", {"GPU 0": 8})],
            {"a": 0, "x": 1, "b": 0},
        ),
        # over two cards: both have to be free
        (
            [resident("a", {"GPU 0": 8}), resident("x", {"GPU 1": 8}), asked("b", {"GPU 0": 4, "GPU 1": 4})],
            {"a": 0, "x": 0, "b": 0},
        ),
        # one that is too busy to go keeps the other where it is as well
        (
            [resident("a", {"GPU 0": 8}, running=1), resident("x", {"GPU 1": 8}), asked("b", {"GPU 0": 4, "GPU 1": 4})],
            {"a": 1, "x": 1, "b": 0},
        ),
        # RAM is an account like the others: the model on the CPU goes
        ([resident("cpu", {}, ram=9), asked("b", {"GPU 0": 8}, ram=2)], {"cpu": 0, "b": 0}),
        # who waits for one card keeps nobody from another, not even when it waits for long
        (
            [resident("a", {"GPU 0": 8}, running=1, since=NOW - 1), asked("b", {"GPU 0": 8}, waits=99), asked("c", {"GPU 1": 8})],
            {"a": 1, "b": 0, "c": 1},
        ),
    ],
    ids=range(7),
)
def test_each_gpu_has_an_account(claims: list[Claim], counts: dict[str, int]) -> None:
    assert granted(*claims).counts == counts


def test_one_that_no_gpu_can_hold_says_which() -> None:
    found = granted(asked("huge", {"GPU 1": 9}))
    assert found.reasons["huge"] == "it takes 9 B of GPU 1, more than the 8 B there are"


def test_what_waits_for_a_gpu_says_which() -> None:
    assert granted(resident("a", {"GPU 0": 8}), asked("b", {"GPU 0": 8})).reasons["b"] == (
        "it waits for 8 B of GPU 0: a makes room"
    )


@pytest.mark.parametrize(
    ("claims", "sleeps"),
    [
        # with its weights in RAM, where there is room for them
        ([claim("a", {"GPU 0": 7}, wanted=0, leaving=1, beds=BEDS)], {"a": 1}),
        # with nothing but its process, where others take the RAM
        ([claim("a", {"GPU 0": 7}, wanted=0, leaving=1, beds=BEDS), resident("cpu", {}, ram=6)], {"a": 2}),
        # the one that is used more keeps its weights
        (
            [
                claim("a", {"GPU 0": 3}, wanted=0, leaving=1, beds=BEDS, rate=0.1),
                claim("b", {"GPU 0": 3}, wanted=0, leaving=1, beds=BEDS, rate=0.2),
                resident("cpu", {}, ram=1),
            ],
            {"b": 1, "a": 2},
        ),
        # who sleeps already keeps on
        ([claim("a", {"GPU 0": 7}, wanted=0, asleep=1, asleep_each=BEDS[1], beds=BEDS)], {"a": 1}),
        # who cannot sleep is stopped
        ([claim("a", {"GPU 0": 7}, wanted=0, leaving=1)], {}),
        # the RAM of one that sleeps is there for who is asked for
        (
            [
                claim("a", {"GPU 0": 7}, wanted=0, asleep=1, asleep_each=BEDS[1], beds=BEDS),
                asked("cpu", {}, ram=6),
            ],
            {},
        ),
        # one that makes room on a GPU sleeps, where that is enough
        ([resident("a", {"GPU 0": 7}, beds=BEDS), asked("b", {"GPU 0": 7}, beds=BEDS)], {"a": 1, "b": 1}),
        # and is stopped where what its process keeps is needed
        ([resident("a", {"GPU 0": 8}, beds=BEDS), asked("b", {"GPU 0": 8})], {}),
    ],
    ids=range(8),
)
def test_who_may_sleep_in_place(claims: list[Claim], sleeps: dict[str, int]) -> None:
    assert granted(*claims).sleeps == sleeps


def test_waking_takes_no_more_than_what_it_did_not_hold() -> None:
    asleep = asked("a", {"GPU 0": 8}, asleep=1, asleep_each={RAM: 10, "GPU 0": 1}, beds={1: {RAM: 10, "GPU 0": 1}})
    assert granted(asleep).counts == {"a": 1}


class OnGpus(Machine):
    """Models on two GPUs and in RAM; some sleep in place."""

    capacity = CAPACITY

    @initialize(
        sizes=st.lists(
            st.tuples(
                st.integers(0, 8), st.integers(0, 8), st.integers(1, 6), st.sampled_from([0.5, 2.0, 5.0]), st.integers(0, 2)
            ),
            min_size=2,
            max_size=6,
        )
    )
    def models_are(self, sizes: list[tuple[int, int, int, float, int]]) -> None:
        for n, (first, second, ram, reload, levels) in enumerate(sizes):
            devices = {name: size for name, size in (("GPU 0", first), ("GPU 1", second)) if size}
            process = dict.fromkeys(devices, 1)
            beds = {1: {RAM: ram + first + second, **process}, 2: {RAM: ram, **process}} if devices else {}
            chosen = {level: bed for level, bed in beds.items() if level > 2 - levels}
            self.models[f"m{n}"] = Model({RAM: ram, **devices}, reload, beds=chosen)


TestGpus = OnGpus.TestCase
TestGpus.settings = settings(max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
