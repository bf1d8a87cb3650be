"""What a handover means where models run: what a Headrace holds, and what the next one must have before it takes over."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from headrace.errors import ReplicaError
from headrace.gateway.gateway import Gateway
from headrace.handover.line import Held
from headrace.handover.predecessor import Predecessor
from headrace.plan.base import Plan
from headrace.targets.base import IN_MEMORY, Replica
from headrace.targets.changes import holds
from headrace.traffic import ModelStatus


class Planned(Protocol):
    """The control loop, as far as a handover changes it."""

    plan: Plan


def held(gateway: Gateway, replicas: Sequence[Replica]) -> Held:
    """What there is at the moment."""
    there = [replica for replica in replicas if replica.state in IN_MEMORY]
    return Held(
        {name: model.status.phase for name, model in gateway.models.items()},
        sum(holds(replica)[0] for replica in there),
        sum(replica.memory_bytes or 0 for replica in there),
    )


def unready(statuses: Sequence[ModelStatus], before: Held) -> dict[str, str]:
    """Models that clients would miss, with the reasons: neither ready nor asleep, unless they failed before as well."""
    return {
        one.model: f"{one.phase}: {one.reason}"
        for one in statuses
        if one.phase not in ("ready", "asleep") and not (one.phase == "failed" and before.models.get(one.model) == "failed")
    }


async def take_over(before: Predecessor, gateway: Gateway, settled: asyncio.Event) -> None:
    """Listen in the place of `before` once it is `settled` what becomes of the models, or as soon as it is gone.

    Raises ReplicaError when clients would miss a model, HandoverError when `before` does not give way.
    """
    ready, gone = asyncio.ensure_future(settled.wait()), asyncio.ensure_future(before.end())
    try:
        await asyncio.wait((ready, gone), return_when=asyncio.FIRST_COMPLETED)
        missing = {} if gone.done() else unready([model.status for model in gateway.models.values()], before.held)
    finally:
        ready.cancel()
        gone.cancel()
        await asyncio.gather(ready, gone, return_exceptions=True)
    if missing:
        reasons = "\n".join(f"{name} is {reason}" for name, reason in missing.items())
        raise ReplicaError(f"The running Headrace (pid {before.pid}) serves on, for not all is ready here.", reasons)
    await before.give_way(gateway)


async def alone(before: Predecessor, loop: Planned, say: Callable[[str], None]) -> None:
    """Once `before` is gone, what it held is free for the models here."""
    await before.end()
    say(f"The Headrace before (pid {before.pid}) is gone.")
    if loop.plan.memory_bytes is not None:
        loop.plan = replace(loop.plan, memory_bytes=loop.plan.memory_bytes + before.held.planned_bytes)
    before.gone = True
