"""Signals for people and for machines: the same sentences."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from headrace.advice.base import Signal
from headrace.units import show_duration

_MANY_UNKNOWN = 3
_FIRST = ("holds", "unknown", "holds not")


def text(found: Mapping[str, Sequence[Signal]], seconds: float) -> str:
    """For people: what holds first, what to do; and when to stay."""
    return "\n\n".join(_model(name, rows, seconds) for name, rows in found.items())


def data(found: Mapping[str, Sequence[Signal]], seconds: float) -> str:
    """For machines."""
    models = [
        {
            "model": name,
            "verdict": verdict(rows),
            "signals": [asdict(row) | {"sentence": row.sentence} for row in rows],
        }
        for name, rows in found.items()
    ]
    return json.dumps({"window_seconds": seconds, "models": models}, indent=2)


def verdict(rows: Sequence[Signal]) -> str:
    """What the signals on one model come to."""
    holding, unknown = (sum(row.holds == what for row in rows) for what in ("holds", "unknown"))
    if holding:
        return f"{holding} of {len(rows)} signals say that it is time for something else"
    if unknown >= _MANY_UNKNOWN:
        return f"nothing speaks for another set-up, but {unknown} of {len(rows)} signals have not enough data in this window"
    return "stay: nothing says that another set-up would do better"


def _model(name: str, rows: Sequence[Signal], seconds: float) -> str:
    ordered = sorted(rows, key=lambda row: _FIRST.index(row.holds))
    return "\n".join([f"{name}, the last {show_duration(seconds)}: {verdict(rows)}.", *map(_signal, ordered)])


def _signal(row: Signal) -> str:
    lines = [f"  {row.holds:<9}  {row.said}"]
    if row.holds == "holds":
        lines.append(f"             → {row.advice}")
        lines += [f"             $ {row.command}"] if row.command else []
    return "\n".join(lines)
