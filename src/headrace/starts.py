"""How long replicas took to start here, kept from one run to the next: what a cold start is expected to take."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

from headrace.targets.base import StartTimes

MOST_BYTES = 256 * 1024
"""The file is cut to its newer half past this: about 2,000 starts."""
LAST = 9
"""Starts that an expectation is made of: the newest, of the same engine, version and weights."""


class Starts:
    """The starts on record in a file; one that cannot be read or written counts as empty: it is no reason not to serve."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keep(self, times: StartTimes) -> None:
        """Put one more on record."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(times)) + "\n")
            if self._file.stat().st_size > MOST_BYTES:
                self._halve()

    def _halve(self) -> None:
        lines = self._file.read_text("utf-8").splitlines(keepends=True)
        draft = self._file.with_name(self._file.name + ".new")
        draft.write_text("".join(lines[len(lines) // 2 :]), "utf-8")
        os.replace(draft, self._file)

    def expected(self, *, awake: bool = False) -> Mapping[tuple[str, str], tuple[float, int]]:
        """By (engine, weights): the median seconds to ready of the last starts, or of waking where it slept in place, and how
        many those are.
        """
        times: dict[tuple[str, str], list[float]] = {}
        for one in self._all():
            if bool(one.level) is not awake:
                continue
            times.setdefault((one.engine, one.weights), []).append(one.load_seconds + one.warm_seconds)
        return {key: (median(found[-LAST:]), len(found[-LAST:])) for key, found in times.items()}

    def _all(self) -> list[StartTimes]:
        found = []
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in self._file.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # a line that was cut, or is not ours
                    found.append(StartTimes(**json.loads(line)))
        return found
