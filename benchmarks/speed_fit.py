"""Fits the constants of speed to benchmarks/data/speed_rows.csv and writes src/headrace/plan/constants/speed.yaml (20 seconds).

One set of rates for all, pulled towards values set by hand; then one per engine, class of versions and GPU family, pulled towards
that. Both pulls were chosen by the error on models that were left out. The residual is the log of predicted / measured TPOT, of
TTFT as well where at most four requests ran at once, under a pseudo-Huber loss; a model's rows weigh as the root of their number.
The fit minimises by Levenberg and Marquardt's method, over columns, with the lines of plan/roofline.py themselves.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import yaml
from speed_rows import Row, gpus, models, rows

from headrace.plan.roofline import Card, Rates, Work, card, decode_step, decode_work, prefill_step, prefill_work
from headrace.plan.speed import Engine, Speed, decode_seconds, estimate
from headrace.plan.speed_constants import Fit, SpeedConstants, family_of

TARGET = Path(__file__).parents[1] / "src" / "headrace" / "plan" / "constants" / "speed.yaml"
PULL_ALL, PULL_GROUP, PULL_STATIC = 5e-3, 6e-2, 3e-3
"""Groups measured in static batches only vary one thing at a time, pin down every term and need less of a pull."""
TTFT_WEIGHT, FEW = 0.3, 4
HUBER = 0.1
NAMES = [field.name for field in fields(Rates)]

# name: (set by hand, least, most). Shares of peak as kernels are usually measured; seconds as traces of vLLM show them.
START = {
    "memory": (0.75, 0.2, 0.98),
    "experts": (0.6, 0.1, 0.98),
    "cache": (0.6, 0.1, 0.98),
    "compute": (0.5, 0.05, 0.98),
    "link": (0.5, 0.05, 0.95),
    "reduce_seconds": (8e-6, 1e-7, 4e-5),
    "fixed_seconds": (1.5e-3, 1e-5, 3e-2),
    "layer_seconds": (1e-5, 1e-7, 1e-4),
    "mixture_seconds": (2e-5, 1e-7, 2e-4),
    "request_seconds": (1e-5, 1e-8, 3e-4),
    "carry": (0.9, 0.05, 1.0),
    "prefill": (0.5, 0.05, 0.95),
    "prefill_seconds": (2e-3, 1e-6, 0.3),
    "mixture_prefill": (0.6, 0.1, 1.0),
    "first_seconds": (0.03, 1e-4, 0.5),
}
HAND, LEAST, MOST = (np.log([START[name][column] for name in NAMES]) for column in range(3))
LLAMACPP_CPU = """\
Host CPUs with llama.cpp, by hand from SmolLM2-135M Q4_1 on 2 cores (facts/engine-llamacpp.md section 4: 76, 109 to 123 and 130
tokens/s at 1, 8 and 32 requests), taking 20 GB/s and 160 GFLOP/s for them. Vector units decode and read prompts alike."""

SOURCE = (
    "fitted by benchmarks/speed_fit.py to benchmarks/data/speed_rows.csv (InferenceX points of aiconfigurator-core 0.12.0, "
    "Apache-2.0; Splitwise's runs in shashwatj07/SageServe, MIT). Errors are those of models left out of the fit."
)

MODELS, GPUS = models(), gpus()


@dataclass(frozen=True)
class Columns:
    """Rows as arrays: work of a decode step and of one prompt, and what was measured (as logs)."""

    decode: Work
    prompt: Work
    card: Card
    batch: np.ndarray
    osl: np.ndarray
    static: np.ndarray
    tpot: np.ndarray
    ttft: np.ndarray
    has_ttft: np.ndarray

    def at(self, which: np.ndarray) -> "Columns":
        def part(value: object) -> object:
            return (
                value[which]
                if isinstance(value, np.ndarray)
                else type(value)(*(getattr(value, f.name)[which] for f in fields(value)))
            )

        return Columns(*(part(getattr(self, field.name)) for field in fields(self)))


def predicted(row: Row, constants: SpeedConstants) -> float:
    """TPOT in seconds, by the planner's own function. A static batch has no prompts of others between its tokens."""
    if row.use != "static":
        return speed(row, constants).tpot_seconds.expected
    gpu, facts = GPUS[row.gpu], facts_of(row)
    rates = constants.choose(row.engine, gpu, row.versions).fit.rates
    context = row.isl + row.osl / 2
    return decode_seconds(facts, gpu, row.tp, row.concurrency, context, row.weight_bits, row.kv_bits, rates).seconds


def speed(row: Row, constants: SpeedConstants) -> Speed:
    engine = Engine(row.engine, row.versions, *((256, 2048) if row.small else (1024, 8192)))
    load = (row.isl, row.osl, row.concurrency)
    bits = {"weight_bits": row.weight_bits, "kv_bits": row.kv_bits}
    return estimate(facts_of(row), GPUS[row.gpu], row.tp, row.tp, *load, constants, engine=engine, **bits)


def facts_of(row: Row):
    return replace(MODELS[row.model], quantization=row.format)


def columns(table: Sequence[Row]) -> Columns:
    start = SpeedConstants((), fit_of("any", "any", "any", HAND, []), "")
    batch = [row.concurrency if row.use == "static" else speed(row, start).batch for row in table]
    return Columns(
        decode=_stack([_decode(row, count) for row, count in zip(table, batch, strict=True)]),
        prompt=_stack([prefill_work(facts_of(row), row.tp, row.isl, 0, row.weight_bits) for row in table]),
        card=_stack([card(GPUS[row.gpu], row.weight_bits, row.format) for row in table]),
        batch=np.array(batch),
        osl=np.array([row.osl for row in table]),
        static=np.array([row.use == "static" for row in table]),
        tpot=np.log([row.tpot for row in table]),
        ttft=np.log([row.ttft or 1.0 for row in table]),
        has_ttft=np.array([bool(row.ttft) and (row.use == "static" or row.concurrency <= FEW) for row in table]),
    )


def _decode(row: Row, batch: float) -> Work:
    return decode_work(facts_of(row), row.tp, batch, row.isl + row.osl / 2, row.weight_bits, row.kv_bits)


def _stack(values: Sequence) -> object:
    kind = type(values[0])
    return kind(*(np.array([float(getattr(value, field.name)) for value in values]) for field in fields(kind)))


def logs(theta: np.ndarray, table: Columns) -> np.ndarray:
    """Logs of predicted TPOT, then of predicted TTFT of requests that hardly wait."""
    rates = rates_of(theta)
    decode, prompt = decode_step(table.decode, table.card, rates).seconds, prefill_step(table.prompt, table.card, rates).seconds
    carried = prompt * rates.carry * (table.batch - 1) / table.osl * ~table.static
    first = np.where(table.static, prompt * table.batch, prompt + rates.first_seconds) + decode
    return np.concatenate([np.log(decode + carried), np.log(first)])


def minimise(table: Columns, pull: np.ndarray, strength: float, weights: np.ndarray, rounds: int = 15) -> np.ndarray:
    measured = np.concatenate([table.tpot, table.ttft])
    weights = np.concatenate([weights, weights * TTFT_WEIGHT * table.has_ttft]) / weights.sum()

    def loss(theta: np.ndarray) -> float:
        rest = logs(theta, table) - measured
        return float((weights * HUBER**2 * (np.sqrt(1 + (rest / HUBER) ** 2) - 1)).sum() + strength * ((theta - pull) ** 2).sum())

    theta, damping = pull.copy(), 1e-2
    best = loss(theta)
    for _ in range(rounds):
        now = logs(theta, table)
        slopes = np.stack([(logs(theta + 1e-4 * unit, table) - now) / 1e-4 for unit in np.eye(len(theta))], axis=1)
        robust = weights / np.sqrt(1 + ((now - measured) / HUBER) ** 2)
        gradient = slopes.T @ (robust * (now - measured)) + 2 * strength * (theta - pull)
        curvature = slopes.T @ (slopes * robust[:, None]) + 2 * strength * np.eye(len(theta))
        for _ in range(8):
            scaled = curvature + damping * np.diag(np.diag(curvature))
            tried = np.clip(theta - np.linalg.solve(scaled, gradient), LEAST, MOST)
            if loss(tried) < best:
                theta, best, damping = tried, loss(tried), damping / 3
                break
            damping *= 4
        else:
            break
    return theta


def fitted(table: Sequence[Row], every: Columns, places: dict[int, int]) -> SpeedConstants:
    """Constants from these rows alone; errors are not filled in."""
    groups = _groups(table)
    current = [row for row in table if row.use == "fit"]
    everything = _minimise(current, HAND, PULL_ALL, every, places)
    fits = [
        fit_of(*key, _minimise(members, everything, _pull(members), every, places), members) for key, members in groups.items()
    ]
    fits.append(_cpu())
    return SpeedConstants(tuple(fits), fit_of("any", "any", "any", everything, current), "benchmarks/speed_fit.py")


def _pull(members: Sequence[Row]) -> float:
    return PULL_STATIC if all(row.use == "static" for row in members) else PULL_GROUP


def _groups(table: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in table:
        groups.setdefault((row.engine, row.versions, family_of(GPUS[row.gpu])), []).append(row)
    return dict(sorted(groups.items()))


def _minimise(members: Sequence[Row], pull: np.ndarray, strength: float, every: Columns, places: dict[int, int]) -> np.ndarray:
    count = Counter((row.engine, row.versions, row.model, family_of(GPUS[row.gpu])) for row in members)
    weights = np.array([count[row.engine, row.versions, row.model, family_of(GPUS[row.gpu])] ** -0.5 for row in members])
    return minimise(every.at(np.array([places[row.id] for row in members])), pull, strength, weights)


def rates_of(theta: np.ndarray) -> Rates:
    return Rates(**dict(zip(NAMES, map(float, np.exp(theta)), strict=True)))


def fit_of(engine: str, versions: str, family: str, theta: np.ndarray, members: Sequence[Row]) -> Fit:
    cards = dict(sorted(Counter(row.gpu for row in members).items()))
    return Fit(
        engine, versions, family, len(members), len({row.model for row in members}), cards, 0.3, 0.6, 0.6, 1.6, rates_of(theta)
    )


def _cpu() -> Fit:
    values = {name: START[name][0] for name in NAMES}
    values |= {"memory": 0.45, "cache": 0.45, "compute": 0.42, "prefill": 0.42, "carry": 1.0, "layer_seconds": 1e-6}
    values |= {
        "fixed_seconds": 5e-4,
        "request_seconds": 1e-4,
        "first_seconds": 0.01,
        "prefill_seconds": 1e-3,
        "mixture_prefill": 1.0,
    }
    return replace(
        fit_of("llamacpp", "current", "cpu", HAND, []), rates=Rates(**values), rows=3, model_count=1, low=0.5, high=2.0
    )


def left_out(table: Sequence[Row], every: Columns, places: dict[int, int]) -> dict[int, float]:
    """TPOT of every row, predicted by constants that never saw its model."""
    predictions = {}
    for model in sorted({row.model for row in table}):
        constants = fitted([row for row in table if row.model != model], every, places)
        predictions |= {row.id: predicted(row, constants) for row in table if row.model == model}
    return predictions


def with_errors(constants: SpeedConstants, table: Sequence[Row], predictions: dict[int, float]) -> SpeedConstants:
    def judged(fit: Fit, members: Sequence[Row]) -> Fit:
        ratio = np.array([row.tpot / predictions[row.id] for row in members])
        wrong = np.abs(1 / ratio - 1)
        quantiles = dict(zip(("low", "high"), np.quantile(ratio, (0.1, 0.9)), strict=True))
        return replace(fit, error_median=float(np.median(wrong)), error_p90=float(np.quantile(wrong, 0.9)), **quantiles)

    groups = _groups(table)
    fits = [
        judged(fit, groups[key]) if (key := (fit.engine, fit.versions, fit.family)) in groups else fit for fit in constants.fits
    ]
    return replace(constants, fits=tuple(fits), any=judged(constants.any, [row for row in table if row.use == "fit"]))


def text(constants: SpeedConstants) -> str:
    def rounded(value: float) -> float:
        return float(f"{value:.3g}")

    def entry(fit: Fit) -> dict:
        head = {"engine": fit.engine, "versions": fit.versions, "family": fit.family, "cards": dict(fit.cards)}
        errors = {name: rounded(getattr(fit, name)) for name in ("error_median", "error_p90", "low", "high")}
        rates = {name: rounded(getattr(fit.rates, name)) for name in NAMES}
        return head | {"rows": fit.rows, "models": fit.model_count} | errors | {"rates": rates}

    head = "# How engines use GPUs. Written by benchmarks/speed_fit.py; meanings: plan/roofline.py and plan/speed_constants.py.\n"
    source = f"{SOURCE} {' '.join(LLAMACPP_CPU.split())}"
    body = {"source": source, "fits": [entry(fit) for fit in (constants.any, *constants.fits)]}
    return head + yaml.safe_dump(body, sort_keys=False, width=130)


def usable() -> tuple[list[Row], Columns, dict[int, int]]:
    """The rows to fit to, their columns, and each row's place in them."""
    table = [row for row in rows() if row.use in ("fit", "static")]
    return table, columns(table), {row.id: place for place, row in enumerate(table)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=TARGET)
    given = parser.parse_args()
    table, every, places = usable()
    constants = with_errors(fitted(table, every, places), table, left_out(table, every, places))
    given.output.write_text(text(constants))
    print(f"{given.output}: {len(constants.fits) + 1} fits of {len(table)} rows")


if __name__ == "__main__":
    main()
