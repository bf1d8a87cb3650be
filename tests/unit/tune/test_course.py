"""A whole tune: the best wins, what fails is recorded, an interrupted one changes nothing; and single trials on a fake engine."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from headrace.engines import llamacpp
from headrace.engines.base import Installed, Launch, Placement
from headrace.facts.hardware import Machine
from headrace.plan.base import PlannedModel
from headrace.plan.here import Here
from headrace.spec.load import loads
from headrace.testing.engine import fake_engine
from headrace.tune.base import OWN_DEFAULTS, PRESENT, Candidate, Limits, Mix, Score
from headrace.tune.mix import said
from headrace.tune.planner import Known, Planner, settings_of
from headrace.tune.run import Course, Runs
from headrace.tune.space import Weights, space
from headrace.tune.store import Trials
from headrace.tune.trial import Judge, Length, Measured, Rig, TrialError, tried
from tests.known_models import SMOLLM2

MACHINE = Machine(cores=2, memory_bytes=16 * 2**30, memory_free_bytes=12 * 2**30, busy_cores=0.0)
HERE = Here({"llamacpp": llamacpp.ENGINE}, {"llamacpp": Installed("1")})
MIX = Mix(8, said(8, 20, 10, lambda: 0.5, "").lengths, "8 users")
SPEC = "models: {chat: {source: 'pypi:x', engine: {llamacpp: {threads: 2, batch: 512, wait: passive}}}}"

Speed = Callable[[Placement], float | str]
"""Tokens a second, or why it failed."""


def score(rate: float) -> Score:
    return Score(rate, rate - 1, rate + 1, 800 / rate, 900 / rate, 8 / rate, 50, seconds=6.0)


class Tune:
    """One question of an engine that is as fast as `speed` says."""

    def __init__(self, folder: Path, speed: Speed, *, free: int = 12 << 30) -> None:
        spec = loads(SPEC)
        planner = Planner(spec, "chat", MACHINE, HERE, {"chat": Known(SMOLLM2, "w.gguf")}, {}, {})
        found = space(spec.models["chat"], "generate", [Weights(None, SMOLLM2)], HERE, 2, 8)
        self.said: list[str] = []
        self.kept = Trials(folder / "trials.jsonl", self.said.append)
        self.speed, self.lengths = speed, list[Length]()
        self.course = Course(
            planner=planner,
            present=Candidate.of(settings_of(planner.present(), found.branches[0].dimensions)),
            space=found,
            mix=MIX,
            goal="throughput",
            limits=Limits(),
            budget=600.0,
            seed=1,
            compiled=folder,
            engines={"llamacpp": llamacpp.ENGINE},
            as_it_comes={},
            free=lambda: free,
        )

    async def attempt(self, rig: Rig, model: PlannedModel, mix: Mix, length: Length, judge: Judge, seed: int) -> Measured:
        self.lengths.append(length)
        (placement,) = model.replicas
        assert isinstance(placement, Placement)
        found = self.speed(placement) if rig.engines else 30.0
        if isinstance(found, str):
            raise TrialError(found)
        slices = [float(found)] * 6
        return Measured(score(found), judge(slices, score(found).ttft, 0.9))

    async def run(self, say: Callable[[str], None] | None = None) -> Runs:
        runs = Runs(self.course, self.kept, say or self.said.append, self.attempt)
        await runs.all()
        return runs


async def test_the_best_of_the_search_wins_over_what_is_planned(tmp_path: Path) -> None:
    runs = await Tune(tmp_path, lambda placement: 10.0 * placement.slots).run()
    assert runs.verdict.winner is not None
    assert runs.verdict.winner.candidate.values["slots"] == "8"
    assert {one.name for one in runs.finalists} == {"", PRESENT, OWN_DEFAULTS}
    assert all(len(one.rates) >= 2 for one in runs.finalists)
    assert "80 tokens/s (80–80" in runs.verdict.evidence
    assert "40 tokens/s" in runs.verdict.evidence
    assert "30 tokens/s (30–30, first token after 26.7s) of llama.cpp as it comes" in runs.verdict.evidence
    assert any(trial.end == "stopped" for trial in runs.trials if trial.candidate.values["slots"] == "1")


async def test_what_is_planned_stays_when_nothing_is_better(tmp_path: Path) -> None:
    runs = await Tune(tmp_path, lambda placement: 50.0).run()
    assert runs.verdict.winner is None
    assert "No settings were better by more than noise" in runs.verdict.evidence


async def test_an_engine_that_dies_is_a_failed_trial_and_the_search_goes_on(tmp_path: Path) -> None:
    tune = Tune(tmp_path, lambda placement: "exited with 1 (out of luck)" if placement.slots == 8 else 10.0 * placement.slots)
    runs = await tune.run()
    assert {trial.candidate.values["slots"]: trial.why for trial in runs.trials if trial.end == "failed"} == {
        "8": "exited with 1 (out of luck)"
    }
    assert {trial.candidate.values["slots"] for trial in runs.trials if trial.score and not trial.name} == {"1", "2"}
    assert tune.kept.read() == runs.trials


async def test_what_does_not_fit_is_not_tried_and_said_with_numbers(tmp_path: Path) -> None:
    present = Tune(tmp_path, lambda placement: 1.0).course.planner.present().replicas[0]
    assert isinstance(present, Placement)
    runs = await Tune(tmp_path, lambda placement: 10.0 * placement.slots, free=present.memory_bytes + 10_000_000).run()
    refused = {trial.candidate.values.get("slots"): trial.why for trial in runs.trials if trial.end == "refused"}
    assert "by the planner's sum" in refused["8"]
    assert "are free" in refused["8"]
    assert not any(trial.score for trial in runs.trials if trial.candidate.values.get("slots") == "8")


async def test_an_interrupted_tune_changes_nothing_and_the_next_goes_on_from_it(tmp_path: Path) -> None:
    tune = Tune(tmp_path, lambda placement: 10.0 * placement.slots)
    runs: Runs

    def interrupted(said: str) -> None:
        if "slots=2" in said:
            runs.interrupt()

    runs = Runs(tune.course, tune.kept, interrupted, tune.attempt)
    await runs.all()
    assert runs.interrupted
    assert runs.verdict.winner is None
    kept = tune.kept.read()
    assert kept
    again = await tune.run()
    assert again.trials[: len(kept)] == kept
    assert any("are taken over" in said for said in tune.said)
    searched = [trial.candidate for trial in again.trials if not trial.turn and not trial.name]
    assert len(searched) == len(set(searched))
    assert again.verdict.winner is not None


async def test_what_was_refused_or_failed_is_tried_again_and_what_was_measured_is_not(tmp_path: Path) -> None:
    present = Tune(tmp_path, lambda placement: 1.0).course.planner.present().replicas[0]
    assert isinstance(present, Placement)
    scarce = present.memory_bytes + 10_000_000
    before = Tune(tmp_path, lambda placement: "out of luck" if placement.slots == 4 else 10.0 * placement.slots, free=scarce)
    await before.run()
    ends = {(trial.name, trial.candidate.values.get("slots")): trial.end for trial in before.kept.read() if not trial.turn}
    assert (ends[PRESENT, "4"], ends["", "8"], ends["", "2"]) == ("failed", "refused", "whole")
    tried = list[int]()

    def speed(placement: Placement) -> float:
        tried.append(placement.slots)
        return 10.0 * placement.slots

    again = await Tune(tmp_path, speed).run()
    searched = [trial for trial in again.trials if not trial.turn]
    assert tried[:2] == [4, 8]
    assert {trial.candidate.values["slots"] for trial in searched if trial.score} == {"1", "2", "4", "8"}
    assert len({trial.candidate for trial in searched}) == len(searched)
    assert not any(trial.why and "free" in trial.why for trial in again.trials)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_signals_mean_afterwards_what_they_meant_before(tmp_path: Path, run: Callable[[Coroutine[Any, Any, Runs]], Runs]) -> None:
    """SIGTERM after the last trial still gives back what was stopped for the tune."""
    heard: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in numbers}
    try:
        run(Tune(tmp_path, lambda placement: 100.0).run())
        for number in numbers:
            signal.raise_signal(number)
    finally:
        for number in numbers:
            signal.signal(number, before[number])
    assert heard == list(numbers)


async def test_a_run_lasts_as_long_as_an_answer_of_the_fastest(tmp_path: Path) -> None:
    """8 users with 10 tokens each, at 8 tokens a second of all: 10 s, and 40 % of that before it."""
    tune = Tune(tmp_path, lambda placement: float(placement.slots))
    await tune.run()
    assert (tune.lengths[0].run, tune.lengths[-1].run, tune.lengths[-1].warmup) == (6.0, 10.0, 4.0)


@pytest.mark.parametrize("slots", [1, 8])
def test_what_is_measured_is_what_the_lock_would_start(tmp_path: Path, slots: int) -> None:
    planner = Tune(tmp_path, lambda placement: 1.0).course.planner
    candidate = Candidate.of({"engine": "llamacpp", "slots": str(slots), "batch": "128"})
    found = planner.planned(candidate, 12 << 30)
    assert not isinstance(found, str)
    placement = found.replicas[0]
    assert isinstance(placement, Placement)
    assert (placement.slots, placement.options["batch"], placement.context) == (slots, 128, planner.present().context)
    assert planner.whole(candidate).models[0].replicas == found.replicas


# ---- single trials, with a process


def never(slices: object, ttft: object, share: object) -> str:
    return ""


async def trial(folder: Path, *flags: str, judge: Judge = never, run: float = 1.5) -> Measured:
    def launch(placement: Placement, address: str) -> Launch:
        return fake_engine("--tokens", "40", "--token-seconds", "0.01", *flags).launch(placement, address)

    rig = Rig({"llamacpp": replace(llamacpp.ENGINE, launch=launch)}, folder, asyncio.Event())
    model = Tune(folder, lambda placement: 1.0).course.planner.present()
    async with asyncio.timeout(100):
        return await tried(rig, model, replace(MIX, users=2), Length(0.2, run), judge, 1)


async def test_a_trial_measures_a_real_process_behind_the_gateway(tmp_path: Path) -> None:
    found = await trial(tmp_path)
    assert found.score.rate > 0
    assert found.score.answered > 0
    assert found.score.failed == 0
    assert found.score.ttft is not None


async def test_a_trial_is_stopped_when_it_is_judged_so(tmp_path: Path) -> None:
    found = await trial(tmp_path, judge=lambda slices, ttft, share: "clearly worse", run=600.0)
    assert found.stopped == "clearly worse"
    assert found.score.seconds < 600


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--exit-after", "0", "--say", "out of luck"), "out of luck"),  # it does not start
        (("--fault", "500"), "500"),  # it answers nobody
        (("--fault", "error-event"), "request failed"),
    ],
)
async def test_a_trial_that_cannot_be_says_why(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(TrialError, match=words):
        await trial(tmp_path, *flags)
