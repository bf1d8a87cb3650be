"""What the commands work with → Results: which rows, which text, which picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.dashboard.past import Curves
from headrace.engines.base import Placement
from headrace.measure.base import Report, Stage
from headrace.measure.text import shown
from headrace.notebook.result import Result
from headrace.plan import explain, offer_text
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.fleet import Fleet as Packed
from headrace.plan.intent import Intent
from headrace.plan.offer import Considered, Offer
from headrace.plan.packing.explain import explain as explain_packing
from headrace.report import decisions_text
from headrace.simulate.outcome import Outcome
from headrace.simulate.suggest import Suggestion
from headrace.top.base import Look
from headrace.top.view import data, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Offers:
    """All ways to run one model on the machines that were asked about, and the best, best first."""

    considered: tuple[Considered, ...]
    best: tuple[Offer, ...]


def of_plan(plan: Plan) -> Result[Plan]:
    """A model to a row."""
    rows = tuple(_planned(model) for model in plan.models)
    bars = {row["model"]: (row["memory_bytes"] or 0) / 2**30 for row in rows}
    return Result(plan, explain.explain(plan), rows, _bars(bars, "memory of all replicas, GiB"))


def of_offers(name: str, offers: Offers, intent: Intent) -> Result[Offers]:
    """A way to run it to a row: the best ones first, then the others."""
    every = [*offers.best, *(one for each in offers.considered for one in each.offers if one not in offers.best)]
    rows = tuple(_offer(offer) for offer in every)
    names = [f"{row['machine']}, {row['quantization']}, tp {row['tensor_parallel']}" for row in rows]
    bars = {name: row["tokens_per_second"] for name, row in zip(names, rows, strict=True)}
    said = offer_text.explain(name, offers.considered, offers.best, intent)
    return Result(offers, said, rows, _bars(bars, "tokens a second"))


def of_packing(packed: Packed) -> Result[Packed]:
    """A placed replica to a row."""
    rows = tuple(
        {"model": one.name, "replica": one.replica, "gpu": one.gpu, "devices": ", ".join(map(str, one.devices)),
         "share": one.share, "memory_bytes": one.memory_bytes, "reason": one.reason}
        for one in packed.packing.assignments
    )  # fmt: skip
    bars = {f"{one.name}-{one.replica}": one.memory_bytes / 2**30 for one in packed.packing.assignments}
    refused = "".join(f"\n{name} fits nowhere: {reason}" for name, reason in packed.refused.items())
    return Result(packed, explain_packing(packed.packing) + refused, rows, _bars(bars, "memory of a device, GiB"))


def of_look(look: Look) -> Result[Look]:
    """A model to a row."""
    rows = tuple(data(look)["models"])
    bars = {row["name"]: float(row["running"] + row["waiting"]) for row in rows}
    return Result(look, text(look), rows, _bars(bars, "requests running and waiting"))


def of_decisions(decisions: Sequence[Mapping[str, Any]], now: float) -> "Result[tuple[dict[str, Any], ...]]":
    """A decision to a row, the newest last; `now` in seconds since 1970."""
    rows = tuple({"at": now - one["ago_seconds"], "model": one["model"], "decision": one["decision"]} for one in decisions)
    return Result(rows, decisions_text(list(map(dict, decisions))), rows)


def of_curves(model: str, curves: Curves) -> Result[Curves]:
    """A moment to a row, the oldest first."""
    names = list(curves.columns)
    rows = tuple(dict(zip(names, values, strict=True)) for values in zip(*curves.columns.values(), strict=True))
    said = curves.missing or f"{model}: {len(rows)} points, {len(curves.decisions)} decisions."
    return Result(curves, said, rows, _over_time(model, curves))


def of_report(report: Report) -> Result[Report]:
    """A load to a row."""
    rows = tuple(_stage(stage) for stage in report.stages)
    bars = {str(row["load"]): row["output_tokens_per_second"] for row in rows}
    return Result(report, shown(report), rows, _bars(bars, "tokens out a second"))


def of_outcomes(outcomes: tuple[Outcome, ...], said: str) -> Result[tuple[Outcome, ...]]:
    """A policy to a row."""
    return Result(outcomes, said, tuple(_outcome(one) for one in outcomes), _steps(outcomes))


def of_suggestion(found: Suggestion, said: str) -> Result[Suggestion]:
    """The settings and what they made of the trace, in one row."""
    policy = found.policy
    row = {"replicas": f"{policy.least}..{policy.most}", "queue": policy.queue, "idle_seconds": policy.idle_seconds}
    return Result(found, said, (row | {"meets": found.meets} | _outcome(found.outcome),), _steps([found.outcome]))


def _planned(model: PlannedModel) -> dict[str, Any]:
    placements = [one for one in model.replicas if isinstance(one, Placement)]
    return {
        "model": model.name,
        "task": model.task,
        "engine": placements[0].engine if placements else None,
        "replicas": len(model.replicas),
        "slots": model.slots,
        "context": model.context,
        "memory_bytes": sum(one.memory_bytes for one in placements) if placements else None,
        "refused": model.refused or None,
    }


def _offer(offer: Offer) -> dict[str, Any]:
    whole = offer_text.offer_data(offer)
    same = ("machine", "engine", "quantization", "tensor_parallel", "pipeline_parallel", "replicas", "gpus", "context")
    return {name: whole[name] for name in same} | {
        "meets": not offer.problems,
        "misses": "; ".join(offer.problems) or None,
        "tokens_per_second": whole["tokens_per_second"]["expected"],
        "ttft_p50_seconds": whole["ttft_seconds"]["p50"],
        "ttft_p99_seconds": whole["ttft_seconds"]["p99"],
        "tpot_seconds": whole["tpot_seconds"]["expected"],
        "usd_per_hour": whole["usd_per_hour"],
        "usd_per_million_tokens": whole["usd_per_million_tokens"],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    row: dict[str, Any] = {"load": stage.label, "level": stage.level, "requests": stage.requests, "answered": stage.ok}
    row |= {"requests_per_second": stage.request_rate.value, "output_tokens_per_second": stage.output_rate.value}
    for name, spread in (("ttft", stage.ttft), ("tpot", stage.tpot), ("e2e", stage.e2e)):
        row |= {f"{name}_{part}_seconds": getattr(spread, part).value if spread else None for part in ("p50", "p95", "p99")}
    return row | {"goodput": stage.goodput.share.value if stage.goodput else None, "steady": stage.steady}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    whole = asdict(outcome)
    for name in ("points", "changes", "wait", "ttft"):
        del whole[name]
    waits = {f"wait_{part}_seconds": getattr(outcome.wait, part) for part in ("p50", "p95", "p99")}
    return whole | waits | {"met": outcome.met, "mean_replicas": outcome.mean_replicas}


def _bars(values: Mapping[str, float], label: str) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        axes.barh(list(values), list(values.values()))
        axes.invert_yaxis()  # the first at the top, as in the table
        axes.set_xlabel(label)

    return draw


def _over_time(model: str, curves: Curves) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        from datetime import UTC, datetime

        at: list[Any] = [datetime.fromtimestamp(seconds or 0.0, UTC) for seconds in curves.columns["at"]]
        for name in ("waiting", "running", "ready"):
            values = [float("nan") if value is None else value for value in curves.columns[name]]
            axes.plot(at, values, label=name)
        axes.set_title(model)
        axes.legend()

    return draw


def _steps(outcomes: Sequence[Outcome]) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        for outcome in outcomes:
            at, replicas = [one.at for one in outcome.points], [one.ready + one.starting for one in outcome.points]
            axes.step(at, replicas, where="post", label=outcome.policy)
        axes.set_xlabel("seconds")
        axes.set_ylabel("replicas")
        axes.legend()

    return draw
