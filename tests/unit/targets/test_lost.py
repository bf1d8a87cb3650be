"""Replicas that get lost while they are wanted: a door that closes, a process that nothing ends."""

import os
from contextlib import contextmanager
from pathlib import Path

import psutil
from conftest import PLACEMENT

from headrace.plan.base import Plan, PlannedModel
from headrace.targets import process
from headrace.targets.base import Start, State, Stop
from headrace.targets.changes import changes, in_memory
from headrace.targets.process import Process
from headrace.traffic import Load

PLAN = Plan((PlannedModel("chat", "generate", None, (PLACEMENT,), 2, ()),))
IDLE = {"chat": Load("chat", 0, {}, 0, 0, 0, 0, 0, None, None)}


def ready(replica):
    return replica.state is State.READY


def failed(replica):
    return replica.state is State.FAILED


@contextmanager
def closed_door(replica):
    """Nobody can connect to it, as long as the block lasts or it lives."""
    path = Path(replica.endpoint.address.removeprefix("unix:"))
    away = path.with_suffix(".away")
    os.rename(path, away)
    yield
    os.rename(away, path)


async def planned(one, now=float("inf")):
    """What the plan wants of what there is, applied."""
    found = changes(PLAN, await one.target.observe(), IDLE, now)
    await one.target.apply(found)
    return [(type(change), change.replica) for change in found]


async def test_one_that_takes_no_connection_once_gets_nothing_until_it_takes_them_again(world):
    one = world(health_failures=1_000_000)
    await one.start()
    before = await one.until(ready)
    with closed_door(before):
        shut = await one.until(lambda each: each.endpoint.slots == 0)
        assert (shut.state, shut.reason) == (State.READY, "it takes no connections")
    again = await one.until(lambda each: each.endpoint.slots)
    assert (again.state, again.pid, again.endpoint) == (State.READY, before.pid, before.endpoint)


async def test_a_crash_loop_through_a_closed_door_is_bounded_and_visible(world):
    """As of a command whose server ends and whose wrapper stays: it is ended once nothing runs there, and that is a failure."""
    one = world("--say", "the port is somebody else's")
    assert await planned(one) == [(Start, "chat-1")]
    for number in range(5):
        with closed_door(await one.until(ready)):
            await one.until(lambda each: each.state is State.DRAINING)
            assert await planned(one) == [(Stop, "chat-1")]
            assert await planned(one, now=0.0) == [], "nothing is started beside it"
            replica = await one.until(failed)
        assert replica.restarts == number
        assert await planned(one) == ([(Start, "chat-1")] if number < 4 else [])
    assert replica.retry_at is None
    assert replica.exit_code == -15
    assert "failed 5 times in a row and is not started again: closed its door, and then was killed by SIGTERM" in replica.reason
    assert "the port is somebody else's" in replica.reason


async def test_what_sigkill_does_not_end_has_failed_and_keeps_its_memory(world, monkeypatch):
    """As a process that waits in the kernel for a driver or a disk."""
    one = world("--hang-after", "3", health_timeout=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(Process, "_kill_group", lambda self: None)
        patch.setattr(process, "KILL_SECONDS", 0.2)
        await one.start()
        before = await one.until(ready)
        going = await one.until(lambda each: each.endpoint is None or each.endpoint.slots == 0)
        assert going.reason.startswith("did not answer /health for ")
        replica = await one.until(lambda each: failed(each) and each.pid)
        assert "; it could not be killed within 5s: it waits in the kernel" in replica.reason
        assert (replica.pid, replica.endpoint) == (before.pid, None)
        assert in_memory([replica]) == PLACEMENT.memory_bytes
        await one.start()  # not while it is there
        assert failed(await one.until(lambda each: each.pid == before.pid))
    gone = await one.until(lambda each: each.pid is None)
    assert (gone.state, gone.exit_code) == (State.FAILED, -9)
    assert not psutil.pid_exists(before.pid)
    await one.start()
    await one.until(ready)
