"""The course of a tune: how long a run has to be, what is planned now, the search until its time is over, the best by turns."""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from headrace.engines.base import Engine, Placement
from headrace.foreground import signalled
from headrace.plan.base import PlannedModel
from headrace.tune import course
from headrace.tune.base import OWN_DEFAULTS, PRESENT, Candidate, End, Finalist, Goal, Limits, Mix, Score, Trial, Verdict
from headrace.tune.planner import Planner
from headrace.tune.search import search
from headrace.tune.space import Space
from headrace.tune.stopping import clearly_worse, finalists, leaders, value, verdict
from headrace.tune.store import Trials
from headrace.tune.trial import Attempt, Length, Rig, TrialError, tried
from headrace.units import show_duration

_MOST_REFUSED = 100


@dataclass(frozen=True, slots=True)
class Course:
    """What a tune goes by. `free` gives the memory that is free at the moment, in bytes; `budget` is in seconds."""

    planner: Planner
    present: Candidate
    space: Space
    mix: Mix
    goal: Goal
    limits: Limits
    budget: float
    seed: int
    compiled: Path
    engines: Mapping[str, Engine]
    as_it_comes: Mapping[str, Engine]
    """With llama.cpp's own defaults under its name."""
    free: Callable[[], int]
    least_run: float = course.LEAST_RUN


class Runs:
    """Carries it out, each trial by `attempt`. `trials` has all that was tried, `finalists` and `verdict` what came of it."""

    def __init__(self, plan: Course, kept: Trials, say: Callable[[str], None], attempt: Attempt = tried) -> None:
        self._plan, self._kept, self._say, self._attempt = plan, kept, say, attempt
        self._began = monotonic()
        self._best: Score | None = None
        self._stop = asyncio.Event()
        self._rig = Rig(plan.engines, plan.compiled, self._stop)
        self._own = Rig(plan.as_it_comes, plan.compiled, self._stop)
        self._length = self._of(plan.least_run)
        self.trials: list[Trial] = []
        self.remarks: list[str] = []
        self.finalists: list[Finalist] = []
        self.verdict = Verdict(None, "Interrupted before the turns were over: nothing changes")

    @property
    def interrupted(self) -> bool:
        return self._stop.is_set()

    def interrupt(self) -> None:
        """End it with what there is: what runs is stopped, and nothing changes."""
        self._stop.set()

    async def all(self) -> None:
        """Everything. Ctrl-C and SIGTERM interrupt it."""
        with signalled(self.interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            earlier = self._earlier()
            await self._search(earlier or await self._size())
            await self._turns()
        self._remark()

    def _of(self, run: float) -> Length:
        return Length(course.warmup_seconds(run), run)

    # ---- what comes before

    def _earlier(self) -> list[Trial]:
        """What was measured of the same question, from the cache; runs are as long as those were. What was refused or failed is
        tried again: it may have been the memory of that moment.
        """
        found = [trial for trial in self._kept.read() if not trial.turn and trial.end in ("whole", "stopped")]
        whole = [trial.score for trial in found if trial.end == "whole" and trial.score]
        if not whole:
            return []
        self._say(f"{len(found)} trials of an earlier run are taken over ({self._kept.file}; --fresh begins anew).")
        self._length = self._of(round(whole[0].seconds, 1))
        self.trials += found
        return found

    async def _size(self) -> list[Trial]:
        """A short run where each branch begins: an answer's time at the fastest is what a run has to last. Those that were long
        enough count.
        """
        plan, found = self._plan, list[Trial]()
        for branch in plan.space.branches:
            trial = await self._run(branch.start)
            if self.interrupted:
                return []
            found.append(trial)
            words = f"{trial.score.rate:.0f} tokens/s" if trial.score else trial.why
            self._tell(f"how fast it is at all: {branch.start}: {words}")
        best = max((trial.score.rate for trial in found if trial.score), default=0.0)
        run = round(course.run_seconds(plan.mix, best, plan.budget, plan.least_run), 1)
        if run > self._length.run:
            self._length = self._of(run)
            return []
        for trial in found:
            self.trials.append(trial)
            self._kept.add(trial)
        return found

    # ---- the search

    async def _search(self, earlier: Sequence[Trial]) -> None:
        plan, found = self._plan, search(self._plan.space, self._plan.seed)
        for trial in earlier:
            found.tell(trial.candidate, self._worth(trial))
            self._better(trial)
        if not any(trial.name == PRESENT and trial.candidate == plan.present for trial in earlier) and not self.interrupted:
            present = await self._trial(plan.present, PRESENT)
            found.tell(present.candidate, self._worth(present))
            self._better(present)
        begun, refused = 0, 0
        while not self.interrupted and refused < _MOST_REFUSED:
            if (candidate := found.ask()) is None or (begun >= len(plan.space.branches) and self._left < self._reserved):
                break
            begun += 1
            trial = await self._trial(candidate)
            found.tell(candidate, self._worth(trial))
            self._better(trial)
            refused += trial.end == "refused"

    def _worth(self, trial: Trial) -> float | None:
        return value(trial.score, self._plan.goal, self._plan.limits) if trial.score is not None else None

    def _better(self, trial: Trial) -> None:
        mine = self._worth(trial)
        if trial.end != "whole" or trial.score is None or mine is None:
            return
        if self._best is None or mine > value(self._best, self._plan.goal, self._plan.limits):
            self._best = trial.score

    # ---- the final turns

    async def _turns(self) -> None:
        """What is planned, llama.cpp as it comes, and the best of the search, one after the other, in another order each time."""
        plan, entries = self._plan, self._entries()
        for turn in range(1, self._count(len(entries)) + 1):
            shift = turn % len(entries)
            for name, candidate in [*entries[shift:], *entries[:shift]]:
                if self.interrupted or self._left < (1 - course.OVERTIME) * plan.budget:
                    break
                await self._trial(candidate, name, turn)
        self.finalists = finalists(self.trials)
        if not self.interrupted:
            self.verdict = verdict(self.finalists, PRESENT, plan.goal, plan.limits, plan.mix.said)

    def _entries(self) -> list[tuple[str, Candidate]]:
        plan = self._plan
        count = course.leaders(self._each, plan.budget)
        best = [one for one in leaders(self.trials, plan.goal, plan.limits, count + 1) if one != plan.present][:count]
        own = [(OWN_DEFAULTS, Candidate.of({"engine": "llamacpp"}))] if plan.planner.comes_as_is() else []
        return [(PRESENT, plan.present), *(("", one) for one in best), *own]

    def _count(self, entries: int) -> int:
        return course.turns(entries, self._each, self._plan.budget)

    @property
    def _reserved(self) -> float:
        """Seconds of the turns, and of one trial of the search more."""
        entries = len(self._entries())
        return (self._count(entries) * entries + 1) * self._each

    @property
    def _each(self) -> float:
        """Seconds of a trial."""
        return course.trial_seconds(self.trials, self._length.run)

    @property
    def _left(self) -> float:
        """Seconds of the budget; below 0 past it."""
        return self._plan.budget - (monotonic() - self._began)

    # ---- one trial

    async def _trial(self, candidate: Candidate, name: str = "", turn: int = 0) -> Trial:
        """Try it, keep it, say it."""
        trial = await self._run(candidate, name, turn)
        if self.interrupted and trial.end == "failed":
            return trial
        self.trials.append(trial)
        self._kept.add(trial)
        self._tell(_sentence(trial))
        return trial

    async def _run(self, candidate: Candidate, name: str = "", turn: int = 0) -> Trial:
        began = monotonic()
        model = self._planned(candidate, name)
        if isinstance(model, str):
            trial = Trial(candidate, "refused", why=model, name=name, turn=turn)
        else:
            end, score, why = await self._measured(model, name, turn)
            memory = sum(one.memory_bytes for one in model.replicas if isinstance(one, Placement))
            trial = Trial(candidate, end, score, why, name, turn, memory_bytes=memory)
        return replace(trial, at=datetime.now(UTC).isoformat(timespec="seconds"), seconds=round(monotonic() - began, 2))

    def _planned(self, candidate: Candidate, name: str) -> PlannedModel | str:
        planner, free = self._plan.planner, self._plan.free()
        return planner.as_it_comes(self._plan.mix.users, free) if name == OWN_DEFAULTS else planner.planned(candidate, free)

    async def _measured(self, model: PlannedModel, name: str, turn: int) -> tuple[End, Score | None, str]:
        rig, whole = self._own if name == OWN_DEFAULTS else self._rig, bool(turn or name)
        seed = 1000 * self._plan.seed + turn  # every candidate of a turn gets the same requests
        try:
            found = await self._attempt(rig, model, self._plan.mix, self._length, _never if whole else self._judge, seed)
        except TrialError as error:
            return "failed", None, str(error)
        return ("stopped" if found.stopped else "whole"), found.score, found.stopped

    def _judge(self, slices: Sequence[float], ttft: float | None, share: float) -> str:
        return clearly_worse(slices, ttft, share, self._best) if self._best else ""

    def _tell(self, said: str) -> None:
        self._say(f"{show_duration(round(monotonic() - self._began)):>6}  {said}")

    def _remark(self) -> None:
        if self._best is None or not self._best.rate:
            return
        answer = self._plan.mix.output * self._plan.mix.users / self._best.rate
        if answer > 1.5 * self._length.run:
            run = show_duration(self._length.run)
            said = f"A run of {run} is shorter than an answer of the best ({show_duration(round(answer))})"
            self.remarks.append(f"{said}: a longer --budget measures longer.")


def _never(slices: Sequence[float], ttft: float | None, share: float) -> str:
    return ""


def _sentence(trial: Trial) -> str:
    turn = f"turn {trial.turn}: " if trial.turn else ""
    label = f"{trial.name} ({trial.candidate})" if trial.name == PRESENT else trial.label
    if trial.end == "whole" and trial.score:
        waits = f", first token after {show_duration(trial.score.ttft)}" if trial.score.ttft is not None else ""
        return f"{turn}{label}: {trial.score.rate:.0f} tokens/s{waits}"
    words = {"refused": "not tried: ", "failed": "failed: ", "stopped": "", "whole": ""}[trial.end]
    return f"{turn}{label}: {words}{trial.why}"
