"""How wrong the planner's speed is: TPOT of every measured row, predicted by constants fitted without that row's model.

`python benchmarks/planner_speed.py` takes half a minute and needs benchmarks/data only. Beside it stand the untuned roofline of
40 lines (the formula of facts/planning.md section 4) and, where it is installed, NVIDIA's aiconfigurator on a sample of rows.
The form of the roofline, the pulls and the loss were chosen on these very errors of models left out, among some 45 settings, and
bursts were set apart after they had been seen to miss: both flatter the headline. A line has all of them together.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from speed_fit import GPUS, facts_of, fitted, left_out, predicted, speed, usable
from speed_rows import Row, rows

from headrace.plan.batching import Closed, Limits, Outcome, Request, simulate
from headrace.plan.roofline import card
from headrace.plan.speed import step_times
from headrace.plan.speed_constants import SpeedConstants, family_of

WORST = 12
TTFT_SAMPLE = 9
"""Every ninth closed-loop row is simulated for TTFT, and is put to aiconfigurator."""

_HUGGING_FACE = {
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
    "glm-5": "zai-org/GLM-5-FP8",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "kimi-k2": "moonshotai/Kimi-K2.5",
    "llama-3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3-8b": "meta-llama/Meta-Llama-3.1-8B",
    "minimax-m2": "MiniMaxAI/MiniMax-M2.5",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen3.5-397b-a17b": "Qwen/Qwen3.5-397B-A17B",
}


@dataclass(frozen=True)
class Error:
    """Over some rows: median and 90th percentile of |predicted / measured - 1|, median of predicted / measured - 1."""

    rows: int
    median: float
    p90: float
    bias: float

    def __str__(self) -> str:
        return f"{self.rows:5d} {self.median:8.1%} {self.p90:8.1%} {self.bias:+8.1%}"


def error(table: Iterable[Row], predictions: dict[int, float], measured: Callable[[Row], float] = lambda row: row.tpot) -> Error:
    ratios = np.array([predictions[row.id] / measured(row) for row in table if row.id in predictions])
    if not len(ratios):
        return Error(0, math.nan, math.nan, math.nan)
    wrong = np.abs(ratios - 1)
    return Error(len(ratios), float(np.median(wrong)), float(np.quantile(wrong, 0.9)), float(np.median(ratios) - 1))


def untuned(row: Row) -> float:
    """The roofline of planning.md, with constants set by hand before any of these rows was seen."""
    facts, gpu = facts_of(row), GPUS[row.gpu]
    hardware = card(gpu, row.weight_bits, row.format)
    size, touched = {16.0: 2.0, 8.0: 1.0}.get(row.weight_bits, 0.56), 1.0
    routed = facts.experts.parameters if facts.experts else 0
    if facts.experts:
        touched = 1 - (1 - facts.experts.per_token / facts.experts.count) ** row.concurrency
    weights = (facts.parameters - routed + routed * touched) * size / row.tp
    context = row.isl + row.osl / 2
    cache = sum(
        group.layers * math.ceil(group.kv_heads / row.tp) * group.numbers * min(context, group.window or context) * 2
        for group in facts.cache
        if group.kind != "state"
    )
    flops = 2 * facts.parameters_active / row.tp
    step = max((weights + row.concurrency * cache) / (hardware.bandwidth * 0.7), row.concurrency * flops / (hardware.peak * 0.55))
    reduced = row.concurrency * facts.hidden * 2 * 2 * (row.tp - 1) / row.tp / (hardware.link * 0.6) + 12e-6
    step += (2 * facts.layers * reduced if row.tp > 1 else 0) + 2e-3 + 8e-6 * facts.layers
    return step + (0 if row.use == "static" else row.isl * flops / (hardware.peak * 0.55) * row.concurrency / row.osl)


Other = Callable[[Row, Row], bool]


def tau(table: Sequence[Row], predictions: dict[int, float], other: Other | None = None) -> tuple[float, int]:
    """Kendall's tau of predicted against measured TPOT: of all pairs, or of `other` set-ups under the same load."""
    if other is None:
        real, guess = np.array([row.tpot for row in table]), np.array([predictions[row.id] for row in table])
        signs = np.sign(real[:, None] - real) * np.sign(guess[:, None] - guess)
        return float(signs.sum() / (signs != 0).sum()), int((signs != 0).sum()) // 2
    loads: dict[tuple, list[Row]] = {}
    for row in table:
        loads.setdefault((row.model, round(row.isl, -2), round(row.osl, -2), row.concurrency), []).append(row)
    pairs = [(a, b) for group in loads.values() for place, a in enumerate(group) for b in group[:place] if other(a, b)]
    signs = [np.sign((a.tpot - b.tpot) * (predictions[a.id] - predictions[b.id])) for a, b in pairs]
    agreed = [sign for sign in signs if sign]
    return float(np.mean(agreed)) if agreed else math.nan, len(agreed)


def show_errors(title: str, table: Sequence[Row], ours: dict[int, float], in_fit: dict[int, float]) -> None:
    plain = {row.id: untuned(row) for row in table}
    print(f"\n{title:38s} rows   median      p90     bias | untuned: median    p90 | in the fit: median")
    named = {"all": table} | {f"{e} {v} {f}".replace(" current", ""): rows for (e, v, f), rows in _by_group(table).items()}
    for name, members in named.items():
        other, seen = error(members, plain), error(members, in_fit)
        print(f"{name:36s} {error(members, ours)} | {other.median:15.1%} {other.p90:6.1%} | {seen.median:9.1%}")


def show_everything(everything: Sequence[Row], ours: dict[int, float], table: Sequence[Row], *columns: object) -> None:
    """Closed loop, static batches and bursts together. Bursts are no part of any fit; their model is left out all the same."""
    bursts = [row for row in everything if row.use == "burst"]
    folds = {model: fitted([row for row in table if row.model != model], *columns) for model in {row.model for row in bursts}}
    burst = {row.id: predicted(row, folds[row.model]) for row in bursts}
    print(f"\n{'Bursts (GPUStack), by the estimate':36s} {error(bursts, burst)}")
    print(f"{'Closed loop, static and bursts':36s} {error([*table, *bursts], ours | burst)}")


def show_tau(table: Sequence[Row], ours: dict[int, float]) -> None:
    plain = {row.id: untuned(row) for row in table}
    print("\nKendall's tau of TPOT                                            ours  untuned   pairs")
    kinds: dict[str, Other | None] = {
        "all rows against each other": None,
        "same model, load and engine; other GPU": lambda a, b: a.gpu != b.gpu and a.engine == b.engine and a.tp == b.tp,
        "same model and load; other GPU, any engine and TP": lambda a, b: a.gpu != b.gpu,
        "same model, load, engine and format; other GPU or TP": lambda a, b: (
            (a.gpu, a.tp) != (b.gpu, b.tp) and (a.engine, a.format) == (b.engine, b.format)
        ),
    }
    for name, other in kinds.items():
        mine, pairs = tau(table, ours, other)
        print(f"{name:60s} {mine:8.3f} {tau(table, plain, other)[0]:8.3f} {pairs:7d}")


def show_worst(table: Sequence[Row], ours: dict[int, float]) -> None:
    print(f"\nThe {WORST} worst groups (model, engine, version, GPU), by median error of models left out")
    groups: dict[tuple, list[Row]] = {}
    for row in table:
        groups.setdefault((row.model, row.engine, row.version or "version unknown", row.gpu, row.format), []).append(row)
    ranked = sorted(groups.items(), key=lambda item: -error(item[1], ours).median)
    for name, members in ranked[:WORST]:
        print(f"{' '.join(name):62s} {error(members, ours)}")


def simulated(row: Row, constants: SpeedConstants) -> Outcome:
    """The row as a simulation: a closed loop of four rounds, or one burst of all requests."""
    gpu, choice = GPUS[row.gpu], constants.choose(row.engine, GPUS[row.gpu], row.versions)
    steps = step_times(facts_of(row), gpu, row.tp, row.weight_bits, row.kv_bits, choice.fit.rates)
    most = int(speed(row, constants).batch) if row.use == "fit" else 256 if row.small else 1024
    limits = Limits(max(1, most), 2048 if row.small else 8192)
    clients = max(1, round(row.concurrency))
    requests = [Request(max(1, round(row.isl)), max(1, round(row.osl)))] * (clients * (4 if row.use == "fit" else 1))
    return simulate(requests, Closed(clients), limits, steps, Random(1).random, choice.fit.rates.first_seconds)


def show_simulated(everything: Sequence[Row], constants: SpeedConstants) -> None:
    print(f"\n{'By simulation (constants of all rows)':38s} rows   median      p90     bias")
    closed = [row for row in everything if row.use == "fit" and row.ttft][::TTFT_SAMPLE]
    bursts = [row for row in everything if row.use == "burst"]
    for name, members in {"closed loop, every 9th row": closed, "bursts of 100 to 1,000 (GPUStack)": bursts}.items():
        outcomes = {row.id: simulated(row, constants) for row in members}
        ttft = {number: outcome.ttft.mean for number, outcome in outcomes.items()}
        tpot = {number: outcome.tpot.mean for number, outcome in outcomes.items()}
        print(f"{name + ': TTFT':36s} {error(members, ttft, lambda row: row.ttft)}")
        print(f"{name + ': TPOT':36s} {error(members, tpot)}")


def show_second_opinion(table: Sequence[Row], ours: dict[int, float]) -> None:
    try:
        from aiconfigurator.cli.api import cli_estimate
    except ImportError:
        print("\naiconfigurator: not installed (pip install aiconfigurator); no comparison.")
        return
    sample = [row for row in table if row.use == "fit" and row.model in _HUGGING_FACE][::TTFT_SAMPLE]
    answers = {row.id: answer for row in sample if (answer := _asked(cli_estimate, row))}
    answered = [row for row in sample if row.id in answers]
    plain = {row.id: untuned(row) for row in answered}
    print(f"\naiconfigurator answered {len(answered)} of {len(sample)} rows; on these: rows   median      p90     bias      tau")
    for name, values in {"aiconfigurator": answers, "Headrace, model left out": ours, "untuned roofline": plain}.items():
        print(f"{name:36s} {error(answered, values)} {tau(answered, values)[0]:8.3f}")


def _asked(cli_estimate: Callable, row: Row) -> float | None:
    """Its TPOT in seconds, or None when it has no data for this GPU, engine, format or model."""
    system = f"{row.gpu.lower()}_sxm"
    load = {"isl": round(row.isl), "osl": round(row.osl), "batch_size": round(row.concurrency), "tp_size": row.tp}
    experts = {"moe_tp_size": row.tp, "moe_ep_size": 1} if facts_of(row).experts else {}
    formats = {}
    if row.format in ("fp8", "nvfp4"):
        formats = {"gemm_quant_mode": row.format, "moe_quant_mode": row.format}
    try:
        answer = cli_estimate(_HUGGING_FACE[row.model], system, backend_name=row.engine, **load, **experts, **formats)
        return float(answer.tpot) / 1e3 or None
    except Exception:  # It raises many kinds for what it does not know.
        return None


def _by_group(table: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in table:
        groups.setdefault((row.engine, row.versions, family_of(GPUS[row.gpu])), []).append(row)
    return dict(sorted(groups.items()))


def show_data(everything: Sequence[Row]) -> None:
    print("Rows with a measured TPOT, by use:")
    uses = [row.use for row in everything]
    for use in sorted(set(uses), key=uses.count, reverse=True):
        print(f"{uses.count(use):6d} {use}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    everything = rows()
    table, every, places = usable()
    constants, ours = fitted(table, every, places), left_out(table, every, places)
    closed, static = ([row for row in table if row.use == use] for use in ("fit", "static"))
    in_fit = {row.id: predicted(row, constants) for row in table}
    show_data(everything)
    show_errors("Closed loop, models left out in turn", closed, ours, in_fit)
    show_errors("Static batches (Splitwise)", static, ours, in_fit)
    show_everything(everything, ours, table, every, places)
    show_tau(closed, ours)
    show_worst(closed, ours)
    show_simulated(everything, constants)
    show_second_opinion(table, ours)
    answers = statistics.mean(1 if speed(row, constants).simulate_ttft else 0 for row in closed)
    print(f"\nAbove 80 % utilisation, where only a simulation may speak of TTFT: {answers:.0%} of closed-loop rows.")


if __name__ == "__main__":
    main()
