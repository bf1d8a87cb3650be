"""Transports without sockets: a gateway's clients and engines in one process, every byte handed over by the event loop."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from random import Random
from typing import Any

import h11

HIGH_WATER = 64 * 1024
_HEAD = re.compile(rb"([A-Z]+) (/[!-~\x80-\xff]*) HTTP/1\.1((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[^\r\n\0]*)+)")
_USAGE = b'{"prompt_tokens":1,"completion_tokens":1}'
_EVENT = b'data: {"object":"chat.completion.chunk","number":%d,"choices":[{"index":0,"delta":{"content":"%d"},%s}]}\n\n'
_FIELD = re.compile(rb"\r\n([^:]+): ?([^\r\n]*)")


class Wrong(AssertionError):
    """The gateway did what it must not do."""


class Pipe(asyncio.Transport):
    """What a protocol writes to. Bytes go to `received`, soon; a peer that reads slowly presses back."""

    def __init__(self, loop: "Loop", received: Callable[[bytes], None], gone: Callable[[], None]) -> None:
        super().__init__()
        self.loop, self._received, self._gone = loop, received, gone
        self.protocol: Any = None
        self.ended = self.closing = self.reading_paused = False
        self._held: list[bytes] = []
        self.slow = self._pressed = False
        self._unread: list[bytes] = []

    # ---- for the protocol

    def write(self, data: bytes) -> None:
        if self.ended:
            raise Wrong("bytes were written behind the end of our side")
        if not self.closing:
            self._held.append(bytes(data))
            if self.slow:
                self._press()
            else:
                self._flush()

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self._flush()
            self.loop.call_soon(self.protocol.connection_lost, None)
            self._gone()

    def abort(self) -> None:
        self._held.clear()
        self.close()

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False
        while self._unread and not self.reading_paused and not self.closing:
            self.protocol.data_received(self._unread.pop(0))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # ---- for the peer

    def deliver(self, data: bytes) -> None:
        """The peer sent this."""
        if self.reading_paused:
            self._unread.append(data)
        elif not self.closing:
            self.protocol.data_received(data)

    def leave(self) -> None:
        """The peer is gone."""
        if not self.closing:
            self.closing = True
            self._gone()
            self.protocol.connection_lost(None)

    def reads_on(self) -> None:
        """A slow peer catches up."""
        self.slow = False
        self._flush()
        if self._pressed and not self.closing:
            self._pressed = False
            self.protocol.resume_writing()

    def _press(self) -> None:
        if not self._pressed and sum(map(len, self._held)) > HIGH_WATER:
            self._pressed = True
            self.protocol.pause_writing()

    def _flush(self) -> None:
        held, self._held = self._held, []
        for data in held:
            self._received(data)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose connections are pipes to `engines`; counts what is scheduled, to know when nothing happens any more."""

    scheduled = 0
    engines: "Engines"

    def call_soon(self, *args: Any, **more: Any) -> Any:
        self.scheduled += 1
        return super().call_soon(*args, **more)

    async def create_connection(self, factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return self.engines.connect(factory())

    async def quiet(self) -> None:
        """Return when nothing happens any more. Raises Wrong where something goes on and on."""
        for _ in range(20_000):
            before = self.scheduled
            await asyncio.sleep(0)
            if self.scheduled <= before + 1:
                return
        raise Wrong("something goes on and on")


class Engines:
    """Every engine: checks that each request is exactly one, well formed, and answers with its number and what it was sent."""

    def __init__(self, loop: Loop, draw: Random, faults: float) -> None:
        self.loop, self.draw, self.faults = loop, draw, faults
        self.asked: dict[int, tuple[bytes, bytes, bytes]] = {}
        """Number → method with target, X-Request-Id, body."""
        self.number = self.connections = self.open = 0
        self._heads: set[bytes] = set()

    def connect(self, upstream: Any) -> tuple[Pipe, Any]:
        """A connection for the gateway's `upstream`."""
        line = Line(self)
        pipe = Pipe(self.loop, line.received, line.gone)
        pipe.protocol, line.pipe = upstream, pipe
        self.connections += 1
        self.open += 1
        upstream.connection_made(pipe)
        return pipe, upstream

    def heard(self, line: "Line", head: bytes, body: bytes, method: bytes, target: bytes, known: dict[bytes, bytes]) -> None:
        """A whole request."""
        self._with_h11(head, body)
        self.number += 1
        self.asked[self.number] = (method + b" " + target, known[b"x-request-id"], body)
        self.loop.call_soon(line.answer, self.number, method, body)

    def _with_h11(self, head: bytes, body: bytes) -> None:
        """Another reader must see the same; heads that differ in numbers only are read once."""
        shape = hashlib.md5(re.sub(rb"[0-9a-f]+", b"0", head), usedforsecurity=False).digest()
        if shape in self._heads:
            return
        if len(self._heads) < 20_000:
            self._heads.add(shape)
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        reader.receive_data(head + b"\r\n\r\n" + body)
        request, read = reader.next_event(), b""
        while isinstance(event := reader.next_event(), h11.Data):
            read += bytes(event.data)
        if not isinstance(request, h11.Request) or not isinstance(event, h11.EndOfMessage) or read != body:
            raise Wrong(f"h11 reads another request: {head!r}")
        if reader.trailing_data[0]:
            raise Wrong(f"h11 sees bytes behind the request: {head!r}")


class Line:
    """A connection from the gateway to an engine."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.pipe: Pipe
        self._buffer = b""
        self._busy = False

    def gone(self) -> None:
        self.engines.open -= 1

    def received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            raise Wrong(f"half a head reached the engine: {self._buffer[:200]!r}")
        if self._busy:
            raise Wrong("a request was sent while another was running on the same connection")
        head = self._buffer[:end]
        match = _HEAD.fullmatch(head)
        if match is None:
            raise Wrong(f"no legal head: {head[:300]!r}")
        fields = [(name.lower(), value) for name, value in _FIELD.findall(match[3])]
        names = [name for name, _ in fields]
        known = dict(fields)
        if names.count(b"host") != 1 or names.count(b"content-length") != 1 or not known[b"content-length"].isdigit():
            raise Wrong(f"not one host and one length: {head[:300]!r}")
        if {b"transfer-encoding", b"connection", b"upgrade", b"expect", b"authorization", b"cookie", b"te"} & set(names):
            raise Wrong(f"what is not for engines: {head[:300]!r}")
        length = int(known[b"content-length"])
        body = self._buffer[end + 4 :]
        if len(body) != length:
            raise Wrong(f"the body has {len(body)} bytes, not {length}")
        self._buffer, self._busy = b"", True
        self.engines.heard(self, head, body, match[1], match[2], known)

    def answer(self, number: int, method: bytes, body: bytes) -> None:
        """In one of the ways of engines; sometimes wrong."""
        draw = self.engines.draw
        if draw.random() < self.engines.faults:
            self._fail(number)
            return
        if b'"stream":true' in body.replace(b" ", b"") or b'"stream": true' in body:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            data = head + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in _events(number)) + b"0\r\n\r\n"
        else:
            said = b'{"object":"chat.completion","choices":[],"number":%d,"usage":%s}' % (number, _USAGE)
            data = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(said)
            data += b"X-Number: %d\r\n\r\n" % number + (b"" if method == b"HEAD" else said)
        self._say(data)

    def _say(self, data: bytes) -> None:
        self._busy = False
        draw = self.engines.draw
        at = draw.randrange(len(data)) if draw.random() < 0.3 else 0
        if at:
            self.pipe.deliver(data[:at])
        self.engines.loop.call_soon(self.pipe.deliver, data[at:])

    def _fail(self, number: int) -> None:
        draw = self.engines.draw
        whole = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a": %3d}' % (number % 999)
        match draw.randrange(6):
            case 0:  # died before its answer
                self._hang_up()
            case 1:  # died in the middle of it
                self.pipe.deliver(whole[: draw.randrange(1, len(whole))])
                self._hang_up()
            case 2:  # garbage
                self._say(b"\0\xff nothing legal\r\n\r\n")
            case 3:  # more than was asked for
                self._say(whole + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            case 4:
                self._say(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nRetry-After: 1\r\n\r\n{}")
            case _:
                self._say(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")

    def _hang_up(self) -> None:
        self.engines.loop.call_soon(self.pipe.leave)


def _events(number: int) -> tuple[bytes, ...]:
    usage = b'data: {"object":"chat.completion.chunk","choices":[],"usage":%s}\n\n' % _USAGE
    said = _EVENT % (number, number, b'"finish_reason":null')
    return said, _EVENT % (number, number, b'"finish_reason":"stop"'), usage, b"data: [DONE]\n\n"
