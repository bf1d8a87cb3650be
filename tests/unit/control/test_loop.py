"""The one writer: observes, applies the difference, tells the gateway; again and again to the same end."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from headrace.control.autoscale import Verdict
from headrace.control.loop import Loop
from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.targets.base import Adapt, Change, Drain, Replica, Start, State, Stop
from headrace.traffic import Endpoint, Finished, Load, ModelStatus

PLACEMENT = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 1)


class FakeTarget:
    """A target in memory: what is started is ready at once."""

    def __init__(self) -> None:
        self.replicas: dict[str, Replica] = {}
        self.applied: list[Change] = []

    async def observe(self) -> tuple[Replica, ...]:
        return tuple(self.replicas.values())

    async def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.applied.append(change)
            if isinstance(change, Start):
                endpoint = Endpoint(change.replica, change.model, "unix:/s", change.slots, change.model)
                self.replicas[change.replica] = Replica(
                    change.replica, change.model, change.runs, State.READY, endpoint=endpoint, slots=change.slots
                )
            elif isinstance(change, Stop):
                self.replicas.pop(change.replica, None)
            elif isinstance(change, Drain):
                self.replicas[change.replica] = self.replicas[change.replica].entered(State.DRAINING, 0.0, change.reason)

    async def changed(self, timeout: float) -> None:
        raise AssertionError("rounds are called one by one")

    def logs(self, replica: str, lines: int) -> list[str]:
        return [f"{replica} said {lines}"]

    async def close(self) -> None:
        self.replicas.clear()


class FakeFront:
    """A gateway that only listens."""

    def __init__(self) -> None:
        self.told: list[tuple[Sequence[ModelStatus], Sequence[Endpoint]]] = []

    def update(self, statuses: Sequence[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        self.told.append((statuses, endpoints))

    def loads(self) -> dict[str, Load]:
        return {}

    def finished(self) -> Sequence[Finished]:
        return ()

    def when_needed(self, look: Callable[[], None]) -> None:
        return


def loop(replicas: int) -> tuple[Loop, FakeTarget, FakeFront, list[Sequence[ModelStatus]]]:
    target, front, heard = FakeTarget(), FakeFront(), []
    plan = Plan((PlannedModel("chat", "generate", None, (PLACEMENT,) * replicas, 2, ()),))
    return Loop(plan, target, front, heard.append), target, front, heard


async def test_a_round_makes_the_plan_true_and_tells_the_gateway() -> None:
    one, target, front, heard = loop(2)
    await one.round()
    assert set(target.replicas) == {"chat-1", "chat-2"}
    statuses, endpoints = front.told[-1]
    assert statuses[0].phase == "ready"
    assert {endpoint.replica for endpoint in endpoints} == {"chat-1", "chat-2"}
    assert heard[-1] == statuses
    assert one.logs("chat-1", 3) == ["chat-1 said 3"]


async def test_a_second_round_changes_nothing() -> None:
    one, target, _, _ = loop(2)
    await one.round()
    applied = len(target.applied)
    await one.round()
    assert len(target.applied) == applied


async def test_what_disappeared_is_started_again() -> None:
    one, target, _, _ = loop(2)
    await one.round()
    del target.replicas["chat-2"]
    await one.round()
    assert set(target.replicas) == {"chat-1", "chat-2"}


class AskedFront(FakeFront):
    """A gateway with requests; `look` is what wakes control."""

    def __init__(self) -> None:
        super().__init__()
        self.load = Load("chat", 0, {}, 0, 0, 0, 0, 0, None, None)
        self.over: list[Finished] = []
        self.look: Callable[[], None] = lambda: None

    def loads(self) -> dict[str, Load]:
        return {"chat": self.load}

    def finished(self) -> Sequence[Finished]:
        found, self.over = self.over, []
        return found

    def when_needed(self, look: Callable[[], None]) -> None:
        self.look = look


class Quiet(FakeTarget):
    """Nothing ever changes by itself there."""

    async def changed(self, timeout: float) -> None:
        await asyncio.Event().wait()


class Kept:
    """A recorder in memory."""

    def __init__(self) -> None:
        self.requests: list[Finished] = []
        self.verdicts: list[Verdict] = []

    def record(self, requests, verdicts, loads, replicas, now) -> None:
        self.requests += requests
        self.verdicts += verdicts


def sleeping() -> tuple[Loop, FakeTarget, AskedFront, Kept]:
    target, front, kept = Quiet(), AskedFront(), Kept()
    planned = PlannedModel("chat", "generate", None, (PLACEMENT,) * 3, 2, (), scale=Scale(0, 0, 600.0))
    return Loop(Plan((planned,), 10), target, front, lambda told: None, starts={"chat": 2.0}, recorder=kept), target, front, kept


async def test_a_model_that_may_sleep_is_not_started_before_somebody_asks() -> None:
    one, target, front, _ = sleeping()
    await one.round()
    assert not target.replicas
    (told,), _ = front.told[-1]
    assert (told.phase, told.ready_in) == ("asleep", 2.0)


async def test_who_asks_is_not_kept_waiting_for_the_next_look() -> None:
    """The target never changes: only the gateway can have woken the loop."""
    one, target, front, _ = sleeping()
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(10):
        while not front.told:
            await asyncio.sleep(0)
        front.load = Load("chat", 1, {}, 0, 0, 0, 0, 0, None, None, 1, 0.0)
        front.look()
        while not target.replicas:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert set(target.replicas) == {"chat-1"}
    (_, model, said), *_ = one.decisions
    assert model == "chat"
    assert said.startswith("chat 0 → 1 replicas: 1 waiting")
    assert one.scaled == {("chat", "wake"): 1}


async def test_everything_is_recorded_once() -> None:
    one, _, front, kept = sleeping()
    front.over = [Finished(1.0, "chat", "chat-1", 200, 1, 2, 0.0, None, 1.0)]
    front.load = Load("chat", 1, {}, 0, 0, 0, 0, 0, None, None, 1, 0.0)
    await one.round()
    await one.round()
    assert len(kept.requests) == 1
    assert [verdict.decision.replicas for verdict in kept.verdicts] == [1], "the policy is asked once a second"


async def test_a_failure_of_the_target_is_not_swallowed_while_it_waits() -> None:
    one, _, _, _ = sleeping()
    one._target.changed = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        async with asyncio.timeout(10):
            await one.run()


async def broken(timeout: float) -> None:
    raise RuntimeError("a bug")


async def test_a_decision_made_elsewhere_is_said_and_kept() -> None:
    """Graduations decide without a policy: they stand in the history beside scaling decisions."""
    kept: list[tuple[str, int, int, str, str]] = []

    class Notes(Kept):
        def note(self, model: str, before: int, after: int, move: str, reason: str, now: float) -> None:
            kept.append((model, before, after, move, reason))

    target, front = FakeTarget(), FakeFront()
    planned = PlannedModel("chat", "generate", None, (PLACEMENT,) * 2, 2, ())
    one = Loop(Plan((planned,), 10), target, front, lambda told: None, recorder=Notes())
    await one.round()
    await one.round()
    one.noted("chat", "graduation", "done: the old replicas are gone")
    assert kept == [("chat", 2, 2, "graduation", "done: the old replicas are gone")]
    assert one.decisions[-1][1:] == ("chat", "graduation of chat: done: the old replicas are gone")


async def test_another_plan_is_made_true_and_told_and_a_model_that_is_gone_does_not_linger() -> None:
    """The gateway has nothing of it any more: nothing runs there."""
    target, front = FakeTarget(), AskedFront()
    one = Loop(Plan((PlannedModel("chat", "generate", None, (PLACEMENT,), 2, ()),)), target, front, lambda statuses: None)
    await one.round()
    front.loads = dict  # type: ignore[method-assign]
    other = PlannedModel("other", "generate", None, (replace(PLACEMENT, model="other"),), 2, ())
    one.replan(Plan((other,)), 60.0, None, {"chat": "served no more", "other": "new"})
    assert one.decisions[-1][1:] == ("other", "other: new")
    for _ in range(3):
        await one.round()
    assert set(target.replicas) == {"other-1"}


async def test_where_the_engine_can_a_replica_is_adapted() -> None:
    target, front = FakeTarget(), FakeFront()
    poet = replace(PLACEMENT, adapters={"poet": "/p"}, also=("poet",))
    plan, wanted = (Plan((PlannedModel("chat", "generate", None, (runs,), 2, ()),)) for runs in (PLACEMENT, poet))
    one = Loop(plan, target, front, lambda statuses: None, adapts=lambda running, wanted: True)
    await one.round()
    one.replan(wanted, 60.0, None, {})
    await one.round()
    assert target.applied[-1] == Adapt("chat-1", poet, "adapters +poet, without a restart")
