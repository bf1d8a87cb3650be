"""A better packing by OR-tools' CP-SAT, where it is installed: replicas in time slices moved onto fewer or smaller devices.

What else there is (whole devices, MIG slices, processes, pools) stays. Deterministic: one worker, a fixed seed, and a limit in
the solver's own deterministic seconds, which count work and not the clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.plan.packing.base import Key
from headrace.plan.packing.device import WHOLE_SHARE, Piece
from headrace.plan.packing.fleet import Fleet, at
from headrace.plan.packing.job import Job

_MIB = 2**20
_MOST = 20_000
"""Pairs of a job and a device that the solver is asked about; it gets nowhere with many more."""

MISSING = "OR-tools is not installed, so nothing better was looked for: pip install 'headrace[pack]'."


@dataclass(frozen=True, slots=True)
class _Question:
    """Which device each job goes to: `pieces` by job and device."""

    numbers: tuple[int, ...]
    pieces: Mapping[tuple[Key, int], Piece]
    now: Mapping[Key, int]


def improve(fleet: Fleet, jobs: Sequence[Job], effort: float) -> tuple[str, ...]:
    """Move `jobs` that are time slices to fewer devices, or smaller ones, if the solver finds any; returns what to warn of."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return (MISSING,)
    question = _question(fleet, jobs)
    answer = _answer(cp_model, fleet, question, effort) if question.now else None
    if answer:
        _move(fleet, question, answer)
    return ()


def _question(fleet: Fleet, jobs: Sequence[Job]) -> _Question:
    """Over the devices with most left over that hold only such jobs, and as many that hold nothing of each class."""
    sliced = {job.key: job for job in jobs if job.key in fleet.spots and _is_slice(fleet, job)}
    held: list[int] = []
    for n in sorted(fleet.used, key=lambda n: (-fleet.uses[n].room_bytes, n)):
        if fleet.uses[n].pieces.keys() <= sliced.keys() and _pairs(fleet, [*held, n]) <= _MOST:
            held.append(n)
    now = {key: n for n in sorted(held) for key in sorted(fleet.uses[n].pieces)}
    numbers = tuple(sorted([*held, *_spare(fleet, len(held))]))
    pieces = {(key, n): piece for key in now for n in numbers if (piece := sliced[key].pieces.get(fleet.classes[n]))}
    return _Question(numbers, pieces, now)


def _pairs(fleet: Fleet, held: Sequence[int]) -> int:
    return sum(len(fleet.uses[n].pieces) for n in held) * (len(held) + len(_spare(fleet, len(held))))


def _spare(fleet: Fleet, most: int) -> list[int]:
    return [n for _, empty in sorted(fleet.empty.items()) for n in empty[:most]]


def _is_slice(fleet: Fleet, job: Job) -> bool:
    spot = fleet.spots[job.key]
    return spot.piece.share == "time-slice" and len(spot.numbers) == 1


def _answer(cp: Any, fleet: Fleet, question: _Question, effort: float) -> dict[Key, int] | None:
    """The device of every job, None when the solver found nothing better than now."""
    model = cp.CpModel()
    used = {n: model.new_bool_var("") for n in question.numbers}
    goes = {each: model.new_bool_var("") for each in question.pieces}
    for key in question.now:
        model.add_exactly_one(goes[key, n] for n in question.numbers if (key, n) in goes)
    for n in question.numbers:
        _limit(model, fleet, question, n, used[n], goes)
    _order_twins(model, fleet, used)
    cost = {n: _capacity(fleet, n) + 1 for n in question.numbers}
    device = sum(cost.values())
    price = sum(used[n] * (device + cost[n]) for n in question.numbers)
    model.minimize(price)
    busy = set(question.now.values())
    model.add(price < sum(device + cost[n] for n in busy))
    return _solved(cp, model, question, goes, effort)


def _limit(model: Any, fleet: Fleet, question: _Question, n: int, used: Any, goes: Mapping[tuple[Key, int], Any]) -> None:
    """Memory rounded so that it is never too much, and compute, when anything goes to device `n`."""
    there = [(goes[key, n], question.pieces[key, n]) for key in question.now if (key, n) in goes]
    model.add(sum(var * -(-piece.total_bytes // _MIB) for var, piece in there) <= _capacity(fleet, n) * used)
    if any(piece.compute for _, piece in there):
        model.add(sum(var * piece.compute for var, piece in there) <= WHOLE_SHARE * used)


def _order_twins(model: Any, fleet: Fleet, used: Mapping[int, Any]) -> None:
    """Of devices that are alike the first are used, so that the solver need not try them all."""
    last: dict[object, int] = {}
    for n in used:
        if (cls := fleet.classes[n]) in last:
            model.add_implication(used[n], used[last[cls]])
        last[cls] = n


def _solved(
    cp: Any, model: Any, question: _Question, goes: Mapping[tuple[Key, int], Any], effort: float
) -> dict[Key, int] | None:
    solver = cp.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = effort
    if solver.solve(model) not in (cp.OPTIMAL, cp.FEASIBLE):
        return None
    return {key: n for (key, n), var in goes.items() if solver.value(var)}


def _capacity(fleet: Fleet, n: int) -> int:
    return fleet.uses[n].device.free_bytes // _MIB


def _move(fleet: Fleet, question: _Question, answer: Mapping[Key, int]) -> None:
    for key in question.now:
        fleet.remove(key)
    for key, n in answer.items():
        fleet.put(at(question.pieces[key, n], (n,)))
