"""Outcomes as text and as data: a table, and replicas over time in a line for each policy."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from headrace.columns import aligned
from headrace.simulate.outcome import Outcome, Point
from headrace.units import show_duration

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 60


def table(outcomes: Sequence[Outcome], usd_per_gpu_hour: float | None) -> str:
    """A line for each outcome."""
    limit = outcomes[0].limit_seconds
    late = () if limit is None else (f"over {show_duration(limit)}",)
    hours = "GPU-hours" if any(outcome.gpu_hours for outcome in outcomes) else "replica-hours"
    head = (
        "policy",
        "wait p50",
        "p95",
        "p99",
        "longest",
        *late,
        "refused",
        hours,
        *(() if usd_per_gpu_hour is None else ("USD",)),
        "most",
        "starts",
    )
    rows = [_row(outcome, usd_per_gpu_hour) for outcome in outcomes]
    return "\n".join(aligned([head, *rows]))


def over_time(outcomes: Sequence[Outcome]) -> str:
    """Replicas that serve or start, over time, all by the same scale; `·` is none."""
    most = max(outcome.most for outcome in outcomes)
    rows = [(outcome.policy, line(outcome.points, most, outcome.seconds)) for outcome in outcomes]
    seconds = max(outcome.seconds for outcome in outcomes)
    head = f"Replicas over {show_duration(seconds)}, {show_duration(seconds / _COLUMNS)} a column, █ is {most}:"
    return "\n".join([head, *(f"  {text}" for text in aligned(rows))])


def line(points: Sequence[Point], most: int, seconds: float) -> str:
    """The largest count of each column as a bar."""
    columns = [0] * _COLUMNS
    last, filled = 0, -1
    for point in points:
        place = min(_COLUMNS - 1, int(point.at / max(seconds, 1e-9) * _COLUMNS))
        for skipped in range(filled + 1, place):
            columns[skipped] = last
        last, filled = point.ready + point.starting, place
        columns[place] = max(columns[place], last)
    for skipped in range(filled + 1, _COLUMNS):
        columns[skipped] = last
    return "".join(_bar(count, most) for count in columns)


def data(outcome: Outcome, usd_per_gpu_hour: float | None) -> dict[str, Any]:
    """An outcome for machines."""
    cost = None if usd_per_gpu_hour is None else outcome.gpu_hours * usd_per_gpu_hour
    return asdict(outcome) | {"met": outcome.met, "mean_replicas": outcome.mean_replicas, "usd": cost}


def _row(outcome: Outcome, usd: float | None) -> tuple[str, ...]:
    wait = outcome.wait
    return (
        outcome.policy,
        *(show_duration(round(seconds, 3)) for seconds in (wait.p50, wait.p95, wait.p99, wait.most)),
        *(() if outcome.limit_seconds is None else (f"{outcome.over} ({outcome.over / outcome.requests:.1%})",)),
        str(outcome.full + outcome.expired),
        f"{outcome.gpu_hours or outcome.replica_seconds / 3600:.2f}",
        *(() if usd is None else (f"{outcome.gpu_hours * usd:.2f}",)),
        str(outcome.most),
        str(outcome.starts),
    )


def _bar(count: int, most: int) -> str:
    if count <= 0:
        return "·"
    return _BARS[min(len(_BARS) - 1, max(0, -(-count * len(_BARS) // max(1, most)) - 1))]
