"""Decisions that are made again from the history come out the same, whatever happened in between."""

import itertools
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded import PLAN, lived

from headrace.control import history
from headrace.control.history import History
from headrace.control.replay import replayed
from headrace.plan.base import Plan, PlannedModel


def test_decisions_made_again_are_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    one = History(tmp_path / "h.db", said.append)
    wanted = lived(one, 700)
    one.close()
    again = list(replayed(tmp_path / "h.db"))
    assert [each.recorded for each in again] == wanted
    assert [each.again for each in again] == wanted
    assert len(set(wanted)) >= 4, "the load was worth a test"
    assert not said


def test_a_replay_begins_at_a_checkpoint_when_the_beginning_is_gone(tmp_path: Path) -> None:
    one = History(tmp_path / "h.db", print)
    wanted = lived(one, 700)
    one.close()
    with sqlite3.connect(tmp_path / "h.db") as connection:
        first = connection.execute("SELECT MIN(at) FROM samples").fetchone()[0]
        connection.execute("DELETE FROM samples WHERE at < ?", (first + 150,))
    connection.close()
    again = [each.again for each in replayed(tmp_path / "h.db", "chat")]
    assert 0 < len(again) < len(wanted)
    assert again == wanted[-len(again) :]


def kept(file: Path) -> int:
    """How many samples can be replayed, as far as they are there."""
    with sqlite3.connect(file) as connection:
        found = connection.execute("SELECT COUNT(*) FROM samples WHERE sample IS NOT NULL").fetchone()[0]
    connection.close()
    return int(found)


CHAT = PLAN.models[0]


@pytest.mark.parametrize(
    "meanwhile",
    [replace(CHAT, replicas=(), refused="stopped by an administrator"), replace(CHAT, scale=None)],
    ids=["stopped", "of a fixed number"],
)
def test_a_policy_that_begins_anew_does_so_when_it_is_replayed(tmp_path: Path, meanwhile: PlannedModel) -> None:
    one = History(tmp_path / "h.db", print)
    wanted = lived(one, 300, lambda step: replace(PLAN, models=(meanwhile,)) if 100 <= step < 115 else PLAN)
    one.close()
    again = list(replayed(tmp_path / "h.db"))
    assert [each.recorded for each in again] == wanted
    assert [each.again for each in again] == wanted


def test_a_recording_in_which_beginnings_are_not_marked_is_replayed_from_its_first_sample(tmp_path: Path) -> None:
    """As they were written before."""
    one = History(tmp_path / "h.db", print)
    wanted = lived(one, 150)
    one.close()
    with sqlite3.connect(tmp_path / "h.db") as connection:
        assert connection.execute("UPDATE samples SET state = NULL WHERE state = 'null'").rowcount == 1
    connection.close()
    assert [each.again for each in replayed(tmp_path / "h.db")] == wanted


def test_where_samples_are_missing_the_replay_goes_on_at_the_next_checkpoint(tmp_path: Path) -> None:
    one = History(tmp_path / "h.db", print)
    lived(one, 700)
    one.close()
    with sqlite3.connect(tmp_path / "h.db") as connection:
        first = connection.execute("SELECT MIN(at) FROM samples").fetchone()[0]
        connection.execute("DELETE FROM samples WHERE at BETWEEN ? AND ?", (first + 250, first + 330))
        query = "SELECT MIN(at) FROM samples WHERE state IS NOT NULL AND at > ?"
        after = connection.execute(query, (first + 330,)).fetchone()[0]
    connection.close()
    again = list(replayed(tmp_path / "h.db"))
    assert [each.again for each in again] == [each.recorded for each in again]
    assert not [each for each in again if first + 330 < each.at < after]
    assert after in [each.at for each in again]


def test_after_a_write_that_failed_the_replay_goes_on_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full while the load grew."""
    lost, over, batches, write = range(260, 330), threading.Event(), itertools.count(), history._write

    def full_for_a_while(connection: sqlite3.Connection, one_at_a_time: Any) -> None:
        batch = next(batches)
        if batch in lost:
            raise sqlite3.OperationalError("database or disk is full")
        if batch == lost.stop:
            over.set()
        write(connection, one_at_a_time)

    def plan_at(step: int) -> Plan:
        assert step != lost.stop + 1 or over.wait(30)  # else all steps may be over before the first is written
        return PLAN

    one = History(tmp_path / "h.db", lambda text: None)
    monkeypatch.setattr(history, "_MOST_BATCHES", 1)
    monkeypatch.setattr(history, "_write", full_for_a_while)
    wanted = lived(one, 700, plan_at)
    one.close()
    again = list(replayed(tmp_path / "h.db"))
    assert [each.again for each in again] == [each.recorded for each in again]
    assert kept(tmp_path / "h.db") == len(wanted) - len(lost)
    assert len(again) >= kept(tmp_path / "h.db") - 1, "all but the one that came before the loss was known"


def test_what_a_slow_disk_left_out_is_no_part_of_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, through, write = threading.Event(), threading.Event(), history._write

    def slow(connection: sqlite3.Connection, batches: Any) -> None:
        assert free.wait(30)
        write(connection, batches)
        if one._queue.empty():
            through.set()

    def plan_at(step: int) -> Plan:
        if step == 500:  # it sleeps by now
            free.set()
            assert through.wait(30)
        return PLAN

    monkeypatch.setattr(history, "_MOST_BATCHES", 50)
    monkeypatch.setattr(history, "_write", slow)
    one = History(tmp_path / "h.db", print)
    wanted = lived(one, 700, plan_at)
    one.close()
    again = list(replayed(tmp_path / "h.db"))
    assert [each.again for each in again] == [each.recorded for each in again]
    assert len(again) == kept(tmp_path / "h.db") < len(wanted) - 100, "all that was kept, and that is not all"


class Clock:
    """A clock of the wall that can be set, and a monotonic one that does not follow."""

    def __init__(self) -> None:
        self.wall = 1.8e9

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return 0.0


@pytest.mark.parametrize("seconds", [8 * 3600.0, -3600.0], ids=["the machine slept", "the clock was set back"])
def test_times_are_by_the_clock_on_the_wall_and_decisions_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(history, "time", clock)

    def plan_at(step: int) -> Plan:
        clock.wall += seconds if step == 200 else 0.0
        return PLAN

    one = History(tmp_path / "h.db", print)
    wanted = lived(one, 400, plan_at)
    one.note("chat", 1, 2, "by_hand", "said last", 1400.0)
    one.close()
    again = list(replayed(tmp_path / "h.db"))
    assert [each.again for each in again] == wanted
    assert again[-1].at - again[0].at == pytest.approx(399 + seconds, abs=10), "an unused model is looked at every 5 s here"
    with sqlite3.connect(tmp_path / "h.db") as connection:
        (began, ended), (last,) = (
            connection.execute("SELECT at FROM requests WHERE tokens_out IN (0, 399) ORDER BY rowid").fetchall(),
            connection.execute("SELECT at FROM decisions WHERE reason = 'said last'").fetchall(),
        )
    connection.close()
    assert ended[0] - began[0] == 399 + seconds
    assert last[0] == 1.8e9 + seconds + 1400


def test_two_runs_are_replayed_each_from_its_own_beginning(tmp_path: Path) -> None:
    for _ in range(2):
        one = History(tmp_path / "h.db", print)
        lived(one, 150)
        one.close()
    again = list(replayed(tmp_path / "h.db"))
    assert again
    assert all(each.recorded == each.again for each in again)
