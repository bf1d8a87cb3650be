"""A replica's log is bounded whatever the replica writes and whatever the disk does."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.targets.logs import CUT, LONGEST_LINE, Log


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "chat-1.log", lines=5, file_bytes=1000)
    yield log
    log.finish()


def test_lines_come_in_pieces_of_any_size(log):
    for piece in (b"on", b"e\ntwo\r\nthr", b"", b"ee\nfour"):
        log.feed(piece)
    assert log.last(10) == ["one", "two", "three"]
    log.finish()
    assert log.last(2) == ["three", "four"]
    assert log.last(0) == []


def test_only_the_last_lines_stay_in_memory(log):
    log.feed(b"".join(b"line %d\n" % number for number in range(100)))
    assert log.last(10) == [f"line {number}" for number in range(95, 100)]


def test_the_files_are_bounded_and_hold_the_newest(log, tmp_path):
    for number in range(1000):
        log.feed(b"line %d\n" % number)
    log.finish()
    old, new = tmp_path / "chat-1.log.1", tmp_path / "chat-1.log"
    assert old.stat().st_size <= 1000
    assert new.stat().st_size <= 1000
    assert (old.read_text() + new.read_text()).endswith("line 998\nline 999\n")
    assert len(list(tmp_path.iterdir())) == 2


def test_ten_megabytes_without_an_end_are_one_cut_line(log):
    for _ in range(160):
        log.feed(os.urandom(65536).replace(b"\n", b" "))
        assert len(log._unfinished) <= 2 * LONGEST_LINE
    log.feed(b"the end of it\nnext\n")
    cut, after = log.last(5)
    assert cut.endswith(CUT.decode())
    assert len(cut) <= LONGEST_LINE + len(CUT)
    assert after == "next"


def test_garbage_cannot_take_hold_of_a_terminal(log):
    log.feed(b"\x1b[2J\xff\xfe\x00bell\x07\ttab\n")
    assert log.last(1) == ["\ufffd[2J\ufffd\ufffd\ufffdbell\ufffd\ttab"]


def test_a_secret_is_kept_nowhere(log, tmp_path):
    log.hide("s3cret")
    log.feed(b"key s3c")
    log.feed(b"ret!\n" + b"x" * (LONGEST_LINE - 3) + b"s3cret" + b"y" * 3 * LONGEST_LINE)
    log.finish()
    assert log.last(2)[0] == "key ***!"
    assert "s3c" not in "".join(log.last(9)) + (tmp_path / "chat-1.log").read_text()


def test_a_full_disk_is_noted_once_and_memory_goes_on():
    log = Log(Path("/dev/full"))
    log.feed(b"one\n")
    log.feed(b"two\nthree\n")
    log.finish()
    assert log.last(9) == ["one", "headrace: no more log in /dev/full: No space left on device", "two", "three"]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_how_the_bytes_are_cut_does_not_matter(tmp_path_factory, data, cuts):
    folder = tmp_path_factory.mktemp("logs")
    whole, pieces = Log(folder / "a.log"), Log(folder / "b.log")
    whole.feed(data)
    places = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(places):
        pieces.feed(data[start:end])
    for log in (whole, pieces):
        log.finish()
    assert whole.last(500) == pieces.last(500)
