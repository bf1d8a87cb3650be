"""Weights at a URL: one GGUF file, or all parts of a split one."""

from urllib.parse import unquote, urlsplit

from headrace.errors import WeightsError
from headrace.weights.client import shown
from headrace.weights.download import Downloader, Item
from headrace.weights.formats import parts
from headrace.weights.model import File, Report
from headrace.weights.source import Source
from headrace.weights.store import Entry, slug


def fetch(source: Source, formats: tuple[str, ...], downloader: Downloader, report: Report) -> Entry:
    """The file at an `https:` source, in the cache. Raises WeightsError.

    Without `#sha256=` in the source nothing says what the bytes must be: then the size is checked, and the hash of what
    came is on record as its revision.
    """
    name = slug(unquote(urlsplit(source.location).path.rpartition("/")[2]))
    if not name.lower().endswith(".gguf") or "gguf" not in formats:
        raise WeightsError(
            f"{shown(source.location)} is not a GGUF file.",
            "A URL names one .gguf file; safetensors need the files beside them: use hf:org/name or file:folder.",
        )
    folder = downloader.store.folder("https", source.location, source.revision or "unpinned")
    files = tuple(_part(source, name, part, folder, downloader, report) for part in parts(name))
    return Entry(str(source), "gguf", files[0].sha256, folder, files[0].name, files)


def _part(source: Source, name: str, part: str, folder: str, downloader: Downloader, report: Report) -> File:
    url = source.location.replace(name, part)
    # A pinned hash is that of the file named, so of the first part.
    item = Item(part, url, sha256=source.revision if part == name else None)
    path, file = downloader.fetch(item, report)
    downloader.store.publish(path, downloader.store.path(folder, part))
    downloader.store.discard(path + ".json")
    return File(part, file.size, file.sha256)
