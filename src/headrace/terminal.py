"""What the person at the terminal sees while something runs: lines, and progress that does not flood a log."""

import contextlib
import sys
import threading
import time
from typing import TextIO

from headrace.units import show_bytes

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0  # between progress lines where nothing can be redrawn


class Terminal:
    """Writes to `stream` (default: standard error). Progress is a line that is redrawn on a terminal, elsewhere one now and then.

    Safe to use from several threads.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._redraws = self._stream.isatty()
        self._lock = threading.Lock()
        self._shown_at: dict[str, float] = {}
        self._open = 0  # length of the progress line that the next output overwrites

    def say(self, text: str = "") -> None:
        """A line, or several."""
        with self._lock, contextlib.suppress(OSError):  # whoever read is gone: no reason to stop serving
            self._clear()
            print(text, file=self._stream, flush=True)

    def progress(self, what: str, done: int, total: int | None) -> None:
        """How far `what` is, in bytes."""
        now = time.monotonic()
        finished = total is not None and done >= total
        with self._lock:
            pause = _REDRAW_SECONDS if self._redraws else _LINE_SECONDS
            if not finished and now - self._shown_at.get(what, float("-inf")) < pause:
                return
            if finished and what not in self._shown_at:
                return  # over before anyone could have wondered
            self._shown_at[what] = now
            self._show(_line(what, done, total), finished)

    def _show(self, line: str, finished: bool) -> None:
        if not self._redraws:
            print(line, file=self._stream, flush=True)
            return
        self._clear()
        self._stream.write(line + ("\n" if finished else ""))
        self._stream.flush()
        self._open = 0 if finished else len(line)

    def _clear(self) -> None:
        if self._open:
            self._stream.write("\r" + " " * self._open + "\r")
            self._open = 0


def _line(what: str, done: int, total: int | None) -> str:
    if not done and not total:
        return f"{what} …"
    if not total:
        return f"{what}: {show_bytes(done)}"
    return f"{what}: {show_bytes(done)} of {show_bytes(total)} ({100 * done // total} %)"
