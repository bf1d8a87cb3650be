"""`headrace advise`: what a running gateway says of its models and what the history has of them, put to the signals."""

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrace.control.advise import Observed, Request, Sample, Signal, signals
from headrace.engines import engines
from headrace.environments import installed
from headrace.errors import HeadraceError, UsageError
from headrace.facts.constants import measured
from headrace.plan.local_speed import Rates
from headrace.units import show_duration
from headrace.weights.cache import default_root

MOST_ROWS = 500_000
"""Of one model, the newest."""


def advice(status: dict[str, Any], file: Path, model: str | None, seconds: float, now: float) -> dict[str, tuple[Signal, ...]]:
    """The signals on each model, or on one, over the last `seconds`; `now` in seconds since 1970. Raises HeadraceError."""
    rows = [row for row in status["models"] if model is None or model in (row["name"], *row["aliases"])]
    if not rows:
        known = ", ".join(row["name"] for row in status["models"])
        raise UsageError(f'The gateway has no model "{model}".', f"It has: {known}.")
    if not file.is_file():
        raise HeadraceError(f"There is no history at {file}.", "headrace serve writes it while it runs; name another: --history.")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return {row["name"]: signals(_observed(connection, row, len(status["models"]), now - seconds, now)) for row in rows}
    except sqlite3.Error as error:
        raise HeadraceError(f"The history in {file} cannot be read: {error}.") from None


def text(found: dict[str, tuple[Signal, ...]], seconds: float) -> str:
    """For people: what holds first, what to do; and when to stay."""
    return "\n\n".join(_model(name, rows, seconds) for name, rows in found.items())


def data(found: dict[str, tuple[Signal, ...]], seconds: float) -> str:
    """For machines."""
    models = [{"model": name, "signals": [asdict(row) for row in rows]} for name, rows in found.items()]
    return json.dumps({"window_seconds": seconds, "models": models}, indent=2)


def _model(name: str, rows: Sequence[Signal], seconds: float) -> str:
    holding = [row for row in rows if row.holds == "holds"]
    unknown = sum(row.holds == "unknown" for row in rows)
    if holding:
        verdict = f"{len(holding)} of {len(rows)} signals say that it is time for something else"
    elif unknown >= 3:
        verdict = f"nothing speaks for another set-up, but {unknown} of {len(rows)} signals have not enough data in this window"
    else:
        verdict = "stay: nothing says that another set-up would do better"
    lines = [f"{name}, the last {show_duration(seconds)}: {verdict}."]
    for row in sorted(rows, key=lambda row: ("holds", "unknown", "holds not").index(row.holds)):
        short = "not enough data: " if row.holds == "unknown" and not row.numbers.startswith("not enough data") else ""
        lines.append(
            f"  {row.holds:<9}  {row.name}: {short}{row.numbers}" + (f" (sure {row.confidence:.1f})" if row.confidence else "")
        )
        if row.holds == "holds":
            gain = f"; expect {row.gain}" if row.gain else ""
            lines.append(f"             → {row.change}{gain}" + (f"\n             $ {row.command}" if row.command else ""))
    return "\n".join(lines)


def _observed(connection: sqlite3.Connection, row: dict[str, Any], models: int, since: float, now: float) -> Observed:
    name, planned = row["name"], row["planned"]
    where = (name, since, MOST_ROWS)
    newest = "FROM {} WHERE model = ? AND at >= ? ORDER BY at DESC LIMIT ?"
    requests = connection.execute("SELECT at, status, tokens_in, tokens_out, waited " + newest.format("requests"), where)
    samples = connection.execute("SELECT at, waiting, running, ready " + newest.format("samples"), where)
    short = connection.execute("SELECT at FROM decisions WHERE model = ? AND at >= ? AND granted < after LIMIT ?", where)
    return Observed(
        model=name,
        engine=planned["engine"] or "",
        since=since,
        until=now,
        slots=planned["slots"],
        most=planned["most"],
        context=row["context"],
        sleeps=planned["sleeps"],
        models=models,
        requests=[Request(*found) for found in requests][::-1],
        samples=[Sample(*found) for found in samples][::-1],
        short_of_memory=[at for (at,) in short],
        rates=_rates(planned["engine"]),
    )


def _rates(engine: str | None) -> dict[str, Any]:
    """What was measured, of the model's engine and of those that are here besides."""
    rates, here = Rates.parse(measured("local")), installed(engines(), default_root())
    names = [name for name in rates.engines if name == engine or name in here]
    return {name: (lambda users, name=name: rates.at(name, users)) for name in names}
