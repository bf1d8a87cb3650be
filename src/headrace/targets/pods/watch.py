"""The EndpointSlices of one namespace, kept as the API server tells them: list, watch, list again where the thread is lost.

What was heard last stays in force while nothing is heard: a lost API server never takes a replica away.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from time import monotonic
from urllib.parse import urlencode

import msgspec

from headrace.targets.pods import api
from headrace.targets.pods.api import Api, ApiError
from headrace.targets.pods.slices import LARGEST_BYTES, Slice, parse

VERSIONS = ("v1", "v1beta1")
"""Of discovery.k8s.io: v1 is there since Kubernetes 1.21."""
LIST_SECONDS = 30.0
WATCH_SECONDS = 300
"""How long one watch lasts, asked of the server; then the next begins where it ended."""
BACKOFF_SECONDS = (0.2, 10.0)
"""The first and the longest wait after a failure; each is about twice the one before."""
_PAGE = 500
_PAGES = 1000
_PAGE_BYTES = 64 * 1024 * 1024
_GONE = 410

log = logging.getLogger("headrace")


class _Lost(Exception):
    """What the server tells from now on does not join what it told before."""


class _ListMetadata(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: _ListMetadata


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class SliceWatch:
    """`slices` is what is known, None until the first list came; `changed` is called after each change.

    `trouble` says in words why nothing is heard now, "" while all is well.
    """

    def __init__(self, server: Api, namespace: str, changed: Callable[[], None]) -> None:
        self.slices: dict[str, Slice] | None = None
        self.trouble = ""
        self._server, self._namespace, self._changed = server, namespace, changed
        self._group = VERSIONS[0]
        self._version = ""
        """The resourceVersion up to which everything was heard; "" asks for a list."""
        self._failures = 0

    async def run(self) -> None:
        """Keep listening, until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                    self._well()
                await self._watch()
            except (OSError, TimeoutError, ValueError, _Lost) as error:
                await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        """Say it once, wait a while, then list again. A version that is too old is no failure, unless that recurs."""
        self._version = ""
        again = isinstance(error, _Lost) and not self._failures
        self._failures += 1
        if isinstance(error, ApiError) and error.status == 404:
            older = self._group == VERSIONS[0]
            self._group = VERSIONS[older]
            again |= older
        if again:
            return
        self._say(_told(error))
        least, most = BACKOFF_SECONDS
        await asyncio.sleep(min(most, least * 2 ** min(self._failures - 1, 10)) * random.uniform(0.75, 1.25))

    def _say(self, trouble: str) -> None:
        if trouble == self.trouble:
            return
        kept = "nothing is known of the models' pods yet" if self.slices is None else "what was known of pods stays in force"
        log.warning("%s tells nothing of EndpointSlices in %s: %s; %s", self._server, self._namespace, trouble, kept)
        self.trouble = trouble

    def _well(self) -> None:
        if self.trouble:
            log.info("%s tells of EndpointSlices in %s again", self._server, self._namespace)
        self.trouble = ""

    async def _list(self) -> None:
        """Everything anew, in one step."""
        found: dict[str, Slice] = {}
        more, version = "", ""
        for _ in range(_PAGES):
            async with asyncio.timeout(LIST_SECONDS):
                page = await api.whole(self._server, self._target(_page(more)), _PAGE_BYTES)
            told = msgspec.json.decode(page, type=_List)
            for item in told.items or ():
                one = parse(item)
                found[one.name] = one
            version, more = told.metadata.resourceVersion, told.metadata.continue_
            if not more:
                break
        if not version:
            raise ValueError("its list has no resourceVersion")
        self.slices, self._version = found, version
        self._changed()

    async def _watch(self) -> None:
        """Events from where we are, until the server ends it. An end without a word counts as a failure, not to ask on and on."""
        began, heard = monotonic(), False
        query = {
            "watch": "1",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async with (
            asyncio.timeout(WATCH_SECONDS + LIST_SECONDS),
            aclosing(api.lines(self._server, self._target(query), LARGEST_BYTES)) as told,
        ):
            async for line in told:
                self._hear(msgspec.json.decode(line, type=_Event))
                heard, self._failures = True, 0
        if not heard and monotonic() - began < BACKOFF_SECONDS[0]:
            raise ConnectionResetError("its watches end at once")
        self._failures = 0

    def _hear(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise _Lost(status.message) if status.code == _GONE else ApiError(status.code, status.message)
        if event.type == "BOOKMARK":
            self._version = msgspec.json.decode(event.object, type=_Bookmark).metadata.resourceVersion or self._version
            return
        one = parse(event.object)
        assert self.slices is not None
        if event.type in ("ADDED", "MODIFIED"):
            self.slices[one.name] = one
        elif event.type == "DELETED":
            self.slices.pop(one.name, None)
        else:
            raise ValueError(f'it sent an event of type "{event.type[:40]}"')
        self._version = one.version or self._version
        self._changed()

    def _target(self, query: dict[str, str]) -> str:
        return f"/apis/discovery.k8s.io/{self._group}/namespaces/{self._namespace}/endpointslices?{urlencode(query)}"


def _page(more: str) -> dict[str, str]:
    return {"limit": str(_PAGE), **({"continue": more} if more else {})}


def _told(error: Exception) -> str:
    if isinstance(error, ApiError) and error.status == 403:
        return f"{error}; its Role must allow list and watch of endpointslices in discovery.k8s.io"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
