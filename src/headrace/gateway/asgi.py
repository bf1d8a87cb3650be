"""Answer a request with an ASGI application (version 3), on the same connection as the data path and apart from it."""

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from headrace.gateway.access_log import End
from headrace.gateway.http import CHUNKED, LAST_CHUNK, Headers, Request, chunk, response_head
from headrace.gateway.openai import Refusal

if TYPE_CHECKING:
    from headrace.gateway.wire import Client

INTERNAL_ERROR = Refusal(500, "Headrace failed to answer; its log says why.", "internal_error", "server_error")


class Call:
    """One request answered by the application, in a task of its own."""

    def __init__(
        self, client: "Client", request: Request, request_id: bytes, app: ASGIApp, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._client = client
        self._request = request
        self._request_id = request_id
        self._app = app
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._began = monotonic()
        self._start: Message | None = None
        self._received = False
        self._streams = False
        self._answered = False
        self._writable = asyncio.Event()
        self._writable.set()

    def start(self) -> None:
        """Begin to answer."""
        self._client.begin(self)
        self._task = self._loop.create_task(self._run())

    def cancel(self) -> None:
        """The client is gone."""
        if self._task is not None:
            self._task.cancel()
            self._tell(499, "left")

    def pause(self) -> None:
        """The client reads slowly."""
        self._writable.clear()

    def resume(self) -> None:
        """The client caught up."""
        self._writable.set()

    async def _run(self) -> None:
        try:
            await self._app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            return
        except Exception as error:
            self._failed(error)
        if self._start is None:
            self._tell(INTERNAL_ERROR.status, "refused")
        else:
            self._tell(self._status(), "refused" if self._status() >= 400 else "done")
        self._client.finished(monotonic())

    def _tell(self, status: int, end: End) -> None:
        if (log := self._client.log) is not None:
            size, seconds = len(self._request.body), monotonic() - self._began
            log.answered(self._client, self._request.head, self._request_id, status, end, seconds, bytes_in=size)

    def _failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"{self._request.head.path} failed", "exception": error})
        if self._streams:
            self._client.close_after()
        elif not self._answered:  # Starlette answers a 500 itself, then raises
            self._client.refuse(INTERNAL_ERROR, self._request_id)

    def _scope(self) -> dict[str, Any]:
        request = self._request
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.0" if request.head.http10 else "1.1",
            "method": request.head.method,
            "scheme": self._client.scheme,
            "path": unquote(request.head.path),
            "raw_path": request.head.path.encode("latin-1"),
            "query_string": request.head.target.partition(b"?")[2],
            "root_path": "",
            "headers": self._headers(),
            "client": (self._client.address, 0) if self._client.address else None,
            "headrace.account": request.head.holder[1],
            "server": None,
        }

    def _headers(self) -> Headers:
        """The request's headers; a remembered head has the length of another body, and framing is undone by now."""
        length = (b"content-length", b"%d" % len(self._request.body))
        framing = (b"content-length", b"transfer-encoding")
        return [*(field for field in self._request.head.headers if field[0] not in framing), length]

    async def _receive(self) -> Message:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop.create_future()  # cancelled with the task, when the client leaves
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        await self._writable.wait()
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._streams:
            self._write(body, more)
        elif more:
            self._streams = True
            self._begin()
            self._write(body, more)
        else:
            self._answered = True
            self._client.respond(self._status(), body, self._lines(), self._request_id)

    def _begin(self) -> None:
        if self._request.head.http10:
            self._client.close_after()
        line = b"HTTP/1.1 %d \r\n" % self._status()
        framing = b"" if self._request.head.http10 else CHUNKED
        self._client.write(response_head(line, self._lines(), framing, self._request_id, self._client.own_lines()))

    def _write(self, body: bytes, more: bool) -> None:
        if self._request.head.method == "HEAD":
            return
        if body:
            self._client.write(body if self._request.head.http10 else chunk(body))
        if not more and not self._request.head.http10:
            self._client.write(LAST_CHUNK)

    def _status(self) -> int:
        assert self._start
        return int(self._start["status"])

    def _lines(self) -> bytes:
        assert self._start
        headers = self._start.get("headers", ())
        return b"".join(b"%s: %s\r\n" % (name, value) for name, value in headers if name.lower() != b"content-length")
