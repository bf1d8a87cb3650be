"""One trial: the real engine behind the real gateway, both started as serving starts them, loaded as `headrace bench` loads."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from headrace.control.loop import Loop
from headrace.engines.base import Engine
from headrace.errors import HeadraceError
from headrace.foreground import connections
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.measure.base import Load
from headrace.measure.bench import measured
from headrace.measure.run import Run
from headrace.measure.wish import Wish
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Replica, State
from headrace.targets.local import LocalTarget
from headrace.targets.timing import Timing
from headrace.traffic import ModelStatus
from headrace.tune.base import Mix, Score
from headrace.tune.score import first_tokens, score, seconds

_WAITING_REQUESTS = 4096
_WAIT_SECONDS = 3600.0
_BODY_BYTES = 32_000_000
_LOOK_SECONDS = 0.2

Judge = Callable[[Sequence[float], float | None, float], str]
"""(tokens of each second, median wait for the first, share of the run) → why to stop it now, or nothing."""


class TrialError(HeadraceError):
    """The engine could not be started, or died."""


@dataclass(frozen=True, slots=True)
class Length:
    """Seconds: `warmup` is not counted, then `run`; a start may take `start`."""

    warmup: float
    run: float
    start: float = 300.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it; `stopped` says why it was ended early, if it was."""

    score: Score
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Rig:
    """What trials share: the engines by name, where they keep what they compile, and Ctrl-C."""

    engines: Mapping[str, Engine]
    compiled: Path
    interrupted: asyncio.Event


Attempt = Callable[[Rig, PlannedModel, Mix, Length, Judge, int], Awaitable[Measured]]
"""As `tried`: the last is the seed of the requests."""


class _Nobody:
    """What the admin application of a trial shows: nobody asks."""

    plan: Plan | None = None
    replicas: Sequence[Replica] = ()

    def logs(self, replica: str, lines: int) -> list[str]:
        return []


async def tried(rig: Rig, model: PlannedModel, mix: Mix, length: Length, judge: Judge, seed: int) -> Measured:
    """Start it, load it, end it. Raises TrialError; what was started is gone in any case."""
    async with _serving(rig, model, length.start) as (address, loop):
        return await _loaded(rig, address, model.name, mix, length, judge, seed, loop)


@asynccontextmanager
async def _serving(rig: Rig, model: PlannedModel, start_seconds: float) -> AsyncIterator[tuple[str, Loop]]:
    """The gateway's address, once the model is ready behind it."""
    admin = Admin(_Nobody(), {})
    limits = Limits(_WAITING_REQUESTS, _WAIT_SECONDS, _BODY_BYTES, connections())
    gateway = admin.gateway = Gateway(limits, [ModelStatus(model.name, None, "loading", "a trial begins")], {}, admin.app)
    host, port = await gateway.listen("127.0.0.1", 0)
    with tempfile.TemporaryDirectory(prefix="headrace-tune-") as logs:
        timing = Timing(load_limit=start_seconds)
        target = LocalTarget(rig.engines, Path(tempfile.gettempdir()), timing=timing, logs=Path(logs), compiled=rig.compiled)
        loop = Loop(Plan((model,)), target, gateway, lambda statuses: None, 0.0)
        task = asyncio.create_task(loop.run())
        try:
            await _until_ready(rig, loop, len(model.replicas), start_seconds)
            yield f"http://{host}:{port}/v1", loop
        finally:
            task.cancel()
            gateway.close()
            await asyncio.gather(task, return_exceptions=True)
            await target.close()


async def _until_ready(rig: Rig, loop: Loop, count: int, start_seconds: float) -> None:
    until = monotonic() + start_seconds
    while sum(replica.state is State.READY for replica in loop.replicas) < count:
        if why := _dead(loop):
            raise TrialError(why)
        if monotonic() > until:
            raise TrialError(f"it was not ready after {start_seconds:.0f} s")
        with suppress(TimeoutError):
            await asyncio.wait_for(rig.interrupted.wait(), _LOOK_SECONDS)
            raise TrialError("interrupted")


def _dead(loop: Loop) -> str:
    """Why a replica is not what it was, if one is not: in a trial none is started again."""
    for replica in loop.replicas:
        if replica.state is State.FAILED:
            last = next((line for line in reversed(loop.logs(replica.name, 5)) if line.strip()), "")
            return replica.reason if not last or last in replica.reason else f"{replica.reason} ({last.strip()[:200]})"
        if replica.restarts:
            return "it died and was started again"
    return ""


async def _loaded(rig: Rig, address: str, name: str, mix: Mix, length: Length, judge: Judge, seed: int, loop: Loop) -> Measured:
    stop, runs, why = asyncio.Event(), list[Run](), list[str]()

    def tick(label: str, run: Run) -> None:
        runs[:] = [run]
        now = monotonic()
        if (found := now - run.start) >= 1:
            verdict = judge(seconds(run.outcomes, run.start, now), first_tokens(run.outcomes, now), found / length.run)
            if verdict:
                why[:] = [verdict]
                stop.set()

    wish = Wish(
        url=address, model=name, loads=(Load("closed", mix.users),), lengths=mix.lengths,
        warmup=length.warmup, duration=length.run, drain=0.001, seed=seed,
    )  # fmt: skip
    watch = asyncio.create_task(_watched(rig, loop, stop))
    try:
        report = await measured(wish, tick=tick, stop=stop)
    except HeadraceError as error:
        raise TrialError(_dead(loop) or str(error)) from None
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    if dead := _dead(loop):
        raise TrialError(dead)
    if rig.interrupted.is_set():
        raise TrialError("interrupted")
    if not runs or not report.stages:
        raise TrialError("nothing could be measured")
    run = runs[0]
    end = run.began + report.stages[0].started + report.stages[0].seconds
    found = score(run.outcomes, min(run.start, end), end, random.Random(seed).random)
    if found.failed > found.answered + 1:
        kinds = ", ".join(f"{count} × {kind}" for kind, count in report.stages[0].errors.items() if kind != "unfinished")
        raise TrialError(f"more requests failed than were answered: {kinds or 'all of them'}")
    return Measured(found, why[0] if why else "")


async def _watched(rig: Rig, loop: Loop, stop: asyncio.Event) -> None:
    """Ends the load when the engine dies or somebody presses Ctrl-C."""
    while not (_dead(loop) or rig.interrupted.is_set()):
        await asyncio.sleep(_LOOK_SECONDS)
    stop.set()
