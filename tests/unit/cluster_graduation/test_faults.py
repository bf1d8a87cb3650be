"""A graduation whose API server fails at any of its calls, in any way: nothing is dropped, and it ends on one side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from headrace.cluster_graduation import carried, lease
from headrace.cluster_graduation.carried import Graduation
from headrace.cluster_graduation.lease import Lease, LostError
from headrace.control.cluster_record import Record
from headrace.control.graduation import Aim, Rules
from headrace.targets.kubernetes import applying, client, gateways, survey, waiting
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.gateways import Gateways
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.terminal import Terminal
from tests.unit.cluster_graduation.small_world import AFTER, BEFORE, NAMESPACE, Answer, Clock, World, made, timeout

RULES = Rules(steps=(50, 100), answers=5, patience_seconds=10, start_seconds=120)
RECORD = Record(Aim("chat", "vllm", rules=RULES), "starting", "chat", "chat-b", BEFORE, AFTER)
Fault = Callable[[str, str, Callable[[], Answer]], Answer]


@dataclass
class File:
    text: str


@dataclass
class Planned:
    """As much of a prospect as is carried out: `new` is the file's text once it is done."""

    world: World
    made: tuple[dict[str, Any], ...] = (
        made("Service", "chat-b", "chat-b", spec={}),
        made("Deployment", "chat-b", "chat-b", spec={"replicas": 1}),
    )
    text: str = "new"

    @property
    def file(self) -> File:
        return File(self.world.text)

    def commit(self) -> None:
        self.world.text = self.text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes in sleep only, and requests one after the other; nobody beats but who is about to change something."""
    made = Clock()
    for module in (carried, lease, client):
        monkeypatch.setattr(module, "time", made)
    for module in (applying, gateways, survey, waiting):
        monkeypatch.setattr(module, "at_once", lambda work, items: [work(each) for each in items])
    monkeypatch.setattr(Lease, "_beat", lambda self: None)
    return made


class Silent(Terminal):
    def say(self, text: str) -> None:
        pass


def carried_out(world: World, holder: str, *, begins: bool) -> Record:
    api = Api(world, "the cluster")
    held = Lease(api, NAMESPACE, "graduation-chat", holder)
    if begins:
        held.begin(RECORD)
    else:
        held.take(lambda said: None)
    try:
        return Graduation(
            api,
            NAMESPACE,
            held,
            lambda: Planned(world),
            Gateways(api, NAMESPACE, "chat", None),
            30.0,
            Silent(),  # type: ignore[arg-type, return-value]
        ).run()
    finally:
        held.release()


def ended(world: World, record: Record) -> None:
    """On one side alone, the gateways' file and the user's included."""
    left = {"done": ("chat-b", AFTER, "new"), "rolled back": ("chat", BEFORE, "old")}[record.phase]
    deployments = {path.rpartition("/")[2] for path in world.objects if "/deployments/" in path}
    told = next(each for path, each in world.objects.items() if path.endswith("/configmaps/gateway"))["data"]["gateway.json"]
    assert (deployments, world.text) == ({left[0]}, left[2]), record
    assert ('"trial"' in told, f'"service": "{left[1]["service"]}"' in told) == (False, True), record
    assert world.dropped == 0, record


_BEGUN = f"POST /api/v1/namespaces/{NAMESPACE}/configmaps"
"""The call that writes the record for the first time."""


class Faults:
    """Lets all calls through but `many`, from one on. `whole`: they are done, and their answer is lost."""

    def __init__(self, first: int, many: int, answer: int | None, *, whole: bool = False) -> None:
        self.first, self.many, self.status, self.whole = first, many, answer, whole
        self.calls: list[str] = []

    def __call__(self, method: str, path: str, answer: Callable[[], Answer]) -> Answer:
        self.calls.append(f"{method} {path}")
        if not self.first <= len(self.calls) - 1 < self.first + self.many:
            return answer()
        if self.whole:
            answer()
        if self.status is None:
            raise timeout()
        return Answer(self.status, {"message": "a fault of the test"})


def test_without_faults_it_is_done(clock: Clock) -> None:
    world = World(clock)
    world.fault = faults = Faults(0, 0, None)
    record = carried_out(world, "one", begins=True)
    assert record.phase == "done"
    ended(world, record)
    assert len(faults.calls) > 100


WAYS = [
    pytest.param(409, 1, False, id="409"),
    pytest.param(429, 6, False, id="429 through all tries"),
    pytest.param(500, 1, False, id="500"),
    pytest.param(500, 1, True, id="500 after it was done"),
    pytest.param(None, 1, False, id="no answer"),
    pytest.param(None, 1, True, id="no answer after it was done"),
    pytest.param(None, 40, False, id="no answer for a while"),
]


@pytest.mark.parametrize(("status", "many", "whole"), WAYS)
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_whatever_call_fails_it_ends_on_one_side(clock: Clock, status: int | None, many: int, whole: bool, bad: bool) -> None:
    """Writes are all tried, and some of the reads. What could not begin is begun again; from then on nothing stops it."""
    world = World(clock, bad=bad)
    world.fault = clean = Faults(0, 0, None)
    carried_out(world, "one", begins=True)
    for place, call in enumerate(clean.calls):
        if call.startswith("GET") and place % 61:
            continue
        world = World(clock, bad=bad)
        world.fault = Faults(place, many, status, whole=whole)
        try:
            record = carried_out(world, "one", begins=True)
        except ClusterError:
            if place > clean.calls.index(_BEGUN):
                raise
            world.fault = Faults(0, 0, None)
            clock.sleep(lease.GONE_SECONDS + 1)
            try:
                record = carried_out(world, "two", begins=False)
            except LostError:  # there is no record: it never began
                record = carried_out(world, "two", begins=True)
        assert record.phase == ("rolled back" if bad else "done"), (place, call, record.story)
        ended(world, record)


def test_what_the_cluster_forbids_goes_back_at_once(clock: Clock) -> None:
    """As KAITO's webhook does; asking again would change nothing."""
    world = World(clock)

    def refuse(method: str, path: str, answer: Callable[[], Answer]) -> Answer:
        if method == "PATCH" and path.endswith("deployments/chat-b"):
            why = 'admission webhook "validation.workspace.kaito.sh" denied the request: Unsupported instance type x'
            return Answer(400, {"message": why})
        return answer()

    world.fault = refuse
    began = clock.now
    record = carried_out(world, "one", begins=True)
    assert record.phase == "rolled back"
    assert "Unsupported instance type x" in record.reason
    assert clock.now - began < 30
    ended(world, record)


def test_what_fails_for_long_goes_back(clock: Clock) -> None:
    world = World(clock)

    def fail(method: str, path: str, answer: Callable[[], Answer]) -> Answer:
        failing = method == "PATCH" and path.endswith("deployments/chat-b")
        return Answer(500, {"message": "etcd is full"}) if failing else answer()

    world.fault = fail
    record = carried_out(world, "one", begins=True)
    assert record.phase == "rolled back"
    assert "did not let it go on for 5m: Cannot apply Deployment chat-b: etcd is full" in record.reason
    ended(world, record)


def test_whoever_slept_while_another_took_over_changes_nothing_more(clock: Clock) -> None:
    """A laptop that was closed in the middle of a step: the other one went back meanwhile, and that stays so."""
    world = World(clock)
    world.fault = Faults(0, 0, None)
    done: list[Record] = []

    def sleep(method: str, path: str, answer: Callable[[], Answer]) -> Answer:
        if not done and '"share": 1.0' in str(world.objects[f"/api/v1/namespaces/{NAMESPACE}/configmaps/gateway"]):
            world.fault = Faults(0, 0, None)
            clock.sleep(lease.GONE_SECONDS + 1)
            world.bad = True
            done.append(carried_out(world, "two", begins=False))
        return answer()

    world.fault = sleep
    with pytest.raises(LostError):
        carried_out(world, "one", begins=True)
    assert done[0].phase == "rolled back"
    ended(world, done[0])


def test_a_wish_to_go_back_that_comes_just_before_the_file_is_written_is_followed(clock: Clock) -> None:
    world, record_path = World(clock), f"/api/v1/namespaces/{NAMESPACE}/configmaps/graduation-chat"
    wished = False

    def wish(method: str, path: str, answer: Callable[[], Answer]) -> Answer:
        nonlocal wished
        made = answer()
        if not wished and '"phase":"locking"' in str(world.objects.get(record_path)):
            wished = True
            Lease(Api(world, "the cluster"), NAMESPACE, "graduation-chat", "two").wish_back("two")  # type: ignore[arg-type]
            clock.sleep(lease.BEAT_SECONDS)
        return made

    world.fault = wish
    record = carried_out(world, "one", begins=True)
    assert wished
    assert (record.phase, record.reason) == ("rolled back", "asked to go back by two")
    ended(world, record)


def test_a_gateway_that_begins_anew_compares_anew(clock: Clock) -> None:
    world = World(clock)
    compared = 0

    def restart(method: str, path: str, answer: Callable[[], Answer]) -> Answer:
        nonlocal compared
        if method == "POST" and "/proxy/" in path:
            compared += 1
            made = answer()
            if compared == 1:
                world.gateways[0].id, world.gateways[0].compared = "another", None
                world.gateways[0].watched = float("-inf")
            return made
        return answer()

    world.fault = restart
    record = carried_out(world, "one", begins=True)
    assert record.phase == "done"
    assert compared == 2
    assert any("alike" in said for _, said in record.story)
    ended(world, record)


def test_a_trial_that_is_bad_gets_nothing_more_at_once(clock: Clock) -> None:
    """Not only when the kubelet has brought the changed file, which takes a minute."""
    world = World(clock, bad=True)
    world.fault = Faults(0, 0, None)
    shares: list[tuple[float, float]] = []
    passes = clock.passes

    def look() -> None:
        shares.append((clock.now, max(map(world.share, world.gateways))))
        passes()

    clock.passes = look
    record = carried_out(world, "one", begins=True)
    back = next(at - 1e9 for at, said in record.story if said.startswith("rolling back"))
    assert all(share == 0 for at, share in shares if at > back + carried.PAUSE_SECONDS), (back, shares)
