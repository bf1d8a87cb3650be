"""What is carried out between the loop and whoever asks: a lock that takes long to write, replicas that go away meanwhile."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from headrace.control.graduate import Commit, Graduations
from headrace.control.graduation import Aim, Rules
from headrace.control.journal import Journal
from headrace.control.under_way import Prospect
from headrace.engines.base import Placement
from headrace.errors import UsageError
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Replica, State

OLD = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 4, 1, 1000)
NEW = replace(OLD, engine="openvino")
RULES = Rules(steps=(100,), answers=1, patience_seconds=50.0, start_seconds=900.0)


def planned(placement: Placement) -> PlannedModel:
    return PlannedModel("chat", "generate", None, (placement,), 4, (), 512)


def sights(old: State | None, new: State | None) -> list[Replica]:
    """One replica of each side, as far as it is there."""
    sides = ((f"chat-{number}", placement, state) for number, placement, state in ((1, OLD, old), (2, NEW, new)))
    return [Replica(name, "chat", placement, state, "it died") for name, placement, state in sides if state]


BOTH = sights(State.READY, State.READY)


class Loop:
    """As much of the control loop as graduations see; its time is what a test says."""

    def __init__(self, commit: Commit, folder: Path) -> None:
        self.plan, self.replicas, self.now = Plan((planned(OLD),), 10**6), tuple(sights(State.READY, None)), monotonic()
        self.asked = asyncio.Event()
        self.moves = Graduations(self._planner, commit, Journal(folder))
        self.moves.loop = self

    async def _planner(self, aim: Aim, present: Plan, replicas: Sequence[Replica]) -> Prospect:
        return Prospect(planned(NEW), "to openvino", "openvino")

    def look_now(self) -> None:
        self.asked.set()

    def noted(self, model: str, move: str, sentence: str) -> None:
        pass

    @property
    def stands(self) -> str:
        return str(self.moves.shown()[0]["phase"])

    @property
    def said(self) -> str:
        return str(self.moves.shown()[0]["reason"])

    async def asks(self) -> None:
        """Until somebody asks for a look."""
        await asyncio.wait_for(self.asked.wait(), 30)
        self.asked.clear()

    def look(self, replicas: list[Replica], seconds: float = 1.0) -> str:
        """Where it stands after a look at these, so much later."""
        self.now += seconds
        self.moves.seen(replicas)
        self.moves.look(replicas, {}, [], self.now)
        return self.stands

    async def shifts(self, rules: Rules = RULES) -> None:
        """Until all of the traffic goes to the new one."""
        self.moves.begin(Aim("chat", "openvino", rules=rules))
        await self.asks()
        assert self.look(BOTH) == "comparing"
        await self.asks()
        assert self.look(BOTH) == "shifting"


class Writer:
    """Writes the lock when it is let; `error` is what comes of it instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.lock = error, "llamacpp"
        self.began, self.may = threading.Event(), threading.Event()

    def __call__(self, prospect: Prospect) -> None:
        self.began.set()
        assert self.may.wait(30)
        if self.error:
            raise self.error
        self.lock = prospect.lock or ""


async def locking(writer: Writer, folder: Path) -> Loop:
    """One whose lock is being written."""
    loop = Loop(writer, folder)
    await loop.shifts()
    assert loop.look(BOTH, RULES.patience_seconds) == "locking"
    assert await asyncio.to_thread(writer.began.wait, 30)
    return loop


async def test_a_lock_that_is_being_written_is_waited_for_whatever_happens(tmp_path: Path) -> None:
    """Else it would be said to have gone back, and the next start ran the new one."""
    writer = Writer()
    loop = await locking(writer, tmp_path)
    with pytest.raises(UsageError, match="is being written for chat on openvino, which cannot be taken back"):
        loop.moves.abort("chat", "the operator")
    assert loop.look(sights(State.READY, State.FAILED)) == "locking"
    writer.may.set()
    await loop.asks()
    assert loop.look(sights(State.READY, State.FAILED)) == "draining"
    assert (writer.lock, loop.plan.models) == ("openvino", (planned(NEW),)), "the lock says what runs"


@pytest.mark.parametrize(
    ("error", "why"),
    [(OSError("the disk is full"), "the disk is full"), (KeyError("chat"), "by a bug of ours: KeyError('chat')")],
)
async def test_a_lock_that_cannot_be_written_goes_back(error: Exception, why: str, tmp_path: Path) -> None:
    writer = Writer(error)
    loop = await locking(writer, tmp_path)
    writer.may.set()
    await loop.asks()
    assert loop.look(BOTH) == "rolling back"
    assert loop.said == f"the lock cannot be written: {why}"
    assert (writer.lock, loop.plan.models) == ("llamacpp", (planned(OLD),))


async def test_one_that_was_asked_to_go_back_before_writes_no_lock(tmp_path: Path) -> None:
    writer = Writer()
    loop = Loop(writer, tmp_path)
    await loop.shifts()
    loop.moves.abort("chat", "the operator")
    assert loop.look(BOTH, RULES.patience_seconds) == "rolling back"
    assert not writer.began.is_set()


async def test_a_model_that_was_stopped_meanwhile_goes_back(tmp_path: Path) -> None:
    """Both sides go without having failed; as long as it is under way no reload and no other graduation may begin."""
    loop = Loop(Writer(), tmp_path)
    await loop.shifts()
    assert loop.look([], RULES.start_seconds - 1) == "shifting"
    assert loop.look([]) == "rolling back"
    assert loop.said == "not enough of it is ready after 15m"
    assert loop.look([]) == "rolled back"


async def test_one_that_was_away_late_in_a_step_has_a_whole_start_to_come_back(tmp_path: Path) -> None:
    loop = Loop(Writer(), tmp_path)
    await loop.shifts(replace(RULES, patience_seconds=1e5))
    for _ in range(3):
        assert loop.look(BOTH, 0.0) == "shifting"
        assert loop.look(sights(State.READY, State.LOADING), RULES.start_seconds - 1) == "shifting"
    assert loop.look(sights(State.READY, State.LOADING)) == "rolling back"
