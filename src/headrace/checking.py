"""`headrace check`: files, folders and standard input → findings, printed, fixed, or compared with a baseline."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from headrace import __version__
from headrace.errors import UsageError
from headrace.lint.base import RULES, Finding, Severity
from headrace.lint.checker import SCRIPTS, File, Result, Skipped, check, fixed
from headrace.lint.output import as_github, as_json, as_sarif, baseline, lines, without

Format = Literal["text", "json", "sarif", "github"]
LARGEST_BYTES = 10_000_000
_NAMES = (".yaml", ".yml", ".json", ".pbtxt", *SCRIPTS)
_NOT_ENTERED = ("node_modules", "__pycache__", "venv", "site-packages")
_MOST_FILES = 20_000
_MARKS = (b"kind", b"services", b"models", b"sharing", b"mig-configs", b"modelSpec", b"devicePlugin", b"config")
"""What a YAML or JSON file has in it when it is one that rules know."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks."""

    paths: tuple[str, ...]
    form: Format = "text"
    fix: bool = False
    least: Severity = "info"
    ignored: tuple[str, ...] = ()
    baseline: Path | None = None
    write_baseline: Path | None = None


@dataclass(slots=True)
class Read:
    """Files as they were read, with what is needed to write them back as they were."""

    files: list[File] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    marked: set[str] = field(default_factory=set)
    """Files that begin with a byte order mark."""


def checked(wish: Wish) -> tuple[str, int]:
    """What to print, and the exit code: 1 when there is an error or a warning, else 0. Raises UsageError."""
    known = _known(wish.baseline) if wish.baseline else {}
    read = _read(wish.paths)
    done: list[Finding] = []
    if wish.fix:
        files, done, result = fixed(read.files, ignored=_codes(wish.ignored), least=wish.least)
        _write(read, files)
    else:
        result = check(read.files, ignored=_codes(wish.ignored), least=wish.least)
    result.skipped = [*read.skipped, *result.skipped]
    result.files = len(read.files) + len(read.skipped)
    if wish.write_baseline:
        _save(wish.write_baseline, baseline(result.findings))
        return f"Wrote {wish.write_baseline} with {len(result.findings)} findings.", 0
    result.findings = without(result.findings, known)
    bad = any(each.severity != "info" for each in result.findings)
    return _printed(wish.form, result, done), 1 if bad else 0


def explained(code: str) -> str:
    """A rule in full. Raises UsageError for a code that is none."""
    from headrace.lint.texts import explanation

    return "\n".join(explanation(_codes((code,))[0]))


def _printed(form: Format, result: Result, done: Sequence[Finding]) -> str:
    if form == "json":
        return as_json(result)
    if form == "sarif":
        return as_sarif(result, __version__)
    if form == "github":
        return "\n".join(as_github(result))
    said = [f"{each.file}:{each.line}:{each.column} {each.code} fixed: {each.what}" for each in done]
    return "\n".join([*said, *lines(result)])


def _codes(codes: Sequence[str]) -> list[str]:
    found = [part.strip().upper() for code in codes for part in code.split(",") if part.strip()]
    for code in found:
        if code not in RULES:
            near = get_close_matches(code.replace("O", "0"), RULES, 1)
            raise UsageError(
                f"{code} is no rule.", f"Did you mean {near[0]}?" if near else "docs/reference/rules.md has them all."
            )
    return found


def _known(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text("utf-8"))
        return {str(mark): int(count) for mark, count in content["findings"].items()}
    except FileNotFoundError:
        raise UsageError(f"There is no baseline {path}.", f"Write one: headrace check … --write-baseline {path}") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UsageError(f"{path} is no baseline of headrace check.", "Write a new one with --write-baseline.") from None


def _read(paths: Sequence[str]) -> Read:
    read = Read()
    seen: set[str] = set()
    for path in paths:
        for name, place in _places(path):
            if name not in seen:
                seen.add(name)
                _one(read, name, place, asked=name == path)
    return read


def _places(path: str) -> Iterator[tuple[str, Path | None]]:
    """The files at a path: name and place; None is standard input."""
    if path == "-":
        yield "<stdin>", None
        return
    place = Path(path)
    if not place.is_dir():
        if not place.exists():
            raise UsageError(f"There is no file or folder {path}.")
        yield path, place
        return
    count = 0
    for folder, below, names in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in _NOT_ENTERED)
        for name in sorted(names):
            if name.endswith(_NAMES) and not name.startswith("."):
                count += 1
                if count > _MOST_FILES:
                    raise UsageError(f"{path} has more than {_MOST_FILES} files to check.", "Name a folder in it.")
                yield os.path.normpath(os.path.join(folder, name)), Path(folder, name)


def _one(read: Read, name: str, place: Path | None, *, asked: bool) -> None:
    try:
        raw = _bytes(place)
    except OSError as error:
        read.skipped.append(Skipped(name, f"cannot be read: {(error.strerror or 'unknown').lower()}"))
        return
    if len(raw) > LARGEST_BYTES:
        read.skipped.append(Skipped(name, f"is larger than {LARGEST_BYTES // 1_000_000} MB"))
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        read.skipped.append(Skipped(name, "is UTF-16; save it as UTF-8"))
    elif b"\0" in raw[:8192]:
        read.skipped.append(Skipped(name, "is binary"))
    elif asked or place is None or _known_shape(name, raw):
        _text(read, name, raw)


def _known_shape(name: str, raw: bytes) -> bool:
    """Whether a file of a folder may be one that rules know: most YAML and JSON of a repository is not."""
    return not name.endswith((".yaml", ".yml", ".json")) or any(mark in raw for mark in _MARKS)


def _bytes(place: Path | None) -> bytes:
    if place is None:
        return sys.stdin.buffer.read(LARGEST_BYTES + 1)
    with place.open("rb") as stream:
        return stream.read(LARGEST_BYTES + 1)


def _text(read: Read, name: str, raw: bytes) -> None:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        read.skipped.append(Skipped(name, f"is not UTF-8 (line {line})"))
        return
    if text.startswith("\ufeff"):
        read.marked.add(name)
    read.files.append(File(name, text.removeprefix("\ufeff")))


def _write(read: Read, files: Sequence[File]) -> None:
    """Files that changed, each whole or not at all."""
    for old, new in zip(read.files, files, strict=True):
        if old.text == new.text:
            continue
        if new.name == "<stdin>":
            raise UsageError("--fix writes files, and standard input is none.", "Name the file.")
        text = ("\ufeff" if new.name in read.marked else "") + new.text
        _save(Path(new.name), text)


def _save(path: Path, text: str) -> None:
    target = path.resolve()
    beside = target.with_name(f".{target.name}.headrace")
    try:
        beside.write_bytes(text.encode("utf-8"))
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o7777)
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {(error.strerror or 'unknown').lower()}.") from None
