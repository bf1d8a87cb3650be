"""What must be true after each connection: another reader's view of the same bytes, and of what the gateway answered."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h11
from fuzz_tools.inprocess import Wrong

Read = tuple[bytes, bytes, bytes]
"""Method, target, body."""

_OLD = "HTTP/1.0 with keep-alive"
_LINE = re.compile(r"error: illegal request line: bytearray\(b'(?:\\r)*[A-Z]+ +[^ ]+ +(?:HTTP|RTSP|ICE)/1\.[01]'\)$")


@dataclass(frozen=True, slots=True)
class Seen:
    """What h11 makes of a connection's bytes: whole requests, then why there are no more."""

    requests: list[Read]
    then: str
    """`idle`, `more` (a request is not whole), `closed` (a request was the last), an error, or what h11 cannot do."""


def seen_by_h11(data: bytes) -> Seen:
    """The requests in `data`, each answered at once."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(data)
    requests: list[Read] = []
    request, body = None, b""
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                requests.append((request.method, request.target, body))
                reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                reader.send(h11.EndOfMessage())
                if reader.our_state is not h11.DONE or reader.their_state is not h11.DONE:
                    kept = request.http_version == b"1.0" and b"keep-alive" in dict(request.headers).get(b"connection", b"")
                    return Seen(requests, _OLD if kept else "closed")
                reader.start_next_cycle()
            elif event is h11.NEED_DATA:
                idle = reader.their_state is h11.IDLE and not reader.trailing_data[0].strip(b"\r\n")
                return Seen(requests, "idle" if idle else "more")
            else:
                return Seen(requests, f"{event!r}")
    except h11.RemoteProtocolError as error:
        return Seen(requests, f"error: {error}")


@dataclass(frozen=True, slots=True)
class Got:
    """One answer as a client reads it."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


def answers(data: bytes, methods: Sequence[str], *, closed: bool) -> tuple[list[Got], bool]:
    """All answers in `data`, to requests with these methods, and whether the last one is whole. Raises Wrong."""
    found: list[Got] = []
    while data:
        head, mark, rest = data.partition(b"\r\n\r\n")
        if not mark:
            return found, False
        first, *lines = head.split(b"\r\n")
        if not first.startswith(b"HTTP/1.1 ") or not first[9:12].isdigit() or b"\n" in head.replace(b"\r\n", b""):
            raise Wrong(f"no legal answer: {head[:200]!r}")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        fields = dict(pairs)
        if len(pairs) != len(fields) or {b"content-length", b"transfer-encoding"} <= set(fields):
            raise Wrong(f"a field twice, or two framings: {head[:300]!r}")
        status = int(first[9:12])
        if status == 100:
            data = rest
            continue
        bodyless = status in (204, 304) or (len(found) < len(methods) and methods[len(found)] == "HEAD")
        body, data, whole = (b"", rest, True) if bodyless else _body(fields, rest, closed=closed)
        if not whole:
            return found, False
        found.append(Got(status, fields, body))
    return found, True


def _body(fields: dict[bytes, bytes], rest: bytes, *, closed: bool) -> tuple[bytes, bytes, bool]:
    if b"content-length" in fields:
        length = int(fields[b"content-length"])
        return rest[:length], rest[length:], len(rest) >= length
    if fields.get(b"transfer-encoding") != b"chunked":
        return rest, b"", closed
    body = b""
    while True:
        line, mark, more = rest.partition(b"\r\n")
        if not mark:
            return body, rest, False
        size = int(line.partition(b";")[0], 16)
        if len(more) < size + 2:
            return body, rest, False
        if more[size : size + 2] != b"\r\n":
            raise Wrong(f"a chunk does not end: {rest[:200]!r}")
        body, rest = body + more[:size], more[size + 2 :]
        if not size:
            return body, rest, True


def same_requests(handled: Sequence[Read], seen: Seen) -> None:
    """What the gateway took must be what h11 sees; it may take less. Raises Wrong."""
    for number, ours in enumerate(handled):
        if number >= len(seen.requests):
            if not _known(seen.then):
                raise Wrong(f"taken, but h11 says {seen.then}: {ours!r}")
            return
        if ours != seen.requests[number]:
            raise Wrong(f"read as {ours!r}, by h11 as {seen.requests[number]!r}")


def _known(why: str) -> bool:
    """Where h11 is stricter than it must be, and nobody can be deceived: an empty line, or a CR, before a request (RFC 9112 2.2:
    SHOULD be skipped); several spaces in the first line (3: MAY be taken); control characters inside a value (RFC 9110 5.5: MAY
    be taken). And it closes what HTTP/1.0 kept alive.
    """
    return (
        why in (_OLD, "error: no request line received") or why.startswith("error: illegal header line") or bool(_LINE.match(why))
    )


def same_body(sent: bytes, got: bytes) -> bool:
    """Whether the engine got the values that were asked, apart from what the gateway may set."""
    if sent == got:
        return True
    try:
        # What is no UTF-8 inside a value is the engine's to refuse: it gets the same bytes.
        ours, theirs = (json.loads(each.decode("utf-8", "surrogateescape")) for each in (sent, got))
    except (ValueError, RecursionError):
        return False
    return _but_ours(ours) == _but_ours(theirs)


def _but_ours(value: Any) -> str:
    left = {name: each for name, each in value.items() if name not in ("model", "stream", "stream_options", "prompt", "content")}
    return json.dumps(left, sort_keys=True)
