"""Who knows the trace, for turns.py: a schedule that uses it, and a number of swaps below which no schedule can be."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any

FAR = 1e18

Arrivals = Sequence[tuple[float, str]]


def fewest_swaps(arrivals: Arrivals, wait: float, fit: int, load: float, late: float = 0.01) -> float:
    """Swaps that any schedule needs in which all but `late` of the requests wait at most `wait` seconds: a linear programme.

    Of a schedule it asks only that `fit` models are in memory at any time, and that each request finds its model there (or on its
    way in), or that a load begins early enough for it. Loads and answers take no room and no time otherwise, and models may be
    there in parts, so that no real schedule does with fewer.
    """
    from ortools.linear_solver import pywraplp

    slack = wait - load
    points = sorted({when for when, _ in arrivals} | {when + slack for when, _ in arrivals if slack > 0})
    solver = pywraplp.Solver.CreateSolver("GLOP")
    there, loads = _residency(solver, points, sorted({model for _, model in arrivals}), fit)
    exempt = solver.Constraint(-solver.infinity(), int(late * len(arrivals)))
    for when, model in arrivals:
        in_time = solver.Constraint(1, solver.infinity())
        first = bisect_left(points, when)
        in_time.SetCoefficient(there[model, first], 1)
        for at in range(first + 1, bisect_right(points, when + slack)):
            in_time.SetCoefficient(loads[model, at], 1)
        spared = solver.NumVar(0, 1, "")
        in_time.SetCoefficient(spared, 1)
        exempt.SetCoefficient(spared, 1)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise RuntimeError("the linear programme was not solved")
    return float(solver.Objective().Value())


def _residency(solver: Any, points: Sequence[float], models: Sequence[str], fit: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """(what of each model is in memory at each point, what of it begins to load since the point before)."""
    objective = solver.Objective()
    objective.SetMinimization()
    there, loads = {}, {}
    for at in range(len(points)):
        room = solver.Constraint(-solver.infinity(), fit)
        for model in models:
            there[model, at], loads[model, at] = solver.NumVar(0, 1, ""), solver.NumVar(0, solver.infinity(), "")
            objective.SetCoefficient(loads[model, at], 1)
            room.SetCoefficient(there[model, at], 1)
            came = solver.Constraint(0, solver.infinity())
            came.SetCoefficient(loads[model, at], 1)
            came.SetCoefficient(there[model, at], -1)
            if at:
                came.SetCoefficient(there[model, at - 1], 1)
    return there, loads


def knows(arrivals: Arrivals, wait: float, load: float, answer: float) -> Callable[[Any], None]:
    """A policy that swaps as late as `wait` seconds of waiting allow, and gives up the model that is asked for furthest from now
    (Belady's rule): as many requests as can be are there by then.
    """
    times: dict[str, list[float]] = {}
    for when, model in arrivals:
        times.setdefault(model, []).append(when)

    def next_use(model: str, now: float) -> float:
        mine = times.get(model, [])
        at = bisect_right(mine, now)
        return mine[at] if at < len(mine) else FAR

    def policy(world: Any) -> None:
        world.serve_all()
        asleep = [model for model in world.models.values() if model.waiting and not model.up and not model.leaving]
        asleep.sort(key=lambda model: model.waiting[0])
        while asleep and world.free > 0:
            world.load(asleep.pop(0))
        # Each further one has to begin earlier: two load at once, and each takes a load and an answer.
        latest = [model.waiting[0] + wait - load - (at // 2) * (load + answer) for at, model in enumerate(asleep)]
        if any(world.now >= when for when in latest) and not any(model.leaving for model in world.models.values()):
            idle = [model for model in world.models.values() if model.ready and not model.waiting]
            if idle:
                world.unload(max(idle, key=lambda model: next_use(model.name, world.now)))
                if world.free > 0:
                    world.load(asleep[0])
        if asleep:
            world.looks()

    return policy
