"""Traces of real traffic as arrays: arrival, prompt tokens, output tokens. What a file is, its first line says.

Read are: Azure's LLM traces (2023, 2024), Mooncake's, BurstGPT's, and Headrace's own export. ServeGen's are rates, of
which a trace is drawn. All of it is arrival times and lengths, never text.
"""

import csv
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from math import log

from headrace.errors import UsageError

MOST_REQUESTS = 20_000_000
"""Of one trace: 16 bytes of memory each, and as many again for what is measured."""
_MOONCAKE_BATCH_SECONDS = 3.0
"""Mooncake's conversations were recorded in batches of this length; unspread, the batch itself would be the queue."""

Row = tuple[float, int, int]
_Reader = Callable[[Mapping[str, str]], Row | None]


@dataclass(slots=True)
class Trace:
    """Requests in order of arrival, the first at 0; seconds and tokens. Not to be changed once it is read."""

    at: "array[float]" = field(default_factory=lambda: array("d"))
    prompt: "array[int]" = field(default_factory=lambda: array("l"))
    output: "array[int]" = field(default_factory=lambda: array("l"))

    def __len__(self) -> int:
        return len(self.at)

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.at[-1] - self.at[0] if self.at else 0.0


def read(lines: Iterable[str], name: str, model: str | None = None) -> Trace:
    """The trace in these lines, whichever kind it is; of one model where the lines say whose they are.

    Raises UsageError, which names `name` and the line.
    """
    lines = iter(lines)
    head = next(lines, "").strip().lstrip("\ufeff")
    if head.startswith("{"):
        return _trace(_mooncake(chain([head], lines), name), name, spread=_MOONCAKE_BATCH_SECONDS)
    columns = [column.strip() for column in head.split(",")]
    for needed, rows in _KINDS.items():
        if set(needed) <= set(columns):
            return _trace(_numbered(_of_model(csv.DictReader(lines, columns), model), rows, name), name)
    raise UsageError(
        f"{name}: its first line is of no trace that is known: {head[:80]!r}.",
        f"Known are JSON lines of Mooncake and CSV with {' or '.join('/'.join(needed) for needed in _KINDS)}.",
    )


def drawn(rates: Iterable[str], lengths: Iterable[str], uniform: Callable[[], float], share: float = 1.0) -> Trace:
    """A trace by ServeGen's rates per window, lengths by the busiest clients: `share` of the fleet's requests.

    Arrivals are Poisson within a window, lengths exponential about a client's mean. All that is drawn is drawn by `uniform`.
    """
    clients = [
        (max(1.0, float(row["input_tokens_mean"] or 256)), max(1.0, float(row["output_tokens_mean"] or 256)))
        for row in csv.DictReader(lengths)
    ]
    windows = [(float(row["window_start_s"]), float(row["total_rps"]) * share) for row in csv.DictReader(rates)]

    def rows() -> Iterator[Row]:
        for start, rate in windows:
            at = start
            while rate > 0 and (at := at - log(1 - uniform()) / rate) < start + _window(windows):
                prompt, output = clients[int(uniform() * len(clients))]
                yield at, _exponential(prompt, uniform()), _exponential(output, uniform())

    return _trace(rows(), "the rates")


def times(trace: Trace, copies: int) -> Trace:
    """As many users more at the same times of the day: every request `copies` times, a few seconds apart."""
    rows = (
        (at + copy * 10.0 / copies, prompt, output)
        for at, prompt, output in zip(trace.at, trace.prompt, trace.output, strict=True)
        for copy in range(copies)
    )
    return _trace(rows, "the trace")


def part(trace: Trace, start: float, end: float) -> Trace:
    """The requests that came from `start` to `end`, as shares of the trace's time."""
    first, last = start * trace.seconds, end * trace.seconds
    rows = zip(trace.at, trace.prompt, trace.output, strict=True)
    return _trace((row for row in rows if first <= row[0] <= last), "the part")


def _window(windows: list[tuple[float, float]]) -> float:
    return windows[1][0] - windows[0][0] if len(windows) > 1 else 600.0


def _exponential(mean: float, uniform: float) -> int:
    return max(1, round(-mean * log(1 - uniform)))


def _numbered(rows: Iterable[Mapping[str, str]], read_row: _Reader, name: str) -> Iterator[Row]:
    for number, row in enumerate(rows, 2):
        try:
            if (made := read_row(row)) is not None:
                yield made
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{name}:{number}: this line of the trace cannot be read: {error}.") from None


def _of_model(rows: Iterable[Mapping[str, str]], model: str | None) -> Iterable[Mapping[str, str]]:
    return (row for row in rows if model is None or row.get("model", model) == model)


def _mooncake(lines: Iterable[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            yield row["timestamp"] / 1000, max(1, int(row["input_length"])), max(1, int(row["output_length"]))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{name}:{number}: this line of the trace cannot be read: {error}.") from None


def _azure(row: Mapping[str, str]) -> Row:
    # 100 ns digits and a zone in some files, which fromisoformat does not take; all times of one file are in one zone.
    when = datetime.fromisoformat(row["TIMESTAMP"][:26])
    seconds = (when - datetime(2020, 1, 1)).total_seconds()
    return seconds, int(row["ContextTokens"]), max(1, int(row["GeneratedTokens"]))


def _burstgpt(row: Mapping[str, str]) -> Row | None:
    # No answer: a request that failed there.
    output = int(row["Response tokens"])
    return (float(row["Timestamp"]), max(1, int(row["Request tokens"])), output) if output else None


def _own(row: Mapping[str, str]) -> Row:
    # An empty cell: an engine that told no counts, or a request that was refused.
    return float(row["timestamp"]), max(1, int(row["input_tokens"] or 1)), max(1, int(row["output_tokens"] or 1))


_KINDS: Mapping[tuple[str, ...], _Reader] = {
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): _azure,
    ("Timestamp", "Request tokens", "Response tokens"): _burstgpt,
    ("timestamp", "input_tokens", "output_tokens"): _own,
}


def _trace(rows: Iterable[Row], name: str, spread: float = 0.0) -> Trace:
    """Rows in order of arrival, from 0 on; batches at one time spread over `spread` seconds."""
    found = sorted(_spread(rows, spread) if spread else _bounded(rows, name))
    if not found:
        raise UsageError(f"{name}: there are no requests in it.")
    start = found[0][0]
    made = Trace()
    for at, prompt, output in found:
        made.at.append(at - start)
        made.prompt.append(prompt)
        made.output.append(output)
    return made


def _bounded(rows: Iterable[Row], name: str) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number >= MOST_REQUESTS:
            raise UsageError(f"{name}: more than {MOST_REQUESTS:,} requests.", "Take a part of it.")
        yield row


def _spread(rows: Iterable[Row], seconds: float) -> Iterator[Row]:
    """Requests of one time one after another: as many of them as there are, evenly over the batch's seconds.

    Times that are not shared by several requests stay: those files say when each came.
    """
    batches: dict[float, list[Row]] = {}
    for row in rows:
        batches.setdefault(row[0], []).append(row)
    for at, batch in batches.items():
        for place, (_, prompt, output) in enumerate(batch):
            yield at + place * seconds / len(batch), prompt, output
