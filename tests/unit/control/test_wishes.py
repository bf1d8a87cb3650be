"""What administrators may ask of the number of replicas, and what becomes of it in the loop."""

from dataclasses import replace

import pytest
from test_loop import AskedFront, Quiet

from headrace.control.loop import Loop
from headrace.control.wishes import Wish, asleep, choices, current, held, refused
from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.targets.base import State
from headrace.traffic import Load

PLACEMENT = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 1)
FIXED = PlannedModel("chat", "generate", None, (PLACEMENT,) * 3, 2, ())
SLEEPER = replace(FIXED, scale=Scale(0, 0, 600.0))
ABSENT = replace(FIXED, replicas=(), refused="too large")


@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        (FIXED, ["auto", "1", "2", "stopped"]),  # three are what the plan says: that is auto
        (SLEEPER, ["auto", "1", "2", "3", "asleep", "stopped"]),
        (replace(SLEEPER, scale=Scale(1)), ["auto", "1", "2", "3", "stopped"]),  # it never sleeps
        (ABSENT, []),
    ],
)
def test_only_what_the_plan_allows_may_be_asked(model: PlannedModel, allowed: list[str]) -> None:
    assert [want for want, _ in choices(model)] == allowed
    for want in ("auto", "0", "1", "3", "4", "-1", "asleep", "stopped", "", "１"):
        assert bool(refused(model, want)) == (want not in allowed)


@pytest.mark.parametrize(("want", "count", "least"), [("1", 1, 1), ("3", 3, 3), ("asleep", 3, 0), ("stopped", 0, 0)])
def test_a_wish_changes_the_plan(want: str, count: int, least: int) -> None:
    (model,) = held(Plan((SLEEPER,)), {"chat": Wish("chat", want, "me")}).models
    assert len(model.replicas) == count
    assert model.scale
    assert model.scale.least == least
    assert bool(model.refused) == (want == "stopped")


def test_who_asks_wakes_a_model_that_was_put_to_sleep() -> None:
    wishes, plan = {"chat": Wish("chat", "asleep", "me")}, Plan((SLEEPER,))
    load = Load("chat", 0, {}, 0, 0, 0, 0, 0, None, None)
    assert asleep(current(wishes, plan, {"chat": load})) == {"chat": 0}
    assert current(wishes, plan, {"chat": replace(load, waiting=1)}) == {}


def test_a_wish_for_a_model_that_is_planned_no_more_is_forgotten() -> None:
    assert current({"chat": Wish("chat", "2", "me")}, Plan(()), {}) == {}


def looped(model: PlannedModel) -> tuple[Loop, Quiet, AskedFront]:
    target, front = Quiet(), AskedFront()
    return Loop(Plan((model,), 10), target, front, lambda told: None, starts={"chat": 2.0}), target, front


def ready(target: Quiet) -> int:
    return sum(replica.state is State.READY for replica in target.replicas.values())


async def test_two_ask_at_once_the_last_counts_and_both_are_told() -> None:
    one, target, _ = looped(SLEEPER)
    await one.round()
    one.wish(Wish("chat", "1", "ann"))
    one.wish(Wish("chat", "3", "bob"))
    await one.round()
    assert ready(target) == 3
    assert [said for _, _, said in one.decisions if "held" in said] == [
        "chat: held at 1 replica by ann",
        "chat: held at 3 replicas by bob",
    ]
    assert one.wishes["chat"].by == "bob"


async def test_a_stopped_model_answers_why_and_comes_back_when_it_is_started() -> None:
    one, target, front = looped(FIXED)
    await one.round()
    one.wish(Wish("chat", "stopped", "ann"))
    await one.round()
    (told,), _ = front.told[-1]
    assert (told.phase, told.reason) == ("failed", "stopped by ann until it is started again")
    one.wish(Wish("chat", "auto", "ann"))
    await one.round()
    (told,), _ = front.told[-1]
    assert told.phase == "ready"
    assert one.wishes == {}
    assert ready(target) == 3
