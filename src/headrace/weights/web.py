"""Weights at a URL: one GGUF file, all parts of a split one, or one file of other data (ONNX, skops)."""

import re
from dataclasses import replace
from urllib.parse import unquote, urlsplit, urlunsplit

from headrace.weights.client import shown
from headrace.weights.download import Downloader, Item
from headrace.weights.formats import DATA, Format, FormatMissing, parts
from headrace.weights.model import File, Report, Weights
from headrace.weights.source import Source
from headrace.weights.store import Entry

_LONGEST_NAME = 100


def fetch(source: Source, formats: tuple[str, ...], downloader: Downloader, report: Report) -> Entry:
    """The file at an `https:` source, in the cache. Raises WeightsError.

    Without `#sha256=` in the source nothing says what the bytes must be: then the size is checked, and the hash of what
    came is on record as its revision.
    """
    format = format_of(source, formats)
    folder = downloader.store.folder("https", source.location, source.revision or "unpinned")
    items = _items(source)
    # Published when all are complete. Nothing says what a part must be, but until then its server can say that it is the same.
    fetched = [downloader.fetch(item, report) for item in items]
    for item, (path, _) in zip(items, fetched, strict=True):
        downloader.store.publish(path, downloader.store.path(folder, item.what))
        downloader.store.discard(path + ".json")
    files = tuple(File(item.what, file.size, file.sha256) for item, (_, file) in zip(items, fetched, strict=True))
    return Entry(str(source), format, files[0].sha256, folder, files[0].name, files)


def missing(there: Weights, downloader: Downloader) -> int:
    """The bytes that `fetch` would still bring of what `remote.describe` has found."""
    items = zip(_items(there.source), there.files, strict=True)
    return sum(downloader.missing(replace(item, size=file.size)) for item, file in items)


def format_of(source: Source, formats: tuple[str, ...]) -> Format:
    """By the ending of the file. Raises FormatMissing where it is none of `formats`."""
    name = unquote(urlsplit(source.location).path)
    data = next((format for ending, format in DATA.items() if name.endswith(ending)), None)
    found: Format | None = "gguf" if name.lower().endswith(".gguf") else data
    if found is not None and found in formats:
        return found
    if data is None:
        raise FormatMissing(
            f"{shown(source.location)} is not a GGUF file.",
            "A URL names one .gguf file; safetensors need the files beside them: use hf:org/name or file:folder.",
        )
    raise FormatMissing(f"{shown(source.location)} is no language model.", "As a model of tensors it needs engine: triton.")


def addresses(source: Source) -> list[tuple[str, str]]:
    """(name in the cache, URL) of the file, or of all parts of a split one. The folder in the cache is the URL's own."""
    split = urlsplit(source.location)
    folder, slash, name = split.path.rpartition("/")
    found = []
    for part in parts(name):
        plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", unquote(part))[-_LONGEST_NAME:]
        other = urlunsplit(split._replace(path=f"{folder}{slash}{part}"))
        # Its ending stays as it is, by which it is loaded; and it is no hidden file, nor like a flag.
        found.append((f"model{plain}" if plain[0] in ".-" else plain, source.location if part == name else other))
    return found


def _items(source: Source) -> list[Item]:
    # A pinned hash is that of the file named, so of the first part.
    return [Item(name, url, sha256=source.revision if url == source.location else None) for name, url in addresses(source)]
