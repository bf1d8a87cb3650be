"""What `headrace serve` recorded here, and its status → what signals are about."""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from headrace.advice.base import Gain, Observed, Request, Sample
from headrace.control.recording import SERVED, reading
from headrace.engines import engines
from headrace.environments import installed
from headrace.errors import UsageError
from headrace.facts.constants import measured
from headrace.plan.local_speed import Rates
from headrace.weights.cache import default_root

MOST_ROWS = 500_000
"""Of one model, the newest."""


def begun(status: Mapping[str, Any], file: Path, since: float) -> float:
    """When the first look at any model of a gateway was taken, from `since` on (seconds since 1970). Raises HeadraceError."""
    with reading(file) as connection:
        first = connection.execute(f"SELECT MIN(at) FROM samples WHERE {SERVED} AND at >= ?2", (status.get("served", ""), since))
        return float(first.fetchone()[0] or since)


def observed(status: Mapping[str, Any], file: Path, model: str | None, since: float, until: float) -> list[Observed]:
    """What is known of each model of a gateway, or of one. Raises HeadraceError."""
    rows = [row for row in status["models"] if model is None or model in (row["name"], *row["aliases"])]
    if not rows:
        known = ", ".join(row["name"] for row in status["models"])
        raise UsageError(f'The gateway has no model "{model}".', f"It has: {known}.")
    with reading(file) as connection:
        about = len(status["models"]), status.get("served", ""), since, until
        return [_observed(connection, row, *about) for row in rows]


def _observed(
    connection: sqlite3.Connection, row: Mapping[str, Any], models: int, served: str, since: float, until: float
) -> Observed:
    name, planned = row["name"], row["planned"]
    where = (served, name, since, MOST_ROWS)
    newest = "FROM {} WHERE " + SERVED + " AND model = ?2 AND at >= ?3 ORDER BY at DESC LIMIT ?4"
    requests = connection.execute("SELECT at, status, tokens_in, tokens_out, waited " + newest.format("requests"), where)
    samples = connection.execute("SELECT at, waiting, running, ready, tokens_out " + newest.format("samples"), where)
    lacking = "waiting > 0 AND wanted > ready + starting + 0.5"
    short = connection.execute(f"SELECT at, {lacking} " + newest.format("samples"), where)
    rates = Rates.parse(measured("local"))
    return Observed(
        model=name,
        engine=planned["engine"] or "",
        since=since,
        until=until,
        slots=planned["slots"],
        most=planned["most"],
        context=row["context"],
        sleeps=planned["sleeps"],
        models=models,
        requests=[Request(*found) for found in requests][::-1],
        samples=[Sample(*found) for found in samples][::-1],
        short_of_memory=_lasting(list(short)[::-1]),
        rates=_rates(rates, planned["engine"]),
        gains=_gains(rates, planned["engine"] or "", planned["slots"] * planned["most"]),
    )


def _lasting(looks: Sequence[tuple[float, bool]]) -> list[float]:
    """Looks at which it goes on without the replicas that it wants; the first of a row may be the one that makes them start.

    Decisions say what was not granted, and are recorded when they change: how long it lasts is seen in the looks.
    """
    return [at for (_, before), (at, lacks) in pairwise(looks) if before and lacks]


def _here(rates: Rates, engine: str | None) -> list[str]:
    """The model's engine and those that are here besides, as far as they were measured."""
    here = installed(engines(), default_root())
    return [name for name in rates.engines if name == engine or name in here]


def _rates(rates: Rates, engine: str | None) -> dict[str, Any]:
    return {name: (lambda users, name=name: rates.at(name, users)) for name in _here(rates, engine)}


def _gains(rates: Rates, engine: str, users: int) -> dict[str, Gain]:
    """What to expect of other engines with every slot in use."""
    found = {}
    for other in _here(rates, engine):
        if other != engine and (times := rates.gain(engine, other, max(1, users))):
            low, high = times
            why = "measured with one small model; others were off by up to a factor of two"
            found[other] = Gain(f"{low:.1f} to {high:.1f} times the throughput ({why})")
    return found
