"""Scaling policies on real traces: 99th percentile of waiting and GPU-hours, ours beside KEDA, Knative and who knows the trace.

`python benchmarks/scaling.py ../shared/traces` takes about 15 minutes on one core and prints Markdown tables. Three of the traces
were used to choose the defaults, the other four were not. All is simulated (src/headrace/simulate): the queue, the routing and
the policies are those of production, replicas and time are made up. Seeded: the same numbers on every machine.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from headrace.scaling.base import Policy
from headrace.scaling.names import scaler
from headrace.simulate.clairvoyant import floor_hours, frontier
from headrace.simulate.outcome import Outcome
from headrace.simulate.replica import Rates
from headrace.simulate.run import Setting, first_replicas, run
from headrace.simulate.traces import Trace, drawn, part, read, times

COLD_STARTS = (30.0, 120.0, 360.0)
POLICIES = ("headrace", "keda", "keda-rendered", "keda-by-headrace", "kpa")
UTILISATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Our policy at other aims: what else could be had of it, for comparisons at equal GPU-hours and at equal waiting."""
MOST = 24
NO_WAIT = 0.5
"""Waits below this many seconds count as equal: nobody would buy a GPU for less."""

LARGE = Rates(slots=32, prefill_tokens_per_second=9000, step_seconds=0.0116, each_seconds=0.00012)
"""Like an 8B model on an A100: facts/planning.md, section 7."""
SMALL = Rates(slots=8, prefill_tokens_per_second=3000, step_seconds=0.03, each_seconds=0.002)
"""A slower one with fewer slots, so that a day of ServeGen's rates takes several replicas and not too long to simulate."""


@dataclass(frozen=True)
class Load:
    """One trace on replicas of one kind. `tuned`: it was looked at when the defaults were chosen."""

    make: Callable[[Path], Trace]
    rates: Rates
    tuned: bool
    about: str


def azure(file: str, copies: int) -> Callable[[Path], Trace]:
    return lambda root: times(_read(root / "azure2023" / file), copies)


def mooncake(file: str, copies: int = 1) -> Callable[[Path], Trace]:
    return lambda root: times(_read(root / "mooncake" / file), copies)


def servegen(kind: str, share: float, start: float, end: float) -> Callable[[Path], Trace]:
    def make(root: Path) -> Trace:
        folder = root / "servegen"
        with (folder / f"rates_{kind}.csv").open() as rates, (folder / f"lengths_top10_{kind}.csv").open() as lengths:
            return part(drawn(rates, lengths, Random(1).random, share), start, end)

    return make


def _read(file: Path) -> Trace:
    with file.open() as lines:
        return read(lines, file.name)


LOADS: Mapping[str, Load] = {
    "azure-code": Load(azure("AzureLLMInferenceTrace_code.csv", 4), LARGE, True, "coding, 4 times the users, gaps of CV 12.6"),
    "mooncake-synthetic": Load(mooncake("synthetic_trace.jsonl"), LARGE, True, "long prompts, 17 minutes"),
    "servegen-image": Load(servegen("multimodal_mm-image", 0.4, 0.3, 0.45), SMALL, True, "3.6 hours of a rising day"),
    "azure-conv": Load(azure("AzureLLMInferenceTrace_conv.csv", 4), LARGE, False, "conversations, 4 times the users"),
    "mooncake-conv": Load(mooncake("conversation_trace.jsonl"), LARGE, False, "chat with long prompts"),
    "servegen-r1": Load(servegen("reason_deepseek-r1", 0.05, 0, 1), LARGE, False, "a day of long answers, 5 % of the fleet"),
    "servegen-large": Load(servegen("language_m-large", 0.003, 0.1, 0.15), SMALL, False, "17 hours, 0.3 % of the fleet"),
}


@dataclass(frozen=True)
class Row:
    """One trace at one cold start."""

    load: str
    tuned: bool
    cold: float
    floor: float
    outcomes: Mapping[str, tuple[float, float]]
    """(p99 wait, GPU-hours) by policy."""
    frontier: Sequence[tuple[float, float]]
    """The clairvoyant runs."""
    ours: Sequence[tuple[float, float]]
    """Our policy at each of UTILISATIONS."""


def measure(name: str, load: Load, trace: Trace, cold: float) -> Row:
    policy = Policy(1, MOST, slots=load.rates.slots, cold_start_seconds=cold)
    setting = Setting(load.rates, cold, initial=first_replicas(trace, load.rates, 1, MOST))

    def at(utilisation: float) -> Outcome:
        return run(trace, setting, scaler("headrace", replace(policy, utilisation=utilisation)))

    return Row(
        name,
        load.tuned,
        cold,
        floor_hours(trace, load.rates),
        {each: _pair(run(trace, setting, scaler(each, policy))) for each in POLICIES},
        [_pair(outcome) for outcome in frontier(trace, setting, policy)],
        [_pair(at(utilisation)) for utilisation in UTILISATIONS],
    )


def _pair(outcome: Outcome) -> tuple[float, float]:
    return outcome.wait.p99, outcome.gpu_hours


def bound(row: Row, wait: float) -> tuple[float, float]:
    """The clairvoyant run with the fewest GPU-hours of those that wait no longer; else the one that waits least."""
    good = [pair for pair in row.frontier if pair[0] <= max(wait, NO_WAIT)]
    return min(good, key=lambda pair: pair[1]) if good else min(row.frontier)


def at_equal_hours(row: Row, hours: float) -> float | None:
    """The least wait of ours with no more GPU-hours; None when every aim of ours takes more."""
    return min((wait for wait, taken in (*row.ours, row.outcomes["headrace"]) if taken <= hours * 1.01), default=None)


def table(rows: Sequence[Row]) -> str:
    """p99 wait in seconds and GPU-hours of each policy."""
    head = ["trace", "cold start", *POLICIES, "knows the trace, waits no longer than headrace", "work"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [f"{wait:.1f} s, {hours:.1f}" for wait, hours in (row.outcomes[name] for name in POLICIES)]
        wait, hours = bound(row, row.outcomes["headrace"][0])
        lines.append(_line([row.load, f"{row.cold:.0f} s", *cells, f"{wait:.1f} s, {hours:.1f}", f"{row.floor:.1f}"]))
    return "\n".join(lines)


def aims(rows: Sequence[Row]) -> str:
    """The two aims, row by row."""
    head = ["trace", "cold start", "wait at KEDA's GPU-hours / KEDA's", "same, KEDA as rendered", "GPU-hours / bound's"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        ratios = [_waits(row, name) for name in ("keda", "keda-rendered")]
        lines.append(_line([row.load, f"{row.cold:.0f} s", *ratios, f"{hours_over_bound(row):.2f}"]))
    return "\n".join(lines)


def hours_over_bound(row: Row) -> float:
    wait, hours = row.outcomes["headrace"]
    return hours / bound(row, wait)[1]


def wait_share(row: Row, name: str) -> float | None:
    """Our wait by theirs at their GPU-hours; 0 where ours is nothing to speak of, None where we take more whatever the aim."""
    wait, hours = row.outcomes[name]
    ours = at_equal_hours(row, hours)
    if ours is None:
        return None
    return 0.0 if ours <= NO_WAIT else ours / max(wait, NO_WAIT)


def _waits(row: Row, name: str) -> str:
    share = wait_share(row, name)
    return "takes more" if share is None else "≤ 0.5 s" if share == 0 else f"{share:.2f}"


def summary(rows: Sequence[Row]) -> str:
    """How often the aims are met."""
    said = []
    for name in ("keda", "keda-rendered"):
        met = sum((share := wait_share(row, name)) is not None and share <= 0.5 for row in rows)
        said.append(f"at the GPU-hours of {name} at most half its wait in {met} of {len(rows)}")
    ratios = sorted(hours_over_bound(row) for row in rows)
    within = sum(ratio <= 1.15 for ratio in ratios)
    said.append(f"within 15 % of the bound's GPU-hours in {within} of {len(rows)}, median {ratios[len(ratios) // 2]:.2f}")
    return "; ".join(said) + "."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path, help="the folder with azure2023, mooncake and servegen")
    parser.add_argument("--loads", default=",".join(LOADS), help="which, by comma")
    parser.add_argument("--json", type=Path, help="all numbers to this file")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.loads.split(","):
        trace = LOADS[name].make(options.traces)
        for cold in COLD_STARTS:
            began = time.monotonic()
            rows.append(measure(name, LOADS[name], trace, cold))
            print(f"{name}, {len(trace):,} requests, cold start {cold:.0f} s: {time.monotonic() - began:.0f} s", file=sys.stderr)
    for title, tuned in (("Held back", False), ("Used to choose the defaults", True)):
        chosen = [row for row in rows if row.tuned == tuned]
        if chosen:
            print(f"\n{title}: {summary(chosen)}\n\n{table(chosen)}\n\n{aims(chosen)}")
    if options.json:
        options.json.write_text(json.dumps([row.__dict__ for row in rows], indent=1), "utf-8")


if __name__ == "__main__":
    main()
