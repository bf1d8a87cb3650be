"""Where graduations stand, on disk: whole after a crash at any moment, so that the next start knows what to resume or undo."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from headrace.control.graduation import Aim, Phase


class Running(msgspec.Struct, frozen=True):
    """What a model runs on, as far as it tells two plans apart."""

    engine: str
    weights: str
    context: int


class Entry(msgspec.Struct, frozen=True):
    """One graduation. `story` has (seconds since 1970, sentence); `interrupted` counts starts that found it unfinished."""

    aim: Aim
    phase: Phase
    old: Running | None = None
    new: Running | None = None
    story: tuple[tuple[float, str], ...] = ()
    interrupted: int = 0


class Journal:
    """A folder with the newest graduation of each model. A file that cannot be read counts as none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, entry: Entry) -> None:
        """Keep it: after this it survives a crash, and until then the one before does. Raises OSError."""
        written(self._folder / f"{quote(entry.aim.model, safe='')}.json", msgspec.json.encode(entry))

    def entries(self) -> Iterator[Entry]:
        """All of them."""
        for file in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                yield msgspec.json.decode(file.read_bytes(), type=Entry)


def written(file: Path, content: bytes) -> None:
    """Write a file so that after a crash at any moment it is as before or as it should be. After an OSError it is as before."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    with contextlib.suppress(OSError):  # it is replaced by now, and at worst a crash brings back the one before
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
