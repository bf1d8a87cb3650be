"""One file from a URL into the cache: resumed where it was cut, checked by size and hash."""

import errno
import hashlib
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

from headrace.errors import WeightsError
from headrace.units import show_bytes
from headrace.weights.client import Client, failure, header, shown, transient
from headrace.weights.model import File, Progress, Report
from headrace.weights.store import Store

_BLOCK = 2**18
_TRIES = 5
"""Attempts in a row that bring no byte."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file to fetch. `size`, `sha256` and `git_sha1` (git's hash of a blob) are what it must be, if known."""

    what: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What the bytes are: the name of the partial download, so that no other bytes are added to it."""
        return self.sha256 or self.git_sha1 or self.url


class Downloader:
    """Downloads for one owner, whose lock the caller holds. `pause` waits between fruitless attempts, in seconds."""

    def __init__(self, store: Store, client: Client, owner: str, pause: Callable[[float], None] = time.sleep) -> None:
        self.store = store
        self.client = client
        self._owner = owner
        self._pause = pause

    def fetch(self, item: Item, report: Report) -> tuple[str, File]:
        """(path of the verified file among the partial ones, what it is): publish or read it, then discard it.

        Raises WeightsError. Bytes that came are kept for the next attempt, unless they are wrong or the disk is full.
        """
        partial = self._partial(item)
        os.makedirs(os.path.dirname(partial.path), exist_ok=True)
        resumed = partial.size > 0
        try:
            self._fill(item, partial, report)
            return partial.path, _verified(item, partial)
        except _Mismatch as error:
            partial.drop()
            if resumed:  # perhaps only the old part was bad, as after a crash of the machine
                return self.fetch(item, report)
            raise WeightsError(f"{item.what} from {shown(item.url)} {error}.", "Nothing was kept; try again.") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            size = partial.size
            partial.drop()
            raise WeightsError(
                f"The disk is full at {self.store.root}: {show_bytes(size)} of {item.what} ({_bytes(item.size)}) had come.",
                "The partial download was removed; free some space and try again.",
            ) from error

    def missing(self, item: Item) -> int:
        """The bytes that `fetch` would still bring; 0 when its size is not known."""
        return max(0, (item.size or 0) - self._partial(item).size)

    def _partial(self, item: Item) -> "_Partial":
        return _Partial(self.store.partial(self._owner, item.identity + ".part"))

    def _fill(self, item: Item, partial: "_Partial", report: Report) -> None:
        """Ask again, from where it was cut, until all bytes are there."""
        fruitless = 0
        while True:
            before = partial.size
            if item.size is not None and before == item.size:
                open(partial.path, "ab").close()  # an empty file is there without a byte of it having come
                return
            try:
                if self._attempt(item, partial, report):
                    return
                cause: Exception = WeightsError(f"{item.what}: the connection to {shown(item.url)} was cut again and again.")
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                ConnectionError,
                TimeoutError,
                ssl.SSLError,
            ) as error:
                cause = failure(error, item.what, item.url)
                if not transient(error):
                    raise cause from error
            fruitless = 0 if partial.size > before else fruitless + 1
            if fruitless >= _TRIES:
                raise cause
            self._pause(0.5 * 2**fruitless if fruitless else 0.0)

    def _attempt(self, item: Item, partial: "_Partial", report: Report) -> bool:
        """Add what one response gives; True when the file is complete."""
        try:
            response = self.client.get(item.url, {"Accept-Encoding": "identity", **item.headers, **_range(item, partial)})
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            complete = header(error.headers, "Content-Range") == f"bytes */{partial.size}"
            error.close()
            if not complete:
                partial.drop()  # it has more bytes than the file: begin again
            return complete
        with response:
            total, least = _placed(response, partial)
            if item.size is not None and total is not None and total != item.size:
                raise _Mismatch(f"is {total} bytes long where {item.size} were expected")
            self.store.room((total or 0) - partial.size, item.what)
            _copy(response, partial, lambda done: report(Progress(item.what, done, total)))
        # Where nobody says its size, the connection ends with the file: whether it was cut, only its own header can tell.
        return partial.size >= max(least, item.size or 0)


class _Mismatch(Exception):
    """The bytes are not those that were promised."""


class _Partial:
    """A partial download, with the validator of the version its bytes are from."""

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0

    @property
    def validator(self) -> str | None:
        try:
            with open(self.path + ".json", encoding="utf-8") as file:
                return str(json.load(file)["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, validator: str | None) -> None:
        """Forget the bytes; the next ones are of the version that `validator` names."""
        if self.size or self.validator:
            self.drop()
        if validator:
            with open(self.path + ".json", "w", encoding="utf-8") as file:
                json.dump({"validator": validator}, file)

    def drop(self) -> None:
        for path in (self.path, self.path + ".json"):
            if os.path.lexists(path):
                os.unlink(path)


def _range(item: Item, partial: _Partial) -> dict[str, str]:
    """Headers that ask for the rest. Without a hash to check at the end, only of the very same version (If-Range)."""
    size, validator = partial.size, partial.validator
    known = item.sha256 or item.git_sha1
    if not size or not (validator or known):
        return {}
    return {"Range": f"bytes={size}-", **({"If-Range": validator} if validator else {})}


def _placed(response: http.client.HTTPResponse, partial: _Partial) -> tuple[int | None, int]:
    """(the size of the whole file if it is said, its least size), with `partial` made ready for the bytes that come now."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header(response.headers, "Content-Range") or "")
        if not match or int(match[1]) != partial.size:
            raise http.client.HTTPException("the server sent another part than was asked for")
        return (None, int(match[2]) + 1) if match[3] == "*" else (int(match[3]), int(match[3]))
    etag = header(response.headers, "ETag")
    # A weak validator (W/…) does not promise the same bytes.
    partial.begin(etag if etag and not etag.startswith("W/") else header(response.headers, "Last-Modified"))
    length = header(response.headers, "Content-Length")
    return (int(length), int(length)) if length and length.isdecimal() else (None, 0)


def _copy(response: IO[bytes], partial: _Partial, done: Callable[[int], None]) -> None:
    size = partial.size
    with open(partial.path, "ab", buffering=0) as file:  # unbuffered: a full disk is noticed here, not when closing
        while block := response.read(_BLOCK):
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
            size += len(block)
            done(size)


def _verified(item: Item, partial: _Partial) -> File:
    size = partial.size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with open(partial.path, "rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            if item.git_sha1:
                sha1.update(block)
    if item.size is not None and size != item.size:
        raise _Mismatch(f"is {size} bytes long where {item.size} were expected")
    for name, expected, got in (("sha256", item.sha256, sha256), ("git hash", item.git_sha1, sha1)):
        if expected and got.hexdigest() != expected:
            raise _Mismatch(f"has the {name} {got.hexdigest()} where {expected} was expected")
    return File(os.path.basename(partial.path), size, sha256.hexdigest())


def _bytes(size: int | None) -> str:
    return "an unknown size" if size is None else show_bytes(size)
