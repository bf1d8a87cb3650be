"""Lines reach their file whole, follow it when it is renamed, and are lost and counted rather than waited for."""

import fcntl
import os
import threading
import time

import pytest

from headrace.errors import UsageError
from headrace.gateway import line_writer
from headrace.gateway.access_log import AccessLog
from headrace.gateway.line_writer import LineWriter


@pytest.fixture
def writer(tmp_path):
    """`writer(where)` makes one, which is closed after the test; `writer.said` is what it complained of."""
    made = []

    def make(where=None):
        made.append(LineWriter(str(where or tmp_path / "log"), make.said.append, "access log"))
        return made[-1]

    make.said = []
    yield make
    for one in made:
        one.close()


def soon(true, what):
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until, f"not within 10 s: {what}"
        time.sleep(0.005)


def test_lines_are_in_the_file_in_their_order_and_nobody_else_may_read_it(tmp_path, writer):
    one = writer()
    for number in range(1000):
        one.write(b"line %d\n" % number)
    one.close()
    assert (tmp_path / "log").read_bytes() == b"".join(b"line %d\n" % number for number in range(1000))
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    assert one.lost == 0


@pytest.mark.parametrize("moves", ["renamed", "deleted"])
def test_a_file_that_was_moved_is_made_anew(tmp_path, writer, moves):
    """logrotate without a signal."""
    one, log = writer(), tmp_path / "log"
    one.write(b"old\n")
    one.flush()
    soon(lambda: log.read_bytes() == b"old\n", "the first line is written")
    os.rename(log, tmp_path / "log.1") if moves == "renamed" else os.unlink(log)
    one.write(b"new\n")
    one.flush()
    soon(lambda: log.exists() and log.read_bytes() == b"new\n", "the second line is in a new file")
    assert moves == "deleted" or (tmp_path / "log.1").read_bytes() == b"old\n"


def test_asked_to_it_opens_the_file_anew_before_there_is_a_line(tmp_path, writer):
    one, log = writer(), tmp_path / "log"
    os.rename(log, tmp_path / "log.1")
    one.reopen()
    soon(log.exists, "there is a new file")


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(line_writer, "PENDING_BYTES", 200_000)
    monkeypatch.setattr(line_writer, "CLOSE_SECONDS", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    one = writer(pipe)
    line = b"x" * 999 + b"\n"
    for _ in range(1000):
        one.write(line)
    assert 780 <= one.lost < 1000, "what is beyond the bound is lost at once"
    one.close()  # returns although the thread is stuck in the pipe
    os.set_blocking(reader, True)
    got = b""
    while got.count(b"\n") < 1000 - one.lost:
        got += os.read(reader, 65536)
    assert got == line * (1000 - one.lost), "and what was taken is whole"
    os.close(reader)


def test_a_reader_that_left_costs_lines_which_are_counted_and_said_once(tmp_path, writer):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    one = writer(pipe)
    os.close(reader)
    for number in range(3):
        one.write(b"line\n")
        one.flush()
        soon(lambda: one.lost == number + 1, "each is counted")  # noqa: B023
    assert len(writer.said) == 1
    assert "cannot be written" in writer.said[0]


def test_a_full_disk_costs_lines_and_later_ones_are_whole_again(tmp_path, writer, monkeypatch):
    """A write that a full disk cuts in two: what follows begins on a line of its own."""
    one, room = writer(), [7]
    real = os.write

    def full(file, data):
        if file != one._file:
            return real(file, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = real(file, data[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(line_writer.os, "write", full)
    one.write(b"one\n")
    one.write(b"two, which is cut\n")
    one.flush()
    soon(lambda: one.lost == 1, "the second is lost")
    room[0] = 1000
    one.write(b"three\n")
    one.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\nthree\n"
    assert one.lost == 1
    assert writer.said == [
        "The access log cannot be written: No space left on device. Its lines are lost until it can; requests go on."
    ]


@pytest.mark.parametrize("where", ["no/such/folder/log", "."])
def test_what_cannot_be_written_is_said_at_the_start(tmp_path, where):
    before = threading.active_count()
    with pytest.raises(UsageError, match=r"gateway\.log: .* cannot be written"):
        AccessLog(str(tmp_path / where), print)
    assert threading.active_count() == before
