"""What is promised of adapters that come and go while a replica runs: for the fake vLLM and the real one."""

from dataclasses import replace
from pathlib import Path

from deployment import Deployment, eventually

from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Replica


def planned(placement: Placement, adapters: dict[str, str]) -> Plan:
    """One model with these adapters."""
    runs = replace(placement, adapters=adapters, also=tuple(adapters))
    return Plan((PlannedModel(runs.model, runs.task, None, (runs,), runs.slots, (), runs.context, also=runs.also),))


async def asked_for(there: Deployment, adapters: dict[str, str]) -> Replica:
    """Ask for these adapters; the replica once it has them, or has refused one."""
    there.loop.replan(planned(there.placement("chat"), adapters), 60.0, None, {})

    def as_wanted(found: Replica) -> object:
        has = isinstance(found.placement, Placement) and found.placement.adapters == adapters
        return (has and found.adapting is None) or found.retry_at is not None

    return await there.replica("chat", as_wanted)


async def status(there: Deployment, model: str) -> int:
    return (await there.chat(model=model, max_tokens=2)).status


async def they_come_and_go_without_a_restart(there: Deployment, poet: Path) -> None:
    """`there` was started with the adapter `poet`; answers under way are not disturbed."""
    before = await there.ready("chat")
    running = await there.streams(3, 200)
    found = await asked_for(there, {"poet": str(poet), "second": str(poet)})
    assert found.pid == before.pid
    assert await eventually(lambda: _is(there, "second", 200), lambda: "the second adapter answers")
    found = await asked_for(there, {"second": str(poet)})
    assert found.pid == before.pid
    assert await eventually(lambda: _is(there, "poet", 404), lambda: "the first adapter is none any more")
    assert await status(there, "second") == await status(there, "chat") == 200
    answers = [await stream.until(seconds=300) for stream in running]
    assert all(answer.events[-1] == "[DONE]" for answer in answers)


async def one_that_is_refused_leaves_the_others(there: Deployment, poet: Path) -> None:
    """What cannot be loaded is said, and is no name for clients."""
    before = await there.ready("chat")
    found = await asked_for(there, {"poet": str(poet), "missing": str(poet / "no")})
    assert found.pid == before.pid
    assert "it keeps the adapters it has" in found.reason
    assert await status(there, "missing") == 404
    assert await status(there, "poet") == 200


async def _is(there: Deployment, model: str, wanted: int) -> bool:
    return await status(there, model) == wanted
