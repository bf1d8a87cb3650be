"""A day in small for a History: loads, the decisions that they lead to, and requests."""

import math
from collections.abc import Callable

from headrace.control.autoscale import Outcome, autoscaled
from headrace.control.history import History
from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.targets.base import Replica, State
from headrace.traffic import Finished, Load

PLACEMENT = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 10)
PLAN = Plan((PlannedModel("chat", "generate", None, (PLACEMENT,) * 4, 2, (), scale=Scale(0, 0, 20.0)),), 1000)


def finished(number: int) -> Finished:
    return Finished(float(number), "chat", "chat-1", 200, 10, number, 0.5, 0.6, 2.0)


def load(waiting: int = 0, running: int = 0, arrived: int = 0, tokens: int = 0) -> Load:
    return Load("chat", waiting, {"chat-1": running}, arrived, 0, 0, tokens, tokens, 1.5, 0.2, arrived)


def lived(one: History, steps: int, plan_at: Callable[[int], Plan] = lambda step: PLAN) -> list[int]:
    """A day in small: the load comes and goes, replicas follow at once. The replicas wanted at every step.

    `plan_at` is asked for the plan of each step before it.
    """
    outcome, now, arrived, wanted = Outcome(), 1000.0, 0, []
    for step in range(steps):
        plan = plan_at(step)
        now += 1.0
        wave = max(0.0, math.sin(step / 40) * 12)
        arrived += int(wave / 3)
        loads = {"chat": load(int(wave / 2), int(wave / 2), arrived, arrived * 7)}
        count = outcome.counts.get("chat", 0 if plan.models[0].scale else len(plan.models[0].replicas))
        replicas = [Replica(f"chat-{n}", "chat", PLACEMENT, State.READY) for n in range(1, count + 1)]
        outcome = autoscaled(plan, replicas, loads, now, outcome.known, {"chat": 2.0 + step // 100})
        one.record([finished(step)], outcome.verdicts, loads, replicas, now)
        wanted += [verdict.decision.replicas for verdict in outcome.verdicts]
    return wanted
