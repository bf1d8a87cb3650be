"""One model as the pages show it: short texts by cell, ready to be compared with what a page has already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.targets.base import Replica, State
from headrace.traffic import Load, ModelStatus
from headrace.units import show_bytes

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Row:
    """A model at one moment. `cells` are what changes from second to second, by name; `replicas` those of each replica."""

    name: str
    task: str
    cells: Mapping[str, str]
    replicas: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def row(
    status: ModelStatus,
    load: Load,
    slots: int,
    replicas: Sequence[Replica],
    wanted: int | None,
    rate: float | None,
    errors: int | None,
    now: float,
    wish: str = "",
) -> Row:
    """`replicas` are the model's, `wanted` how many there shall be, `rate` its tokens out per second, `errors` how many requests
    were failed or refused of late, `now` monotonic. `wish` says what an administrator asked for, if so.
    """
    ready = sum(replica.state is State.READY for replica in replicas)
    there = sum(replica.state is not State.STOPPED for replica in replicas)
    cells = {
        "phase": status.phase,
        "reason": "" if status.reason == wish else status.reason,
        "replicas": f"{ready} / {there if wanted is None else wanted}",
        "waiting": str(load.waiting),
        "oldest": seconds(load.oldest_seconds),
        "running": f"{sum(load.running.values())} / {slots}",
        "ttft": seconds(load.ttft_seconds),
        "tpot": seconds(load.tpot_seconds),
        "rate": UNKNOWN if rate is None else number(rate),
        "errors": UNKNOWN if errors is None else str(errors),
        "wish": wish,
    }
    return Row(status.model, status.task or "", cells, {one.name: _replica(one, load, now) for one in replicas})


def totals(phases: Sequence[str], loads: Sequence[Load], rates: Sequence[float], errors: Sequence[int]) -> dict[str, str]:
    """All models together."""
    waits = [load.oldest_seconds for load in loads if load.oldest_seconds is not None]
    return {
        "ready": f"{sum(phase == 'ready' for phase in phases)} / {len(phases)}",
        "failed": str(phases.count("failed")),
        "running": str(sum(sum(load.running.values()) for load in loads)),
        "waiting": str(sum(load.waiting for load in loads)),
        "oldest": seconds(max(waits, default=None)),
        "rate": number(sum(rates)) if rates else UNKNOWN,
        "errors": str(sum(errors)) if errors else UNKNOWN,
        "requests": f"{sum(load.requests for load in loads):,}",
    }


def _replica(replica: Replica, load: Load, now: float) -> dict[str, str]:
    reading = replica.reading
    cache = reading.cache_usage if reading else None
    return {
        "state": replica.state.value,
        "reason": replica.reason,
        "since": ago(max(0.0, now - replica.since)),
        "running": f"{load.running.get(replica.name, 0)} / {replica.slots}",
        "memory": UNKNOWN if replica.memory_bytes is None else show_bytes(replica.memory_bytes),
        "cache": UNKNOWN if cache is None else f"{cache:.0%}",
        "restarts": str(replica.restarts),
    }


def seconds(value: float | None) -> str:
    """Two digits that matter, so that a number on a page changes only when it means something."""
    if value is None:
        return UNKNOWN
    if value >= 100:
        return ago(value)
    return f"{number(value * 1000)} ms" if value < 0.9995 else f"{number(value)} s"


def number(value: float) -> str:
    """Two digits that matter: 0.47, 3.2, 47, 470."""
    if value <= 0:
        return "0"
    if value >= 9.95:
        return str(int(float(f"{value:.2g}")))
    return f"{value:.1f}" if value >= 0.995 else f"{float(f'{value:.2g}'):g}"


def ago(value: float) -> str:
    """A span of time in its two largest units at most: 4 s, 12 min, 3 h 20 min, 5 d."""
    if value < 60:
        return f"{int(value)} s"
    if value < 3600:
        return f"{int(value / 60)} min"
    if value < 86_400:
        hours, minutes = divmod(int(value / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{int(value / 86_400)} d"
