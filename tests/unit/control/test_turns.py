"""The memory ledger: one table per rule, then a machine of models that checks for overcommit, starvation and deadlock."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.control.turns import Claim, Grants, Rules, grants

RULES = Rules(patience_seconds=10.0, stay=2.0, rest=0.5, stuck_seconds=60.0)
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
    return grants(claims, capacity, NOW, RULES)


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
    # the more models wait, the longer an unused one stays, so that requests gather
    ([resident("a", 2, here=1.5), asleep("b"), asleep("d")], {"a": 1, "b": 0, "d": 0}),
    ([resident("a", 2, here=2.5), asleep("b"), asleep("d")], {"a": 0, "b": 0, "d": 0}),
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


@dataclass
class Model:
    """One model of the machine below."""

    size: int
    reload: float
    least: int = 0
    up: list[tuple[bool, float]] = field(default_factory=list)  # (ready, since)
    leaving: int = 0
    waiting: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)  # when they are done
    used: float = 0.0
    left: float = 0.0


SERVICE, SLOTS, CAPACITY = 1.5, 2, 10


class Machine(RuleBasedStateMachine):
    """Models on a memory of 10: requests come, time passes, and what the ledger says is done a step later."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.models: dict[str, Model] = {}

    @initialize(sizes=st.lists(st.tuples(st.integers(1, 10), st.sampled_from([0.5, 2.0, 5.0])), min_size=2, max_size=6))
    def models_are(self, sizes: list[tuple[int, float]]) -> None:
        self.models = {f"m{n}": Model(size, reload) for n, (size, reload) in enumerate(sizes)}

    @rule(number=st.integers(0, 5), count=st.integers(1, 5))
    def requests_come(self, number: int, count: int) -> None:
        model = self.models[f"m{number % len(self.models)}"]
        model.waiting += [self.now] * count
        self.step(0.0)

    @rule(seconds=st.sampled_from([0.1, 0.7, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(max(1, int(seconds / 0.1))):
            self.step(0.1)

    def step(self, seconds: float) -> None:
        self.now += seconds
        for model in self.models.values():
            self.live(model)
        found = grants([self.claim(name) for name in self.models], CAPACITY, self.now, RULES)
        for name, model in self.models.items():
            want = found.counts[name]
            while len(model.up) > want:
                model.up.pop()
                model.leaving += 1
                model.left = self.now
            model.up += [(False, self.now)] * (want - len(model.up))

    def live(self, model: Model) -> None:
        model.running = [until for until in model.running if until > self.now]
        if model.leaving and not model.running:
            model.leaving = 0
        model.up = [
            (True, self.now) if not ready and self.now >= since + model.reload else (ready, since) for ready, since in model.up
        ]
        while model.waiting and len(model.running) < SLOTS * sum(ready for ready, _ in model.up):
            model.waiting.pop(0)
            model.running.append(self.now + SERVICE)
        if model.waiting or model.running:
            model.used = self.now

    def claim(self, name: str) -> Claim:
        model = self.models[name]
        used = bool(model.waiting or model.running)
        return Claim(
            name,
            model.size,
            wanted=1 if used or model.up else 0,
            up=len(model.up),
            ready=sum(ready for ready, _ in model.up),
            leaving=model.leaving,
            waiting=len(model.waiting),
            running=len(model.running),
            oldest=max(model.waiting[0], model.left) if model.waiting else None,
            since=max((since for _, since in model.up), default=self.now),
            used=model.used,
            reload_seconds=model.reload,
        )

    @invariant()
    def memory_is_never_overcommitted(self) -> None:
        taken = sum(model.size * (len(model.up) + model.leaving) for model in self.models.values())
        assert taken <= CAPACITY

    @invariant()
    def nobody_starves(self) -> None:
        # Each other model may have one turn first: loading, its stay, its answers; and requests in front of one's own.
        turn = max((m.reload for m in self.models.values()), default=0) * (1 + RULES.stay) + 2 * SERVICE + 1.0
        for model in self.models.values():
            behind = len(model.waiting) * SERVICE / SLOTS * len(self.models)
            bound = RULES.patience_seconds + 2 * turn * len(self.models) + behind + self.backlog()
            assert not model.waiting or self.now - model.waiting[0] <= bound

    def backlog(self) -> float:
        return sum(len(model.waiting) for model in self.models.values()) * SERVICE / SLOTS * 2

    def teardown(self) -> None:
        until = self.now + 1000
        while any(model.waiting or model.running for model in self.models.values()):
            self.step(0.25)
            assert self.now < until, "a deadlock"


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_requests_are_grouped_by_the_model_that_is_there() -> None:
    """A B A A C A B C, one model at a time: A A A A B B C C."""
    machine = Machine()
    machine.models = {name: Model(CAPACITY, 1.0) for name in "abc"}
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
