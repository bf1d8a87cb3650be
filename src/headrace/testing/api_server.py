"""A fake API server that tells of EndpointSlices: list in pages, watch with history, and faults on demand."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

Endpoint = tuple[str, str, dict[str, Any]]
"""(pod, address, conditions)."""

GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


def endpoint_slice(
    name: str,
    service: str,
    endpoints: Sequence[Endpoint],
    *,
    port: int = 8000,
    port_name: str = "http",
    family: str = "IPv4",
) -> dict[str, Any]:
    """An EndpointSlice as the API has it."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "inference", "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "endpoints": [
            {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}}
            for pod, address, conditions in endpoints
        ]
        or None,  # as Go writes an empty list
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
    }


class FakeApiServer:
    """Listens on loopback without TLS, as `kubectl proxy` does. `slices` is what there is: set and remove them as controllers do.

    Faults: `refuses` is a (status, message) for every request; `serves` are the API versions that it knows; `keeps` is how much
    history a watch may ask for; `hangs` accepts and answers nothing.
    """

    def __init__(self) -> None:
        self.version = 100
        self.slices: dict[str, dict[str, Any]] = {}
        self.refuses: tuple[int, str] | None = None
        self.serves: tuple[str, ...] = ("v1",)
        self.keeps = 1000
        self.hangs = False
        self.lists = self.watches = 0
        """Requests that were answered."""
        self.tokens: list[str] = []
        """Authorization of every request."""
        self.url = ""
        self._port = 0
        self._history: list[tuple[int, dict[str, Any]]] = []
        self._news = asyncio.Event()
        self._raw: bytes | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    # ---- its life

    async def open(self) -> None:
        """Listen, at the port of the last time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def close(self) -> None:
        """Be gone, every connection with it."""
        if self._server is not None:
            self._server.close()
        self.disconnect()
        if self._server is not None:
            await self._server.wait_closed()

    def disconnect(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    # ---- what there is

    def set(self, slice_: dict[str, Any]) -> None:
        """Add or change a slice."""
        name = slice_["metadata"]["name"]
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.version += 1
        slice_["metadata"]["resourceVersion"] = str(self.version)
        self.slices[name] = slice_
        self._tell({"type": kind, "object": slice_})

    def remove(self, name: str) -> None:
        """Delete a slice."""
        gone = self.slices.pop(name)
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell({"type": "DELETED", "object": gone})

    def bookmark(self) -> None:
        """Tell watchers the version, without news."""
        self.version += 1
        self._tell({"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self.version)}}})

    def expire(self) -> None:
        """Tell watchers that what they have is too old, and forget all history."""
        self.version += 1
        self._history.clear()
        self._tell({"type": "ERROR", "object": GONE}, keep=False)

    def garbage(self, data: bytes) -> None:
        """Send these bytes to watchers, as they are."""
        self._raw = data
        self._wake()

    def _tell(self, event: dict[str, Any], *, keep: bool = True) -> None:
        if keep:
            self._history.append((self.version, event))
            del self._history[: -self.keeps]
        else:
            self._raw = json.dumps(event).encode() + b"\n"
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    # ---- answers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head.decode("latin-1"), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(head.split(" ")[1])
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        self.tokens.append(fields.get("authorization", ""))
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        if self.hangs:
            await reader.read()
        elif self.refuses is not None:
            await _write(writer, self.refuses[0], {"kind": "Status", "message": self.refuses[1]})
        elif target.path.split("/")[3] not in self.serves:
            await _write(writer, 404, {"kind": "Status", "message": "the server could not find the requested resource"})
        elif "watch" in query:
            self.watches += 1
            await self._watch(int(query["resourceVersion"]), reader, writer)
        else:
            self.lists += 1
            await _write(writer, 200, self._page(int(query.get("limit", 500)), int(query.get("continue", 0))))

    def _page(self, limit: int, begin: int) -> dict[str, Any]:
        items = list(self.slices.values())
        more = {"continue": str(begin + limit)} if begin + limit < len(items) else {}
        return {
            "kind": "EndpointSliceList",
            "metadata": {"resourceVersion": str(self.version), **more},
            "items": items[begin : begin + limit],
        }

    async def _watch(self, since: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        oldest = self._history[0][0] if self._history else self.version + 1
        if since + 1 < oldest and since < self.version:
            await _write(writer, 410, GONE)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        left = asyncio.create_task(reader.read())
        try:
            while not left.done():
                news = self._news
                if self._raw is not None:
                    _chunk(writer, self._raw)
                    self._raw = None
                for version, event in [(version, event) for version, event in self._history if version > since]:
                    _chunk(writer, json.dumps(event).encode() + b"\n")
                    since = version
                await writer.drain()
                woken = asyncio.create_task(news.wait())
                await asyncio.wait((left, woken), return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        finally:
            left.cancel()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _write(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode() + b"\n"
    writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data))
    await writer.drain()
