"""Starts on record: what is expected of the next one."""

from pathlib import Path

from headrace.starts import LAST, MOST_BYTES, Starts
from headrace.targets.base import StartTimes


def started(seconds: float, weights: str = "/w/a.gguf") -> StartTimes:
    return StartTimes("llamacpp", weights, seconds, 0.5)


def test_the_median_of_the_last_starts_is_expected(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "history" / "starts.jsonl")
    for seconds in (100.0, *range(1, LAST + 1)):  # the first is too long ago
        starts.keep(started(float(seconds)))
    starts.keep(started(7.0, "/w/b.gguf"))
    assert starts.expected() == {("llamacpp", "/w/a.gguf"): (5.5, LAST), ("llamacpp", "/w/b.gguf"): (7.5, 1)}


def test_lines_that_are_not_ours_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "starts.jsonl"
    file.write_text('{"engine": "x"}\nnot json\n[1]\n', "utf-8")
    starts = Starts(file)
    assert starts.expected() == {}
    starts.keep(started(1.0))
    assert len(starts.expected()) == 1


def test_the_file_does_not_grow_without_end(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starts.jsonl")
    line = "/w/" + "a" * 1000
    for _ in range(600):
        starts.keep(started(1.0, line))
    assert (tmp_path / "starts.jsonl").stat().st_size <= MOST_BYTES
    assert starts.expected()[("llamacpp", line)] == (1.5, LAST)


def test_a_place_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    starts = Starts(tmp_path / "file" / "starts.jsonl")
    starts.keep(started(1.0))
    assert starts.expected() == {}
