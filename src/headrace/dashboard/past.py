"""The history for curves: few points whatever the span, and the decisions in it, read without disturbing who writes."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.control.recording import SERVED, reading
from headrace.errors import HeadraceError

POINTS = 360
"""Points of a curve, at most."""
SPANS = {"15m": 900, "1h": 3600, "6h": 21_600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}
"""Spans that can be looked at, in seconds."""
MOST_DECISIONS = 200
_LONGEST_SECONDS = 10.0
_COLUMNS = ("at", "waiting", "running", "ready", "wanted", "rate_in", "rate_out", "ttft", "tpot")


@dataclass(frozen=True, slots=True)
class Curves:
    """Columns of equal length, `at` in seconds since 1970; None where nothing is known."""

    columns: dict[str, list[float | None]]
    decisions: list[tuple[float, str, str]]
    """(seconds since 1970, what changed, why), the newest first."""
    since: float
    until: float
    missing: str = ""
    """Why there are none."""


def curves(file: Path | None, model: str, seconds: int, served: str = "") -> Curves:
    """The last `seconds` of a model, of what is `served` (history.py). Never raises for a file that cannot be read: says so."""
    until = time.time()
    since = until - seconds
    nothing: dict[str, list[float | None]] = {name: [] for name in _COLUMNS}
    if file is None or not file.is_file():
        return Curves(nothing, [], since, until, "No history is kept here.")
    try:
        with reading(file) as connection:
            _limited(connection)
            columns = _columns(connection, model, since, until, served)
            return Curves(columns, _decisions(connection, model, since, served), since, until)
    except HeadraceError as error:
        return Curves(nothing, [], since, until, str(error))


def tokens(file: Path | None, served: str, model: str | None = None, seconds: float = 3600.0) -> tuple[int, float]:
    """Tokens of answers, of one model or all, in the last `seconds` or since the first record in them; and how long that is."""
    until = time.time()
    query = f"SELECT SUM(tokens_out), MIN(at) FROM samples WHERE {SERVED} AND at >= ?2 AND (?3 IS NULL OR model = ?3)"
    if file is None or not file.is_file():
        return 0, 0.0
    try:
        with reading(file) as connection:
            _limited(connection)
            count, first = connection.execute(query, (served, until - seconds, model)).fetchone()
    except HeadraceError:
        return 0, 0.0
    return int(count or 0), until - first if first else 0.0


def _limited(connection: sqlite3.Connection) -> None:
    ends = time.monotonic() + _LONGEST_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > ends, 100_000)


def _columns(
    connection: sqlite3.Connection, model: str, since: float, until: float, served: str
) -> dict[str, list[float | None]]:
    step = (until - since) / POINTS
    query = (
        "SELECT CAST((at - ?3) / ?4 AS INTEGER) AS bucket, MAX(waiting), AVG(running), AVG(ready), AVG(wanted), "
        "SUM(tokens_in) / MAX(1, SUM(seconds)), SUM(tokens_out) / MAX(1, SUM(seconds)), AVG(ttft), AVG(tpot), MAX(seconds) "
        f"FROM samples WHERE {SERVED} AND model = ?2 AND at >= ?3 GROUP BY bucket ORDER BY bucket"
    )
    columns: dict[str, list[float | None]] = {name: [] for name in _COLUMNS}
    last, reach = None, 0.0
    for bucket, *values, spaced in connection.execute(query, (served, model, since, step)):
        if last is not None and (bucket - last) * step > 3 * max(reach, spaced, step):
            _append(columns, since + (last + 1) * step, [None] * len(values))  # nobody watched: a gap, not a line across it
        _append(columns, since + (bucket + 0.5) * step, values)
        last, reach = bucket, spaced
    return columns


def _append(columns: dict[str, list[float | None]], at: float, values: list[Any]) -> None:
    columns["at"].append(round(at, 1))
    for name, value in zip(_COLUMNS[1:], values, strict=True):
        columns[name].append(None if value is None else float(f"{value:.4g}"))


def _decisions(connection: sqlite3.Connection, model: str, since: float, served: str) -> list[tuple[float, str, str]]:
    rows = f"FROM decisions WHERE {SERVED} AND model = ?2 AND at >= ?3 ORDER BY at DESC LIMIT ?4"
    query = "SELECT at, before, after, granted, reason " + rows
    found = []
    for at, before, after, granted, reason in connection.execute(query, (served, model, since, MOST_DECISIONS)):
        room = "" if granted >= after else f" (memory for {granted} then)"
        found.append((round(at, 1), f"{before} → {after}{room}", reason))
    return found
