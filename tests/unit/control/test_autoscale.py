"""Loads and replicas → how many replicas of each model: up, down, asleep, awake, and what goes wrong meanwhile."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from headrace.control.autoscale import Known, Outcome, at, autoscaled, expected_start
from headrace.control.turns import Rules
from headrace.engines.base import Placement, Reading
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.targets.base import Replica, State
from headrace.traffic import Load

RULES = Rules(patience_seconds=10.0)


def model(name: str = "chat", most: int = 3, least: int = 0, size: int = 10, idle: float | None = 30.0) -> PlannedModel:
    placement = Placement(name, "llamacpp", "generate", f"{name}.gguf", 512, 2, 1, size)
    return PlannedModel(name, "generate", None, (placement,) * most, 2, (), scale=Scale(least, 0, idle))


def load(name: str = "chat", *, waiting: int = 0, running: int = 0, arrived: int = 0, oldest: float | None = None) -> Load:
    at_one = {f"{name}-1": running} if running else {}
    return Load(name, waiting, at_one, arrived, 0, 0, 0, 0, 1.0, None, arrived, oldest)


class World:
    """Time, replicas that take 2 s to start, and the outcome of every look."""

    def __init__(self, *models: PlannedModel, memory: int | None = 1000) -> None:
        self.plan = Plan(models, memory)
        self.now = 100.0
        self.replicas: dict[str, Replica] = {}
        self.outcome = Outcome()
        self.broken: set[str] = set()
        """Models whose replicas never get ready."""

    def look(self, *loads: Load, seconds: float = 1.0) -> dict[str, int]:
        self.now += seconds
        for name, one in self.replicas.items():
            if one.state is State.STARTING and self.now - one.since >= 2 and one.model not in self.broken:
                self.replicas[name] = replace(one, state=State.READY, since=self.now)
        known, starts = self.outcome.known, {each.name: 2.0 for each in self.plan.models}
        replicas = tuple(self.replicas.values())
        self.outcome = autoscaled(self.plan, replicas, {each.model: each for each in loads}, self.now, known, starts, RULES)
        for each in at(self.plan, self.outcome.counts).models:
            self.have(each.name, len(each.replicas))
        return dict(self.outcome.counts)

    def have(self, name: str, count: int) -> None:
        own = [replica for replica in self.replicas.values() if replica.model == name]
        for surplus in own[count:]:
            del self.replicas[surplus.name]
        for number in range(len(own), count):
            placement = next(each.replicas[0] for each in self.plan.models if each.name == name)
            self.replicas[f"{name}-{number + 1}"] = Replica(
                f"{name}-{number + 1}", name, placement, State.STARTING, since=self.now, begun=self.now
            )

    def turns(self, steps: int, *loads: Load) -> dict[str, int]:
        return [self.look(*loads) for _ in range(steps)][-1]


def test_a_load_takes_it_from_0_to_3_and_its_end_back_to_0() -> None:
    world = World(model())
    assert world.look(load()) == {"chat": 0}
    assert world.look(load(waiting=1, arrived=1)) == {"chat": 1}
    for second in range(60):  # five requests a second, of a second each, two at once
        counts = world.look(load(waiting=5, running=4, arrived=5 * second))
    assert counts == {"chat": 3}
    assert world.turns(45, load(arrived=300)) == {"chat": 0}, "unused for 30 s"


def test_a_model_that_is_asked_for_wakes_at_the_next_look() -> None:
    world = World(model())
    world.look(load())
    assert world.look(load(waiting=1, arrived=1), seconds=0.01) == {"chat": 1}


def test_the_sentence_has_the_numbers() -> None:
    world = World(model())
    world.look(load(waiting=3, arrived=3))
    verdict = world.outcome.verdicts[0]
    assert str(verdict).startswith("chat 0 → ")
    assert "3 waiting" in str(verdict)


def test_models_of_a_fixed_number_are_left_alone() -> None:
    world = World(replace(model(), scale=None))
    assert world.look(load(waiting=99)) == {}
    assert [len(each.replicas) for each in at(world.plan, world.outcome.counts).models] == [3]


def test_what_the_gateway_does_not_say_takes_no_replica_away() -> None:
    world = World(model())
    world.look(load(waiting=12, arrived=12))
    world.turns(5, load(running=6, arrived=12))
    before = world.outcome.counts["chat"]
    assert world.turns(600) == {"chat": before}, "no loads for ten minutes"


def test_a_metrics_page_that_vanishes_takes_no_replica_away() -> None:
    world = World(model())
    world.look(load(waiting=12, arrived=12))
    world.turns(5, load(running=6, arrived=12))
    before = world.outcome.counts["chat"]
    world.replicas = {name: replace(one, reading=Reading(running=3)) for name, one in world.replicas.items()}
    assert world.turns(3, load(running=6, arrived=12)) == {"chat": before}
    world.replicas = {name: replace(one, reading=None) for name, one in world.replicas.items()}
    assert world.turns(60, load(running=6, arrived=12)) == {"chat": before}


def test_a_clock_that_jumps_back_takes_no_replica_away() -> None:
    world = World(model())
    world.look(load(waiting=12, arrived=12))
    world.turns(5, load(running=6, arrived=12))
    before = world.outcome.counts["chat"]
    assert world.look(load(running=1, arrived=12), seconds=-80) == {"chat": before}
    assert world.turns(3, load(running=1, arrived=12)) == {"chat": before}


def test_a_replica_that_never_gets_ready_does_not_keep_others_from_their_turn() -> None:
    world = World(model("stuck", 1, size=1000), model("fine", 1, size=1000))
    world.broken = {"stuck"}
    world.look(load("stuck", waiting=1, arrived=1, oldest=0.0), load("fine"))
    counts = {}
    for second in range(130):
        waits = load("fine", waiting=1, arrived=1, oldest=float(second))
        counts = world.look(load("stuck", waiting=1, arrived=1, oldest=float(second + 1)), waits)
        if counts["fine"]:
            break
    assert counts["fine"] == 1
    assert second <= 125


def test_a_model_that_had_its_turn_does_not_take_its_place_back_at_once() -> None:
    """Its requests may well be older than those of the one for which it made room."""
    world = World(model("long", 1, size=1000), model("short", 1, size=1000))
    world.turns(30, load("long", waiting=9, running=2, arrived=11, oldest=50.0), load("short"))
    had = []
    for second in range(20):
        waits = load("short", waiting=1, arrived=1, oldest=float(second + 9))
        counts = world.look(load("long", waiting=9, running=2, arrived=11, oldest=80.0), waits)
        had.append(counts)
    assert {"long": 0, "short": 1} in had


def test_one_that_was_given_up_keeps_its_place_and_takes_no_memory() -> None:
    """It would be started again and again if it were forgotten."""
    world = World(model("bad", 1, size=1000), model("fine", 1, size=1000))
    world.have("bad", 1)
    world.replicas["bad-1"] = replace(world.replicas["bad-1"], state=State.FAILED, reason="exited five times", retry_at=None)
    counts = world.look(load("bad", waiting=1, arrived=1, oldest=1.0), load("fine", waiting=1, arrived=1, oldest=0.5))
    assert counts == {"bad": 1, "fine": 1}


def test_one_that_will_be_started_again_keeps_its_memory() -> None:
    world = World(model("again", 1, size=1000), model("fine", 1, size=1000))
    world.have("again", 1)
    world.replicas["again-1"] = replace(world.replicas["again-1"], state=State.FAILED, reason="exited", retry_at=200.0)
    counts = world.look(load("again", waiting=1, arrived=1, oldest=2.0), load("fine", waiting=1, arrived=1, oldest=0.5))
    assert counts == {"again": 1, "fine": 0}


def test_memory_limits_how_many_there_are_and_says_so() -> None:
    world = World(model(), memory=25)
    world.look(load(waiting=30, arrived=30))
    world.look(load(waiting=30, arrived=30))
    assert world.outcome.counts == {"chat": 2}
    assert "memory for 2 now" in str(world.outcome.verdicts[0]) or "another replica takes" in world.outcome.reasons["chat"]


def test_a_model_that_lost_its_place_comes_back_only_when_asked_for() -> None:
    world = World(model("a", 1, size=600), model("b", 1, size=600))
    world.turns(4, load("a", running=1, arrived=1), load("b"))
    for _ in range(3):
        world.look(load("a", arrived=1), load("b", waiting=1, arrived=1, oldest=1.0))
    assert world.outcome.counts == {"a": 0, "b": 1}
    assert world.turns(20, load("a", arrived=1), load("b", arrived=1))["a"] == 0


def test_a_model_that_begins_to_follow_the_load_may_make_room_before_anybody_asked_for_it() -> None:
    """After a graduation, a stop, or a reload that gives it a range: nothing is remembered of its use."""
    a, b = model("a", 1, size=600), model("b", 1, size=600)
    world = World(replace(a, scale=None), replace(b, replicas=(), refused="stopped"))
    world.have("a", 1)
    world.turns(4, load("a"))
    world.plan = replace(world.plan, models=(a, b))
    assert world.look(load("a"), load("b", waiting=1, arrived=1, oldest=0.5))["a"] == 0
    assert world.outcome.evicted == {"a": "b"}
    assert world.outcome.reasons["a"].startswith("unused for 3s, it makes room for b"), "since it was ready"


def test_swap_without_an_idle_time_sleeps_only_for_others() -> None:
    world = World(model(most=1, idle=None))
    world.look(load(waiting=1, arrived=1))
    assert world.turns(300, load(arrived=1)) == {"chat": 1}


@pytest.mark.parametrize(("starts", "seconds"), [({"chat": 3.5}, 3.5), ({}, 5.0 + 10 / 200e6)])
def test_a_start_takes_what_it_took_or_what_is_to_be_read(starts: dict[str, float], seconds: float) -> None:
    assert expected_start(model(), starts) == pytest.approx(seconds)


def test_what_is_remembered_is_bounded() -> None:
    world = World(model())
    sizes = []
    for step in range(2000):
        world.look(load(waiting=step % 7, running=step % 5, arrived=step))
        sizes.append(_size(world.outcome.known["chat"]))
    assert max(sizes[1000:]) <= max(sizes[:1000])


def _size(known: Known) -> int:
    return len(known.state.peaks) if known.state else 0


def fixed_and_scaled() -> Sequence[PlannedModel]:
    return model("fixed", 1, size=500), model("scaled", 2, size=300)


def test_the_memory_of_models_that_never_sleep_is_theirs() -> None:
    fixed, scaled = fixed_and_scaled()
    world = World(replace(fixed, scale=None), scaled)
    world.have("fixed", 1)
    counts = world.turns(3, load("fixed"), load("scaled", waiting=20, arrived=20, oldest=50.0))
    assert counts == {"scaled": 1}, "500 + 300 of 1000"
