"""The one writer: observes, applies the difference, tells the gateway; again and again to the same end."""

from collections.abc import Sequence

from headrace.control.loop import Loop
from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Change, Drain, Replica, Start, State, Stop
from headrace.traffic import Endpoint, Load, ModelStatus

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
            else:
                assert isinstance(change, Drain)

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
