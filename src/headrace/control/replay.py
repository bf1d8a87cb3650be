"""Read the history: decisions replayed from what was recorded, and requests as a trace for the simulator."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from headrace.control.recording import SERVED, reading
from headrace.errors import HeadraceError, UsageError
from headrace.scaling.base import Policy, Sample, State
from headrace.scaling.ours import decide

TRACE_COLUMNS = (
    "timestamp", "model", "input_tokens", "output_tokens", "status", "waited_seconds", "ttft_seconds", "seconds", "key", "served",
)  # fmt: skip
"""`timestamp` in seconds since 1970; `served` is the file or the source that the model was of. What nobody knows is empty."""
_REQUESTS = (
    "SELECT at, model, tokens_in, tokens_out, status, waited, ttft, seconds, key, served "
    "FROM requests LEFT JOIN runs USING (run) ORDER BY at"
)
_SAME_SECONDS = 0.001
"""Two times are the same, but for rounding: looks are ten times as far apart."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision as it was made, and as it is made again from the recorded numbers. `at` is in seconds since 1970."""

    at: float
    model: str
    recorded: int
    again: int
    reason: str


def replayed(file: Path, model: str | None = None) -> Iterator[Replayed]:
    """Every recorded sample through its policy again, run by run; of one model, or of all. Raises HeadraceError.

    A run whose beginning is no longer kept in full is replayed from its first checkpoint; after samples that were lost, from the
    next one.
    """
    query = (  # in the order in which they were written: `at` is by a clock that may be set back
        "SELECT at, run, model, seconds, wanted, data, sample, state FROM samples JOIN policies ON policy = id "
        "WHERE sample IS NOT NULL AND (?1 IS NULL OR model = ?1) ORDER BY run, model, samples.rowid"
    )
    states: dict[tuple[float, str], State] = {}
    with reading(file) as connection:
        for at, run, name, seconds, wanted, policy, sample, kept in connection.execute(query, (model,)):
            rules, given = msgspec.json.decode(policy, type=Policy), msgspec.json.decode(sample, type=Sample)
            state = states.get((run, name))
            if kept is not None:
                state = msgspec.json.decode(kept, type=State | None)
            elif seconds == 0:  # it stands for no time before it: it is the first of its run
                state = None
            elif state is None or abs(state.now + seconds - given.now) > _SAME_SECONDS:
                continue  # the sample before it, on which it depends, is not there
            decision, states[run, name] = decide(rules, given, state)
            yield Replayed(at, name, int(wanted), decision.replicas, decision.reason)


def export(file: Path, to: Path) -> int:
    """Write the requests as a trace, CSV or Parquet by the ending of `to`; how many there were. Raises HeadraceError."""
    if to.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{to} is neither .csv nor .parquet.", "Name the file by what it shall be.")
    with reading(file) as connection:
        rows = connection.execute(_REQUESTS)
        try:
            return _csv(rows, to) if to.suffix == ".csv" else _parquet(list(rows), to)
        except OSError as error:
            raise HeadraceError(f"{to} cannot be written: {error.strerror or error}.") from None


def lengths(file: Path, served: str, model: str, most: int = 20_000) -> list[tuple[float, int, int, float]]:
    """The newest answered requests of a model of `served` (a file or a source; empty: any) whose tokens are known, in order:
    (seconds since 1970, tokens in, tokens out, how long each took in seconds). Raises HeadraceError.
    """
    query = f"SELECT at, tokens_in, tokens_out, seconds FROM requests WHERE {SERVED} AND model = ?2 AND status = 200 "
    query += "AND tokens_in > 0 AND tokens_out > 0 ORDER BY at DESC LIMIT ?3"
    with reading(file) as connection:
        return list(connection.execute(query, (served, model, most)))[::-1]


def _csv(rows: Iterator[tuple[Any, ...]], to: Path) -> int:
    with to.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TRACE_COLUMNS)
        count = 0
        for at, *rest in rows:
            count += 1
            writer.writerow((f"{at:.6f}", *rest))
        return count


def _parquet(rows: list[tuple[Any, ...]], to: Path) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise HeadraceError("Parquet needs pyarrow, which is not here.", "Write .csv, or: pip install pyarrow") from None
    columns = list(zip(*rows, strict=True)) or [()] * len(TRACE_COLUMNS)
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(TRACE_COLUMNS, columns, strict=True))), to)
    return len(rows)
