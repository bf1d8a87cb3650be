"""The history as curves: few points, gaps where nobody watched, words where there is none."""

import time
from pathlib import Path

import pytest

from headrace.control.recording import opened
from headrace.dashboard.past import POINTS, SPANS, curves, tokens


def sample(at: float, waiting: float, seconds: float = 1.0) -> tuple[object, ...]:
    return (at, 0.0, "chat", seconds, waiting, 1, None, 1, 0, 1, 5, 10, 0.1, 0.01, None, None, None)


def written(file: Path, rows: list[tuple[object, ...]]) -> Path:
    connection = opened(file)
    with connection:
        connection.executemany(f"INSERT INTO samples VALUES ({', '.join('?' * 17)})", rows)
        connection.execute("INSERT INTO decisions VALUES (?, 0, 'chat', 1, 3, 2, 'up', 'many wait')", (time.time() - 5,))
    connection.close()
    return file


@pytest.mark.parametrize("span", SPANS)
def test_any_span_is_a_bounded_number_of_points_that_keep_the_peak(tmp_path: Path, span: str) -> None:
    now, step = time.time(), SPANS[span] / 4000
    file = written(tmp_path / "h.db", [sample(now - step * i, 99 if i == 7 else 1, step) for i in range(1, 4000)])
    found = curves(file, "chat", SPANS[span])
    assert 10 < len(found.columns["at"]) <= POINTS + 1
    assert max(value or 0 for value in found.columns["waiting"]) == 99
    assert {len(column) for column in found.columns.values()} == {len(found.columns["at"])}
    assert [(what, why) for _, what, why in found.decisions] == [("1 → 3 (memory for 2 then)", "many wait")]
    assert not found.missing


def test_where_nobody_watched_is_a_gap(tmp_path: Path) -> None:
    now = time.time()
    file = written(tmp_path / "h.db", [sample(now - at, 1) for at in (800, 799, 100, 99)])
    assert None in curves(file, "chat", SPANS["15m"]).columns["ready"]


def test_without_a_history_or_with_a_damaged_one_the_page_is_told_why(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database, but long enough to look like a file" * 100)
    for file, word in ((None, "No history"), (tmp_path / "none.db", "No history"), (damaged, "cannot be read")):
        found = curves(file, "chat", 900)
        assert word in found.missing
        assert found.columns["at"] == []


def test_tokens_are_counted_over_the_time_that_was_recorded(tmp_path: Path) -> None:
    now = time.time()
    file = written(tmp_path / "h.db", [sample(now - 1800 + i, 0) for i in range(100)] + [sample(now - 9000, 0)])
    count, seconds = tokens(file, "")
    assert count == 1000  # 10 each, and not those of two hours ago
    assert seconds == pytest.approx(1800, abs=5)
    assert tokens(file, "", "chat")[0] == 1000
    assert tokens(file, "", "other") == (0, 0.0)
    assert tokens(tmp_path / "none.db", "") == tokens(None, "") == (0, 0.0)
