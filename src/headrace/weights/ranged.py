"""A file at a URL that is read where it is wanted, by Range requests: its header, or the directory of an archive."""

import http.client
import io
import re
from collections.abc import Mapping
from typing import Any

from headrace.errors import ModelError, WeightsError
from headrace.weights.client import Client, failure, header, shown, transient

_FIRST, _MOST_STEP = 2**16, 2**22
_MOST = 2**28
"""What is read of one file at most: the longest real headers are a tenth of it."""
_TRIES = 3


class Ranged(io.RawIOBase):
    """The file at `url`; wrap it in io.BufferedReader. Steps grow from 64 KiB, so that a short header costs little.

    A server that does not know ranges sends the whole file: then what is asked for is read of it, from its start on, and the
    connection is closed. `size` is None while the server has not said it. Raises WeightsError.
    """

    def __init__(self, client: Client, url: str, headers: Mapping[str, str], what: str, size: int | None = None) -> None:
        self.size = size
        self._client, self._url, self._headers, self._what = client, url, headers, what
        self._at, self._step, self._taken = 0, _FIRST, 0
        self._start, self._block = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self.size is None:
            self._fetch(0)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size or 0}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self.size is not None and self._at >= self.size:
            return 0
        if not self._start <= self._at < self._start + len(self._block):
            self._fetch(self._at)
        begin = self._at - self._start
        piece = self._block[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _fetch(self, start: int) -> None:
        """Have a block from `start` on."""
        self._taken += self._step
        if self._taken > _MOST:
            raise ModelError(f"{self._what} at {shown(self._url)} has a header of more than {_MOST} bytes, which no model has.")
        for attempt in range(1, _TRIES + 1):
            try:
                self._block = self._request(start)
                break
            except (OSError, http.client.HTTPException) as error:
                if attempt == _TRIES or not transient(error):
                    raise failure(error, self._what, self._url) from error
        self._start, self._step = start, min(2 * self._step, _MOST_STEP)

    def _request(self, start: int) -> bytes:
        wanted = {"Range": f"bytes={start}-{start + self._step - 1}", "Accept-Encoding": "identity"}
        with self._client.get(self._url, {**self._headers, **wanted}) as response:
            if response.status == 206:
                self._size_by(header(response.headers, "Content-Range"), start)
            else:
                length = header(response.headers, "Content-Length")
                self.size = int(length) if length and length.isdecimal() else self.size
                self._skip(response, start)
            return response.read(self._step)

    def _size_by(self, content_range: str | None, start: int) -> None:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range or "")
        if not match or int(match[1]) != start:
            raise WeightsError(f"{self._what}: {shown(self._url)} sent another part than was asked for.", "Try again later.")
        if match[2] != "*":
            self.size = int(match[2])

    def _skip(self, response: http.client.HTTPResponse, start: int) -> None:
        if start > _MOST:
            raise WeightsError(f"{shown(self._url)} cannot be read in parts, and all of it would have to be fetched.")
        while start > 0 and (block := response.read(min(start, _MOST_STEP))):
            start -= len(block)
