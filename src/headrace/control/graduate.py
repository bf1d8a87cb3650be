"""Graduations under way: what the state machine says is carried out here, between the control loop and whoever asks."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Protocol

import msgspec

from headrace.control.comparing import Compared, compared
from headrace.control.graduation import Aim, Seen, Standing, checked, step
from headrace.control.guards import Evidence, median
from headrace.control.journal import Entry, Journal
from headrace.control.under_way import Prospect, Run, both, count, running, seen, shown
from headrace.errors import HeadraceError, UsageError
from headrace.plan.base import Plan
from headrace.targets.base import Replica, State
from headrace.traffic import Endpoint, Finished, Load, Split

MOST_INTERRUPTED = 1
"""Starts that resume a graduation; what is interrupted once more may be what ends Headrace, and is undone."""
_LENGTHS = 200

log = logging.getLogger("headrace")

Planner = Callable[[Aim, Plan, Sequence[Replica]], Coroutine[Any, Any, Prospect]]
"""Raises HeadraceError for what cannot be."""
Commit = Callable[[Prospect], None]
"""Writes the lock, in a thread of its own. Raises OSError."""


class Planned(Protocol):
    """The control loop, as far as graduations see it."""

    plan: Plan

    @property
    def replicas(self) -> Sequence[Replica]:
        """What was observed last."""

    def look_now(self) -> None:
        """Look again at once."""

    def noted(self, model: str, move: str, sentence: str) -> None:
        """Say and keep a decision."""


class Graduations:
    """The newest graduation of each model, one under way at a time. The loop asks it what to run, and calls `look`."""

    def __init__(self, planner: Planner, commit: Commit, journal: Journal) -> None:
        self._planner, self._commit, self._journal = planner, commit, journal
        self._runs: dict[str, Run] = {}
        self._complete_at = 0.0
        """When all replicas of the one under way were last ready, or it came to where it stands (monotonic seconds)."""
        self.loop: Planned = None  # type: ignore[assignment]  # each needs the other: set right after the loop is made

    # ---- what others ask

    def begin(self, aim: Aim, interrupted: int = 0, by: str = "") -> None:
        """Begin a graduation. Raises UsageError when the model is none, or one is under way."""
        if all(model.name != aim.model for model in self.loop.plan.models):
            known = ", ".join(model.name for model in self.loop.plan.models)
            raise UsageError(f'There is no model "{aim.model}" here.', f"There are: {known}.")
        if busy := [run for run in self._runs.values() if not run.standing.over]:
            name = busy[0].aim.model
            fix = f"Wait, or: headrace graduate {name} --abort"
            raise UsageError(f"{name} is on its way to {busy[0].aim.to}, and one graduation is under way at a time.", fix)
        run = Run(aim, Standing("planning", monotonic()), interrupted=interrupted, evidence=Evidence(aim.rules.slower))
        self._runs[aim.model] = run
        again = "again, for it was interrupted: " if interrupted else ""
        self._enter(run, Standing("planning", monotonic(), f"{again}{aim.model} to {aim.to}{by and f', as {by} asked'}"))

    def asked(self, body: bytes, by: str) -> None:
        """Begin one as JSON says, for whoever `by` names. Raises UsageError, and msgspec's ValidationError or DecodeError."""
        self.begin(checked(msgspec.json.decode(body, type=Aim)), by=by)

    def abort(self, model: str, by: str) -> None:
        """Go back, if that can still be, as `by` asks. Raises UsageError."""
        run = self._runs.get(model)
        if run is None or run.standing.over:
            raise UsageError(f'No graduation of "{model}" is under way.')
        if run.standing.phase == "draining":
            raise UsageError(f"{model} runs on {run.aim.to} by now: there is no way back but another graduation.")
        if run.standing.phase == "locking":
            what = f"The lock is being written for {model} on {run.aim.to}, which cannot be taken back."
            raise UsageError(what, "It goes back by itself if that fails; else another graduation brings the old one back.")
        run.abort = f"asked to go back by {by}"
        if run.standing.phase == "planning" and run.task:
            run.task.cancel()
            self._enter(run, Standing("rolled back", monotonic(), run.abort))
        self.loop.look_now()

    def shown(self) -> list[dict[str, Any]]:
        """Every graduation, for machines."""
        return [shown(run) for run in self._runs.values()]

    def recover(self) -> None:
        """Take up what a Headrace before this one left: resume it, undo it, or see that it was done."""
        for entry in self._journal.entries():
            if entry.phase in ("done", "rolled back"):
                self._runs[entry.aim.model] = Run(entry.aim, Standing(entry.phase, monotonic()), list(entry.story))
                continue
            self._recover(entry)

    def _recover(self, entry: Entry) -> None:
        name = entry.aim.model
        now = next((model for model in self.loop.plan.models if model.name == name), None)
        run = Run(entry.aim, Standing(entry.phase, monotonic()), list(entry.story), entry.interrupted)
        self._runs[name] = run
        if now is None:
            self._enter(run, Standing("rolled back", monotonic(), "interrupted, and the file names the model no more"))
        elif entry.new is not None and running(now.replicas) == entry.new:
            self._enter(run, Standing("done", monotonic(), "interrupted once the lock was written: the new one runs"))
        elif entry.phase == "rolling back":  # it was judged, or somebody asked: that is not asked again
            why = entry.story[-1][1].removeprefix("rolling back: ") if entry.story else "it was on its way back"
            self._enter(run, Standing("rolled back", monotonic(), f"{why} (interrupted on its way back)"))
        elif entry.interrupted >= MOST_INTERRUPTED:
            self._enter(run, Standing("rolled back", monotonic(), "interrupted again: the old one runs; it is not tried again"))
        else:
            del self._runs[name]
            try:
                self.begin(entry.aim, entry.interrupted + 1)
            except UsageError as error:
                self._runs[name] = run
                self._enter(run, Standing("rolled back", monotonic(), f"interrupted, and not resumed: {error}"))

    async def close(self) -> None:
        """Leave everything as the journal says."""
        tasks = [run.task for run in self._runs.values() if run.task and not run.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what the loop asks

    def planned(self, plan: Plan) -> Plan:
        """The plan with old and new replicas of what is on its way."""
        on_its_way = {run.aim.model: run for run in self._runs.values() if run.standing.wants_new and run.standing.keeps_old}
        if not on_its_way:
            return plan
        models = (both(model, on_its_way[model.name]) if model.name in on_its_way else model for model in plan.models)
        new = [card for run in on_its_way.values() if run.prospect for card in run.prospect.cards]
        return replace(plan, models=tuple(models), cards=plan.cards or tuple(new))

    def split(self, model: str) -> Split | None:
        """How a model's traffic is split now."""
        run = self._runs.get(model)
        if run is None or run.standing.over or run.prospect is None:
            return None
        return Split(run.trial, run.standing.share(run.aim.rules))

    def seen(self, replicas: Sequence[Replica]) -> None:
        """Which replicas are on trial: known before the gateway hears of them."""
        for run in self._runs.values():
            if not run.standing.over:
                run.trial = frozenset(replica.name for replica in replicas if run.is_new(replica))

    def look(self, replicas: Sequence[Replica], loads: Mapping[str, Load], finished: Sequence[Finished], now: float) -> None:
        """What happened since the last look."""
        for run in self._runs.values():
            if not run.standing.over and run.standing.phase != "planning":
                self._weigh(run, loads.get(run.aim.model), [one for one in finished if one.model == run.aim.model], now)
                standing = step(run.standing, self._seen(run, replicas, now), run.aim.rules, now)
                if standing is not run.standing:
                    self._enter(run, standing)

    def _seen(self, run: Run, replicas: Sequence[Replica], now: float) -> Seen:
        found = seen(run, replicas)
        if found.new_ready >= found.new_wanted:
            self._complete_at = now
        return replace(found, short_seconds=now - self._complete_at)

    def _weigh(self, run: Run, load: Load | None, finished: Sequence[Finished], now: float) -> None:
        lost = sum(count for name, count in load.lost.items() if name in run.trial) if load else run.lost
        fresh, run.lost = max(0, lost - run.lost), lost
        shifting = run.standing.phase in ("shifting", "locking")
        run.evidence.see(finished, run.trial, fresh, now, shifting=shifting)
        run.lengths = [*run.lengths, *(one.tokens_in for one in finished if one.tokens_in)][-_LENGTHS:]

    def _enter(self, run: Run, standing: Standing) -> None:
        """It stands elsewhere now: say so, keep it, do what belongs to it."""
        before, run.standing, self._complete_at = run.standing, standing, standing.since
        self.loop.noted(run.aim.model, "graduation", f"{standing.phase}: {standing.reason}")
        run.story.append((time.time(), f"{standing.phase}: {standing.reason}"))
        self._keep(run)
        match standing.phase:
            case "planning":
                run.task = asyncio.create_task(self._plan(run))
            case "comparing":
                run.task = asyncio.create_task(self._compare(run))
            case "shifting":
                run.evidence.next_step(alone=standing.share(run.aim.rules) >= 1)
            case "locking":
                run.task = asyncio.create_task(self._lock(run))
            case "draining" if before.phase == "locking" and run.prospect:
                self._replace(run.prospect)
            case "rolling back" if run.task and not run.task.done():
                run.task.cancel()

    def _keep(self, run: Run) -> None:
        old, new = running(run.old), running(run.new)
        try:
            self._journal.write(Entry(run.aim, run.standing.phase, old, new, tuple(run.story), run.interrupted))
        except OSError as error:
            log.warning("the graduation's journal cannot be written: %s", error)
            if run.standing.phase in ("starting", "comparing", "shifting"):
                run.abort = run.abort or f"its journal cannot be written: {error}"

    def _replace(self, found: Prospect) -> None:
        plan = self.loop.plan
        models = tuple(found.new if model.name == found.new.name else model for model in plan.models)
        self.loop.plan = replace(plan, models=models, cards=plan.cards or found.cards)

    # ---- what takes time

    async def _plan(self, run: Run) -> None:
        model = next(model for model in self.loop.plan.models if model.name == run.aim.model)
        try:
            run.prospect = await self._planner(run.aim, self.loop.plan, self.loop.replicas)
        except HeadraceError as error:
            return self._enter(run, Standing("rolled back", monotonic(), f"nothing was changed: {error}"))
        except Exception as error:
            log.exception("planning a graduation failed")
            return self._enter(run, Standing("rolled back", monotonic(), f"nothing was changed, by a bug of ours: {error!r}"))
        run.old, run.count = model.replicas, count(model, self.loop.replicas)
        self._enter(run, Standing("starting", monotonic(), run.prospect.sentence))
        self.loop.look_now()

    async def _compare(self, run: Run) -> None:
        old, new = self._endpoints(run)
        if old is None or new is None:
            run.comparison = Compared("", "not compared: no replica of the present one is ready")
        else:
            task = run.prospect.new.task if run.prospect else None
            tokens = int(median([float(length) for length in run.lengths])) or 64
            try:
                run.comparison = await compared(run.aim, task, old, new, tokens)
            except Exception as error:  # else it would wait for it without an end
                log.exception("comparing failed")
                run.comparison = Compared(f"not compared, by a bug of ours: {error!r}", "")
        self.loop.look_now()

    def _endpoints(self, run: Run) -> tuple[Endpoint | None, Endpoint | None]:
        ready = [r for r in self.loop.replicas if r.model == run.aim.model and r.state is State.READY and r.endpoint]
        old = next((replica.endpoint for replica in ready if not run.is_new(replica)), None)
        return old, next((replica.endpoint for replica in ready if run.is_new(replica)), None)

    async def _lock(self, run: Run) -> None:
        assert run.prospect
        try:
            await asyncio.to_thread(self._commit, run.prospect)
            run.locked = ""
        except OSError as error:
            run.locked = str(error)
        except Exception as error:  # else it would wait for it without an end
            log.exception("writing the lock failed")
            run.locked = f"by a bug of ours: {error!r}"
        self.loop.look_now()
