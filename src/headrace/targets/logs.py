"""What a replica writes: the last lines in memory, more of it on disk, both bounded whatever it writes."""

from collections import deque
from pathlib import Path
from typing import BinaryIO

LONGEST_LINE = 4096
CUT = b" [cut]"


class Log:
    """The output of one replica over all its starts.

    Lines are cut at 4096 bytes. `path` gets the same lines; when it has grown to `file_bytes` it becomes `path.1` in
    place of the one before, so twice that is the most on disk. When the disk fails, a note says so once and only
    memory is kept. `hide` is never kept: it is written as `***`.
    """

    def __init__(self, path: Path, lines: int = 500, file_bytes: int = 1_000_000) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._file: BinaryIO | None = None
        self._disk_works = True
        self._lines: deque[str] = deque(maxlen=lines)
        self._unwritten: list[bytes] = []
        self._unfinished = b""
        self._skipping = False
        self._hide = b""

    def hide(self, secret: str) -> None:
        """Keep `secret` out of what is kept from now on."""
        self._hide = secret.encode()

    def last(self, count: int) -> list[str]:
        """The last `count` lines, oldest first."""
        return list(self._lines)[-count:] if count > 0 else []

    def feed(self, data: bytes) -> None:
        """Take bytes as they come, in pieces of any size."""
        *ended, rest = (self._unfinished + data).split(b"\n")
        for line in ended:
            self._end(line)
        self._unfinished = rest
        if len(rest) > 2 * LONGEST_LINE:  # twice, so that no half of a secret is left at the cut
            self._cut(rest)
        self._write()

    def finish(self) -> None:
        """The writer is gone: what it left unfinished is a line too, and the file is closed."""
        if self._unfinished:
            self._end(self._unfinished)
        self._unfinished, self._skipping = b"", False
        self._write()
        if self._file:
            self._file.close()
            self._file = None

    def note(self, text: str) -> None:
        """Add a line of our own."""
        self._keep(f"headrace: {text}".encode())
        self._write()

    def _end(self, line: bytes) -> None:
        if self._skipping:
            self._skipping = False
        elif len(line) > LONGEST_LINE:
            self._keep(self._hidden(line)[:LONGEST_LINE] + CUT)
        else:
            self._keep(self._hidden(line.removesuffix(b"\r")))

    def _cut(self, line: bytes) -> None:
        """Keep the start of a line that does not end, and skip the rest of it when it comes."""
        if not self._skipping:
            self._keep(self._hidden(line)[:LONGEST_LINE] + CUT)
        self._unfinished, self._skipping = b"", True

    def _hidden(self, line: bytes) -> bytes:
        return line.replace(self._hide, b"***") if self._hide else line

    def _keep(self, line: bytes) -> None:
        self._lines.append(_printable(line.decode("utf-8", "replace")))
        self._unwritten.append(line + b"\n")

    def _write(self) -> None:
        """One write for all the lines of a piece: a replica gone mad must not keep us busy with system calls."""
        lines, self._unwritten = b"".join(self._unwritten), []
        if not lines or not self._disk_works:
            return
        try:
            if self._file and self._file.tell() + len(lines) > self._file_bytes:
                self._rotate(self._file)
            self._file = self._file or self._path.open("ab", buffering=0)
            self._file.write(lines)
        except OSError as error:  # a full disk must not stop a replica that serves
            self._disk_works = False
            self.note(f"no more log in {self._path}: {error.strerror}")

    def _rotate(self, file: BinaryIO) -> None:
        file.close()
        self._file = None
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))


def _printable(text: str) -> str:
    """`text` without what could take hold of the terminal it is printed on."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
