"""Weights of the Hugging Face hub: what a repository has at a revision, and its files.

huggingface_hub answers what there is; the bytes come through our own `download`. Its `hf_hub_download` (2.4) throws a
cut download away, does not check the sha256, and through hf-xet writes to ~/.cache/huggingface, outside of the cache.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.errors import WeightsError
from headrace.weights.bert import choose_or_convert
from headrace.weights.download import Downloader, Item
from headrace.weights.formats import Choice, joined
from headrace.weights.model import File, Progress, Report, Weights
from headrace.weights.read import beside
from headrace.weights.source import Source
from headrace.weights.store import Entry, Store, sha256_of

HUB = "https://huggingface.co"
Known = Callable[[Source], Entry | None]


@dataclass(frozen=True, slots=True)
class Login:
    """The hub's address, and the token that opens gated models there. The token is not part of what is printed."""

    address: str
    token: str | None

    def __repr__(self) -> str:
        return f"Login({self.address!r}, {'a token' if self.token else 'no token'})"


def fetch(source: Source, formats: tuple[str, ...], downloader: Downloader, login: Login, known: Known, report: Report) -> Entry:
    """The weights of a repository, in the cache. `known` finds an entry of the resolved commit. Raises WeightsError."""
    commit, items = listing(source, login)
    if entry := known(replace(source, revision=commit)):
        return entry
    repository = _Repository(source, downloader, commit, items)
    where = f"The repository {source.location}"
    choice = choose_or_convert(items, formats, source.pick, where, lambda name: repository.json(name, report))
    if choice.format == "onnx":
        choice = repository.whole(choice, report)
    files = repository.fetch_all(choice, report)
    load = "" if choice.format == "safetensors" else files[0].name
    return Entry(str(source), choice.format, commit, _folder(downloader.store, source, commit, choice.weights[0]), load, files)


def missing(there: Weights, downloader: Downloader) -> int:
    """The bytes that `fetch` would still bring of what `remote.describe` has found."""
    items = {file.name: Item(file.name, "", file.size, file.sha256) for file in there.files}
    repository = _Repository(there.source, downloader, there.revision or "", items)
    return repository.missing(tuple(items))


def _folder(store: Store, source: Source, commit: str, weights: str) -> str:
    """Where `weights` of a repository and what lies beside them are kept: its other folders may have files of the same names."""
    inside = weights.rpartition("/")[0]
    return store.folder("hf", source.location, commit, *([inside] if inside else []))


def _local(name: str, weights: str) -> str:
    """`name` below the folder of `weights`."""
    return name.removeprefix(weights.rpartition("/")[0] + "/")


def listing(source: Source, login: Login) -> tuple[str, dict[str, Item]]:
    """(commit, files by name) of a repository at the revision asked for. Raises WeightsError."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled

    # False, unlike None, keeps the library from reading a token that lies in the home folder.
    api = HfApi(endpoint=login.address, token=login.token or False, library_name="headrace")
    try:
        info = api.model_info(source.location, revision=source.revision, files_metadata=True, timeout=30.0)
    except OfflineModeIsEnabled as error:
        raise WeightsError(f"{source} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it.", "Unset it.") from error
    except Exception as error:
        raise _refusal(source, login, error) from error
    if not info.sha:
        raise WeightsError(f"The hub at {login.address} does not say which commit {source} is.")
    headers = {"Authorization": f"Bearer {login.token}"} if login.token else {}
    items = {}
    for file in info.siblings or ():
        url = hf_hub_url(source.location, file.rfilename, revision=info.sha, endpoint=login.address)
        # Large files have a sha256; small ones only git's own hash.
        digest = file.lfs.sha256 if file.lfs else None
        items[file.rfilename] = Item(file.rfilename, url, file.size, digest, None if digest else file.blob_id, headers)
    return info.sha, items


def _refusal(source: Source, login: Login, error: Exception) -> WeightsError:
    """An error of huggingface_hub, as an error for the person at the terminal."""
    from huggingface_hub import errors

    owner = "Check the spelling; if it is private, set HF_TOKEN to a token of someone who may read it."
    accept = f"Accept its terms at {login.address}/{source.location} and set HF_TOKEN to a token of that account."
    known: tuple[tuple[type[Exception], str, str], ...] = (
        # The order matters: a gated repository is a kind of one that is not found.
        (errors.GatedRepoError, f"The repository {source.location} is gated.", accept),
        (errors.RepositoryNotFoundError, f"The repository {source.location} is not on the hub, or is private.", owner),
        (
            errors.RevisionNotFoundError,
            f'The repository {source.location} has no revision "{source.revision}".',
            "Check it.",
        ),
        (errors.HFValidationError, f'"{source.location}" is not the name of a repository.', "Write hf:org/name."),
    )
    for kind, what, fix in known:
        if isinstance(error, kind):
            return WeightsError(what, fix)
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = f"it answers {status}" if status else type(error).__name__
    return WeightsError(
        f"The hub at {login.address} cannot be asked about {source.location}: {cause}.",
        "Check the network; what is in the cache already needs none.",
    )


class _Repository:
    """The files of one repository at one commit, and those of them that are in the cache."""

    def __init__(self, source: Source, downloader: Downloader, commit: str, items: Mapping[str, Item]) -> None:
        self._source = source
        self._downloader = downloader
        self._commit = commit
        self._items = items
        self._here: dict[str, File] = {}

    def json(self, name: str, report: Report) -> dict[str, Any]:
        """A JSON file that lies beside the weights, in the cache from now on."""
        self._fetch(name, name, report)
        with open(self._path(name, name), encoding="utf-8") as text:
            try:
                data = json.load(text)
            except ValueError as error:
                raise WeightsError(f"{name} of {self._source} cannot be read: {error}.") from error
        return data if isinstance(data, dict) else {}

    def whole(self, choice: Choice, report: Report) -> Choice:
        """An ONNX graph, which is here when this returns, with the files that it says hold its weights. Raises WeightsError."""
        (graph,) = choice.weights
        self._fetch(graph, graph, report)
        folder = graph.rpartition("/")[0]
        names = tuple(joined(folder, name) for name in beside(self._path(graph, graph)))
        if missing := [name for name in names if name not in self._items]:
            raise WeightsError(
                f"{self._source} is not complete: {graph} keeps weights in {missing[0]}, which is not there.",
                "Ask its owner to complete it.",
            )
        return replace(choice, side=names)

    def fetch_all(self, choice: Choice, report: Report) -> tuple[File, ...]:
        """The chosen files, with one progress over all of them."""
        first, names = choice.weights[0], choice.weights + choice.side
        total = sum(self._items[name].size or 0 for name in names)
        self._downloader.store.room(self.missing(names), str(self._source))
        files: list[File] = []
        for name in names:
            files.append(self._fetch(name, first, _part_of(report, sum(file.size for file in files), total)))
        return tuple(files)

    def missing(self, names: tuple[str, ...]) -> int:
        """The bytes that fetching these files, of which the first holds weights, would still bring."""
        return sum(self._downloader.missing(self._items[name]) for name in names if not self._published(name, names[0]))

    def _fetch(self, name: str, weights: str, report: Report) -> File:
        """The file `name` that lies beside `weights`."""
        file = self._here.get(name) or self._published(name, weights)
        if file:
            report(Progress(name, file.size, file.size))
        self._here[name] = file or self._downloaded(name, weights, report)
        return self._here[name]

    def _published(self, name: str, weights: str) -> File | None:
        """What a fetch that broke off had come to: its hash was checked before, and the folder is that of this commit alone."""
        item, final = self._items[name], self._path(name, weights)
        if item.size is None or not self._downloader.store.holds(final, item.size):
            return None
        return File(_local(name, weights), item.size, item.sha256 or sha256_of(final))

    def _downloaded(self, name: str, weights: str, report: Report) -> File:
        path, file = self._downloader.fetch(self._items[name], report)
        self._downloader.store.publish(path, self._path(name, weights))
        self._downloader.store.discard(path + ".json")
        return File(_local(name, weights), file.size, file.sha256)

    def _path(self, name: str, weights: str) -> str:
        store = self._downloader.store
        return store.path(_folder(store, self._source, self._commit, weights), _local(name, weights))


def _part_of(report: Report, before: int, total: int) -> Report:
    """Reports one file of several as a part of the whole."""
    return lambda progress: report(replace(progress, done_bytes=before + progress.done_bytes, total_bytes=total))
