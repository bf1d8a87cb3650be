"""What happened, kept in SQLite: requests without anything they said, samples of each model's load, decisions with their numbers.

A thread of its own writes, so that the control loop never waits for a disk. Whatever goes wrong with the file is said once, and
serving goes on without. Samples keep all that a policy was given for `FULL_SECONDS`, so that its decisions can be replayed
(replay.py); older ones become one row a minute.
"""

import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from headrace.control.autoscale import Verdict
from headrace.control.recording import LaterError, opened
from headrace.targets.base import Replica, State
from headrace.traffic import Finished, Load

FULL_SECONDS = 2 * 86_400.0
"""How long samples are kept as they were taken."""
KEPT_SECONDS = 90 * 86_400.0
"""How long decisions and minutes are kept."""
REQUESTS_SECONDS = 30 * 86_400.0
MOST_REQUESTS = 2_000_000
"""How long, and how many, requests are kept: about 120 bytes each."""
USED_SECONDS, UNUSED_SECONDS = 5.0, 60.0
"""How often models of a fixed number of replicas are sampled, used and not."""
CHECKPOINT = 100
"""Of every so many samples of a model one has what its policy remembered, too: a replay can begin there. So has each before which
the policy remembered nothing.
"""
_TIDY_SECONDS = 3600.0
_MOST_BATCHES = 2000
_CLOSE_SECONDS = 5.0
_WITHOUT = "Serving goes on without: nothing is recorded."

COLUMNS = {
    "requests": "at, model, replica, status, tokens_in, tokens_out, waited, ttft, seconds, key, run",
    "decisions": "at, run, model, before, after, granted, move, reason",
    "samples": "at, run, model, seconds, waiting, running, arrivals, ready, starting, wanted, tokens_in, tokens_out, ttft, tpot, "
    "policy, sample, state",
}
"""Columns are written by name: a Headrace that takes over while this one ends may have added others to the same file."""


@dataclass(frozen=True, slots=True)
class _Batch:
    requests: list[tuple[Any, ...]]
    samples: list[tuple[Any, ...]]
    decisions: list[tuple[Any, ...]]


class History:
    """A Recorder (see loop.py) that keeps everything in `file`. `say` tells the user when that is not possible; `served` is
    where the models come from, a file or a source.
    """

    def __init__(self, file: Path, say: Callable[[str], None], served: str = "") -> None:
        self._file, self._say, self._served = file, say, served
        self._run = time.time()
        self._queue: queue.Queue[_Batch | None] = queue.Queue(_MOST_BATCHES)
        self._taken: dict[str, float] = {}
        self._counted: dict[str, tuple[int, int]] = {}
        self._until: dict[str, int] = {}
        """Samples of a model before the next with what its policy remembered. Cleared, also by the thread, when some are lost."""
        self._told = False
        self._thread = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._thread.start()

    def record(
        self,
        requests: Sequence[Finished],
        verdicts: Sequence[Verdict],
        loads: Mapping[str, Load],
        replicas: Sequence[Replica],
        now: float,
    ) -> None:
        """Keep these. Never waits: what the thread cannot keep up with is dropped."""
        wall = _wall()
        samples = [*self._given(verdicts, loads, now), *self._plain({one.model for one in verdicts}, loads, replicas, now)]
        batch = _Batch(
            [(one.arrived + wall, *one[1:-1], self._run) for one in requests],
            [(now + wall, self._run, *sample) for sample in samples],
            [(now + wall, self._run, *_decision(one)) for one in verdicts if one.changed],
        )
        if batch.requests or batch.samples or batch.decisions:
            self._put(batch)

    def note(self, model: str, before: int, after: int, move: str, reason: str, now: float) -> None:
        """Keep a decision that no policy made."""
        self._put(_Batch([], [], [(now + _wall(), self._run, model, before, after, after, move, reason)]))

    def close(self) -> None:
        """Write what is left; waits a few seconds at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        self._thread.join(_CLOSE_SECONDS)

    def _put(self, batch: _Batch) -> None:
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            self._until.clear()

    # ---- rows, without when and of which run they are

    def _given(self, verdicts: Sequence[Verdict], loads: Mapping[str, Load], now: float) -> Iterator[tuple[Any, ...]]:
        """What policies were given."""
        for one in verdicts:
            sample = one.sample
            counts = (sample.waiting, sample.running, sample.arrivals, sample.ready, sample.starting, one.decision.replicas)
            left = self._until.get(one.model, 0)
            self._until[one.model] = left - 1 if left else CHECKPOINT - 1
            state = None if left and one.state is not None else _text(one.state)  # JSON's null: it remembered nothing
            kept = (_text(one.policy), _text(sample), state)
            yield self._row(one.model, counts, loads.get(one.model), now, kept)

    def _plain(
        self, without: set[str], loads: Mapping[str, Load], replicas: Sequence[Replica], now: float
    ) -> Iterator[tuple[Any, ...]]:
        """Models that no policy was asked about, now and then."""
        for name, load in loads.items():
            running = sum(load.running.values())
            every = USED_SECONDS if load.waiting or running else UNUSED_SECONDS
            if name in without or now - self._taken.get(name, float("-inf")) < every:
                continue
            own = [replica.state for replica in replicas if replica.model == name]
            starting = sum(state in (State.STARTING, State.LOADING) for state in own)
            counts = (load.waiting, running, None, own.count(State.READY), starting, None)
            yield self._row(name, counts, load, now, (None, None, None))

    def _row(
        self, model: str, counts: tuple[Any, ...], load: Load | None, now: float, kept: tuple[str | None, ...]
    ) -> tuple[Any, ...]:
        seconds = now - self._taken.get(model, now)
        self._taken[model] = now
        speed: tuple[Any, ...] = (None, None, None, None)
        if load is not None:
            before = self._counted.get(model, (load.tokens_in, load.tokens_out))
            self._counted[model] = (load.tokens_in, load.tokens_out)
            tokens = (load.tokens_in - before[0], load.tokens_out - before[1])
            speed = (*tokens, load.ttft_seconds, load.tpot_seconds)
        return (model, seconds, *counts, *speed, *kept)

    # ---- the thread

    def _write_all(self) -> None:
        connection: sqlite3.Connection | None = None
        tidied = float("-inf")
        over = False
        while not over:
            batches, over = self._next()
            try:
                connection = connection or self._opened()
                _write(connection, batches)
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    tidied = time.monotonic()
                    tidy(connection, time.time())
            except (sqlite3.Error, OSError, LaterError) as error:
                self._until.clear()
                self._trouble(error)
                _close(connection)
                connection = None
        _close(connection)

    def _opened(self) -> sqlite3.Connection:
        connection = opened(self._file)
        if self._served:
            with connection:
                connection.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (self._run, self._served))
        return connection

    def _next(self) -> tuple[list[_Batch], bool]:
        """What there is to write, at least something, and whether that is all."""
        found = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while len(found) < _MOST_BATCHES:
                found.append(self._queue.get_nowait())
        return [batch for batch in found if batch is not None], None in found

    def _trouble(self, error: Exception) -> None:
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        instead = "It is set aside, and a new one begun." if damaged and self._set_aside() else _WITHOUT
        if not self._told:
            self._told = True
            later = isinstance(error, LaterError)
            self._say(f"{error} {instead}" if later else f"The history in {self._file} cannot be written: {error}. {instead}")

    def _set_aside(self) -> bool:
        with contextlib.suppress(OSError):
            os.replace(self._file, self._file.with_name(self._file.name + ".damaged"))
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(str(self._file) + suffix)
            return True
        return False


def tidy(connection: sqlite3.Connection, now: float) -> None:
    """Turn old samples into minutes, and forget what is older than it is kept; `now` in seconds since 1970."""
    old = (now - FULL_SECONDS,)
    with connection:
        connection.execute(
            f"INSERT INTO samples ({COLUMNS['samples']}) "
            "SELECT CAST(at / 60 AS INTEGER) * 60, run, model, 60, AVG(waiting), AVG(running), "
            "SUM(arrivals), AVG(ready), AVG(starting), AVG(wanted), SUM(tokens_in), SUM(tokens_out), AVG(ttft), AVG(tpot), "
            "NULL, NULL, NULL FROM samples WHERE at < ? AND seconds <> 60 GROUP BY run, model, CAST(at / 60 AS INTEGER)",
            old,
        )
        connection.execute("DELETE FROM samples WHERE at < ? AND seconds <> 60", old)
        for table in ("samples", "decisions"):
            connection.execute(f"DELETE FROM {table} WHERE at < ?", (now - KEPT_SECONDS,))
        connection.execute("DELETE FROM requests WHERE at < ?", (now - REQUESTS_SECONDS,))
        surplus = connection.execute("SELECT MAX(0, COUNT(*) - ?) FROM requests", (MOST_REQUESTS,)).fetchone()[0]
        if surplus:
            chosen = "SELECT rowid FROM requests ORDER BY at LIMIT ?"
            connection.execute(f"DELETE FROM requests WHERE rowid IN ({chosen})", (surplus,))
        kept = "run NOT IN (SELECT run FROM samples) AND run NOT IN (SELECT run FROM decisions)"
        connection.execute(f"DELETE FROM runs WHERE run < ? AND {kept}", (now - KEPT_SECONDS,))


def _write(connection: sqlite3.Connection, batches: Sequence[_Batch]) -> None:
    with connection:
        for batch in batches:
            connection.executemany(_insert("requests"), batch.requests)
            connection.executemany(_insert("decisions"), batch.decisions)
            connection.executemany(_insert("samples"), [_numbered(connection, row) for row in batch.samples])


def _numbered(connection: sqlite3.Connection, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The sample's row with its policy's number in place of its text."""
    *head, policy, sample, state = row
    if policy is None:
        return row
    connection.execute("INSERT OR IGNORE INTO policies (data) VALUES (?)", (policy,))
    number = connection.execute("SELECT id FROM policies WHERE data = ?", (policy,)).fetchone()[0]
    return (*head, number, sample, state)


def _wall() -> float:
    """What makes monotonic seconds seconds since 1970, now: the one clock stands still while the machine sleeps, the other may be
    set.
    """
    return time.time() - time.monotonic()


def _decision(one: Verdict) -> tuple[Any, ...]:
    decision = one.decision
    return (one.model, one.before, decision.replicas, one.granted, decision.move, decision.reason)


def _insert(table: str) -> str:
    columns = COLUMNS[table]
    return f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * (columns.count(',') + 1))})"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
