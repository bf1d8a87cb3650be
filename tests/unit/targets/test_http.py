"""The small GET: what it brings, and how it fails on servers that misbehave."""

import asyncio
import socket
import struct

import pytest
from canned_server import CannedServer

from headrace.targets.http import LARGEST_BODY, Answer, get
from headrace.targets.probes import health


def server(answer, stays_open=False):
    return CannedServer(lambda path: answer, stays_open)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Answer(200, b"hi")),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Answer(503, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n", Answer(200, b"hi!")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", Answer(200, b"until the end")),
    ],
)
async def test_every_framing_is_understood(answer, expected):
    async with server(answer) as there:
        assert await get(there.address, "/health", 5.0) == expected


async def test_a_whole_answer_is_enough_on_a_connection_that_stays_open():
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", stays_open=True) as there:
        assert await get(there.address, "/health", 5.0) == Answer(200, b"hi")


async def test_the_key_is_sent_as_a_bearer():
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as there:
        await get(there.address, "/v1/models", 5.0, key="s3cret")
    assert there.asked[0].startswith(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in there.asked[0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x16\x03\x01 not HTTP at all\r\n\r\n", "not HTTP"),
        (b"", "too early"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "too early"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "too early"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LARGEST_BODY + 1), "longer than"),
    ],
)
async def test_what_is_no_whole_answer_is_a_value_error(answer, why):
    async with server(answer) as there:
        with pytest.raises(ValueError, match=why):
            await get(there.address, "/health", 20.0)


@pytest.mark.parametrize(("answer", "closed"), [(b"", True), (b"HTTP/1.1 200", False), (b"not HTTP at all\r\n\r\n", False)])
async def test_a_door_that_is_shut_without_a_word_is_closed(answer, closed):
    """As that of a tritonserver that was told to end: what runs there goes on, and it must not be killed for that."""
    async with server(answer) as there:
        found = await health(there.address, "/health", 5.0)
    assert (found.ready, found.closed) == (False, closed)


async def test_a_door_that_is_shut_with_a_reset_is_closed():
    """So it is where the request came before the door was shut, as on a busy machine."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        there = writer.get_extra_info("socket")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server:
        found = await health(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "/health", 5.0)
    assert (found.ready, found.closed) == (False, True)


async def test_silence_ends_in_a_timeout():
    async with server(b"", stays_open=True) as there:
        with pytest.raises(TimeoutError):
            await get(there.address, "/health", 0.05)


@pytest.mark.parametrize("address", ["unix:/nowhere/a.sock", "http://127.0.0.1:1"])
async def test_nobody_there_is_an_os_error(address):
    with pytest.raises(OSError):  # noqa: PT011 (the system's words)
        await get(address, "/health", 5.0)


@pytest.mark.parametrize("address", ["https://host", "ftp://host", "host:80", "http://host:port"])
async def test_an_address_that_is_none_is_a_value_error(address):
    with pytest.raises(ValueError):  # noqa: PT011 (partly urllib's words)
        await get(address, "/health", 5.0)
