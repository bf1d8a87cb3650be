"""What happened is kept, and a disk that fails is said once and stops nothing."""

import csv
import sqlite3
import time
from pathlib import Path

import pytest
from recorded import lived

from headrace.control import history, recording
from headrace.control.history import FULL_SECONDS, History, tidy
from headrace.control.recording import opened
from headrace.control.replay import TRACE_COLUMNS, export, replayed
from headrace.errors import HeadraceError


def test_requests_become_a_trace(tmp_path: Path) -> None:
    one = History(tmp_path / "h.db", print)
    lived(one, 5)
    one.close()
    assert export(tmp_path / "h.db", tmp_path / "trace.csv") == 5
    rows = list(csv.DictReader((tmp_path / "trace.csv").read_text("utf-8").splitlines()))
    assert tuple(rows[0]) == TRACE_COLUMNS
    assert [row["output_tokens"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert abs(float(rows[-1]["timestamp"]) - float(rows[0]["timestamp"]) - 4) < 1e-3


def test_samples_say_what_a_dashboard_draws(tmp_path: Path) -> None:
    one = History(tmp_path / "h.db", print)
    lived(one, 60)
    one.close()
    with sqlite3.connect(tmp_path / "h.db") as connection:
        row = connection.execute("SELECT SUM(tokens_out), MAX(waiting), MAX(ready), AVG(ttft) FROM samples").fetchone()
        decisions = connection.execute("SELECT model, before, after, move, reason FROM decisions").fetchall()
    connection.close()
    assert row[0] > 0
    assert row[1] == 5
    assert row[2] >= 3
    assert row[3] == pytest.approx(0.2)
    assert decisions[0][:4] == ("chat", 0, 1, "wake")
    assert "waiting" in decisions[0][4]


def test_old_samples_become_minutes_and_older_ones_go(tmp_path: Path) -> None:
    connection = opened(tmp_path / "h.db")
    now = 1e9
    rows = [
        (now - FULL_SECONDS - 600 + second, 0.0, "chat", 1.0, second % 2, *[1.0] * 9, None, "{}", None) for second in range(120)
    ]
    rows.append((now - 100 * 86_400, 0.0, "chat", 60, *[1.0] * 10, None, None, None))
    rows.append((now - 10, 0.0, "chat", 1.0, *[1.0] * 10, None, "{}", None))
    connection.executemany(f"INSERT INTO samples VALUES ({','.join('?' * 17)})", rows)
    connection.execute("INSERT INTO requests VALUES (?, 'chat', '', 200, 1, 1, 0, 0, 0, NULL, NULL)", (now - 40 * 86_400,))
    tidy(connection, now)
    tidy(connection, now)  # a second time changes nothing
    left = connection.execute("SELECT seconds, waiting, tokens_in, sample FROM samples ORDER BY at").fetchall()
    assert [row[0] for row in left[:-1]] == [60] * (len(left) - 1)
    assert sum(row[2] for row in left[:-1]) == 120, "sums are kept"
    assert left[0][1] == pytest.approx(0.5)
    assert left[-1] == (1.0, 1.0, 1.0, "{}")
    assert connection.execute("SELECT COUNT(*) FROM requests").fetchone() == (0,)
    connection.close()


def unwritable(folder: Path) -> Path:
    (folder / "file").write_text("not a folder")
    return folder / "file" / "h.db"


def damaged(folder: Path) -> Path:
    (folder / "h.db").write_bytes(b"this is no database, and it is longer than a header of SQLite's would be" * 50)
    return folder / "h.db"


@pytest.mark.parametrize(("file", "words"), [(unwritable, "Serving goes on without"), (damaged, "set aside, and a new one")])
def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path, file: object, words: str) -> None:
    said: list[str] = []
    where = file(tmp_path)  # type: ignore[operator]
    one = History(where, said.append)
    for _ in range(3):
        lived(one, 10)
        until = time.monotonic() + 5
        while not one._queue.empty() and time.monotonic() < until:
            time.sleep(0.01)
    one.close()
    assert len(said) == 1
    assert words in said[0]
    assert str(where) in said[0]


def test_after_damage_what_comes_later_is_kept(tmp_path: Path) -> None:
    file = damaged(tmp_path)
    one = History(file, lambda text: None)
    lived(one, 10)
    one.close()
    two = History(file, lambda text: None)
    lived(two, 10)
    two.close()
    assert (tmp_path / "h.db.damaged").exists()
    assert list(replayed(file))


def test_a_full_disk_is_said_once_and_nothing_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit of pages gives the same error as a disk that is full."""

    def small(file: Path) -> sqlite3.Connection:
        connection = opened(file)
        connection.execute("PRAGMA max_page_count = 12")
        return connection

    monkeypatch.setattr(history, "opened", small)
    said: list[str] = []
    one = History(tmp_path / "h.db", said.append)
    lived(one, 2000)
    one.close()
    assert len(said) == 1
    assert "full" in said[0]


def test_a_locked_file_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LOCKED_SECONDS", 0.05)
    opened(tmp_path / "h.db").close()
    holder = sqlite3.connect(tmp_path / "h.db")
    holder.execute("BEGIN EXCLUSIVE")
    said: list[str] = []
    one = History(tmp_path / "h.db", said.append)
    assert len(lived(one, 300)) > 100, "every step came back"
    one.close()
    holder.rollback()
    holder.close()
    assert len(said) == 1
    assert "locked" in said[0]


def test_without_a_history_there_is_an_error_that_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="There is no history"):
        list(replayed(tmp_path / "none.db"))
    (tmp_path / "bad.db").write_text("nothing of SQLite's" * 100)
    with pytest.raises(HeadraceError, match="cannot be read"):
        list(replayed(tmp_path / "bad.db"))
    opened(tmp_path / "h.db").close()
    with pytest.raises(HeadraceError, match=r"neither \.csv nor"):
        export(tmp_path / "h.db", tmp_path / "trace.txt")
