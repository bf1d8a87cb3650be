"""Lines, written to a file or a pipe by a thread of its own: past a bound they are lost and counted, and nobody waits."""

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import NamedTuple

STDOUT = "stdout"
PENDING_BYTES = 8 * 1024 * 1024
"""Bytes that may wait to be written; past it lines are lost."""
BATCH_BYTES = 64 * 1024
"""Bytes that are handed over at once, at the latest; fewer at each `flush`."""
CLOSE_SECONDS = 2.0
"""How long the end waits for what is still to be written."""


class _Batch(NamedTuple):
    data: bytes
    lines: int


class LineWriter:
    """`where` is a path or `stdout`. `say` is told once of each trouble with `what` it is. Raises OSError when it cannot open it.

    A file is opened anew before the next batch when it was renamed or deleted, and by `reopen`.
    """

    def __init__(self, where: str, say: Callable[[str], None], what: str) -> None:
        self._path = None if where == STDOUT else where
        self._say, self._what = say, what
        self._file = self._opened()
        self._lines: list[bytes] = []
        self._size = self._given = self._written = 0
        self._refused = self._failed = 0
        self._torn = self._told = False
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name=what, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that were not written, because the disk was full, a pipe was slow or closed."""
        return self._refused + self._failed

    def write(self, line: bytes) -> None:
        """Give one line, with its end."""
        if self._given - self._written + self._size >= PENDING_BYTES:
            self._refused += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is; returns at once."""
        if self._lines:
            self._queue.put(_Batch(b"".join(self._lines), len(self._lines)))
            self._given += self._size
            self._lines, self._size = [], 0

    def reopen(self) -> None:
        """Close the file and open what has its name now."""
        self.flush()
        self._queue.put(_Batch(b"", 0))

    def close(self) -> None:
        """Write what is left; waits a few seconds at most."""
        self.flush()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    # ---- the thread

    def _write_all(self) -> None:
        while (batch := self._queue.get()) is not None:
            done = 0
            try:
                self._follow(anew=not batch.lines)
                done = self._put(batch.data)
                if done == len(batch.data):
                    self._told = False
            except OSError as error:
                self._trouble(error)
            self._failed += batch.lines - batch.data.count(b"\n", 0, done)
            self._written += len(batch.data)
        if self._path is not None and self._file >= 0:
            os.close(self._file)

    def _put(self, data: bytes) -> int:
        """Write all of it, or as much as can be; returns how much that was."""
        done = 0
        try:
            if self._torn:  # what a full disk cut in two ends here
                self._put_once(b"\n")
                self._torn = False
            while done < len(data):
                done += self._put_once(data[done:] if done else data)
        except OSError as error:
            self._torn = self._torn or (done > 0 and data[done - 1 : done] != b"\n")
            self._trouble(error)
        return done

    def _put_once(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._file, data)
            except BlockingIOError:  # a pipe that somebody else made non-blocking
                waits = select.poll()
                waits.register(self._file, select.POLLOUT)
                waits.poll()

    def _follow(self, *, anew: bool) -> None:
        """Be at the file that has the name now. Raises OSError."""
        if self._path is None:
            return
        if not anew and self._file >= 0:
            with contextlib.suppress(FileNotFoundError):
                there, here = os.stat(self._path), os.fstat(self._file)
                if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                    return
        file = self._opened()
        self._file, old = file, self._file
        self._torn = False
        if old >= 0:
            os.close(old)

    def _opened(self) -> int:
        if self._path is None:
            return 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that nobody reads is refused
        file = os.open(self._path, flags, 0o600)
        os.set_blocking(file, True)
        return file

    def _trouble(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._say(
                f"The {self._what} cannot be written: {error.strerror or error}. Its lines are lost until it can; requests go on."
            )
