"""The history's file: known by key and by what was served; of an earlier version read as it is, of a later one left alone."""

import csv
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from headrace.advice.history import observed
from headrace.control import history
from headrace.control.history import History, tidy
from headrace.control.recording import VERSION, LaterError, opened, reading
from headrace.control.replay import export, lengths, replayed
from headrace.dashboard.past import curves, tokens
from headrace.errors import HeadraceError
from headrace.traffic import Finished, Load


def load(running: int) -> Load:
    return Load("chat", 0, {"chat-1": running}, 0, 0, 0, 0, 0, 1.5, 0.2, 0)


def keyed(number: int, key: str | None) -> Finished:
    return Finished(float(number), "chat", "chat-1", 200, 10, number, 0.5, 0.6, 2.0, key)


def test_requests_are_known_by_their_key_and_by_what_was_served(tmp_path: Path) -> None:
    now = time.monotonic()  # curves end now
    for served, key in (("/a/headrace.yaml", "search"), ("/b/headrace.yaml", None)):
        one = History(tmp_path / "h.db", print, served)
        one.record([keyed(1, key)], (), {"chat": load(running=1)}, (), now)
        one.note("chat", 1, 2, "up", f"of {served}", now)
        one.close()
    assert export(tmp_path / "h.db", tmp_path / "t.csv") == 2
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text("utf-8").splitlines()))
    assert sorted((row["key"], row["served"]) for row in rows) == [("", "/b/headrace.yaml"), ("search", "/a/headrace.yaml")]
    for served in ("/a/headrace.yaml", "/b/headrace.yaml"):
        found = curves(tmp_path / "h.db", "chat", 3600, served)
        assert [why for _, _, why in found.decisions] == [f"of {served}"]
        assert len(found.columns["at"]) == 1
    assert len(curves(tmp_path / "h.db", "chat", 3600).decisions) == 2, "who does not say what is served sees all"


EARLIER = {
    "without keys, without runs": """
CREATE TABLE requests (at REAL NOT NULL, model TEXT NOT NULL, replica TEXT NOT NULL, status INTEGER NOT NULL,
  tokens_in INTEGER, tokens_out INTEGER, waited REAL NOT NULL, ttft REAL, seconds REAL NOT NULL);
""",
    "without versions": """
CREATE TABLE requests (at REAL NOT NULL, model TEXT NOT NULL, replica TEXT NOT NULL, status INTEGER NOT NULL,
  tokens_in INTEGER, tokens_out INTEGER, waited REAL NOT NULL, ttft REAL, seconds REAL NOT NULL, key TEXT, run REAL);
CREATE TABLE runs (run REAL PRIMARY KEY, served TEXT NOT NULL);
""",
}
SAMPLES = """
CREATE TABLE policies (id INTEGER PRIMARY KEY, data TEXT NOT NULL UNIQUE);
CREATE TABLE samples (at REAL NOT NULL, run REAL NOT NULL, model TEXT NOT NULL, seconds REAL NOT NULL,
  waiting REAL, running REAL, arrivals REAL, ready REAL, starting REAL, wanted REAL, tokens_in REAL, tokens_out REAL,
  ttft REAL, tpot REAL, policy INTEGER, sample TEXT, state TEXT);
"""
BEFORE = """
CREATE TABLE requests (at REAL NOT NULL, model TEXT NOT NULL, replica TEXT NOT NULL, status INTEGER NOT NULL,
  tokens_in INTEGER, tokens_out INTEGER, waited REAL NOT NULL, ttft REAL, seconds REAL NOT NULL);
CREATE TABLE decisions (at REAL NOT NULL, run REAL NOT NULL, model TEXT NOT NULL, before INTEGER NOT NULL,
  after INTEGER NOT NULL, granted INTEGER NOT NULL, move TEXT NOT NULL, reason TEXT NOT NULL);
"""
"""Requests as they were kept before they had keys and runs."""


def test_a_recording_of_before_is_brought_up_to_date_and_loses_nothing(tmp_path: Path) -> None:
    file, now = tmp_path / "h.db", time.time()
    with sqlite3.connect(file) as connection:
        connection.executescript(BEFORE)
        connection.executemany("INSERT INTO requests VALUES (?, 'chat', 'chat-1', 200, 1, 2, 0, 0, 1)", [(now,)] * 3)
        connection.execute("INSERT INTO decisions VALUES (?, ?, 'chat', 1, 2, 2, 'up', 'long ago')", (now, now))
    connection.close()
    assert export(file, tmp_path / "t.csv") == 3, "it is read as it is"
    one = History(file, print, "/a/headrace.yaml")
    one.record([keyed(1, "search")], (), {}, (), 1.0)
    one.close()
    assert export(file, tmp_path / "t.csv") == 4
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text("utf-8").splitlines()))
    assert sorted(row["key"] for row in rows) == ["", "", "", "search"]
    assert curves(file, "chat", 3600, "/a/headrace.yaml").decisions, "of which file it was nobody knows: it is shown"


def test_two_that_bring_a_recording_up_to_date_at_once_both_can(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "h.db") as connection:
        connection.executescript(BEFORE)
    connection.close()
    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(lambda: opened(tmp_path / "h.db").close()) for _ in range(8)]:
            each.result()
    one = History(tmp_path / "h.db", print)
    one.record([keyed(1, "search")], (), {}, (), 1.0)
    one.close()
    assert export(tmp_path / "h.db", tmp_path / "t.csv") == 1


def test_runs_are_forgotten_with_what_is_known_of_them(tmp_path: Path) -> None:
    connection, now = opened(tmp_path / "h.db"), 1e9
    old = now - history.KEPT_SECONDS - 1
    connection.executemany("INSERT INTO runs VALUES (?, 'f.yaml')", [(old,), (old - 1,), (now,)])
    connection.execute(f"INSERT INTO samples VALUES ({now - 10}, {old}, 'chat', 1, {'NULL,' * 12} NULL)")
    tidy(connection, now)
    assert [row[0] for row in connection.execute("SELECT run FROM runs ORDER BY run")] == [old, now]
    connection.close()


PLANNED = {"engine": "llamacpp", "slots": 2, "most": 1, "sleeps": False}
STATUS = {"served": "/a/headrace.yaml", "models": [{"name": "chat", "aliases": [], "planned": PLANNED, "context": 128}]}


def digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("tables", EARLIER.values(), ids=EARLIER)
def test_a_recording_of_before_is_read_by_every_reader_and_not_changed(tmp_path: Path, tables: str) -> None:
    """A file that somebody copied from another machine: `--history FILE` reads it, and leaves it as it is."""
    file, now = tmp_path / "old #1.db", time.time()  # a name that means something else in an address
    with sqlite3.connect(file) as connection:
        connection.executescript(tables + SAMPLES)
        columns = "at, model, replica, status, tokens_in, tokens_out, waited, seconds"
        connection.execute(f"INSERT INTO requests ({columns}) VALUES (?, 'chat', 'chat-1', 200, 11, 7, 0, 1)", (now,))
        connection.execute("INSERT INTO samples (at, run, model, seconds, waiting, running, ready, tokens_out) "
                           "VALUES (?, 1, 'chat', 1, 0, 1, 1, 7)", (now,))  # fmt: skip
    connection.close()
    before = digests(tmp_path)
    seen = observed(STATUS, file, "chat", now - 60, now + 60)[0]
    assert [one.tokens_in for one in seen.requests] == [11]
    assert [one.ready for one in seen.samples] == [1]
    assert lengths(file, "/a/headrace.yaml", "chat") == [(now, 11, 7, 1.0)]
    assert list(replayed(file)) == []
    assert curves(file, "chat", 3600, "/a/headrace.yaml").missing == "", "decisions were not kept yet: there are none"
    assert tokens(file, "/a/headrace.yaml", "chat")[0] == 7
    assert digests(tmp_path) == before


def later(tmp_path: Path) -> Path:
    """What a Headrace of next year may leave."""
    opened(tmp_path / "h.db").close()
    with sqlite3.connect(tmp_path / "h.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.execute("ALTER TABLE requests RENAME COLUMN waited TO held")
    connection.close()
    return tmp_path / "h.db"


def test_a_recording_of_a_later_headrace_is_left_alone_and_that_is_said_once(tmp_path: Path) -> None:
    file, said = later(tmp_path), list[str]()
    one = History(file, said.append)
    for number in range(3):
        one.record([keyed(number, None)], (), {}, (), float(number))
        until = time.monotonic() + 5
        while not one._queue.empty() and time.monotonic() < until:
            time.sleep(0.01)
    one.close()
    (only,) = said
    assert f"its version is {VERSION + 1}, and this Headrace knows {VERSION}" in only
    assert "Update this Headrace" in only
    assert "nothing is recorded" in only
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT COUNT(*) FROM requests").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
    connection.close()
    assert not (tmp_path / "h.db.damaged").exists()


def test_no_reader_guesses_at_a_recording_of_a_later_headrace(tmp_path: Path) -> None:
    file = later(tmp_path)
    for read in (lambda: observed(STATUS, file, None, 0, 1), lambda: list(replayed(file)), lambda: lengths(file, "", "chat")):
        with pytest.raises(LaterError, match="of a later Headrace"):
            read()
    assert "of a later Headrace" in curves(file, "chat", 3600).missing


def test_the_database_of_another_program_is_no_history(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cookies.db") as connection:
        connection.execute("CREATE TABLE cookies (host TEXT)")
    connection.close()
    with pytest.raises(HeadraceError, match="another program's"), reading(tmp_path / "cookies.db"):
        pass


def test_who_ends_goes_on_writing_when_a_later_one_has_added_a_column(tmp_path: Path) -> None:
    """A takeover: both write the same file for as long as the first one drains."""
    said: list[str] = []
    one = History(tmp_path / "h.db", said.append)
    one.record([keyed(1, None)], (), {"chat": load(running=1)}, (), 1.0)
    until = time.monotonic() + 10
    while not (tmp_path / "h.db").exists() or not lengths(tmp_path / "h.db", "", "chat"):
        assert time.monotonic() < until
        time.sleep(0.01)
    with sqlite3.connect(tmp_path / "h.db") as connection:
        for table in ("requests", "samples", "decisions"):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN more TEXT")
    connection.close()
    one.record([keyed(2, None)], (), {"chat": load(running=1)}, (), 100.0)
    one.note("chat", 1, 2, "up", "why", 100.0)
    one.close()
    assert not said
    assert export(tmp_path / "h.db", tmp_path / "t.csv") == 2
