"""What the person at the terminal sees while something runs: lines, and progress that does not flood a log."""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from headrace.units import show_bytes, show_duration

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0  # between progress lines where nothing can be redrawn
_RATE_SECONDS, _LEAST_SECONDS = 15.0, 1.0
"""The rate is that of so long, and told once there is so much of it."""
_quiet = False


@contextlib.contextmanager
def quiet(*, wanted: bool = True) -> Iterator[None]:
    """Nothing shows progress within, where that is `wanted`: `--quiet`. What is said stays."""
    global _quiet
    before, _quiet = _quiet, wanted
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Whether progress is to be left out."""
    return _quiet


def can_ask() -> bool:
    """Whether somebody is there who reads a question (on standard error) and answers it (on standard input)."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str) -> bool:
    """Ask, with `[y/N]` behind the question; no where nobody can be asked. Standard output stays with what the command prints."""
    if not can_ask():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class Terminal:
    """Writes to `stream` (default: standard error). Progress is a line that is redrawn on a terminal, elsewhere one now and then.

    Safe to use from several threads.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._redraws = self._stream.isatty()
        self._lock = threading.Lock()
        self._shown_at: dict[str, float] = {}
        self._paces: dict[str, deque[tuple[float, int]]] = {}
        self._open = 0  # length of the progress line that the next output overwrites

    def say(self, text: str = "") -> None:
        """A line, or several."""
        with self._lock, contextlib.suppress(OSError):  # whoever read is gone: no reason to stop serving
            self._clear()
            print(text, file=self._stream, flush=True)

    def step(self, text: str) -> None:
        """A line about something long that goes on. Nothing when quiet."""
        if not _quiet:
            self.say(text)

    def progress(self, what: str, done: int, total: int | None) -> None:
        """How far `what` is, in bytes; with its rate and the time that is left once they are known. Nothing when quiet."""
        if _quiet:
            return
        now = time.monotonic()
        finished = total is not None and done >= total
        with self._lock:
            pace = self._paces.setdefault(what, deque())
            rate = _rate(pace, now, done)
            pause = _REDRAW_SECONDS if self._redraws else _LINE_SECONDS
            if not finished and now - self._shown_at.get(what, float("-inf")) < pause:
                return
            if finished and what not in self._shown_at:
                return  # over before anyone could have wondered
            self._shown_at[what] = now
            self._show(_line(what, done, total, rate), finished)
            if finished:
                del self._paces[what]

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


def _rate(pace: deque[tuple[float, int]], now: float, done: int) -> float | None:
    """Bytes a second of late; None before enough is known. What was there before it began does not count."""
    if not pace or now - pace[-1][0] >= _LEAST_SECONDS / 2:
        pace.append((now, done))
    while len(pace) > 2 and now - pace[1][0] >= _RATE_SECONDS:
        pace.popleft()
    began, had = pace[0]
    return (done - had) / (now - began) if now - began >= _LEAST_SECONDS and done > had else None


def _line(what: str, done: int, total: int | None, rate: float | None) -> str:
    if not done and not total:
        return f"{what} …"
    speed = f", {show_bytes(rate)}/s" if rate else ""
    if not total:
        return f"{what}: {show_bytes(done)}{speed}"
    left = f", {show_duration(round((total - done) / rate))} left" if rate and done < total else ""
    return f"{what}: {show_bytes(done)} of {show_bytes(total)} ({100 * done // total} %){speed}{left}"
