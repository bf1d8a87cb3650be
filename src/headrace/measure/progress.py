"""What the person at the terminal sees while a bench runs: a line that is redrawn, elsewhere one now and then."""

import sys
from time import monotonic
from typing import TextIO

from headrace.measure.run import Run
from headrace.terminal import is_quiet
from headrace.units import show_duration

_LINE_SECONDS = 10.0


class Progress:
    """Writes to `stream` (default: standard error); nothing where progress is to be left out."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._redraws = self._stream.isatty()
        self._open = 0
        self._told = monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        if is_quiet():
            return
        self.end()
        print(text, file=self._stream, flush=True)
        self._told = monotonic()

    def tick(self, label: str, run: Run) -> None:
        """How far the run is."""
        if is_quiet():
            return
        if not self._redraws and monotonic() - self._told < _LINE_SECONDS:
            return
        done, whole = run.seconds
        failed = sum(1 for one in run.outcomes if one.ended and one.kind != "ok")
        answered = sum(1 for one in run.outcomes if one.ended) - failed
        left = show_duration(max(0.0, round(whole - done)))
        line = f"  {label}: {answered} answered, {failed} failed, {run.in_flight} in flight; {left} to go"
        if not self._redraws:
            return self.say(line)
        self._stream.write("\r" + line.ljust(self._open))
        self._stream.flush()
        self._open = len(line)

    def end(self) -> None:
        """Nothing is redrawn any more."""
        if self._open:
            self._stream.write("\r" + " " * self._open + "\r")
            self._stream.flush()
            self._open = 0
