"""Who is refused in a handover, and who may not have the place that it begins at."""

import asyncio
import errno
import json
import os
import socket

import pytest

from headrace import __version__
from headrace.handover.line import PROTOCOL, HandoverError, Line
from headrace.handover.place import path_for

from .engines import eventually
from .handovers import reachable


async def test_a_second_one_at_once_is_refused(pair):
    first = await pair.asks()
    with pytest.raises(HandoverError, match=r"pid \d+\) is taking its place already. Nothing has changed"):
        await pair.asks()
    first.close()
    await eventually(lambda: "did not take this one's place: nothing has changed here" in pair.said, "the first gave up")
    assert await pair.asks() is not None, "then there is room for another"


async def test_another_kind_of_headrace_is_refused(pair):
    with pytest.raises(HandoverError, match="it is a `headrace serve`"):
        await pair.asks("gateway")


async def test_a_running_one_that_is_busy_says_so_at_once_and_later(pair, world):
    pair.why = "chat graduates"
    with pytest.raises(HandoverError, match="chat graduates"):
        await pair.asks()
    pair.why = ""
    before = await pair.asks()
    pair.why = "chat graduates"
    with pytest.raises(HandoverError, match="chat graduates"):
        await before.give_way(pair.gateway())
    assert not pair.offer.taken.is_set()
    assert await reachable(world)


@pytest.mark.parametrize("answer", [b"220 mail.example.com ESMTP\n", b"[1]\n", b"{}\n", b'{"headrace": 1}\n', b""])
async def test_what_is_no_headrace_is_told_apart(pair, answer):
    path = pair.path
    pair.offer.close()

    async def other(reader, writer):
        await reader.readline()
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(other, str(path)):
        with pytest.raises(HandoverError, match=r"does not answer as a running Headrace does\. Stop it"):
            await pair.asks()


async def test_another_way_of_passing_on_is_told_apart(pair):
    path = pair.path
    pair.offer.close()

    async def other(reader, writer):
        await reader.readline()
        writer.write(json.dumps({"headrace": PROTOCOL + 1, "version": "9.1"}).encode() + b"\n")
        writer.close()

    async with await asyncio.start_unix_server(other, str(path)):
        with pytest.raises(HandoverError, match=f"Headrace 9.1 there passes its sockets on in another way than {__version__}"):
            await pair.asks()


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"headrace": 7}\n', b"\xff\n", b"{" * 70_000 + b"\n", b""]
)
async def test_nonsense_does_not_disturb_the_running_one(pair, world, data):
    _, writer = await asyncio.open_unix_connection(str(pair.path))
    writer.write(data)
    writer.close()
    await eventually(lambda: not pair.offer._talks, "it was heard out")
    assert await reachable(world)
    assert await pair.asks() is not None


async def test_a_folder_that_others_can_enter_is_not_used(pair):
    place = path_for("127.0.0.1", 1).parent
    place.chmod(0o755)
    with pytest.raises(HandoverError, match="is not a folder of this user that nobody else can enter"):
        await pair.asks()


def test_a_link_in_place_of_the_folder_is_not_followed(temporary):
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"headrace-handover-{os.getuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(HandoverError, match="is not a folder of this user"):
        path_for("127.0.0.1", 1)


async def test_what_waits_there_for_another_user_is_not_asked(pair, monkeypatch):
    monkeypatch.setattr(Line, "uid", lambda self: os.getuid() + 1)
    with pytest.raises(HandoverError, match=r"belongs to another user \(uid"):
        await pair.asks()


async def test_another_user_is_refused(pair, monkeypatch):
    line = await pair.line()
    await line.send("hello", kind="serve")
    monkeypatch.setattr(Line, "uid", lambda self: os.getuid() + 1)
    answer, _ = await line.receive("hello", 5.0)
    assert answer["refused"] == "it belongs to another user"
    line.close()


async def test_messages_that_arrive_together_are_received_one_by_one():
    ours, theirs = (Line(each) for each in socket.socketpair(socket.AF_UNIX))
    await ours.send("hello", kind="serve")
    await ours.send("sockets")
    ours.farewell()
    assert (await theirs.receive("hello", 5.0))[0]["kind"] == "serve"
    await theirs.receive("sockets", 5.0)
    assert await theirs.end(), "it said that it ends as it should"
    ours.close()
    theirs.close()


async def test_a_message_without_an_end_is_not_read_for_ever():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    line, loop = Line(ours), asyncio.get_running_loop()
    theirs.setblocking(False)
    sending = asyncio.ensure_future(loop.sock_sendall(theirs, b"x" * (10 << 20)))
    with pytest.raises(HandoverError):
        await line.receive("hello", 5.0)
    sending.cancel()
    line.close()
    theirs.close()


async def test_without_descriptors_the_running_one_does_not_spin(pair):
    class Full(socket.socket):
        """A listening socket of a process without descriptors, until there are some."""

        full, refused = True, 0

        def accept(self):
            if Full.full:
                Full.refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    place, path = pair.offer._place, pair.path
    pair.offer._accepting.stop()
    place.socket = Full(fileno=place.socket.detach())
    pair.offer._accepting.start([place.socket])
    _, writer = await asyncio.open_unix_connection(str(path))
    await eventually(lambda: Full.refused, "it was to be accepted")
    for _ in range(50):  # rounds of the loop, each of which would try again
        await asyncio.sleep(0)
    assert Full.refused == 1
    Full.full = False
    writer.close()
    assert await pair.asks() is not None
