"""Replicas that sleep in place, with the fake vLLM: put to sleep by the ledger, woken by a request, stopped where that fails."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest
from deployment import Given, deployed, eventually

from headrace.control.wishes import Wish
from headrace.engines.base import Bed, Placement, Probe
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.targets.base import State
from headrace.testing.vllm import fake_vllm

BEDS = (Bed(1, 30), Bed(2, 10))
PLACEMENT = Placement("chat", "vllm", "generate", "/none", 4096, 4, 1, 10, beds=BEDS)


def planned(memory: int = 100, placement: Placement = PLACEMENT) -> Plan:
    """One replica at the beginning, none from the moment that an administrator puts it to sleep until somebody asks."""
    model = PlannedModel("chat", "generate", None, (placement,), 4, (), scale=Scale(0, 0, None))
    return Plan((replace(model, scale=Scale(1, 0, None)),), memory)


def may_sleep(plan: Plan) -> Plan:
    return replace(plan, models=tuple(replace(model, scale=Scale(0, 0, None)) for model in plan.models))


async def put_to_sleep(there, memory: int = 100):
    """The replica once it sleeps in place; it served until now."""
    before = await there.ready("chat")
    there.loop.replan(may_sleep(planned(memory)), 60.0, None, {})
    there.loop.wish(Wish("chat", "asleep", "a test"))
    found = await there.replica("chat", lambda each: each.state is State.ASLEEP)
    assert found.pid == before.pid
    return found


@pytest.fixture
async def there(tmp_path):
    async with deployed(Given(planned(), {"vllm": fake_vllm()}), tmp_path) as there:
        yield there


@pytest.mark.parametrize(
    ("memory", "level"),
    [
        # with its weights in RAM
        (100, 1),
        # where that is not enough, without
        (20, 2),
    ],
)
async def test_it_sleeps_and_is_woken_by_the_first_request(there, memory, level):
    found = await put_to_sleep(there, memory)
    assert (found.level, found.endpoint) == (level, None)
    answers = await asyncio.gather(*(there.chat() for _ in range(3)))
    assert [answer.status for answer in answers] == [200] * 3
    again = await there.ready("chat")
    assert (again.pid, again.level, again.restarts) == (found.pid, 0, 0)


async def test_what_waits_is_told_that_it_wakes(there):
    await put_to_sleep(there)

    async def said() -> bool:
        return there._gateway.models["chat"].status.reason == "it wakes when somebody asks, which takes about 5s"

    assert await eventually(said, lambda: "what the gateway says")


async def test_one_that_dies_asleep_is_started_for_the_next_request(there):
    found = await put_to_sleep(there)
    os.kill(found.pid, signal.SIGKILL)
    assert await eventually(lambda: _answers(there), lambda: "an answer of another process")
    assert (await there.ready("chat", but=found)).pid != found.pid


async def test_one_that_cannot_sleep_is_stopped_and_started_for_the_next_request(tmp_path):
    engine = replace(fake_vllm(), sleep=lambda placement, level: (Probe("/nowhere", b""),))
    async with deployed(Given(planned(), {"vllm": engine}), tmp_path) as there:
        before = await there.ready("chat")
        there.loop.replan(may_sleep(planned()), 60.0, None, {})
        there.loop.wish(Wish("chat", "asleep", "a test"))
        await eventually(lambda: _gone(there), lambda: "that it is gone")
        assert (await there.chat()).status == 200
        await there.ready("chat", but=before)


async def test_one_that_cannot_be_woken_is_started_anew(tmp_path):
    engine = replace(fake_vllm(), wake=lambda placement, level: (Probe("/nowhere", b""),))
    async with deployed(Given(planned(), {"vllm": engine}), tmp_path) as there:
        found = await put_to_sleep(there)
        assert (await there.chat()).status == 200
        await there.ready("chat", but=found)


async def test_weights_that_were_thrown_away_are_read_again(tmp_path):
    """Without that the fake answers 500, and the first request of ours notices."""
    engine = replace(fake_vllm(), wake=lambda placement, level: (Probe("/wake_up", b""),))
    async with deployed(Given(planned(), {"vllm": engine}), tmp_path) as there:
        found = await put_to_sleep(there, memory=20)
        assert (await there.chat()).status == 200
        assert (await there.ready("chat", but=found)).pid != found.pid


async def _answers(there) -> bool:
    return (await there.chat()).status == 200


async def _gone(there) -> bool:
    return not await there.loop._target.observe()
