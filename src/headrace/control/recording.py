"""The history's file (history.py): its version, bringing it up to date to be written, and reading it whatever version it has."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from headrace.errors import HeadraceError

VERSION = 1
"""Of the tables below, SQLite's `user_version`. Files from before there were versions have 0."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (at REAL NOT NULL, model TEXT NOT NULL, replica TEXT NOT NULL, status INTEGER NOT NULL,
  tokens_in INTEGER, tokens_out INTEGER, waited REAL NOT NULL, ttft REAL, seconds REAL NOT NULL, key TEXT, run REAL);
CREATE INDEX IF NOT EXISTS requests_at ON requests (at);
CREATE TABLE IF NOT EXISTS runs (run REAL PRIMARY KEY, served TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS policies (id INTEGER PRIMARY KEY, data TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS samples (at REAL NOT NULL, run REAL NOT NULL, model TEXT NOT NULL, seconds REAL NOT NULL,
  waiting REAL, running REAL, arrivals REAL, ready REAL, starting REAL, wanted REAL, tokens_in REAL, tokens_out REAL,
  ttft REAL, tpot REAL, policy INTEGER, sample TEXT, state TEXT);
CREATE INDEX IF NOT EXISTS samples_at ON samples (model, at);
CREATE TABLE IF NOT EXISTS decisions (at REAL NOT NULL, run REAL NOT NULL, model TEXT NOT NULL, before INTEGER NOT NULL,
  after INTEGER NOT NULL, granted INTEGER NOT NULL, move TEXT NOT NULL, reason TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS decisions_at ON decisions (at);
"""
"""`at` and `run` (when this Headrace began) are seconds since 1970; `seconds` of a sample is the time that it stands for.
`served` is the file, or the source, that the run served: models of two files may have the same name.
"""
_LATER = {"requests": ("key TEXT", "run REAL")}
"""Columns that files of earlier versions lack; what is in those stays, with nothing there."""
SERVED = "(?1 = '' OR IFNULL(run, 0) NOT IN (SELECT run FROM runs WHERE served <> ?1))"
"""The condition on rows of runs that served ?1, and of runs of which nobody noted what they served."""
LOCKED_SECONDS = 2.0
"""How long a writer waits for another one."""


def in_cache(root: str | os.PathLike[str]) -> Path:
    """Where the history is, in a cache."""
    return Path(root, "history", "history.db")


class LaterError(HeadraceError):
    """The file is of a later Headrace: it is neither written nor read, for what is in it may mean something else."""


def opened(file: Path) -> sqlite3.Connection:
    """The history in a file to be written, made when there is none, brought up to date when it is of an earlier version.

    Raises sqlite3.Error, OSError, LaterError.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=LOCKED_SECONDS)
    try:
        _check(connection, file)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(SCHEMA)
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """The history in a file as if it were of this version; nothing in it is changed. Raises HeadraceError."""
    if not file.is_file():
        raise HeadraceError(f"There is no history at {file}.", "headrace serve writes it while it runs; name another: --history.")
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            _check(connection, file)
            _complete(connection)
            yield connection
    except sqlite3.Error as error:
        raise HeadraceError(f"The history in {file} cannot be read: {error}.") from None


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check(connection: sqlite3.Connection, file: Path) -> None:
    version = _version(connection)
    if version > VERSION:
        raise LaterError(
            f"The history in {file} is of a later Headrace: its version is {version}, and this Headrace knows {VERSION}.",
            "Update this Headrace, or give it a history of its own: another HEADRACE_CACHE.",
        )


def _migrate(connection: sqlite3.Connection) -> None:
    if _version(connection) == VERSION:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # two gateways may start at once on one file
        for table in _LATER:
            for column in _missing(connection, table):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _complete(connection: sqlite3.Connection) -> None:
    """Put what the file lacks before it, in this connection's own memory: SQLite looks there first."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if there and "requests" not in there:
        raise sqlite3.DatabaseError("it is another program's")
    missing = {table: _missing(connection, table) for table in _LATER if table in there}
    connection.execute("PRAGMA temp_store = MEMORY")
    for statement in SCHEMA.split(";"):
        head, _, rest = statement.strip().partition(" IF NOT EXISTS ")
        if head == "CREATE TABLE" and rest.split()[0] not in there:
            connection.execute(f"CREATE TEMP TABLE {rest}")
    for table, columns in missing.items():
        if columns:
            nothing = ", ".join(f"NULL AS {column.split()[0]}" for column in columns)
            connection.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {nothing} FROM main.{table}")


def _missing(connection: sqlite3.Connection, table: str) -> list[str]:
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    return [column for column in _LATER[table] if column.split()[0] not in there]
