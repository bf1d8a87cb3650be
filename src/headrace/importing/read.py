"""`headrace import`: files, folders and standard input → what `convert` makes of them."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from headrace.errors import Mistake
from headrace.importing.base import NotImported
from headrace.importing.convert import File, Imported, convert

LARGEST_BYTES = 20_000_000
_NAMES = (".yaml", ".yml", ".json")


def imported(paths: Sequence[str]) -> Imported:
    """Our file for what is at `paths`; `-` is standard input. Raises NotImported."""
    return convert([file for path in paths for file in _files(path)])


def _files(path: str) -> Iterator[File]:
    if path == "-":
        yield File("<stdin>", _decoded("<stdin>", sys.stdin.buffer.read(LARGEST_BYTES + 1)))
        return
    place = Path(path)
    if not place.is_dir():
        yield _file(place, path)
        return
    if (place / "Chart.yaml").exists():
        raise _refused(path, "is a chart of Helm.", f"Render it first: helm template {path} | headrace import -")
    there = sorted(each for each in place.rglob("*") if each.suffix in _NAMES and each.is_file())
    if not there:
        raise _refused(path, "holds no .yaml, .yml or .json.")
    for each in there:
        yield _file(each, str(each))


def _file(place: Path, name: str) -> File:
    try:
        with place.open("rb") as stream:
            return File(name, _decoded(name, stream.read(LARGEST_BYTES + 1)))
    except FileNotFoundError:
        raise _refused(name, "there is no such file.") from None
    except (OSError, ValueError) as error:
        raise _refused(name, f"cannot be read: {getattr(error, 'strerror', None) or 'no file can have that name'}.") from None


def _decoded(name: str, raw: bytes) -> str:
    if len(raw) > LARGEST_BYTES:
        raise _refused(name, "is larger than 20 MB.", "Is this the right file?")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise NotImported(str(Mistake(name, line, 1, "", "is not UTF-8.", "Is it YAML?"))) from None


def _refused(name: str, what: str, fix: str = "") -> NotImported:
    return NotImported(str(Mistake(name, 1, 1, "", what, fix)))
