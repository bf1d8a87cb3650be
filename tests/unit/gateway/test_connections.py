"""What one client may take alone: connections of an address and of a key, and the time and memory that slowness costs."""

import asyncio
import socket
import tracemalloc
from dataclasses import replace

import pytest

from headrace.gateway.accounts import Account
from headrace.gateway.connections import Connections, Limits, place
from headrace.gateway.keys import Keys
from headrace.gateway.reading import HeadMemo, Reader
from headrace.spec.connections import DEFAULT
from headrace.spec.load import loads

from .clients import asking, chat, get, request
from .engines import DONE, LAST, STREAM, chunk, event, eventually, holds, whole
from .test_keys import bearer, key, keyed


def limited(world, **limits):
    world.gateway.connections.limits = replace(world.gateway.connections.limits, **limits)


# ---- how many


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("127.0.0.1", ""),  # a proxy on this machine brings everybody
        ("127.3.2.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),  # IPv4 on a socket of IPv6
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),  # whoever has one address there has all of a /64
        ("2001:db8:1:2::", "2001:0db8:0001:0002"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("", ""),  # a Unix socket
        ("nonsense", ""),
    ],
)
def test_what_counts_as_one_address(address, counted):
    assert place(address) == counted


class OfAddress:
    account, held = None, 0

    def __init__(self, address):
        self.place = place(address)


def test_an_address_has_so_many_connections_and_others_have_their_own():
    counts = Connections(Limits(1, 1.0, 1, per_address=2))
    mine = [OfAddress("10.0.0.1") for _ in range(3)]
    refused = [counts.opened(one.place) for one in mine]
    assert [one and (one.status, one.code) for one in refused] == [None, None, (429, "too_many_connections")]
    assert counts.opened(place("10.0.0.2")) is None
    for one in mine[:2]:
        counts.closed(one)
    assert counts.opened(mine[0].place) is None, "what was closed is free again"
    assert counts.refused == {"all": 0, "address": 1, "key": 0}
    counts.closed(mine[0])
    counts.closed(mine[2])
    counts.closed(OfAddress("10.0.0.2"))
    assert not counts._places, "nothing is remembered of who is gone"


async def test_a_client_over_the_limit_of_its_address_is_told_so_and_costs_nobody_else(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.wire.place", lambda address: "somewhere")
    limited(world, per_address=2)
    await world.engine()
    first, second, third = [await world.client() for _ in range(3)]
    answer = await third.answer()
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "too_many_connections", "1")
    await third.gone()
    await second.send(chat())
    assert (await second.answer()).status == 200
    first.close()
    third.close()
    await eventually(lambda: len(world.gateway.clients) == 1, "two are gone")
    assert (await world.ask(chat())).status == 200


async def test_clients_of_this_machine_are_not_counted_by_address(world):
    limited(world, per_address=1)
    await world.engine()
    for client in [await world.client() for _ in range(5)]:
        await client.send(chat())
        assert (await client.answer()).status == 200


async def test_past_so_many_refusals_at_once_connections_are_closed_without_a_word(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.wire.REFUSED_AT_ONCE", 1)
    monkeypatch.setattr("headrace.gateway.wire.LINGER_SECONDS", 0.1)
    limited(world, connections=1)
    await world.client()
    await eventually(lambda: len(world.gateway.clients) == 1, "the first is there")
    told = await world.client()
    assert (await told.answer()).status == 503
    await (await world.client()).gone()
    await told.gone()
    await eventually(lambda: not world.gateway.connections.turned_away, "and none is remembered")
    assert b'headrace_client_connections_refused_total{limit="all"} 2.0' in await _metrics(world)


async def _metrics(world):
    limited(world, connections=10)
    return (await world.ask(get("/metrics"))).body


async def test_a_key_has_so_many_connections_and_those_may_be_used_again(world):
    limited(world, per_key=2)
    keyed(world, key("a"), key("b"))
    await world.engine()
    first, second, third = [await world.client() for _ in range(3)]
    for client in (first, second, first):
        await client.send(chat(bearer("a")))
        assert (await client.answer()).status == 200
    await third.send(chat(bearer("a")))
    answer = await third.answer()
    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (429, "too_many_connections", "close")
    await third.gone()
    await second.send(chat(bearer("b")))  # a connection counts for the key that it used last
    assert (await second.answer()).status == 200
    fourth = await world.client()
    await fourth.send(chat(bearer("a")))
    assert (await fourth.answer()).status == 200
    assert world.gateway.keys.accounts["a"].refused["connections"] == 1
    for client in (first, second, fourth):
        client.close()
    await eventually(lambda: not world.gateway.connections._keys, "nothing is remembered of who is gone")


async def test_a_backend_may_hold_more_connections_with_its_key_than_an_address_may():
    said = loads("models: {chat: hf:org/name}").gateway.connections
    counts, account = Connections(Limits(1, 1.0, 1, per_key=said.key)), Account(key("backend"))
    assert [counts.moved(None, account) for _ in range(2 * DEFAULT)] == [None] * (2 * DEFAULT)


async def test_a_key_that_was_made_anew_keeps_its_count(world):
    limited(world, per_key=1)
    keyed(world, key("a"))
    await world.engine()
    first = await world.client()
    await first.send(chat(bearer("a")))
    assert (await first.answer()).status == 200
    world.gateway.keys = Keys((key("a", rpm=1000),), world.gateway.keys)
    assert (await world.ask(chat(bearer("a")))).status == 429


# ---- slow senders


async def drips(client, data):
    """A few bytes at a time, until the gateway has enough of it."""
    try:
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(0.02)
    except OSError:
        return


SLOW = {"idle": 5.0, "head": 5.0, "body": 5.0}


@pytest.mark.parametrize(
    ("slow", "sent"),
    [
        ("head", request(asking(), "X-Filler: " + "x" * 2000)),  # a byte now and then never ends a head
        ("body", request(asking(padding="x" * 2000))),
        ("body", request(b"", "Transfer-Encoding: chunked", length=False) + b"1\r\nx\r\n" * 500),
    ],
    ids=["head", "body", "chunks"],
)
async def test_a_request_that_comes_byte_by_byte_is_refused_in_time_however_it_goes_on(world, monkeypatch, slow, sent):
    monkeypatch.setattr("headrace.gateway.wire.READ_SECONDS", SLOW | {slow: 0.2})
    monkeypatch.setattr("headrace.gateway.wire.LINGER_SECONDS", 0.1)
    await world.engine()
    client = await world.client()
    head = sent.find(b"\r\n\r\n") + 4 if slow == "body" else 20
    await client.send(sent[:head])
    dripping = world.loop.create_task(drips(client, sent[head:]))
    assert (await client.answer()).status == 408
    await eventually(lambda: not world.gateway.clients, "it is closed, though it still sends")
    dripping.cancel()
    assert not world.engines["chat-1"].asked


def feed(pieces):
    """A reader that was fed `pieces`."""
    reader = Reader(HeadMemo(), lambda head: None, 64 << 20, lambda: None)
    for piece in pieces:
        reader.feed(piece)
    return reader


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_in_the_smallest_pieces_takes_no_more_memory_than_it_is_long(chunked):
    count = 50_000
    head = request(b"", "Transfer-Encoding: chunked" if chunked else f"Content-Length: {4 * count}", length=False)
    piece = b"2\r\nab\r\n" if chunked else b"ab"
    reader = feed([head])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count):
        reader.feed(piece)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert reader.held == 2 * count
    assert taken < 4 * count


async def test_bodies_on_their_way_are_bounded_for_all_clients_together(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.connections.RECEIVING_BYTES", 100_000)
    engine = await world.engine()
    first, second = await world.client(), await world.client()
    large = request(asking(padding="x" * 80_000))
    await first.send(large[:70_000])
    await eventually(lambda: world.gateway.connections.receiving > 60_000, "the first is being received")
    await second.send(large[:70_000])
    answer = await second.answer()
    assert (answer.status, answer.error["code"]) == (503, "too_much_arriving")
    assert world.gateway.connections.receiving < 100_000, "what was refused is not kept"
    await first.send(large[70_000:])
    assert (await first.answer()).status == 200
    assert len(engine.asked) == 1
    second.close()
    third = await world.client()
    await third.send(large[:70_000])
    await eventually(lambda: world.gateway.connections.receiving > 60_000, "the third is being received")
    third.close()
    await eventually(lambda: not world.gateway.connections.receiving, "who leaves takes it along")


# ---- slow readers


async def sips(client, pause=0.01):
    """Reads a byte now and then; returns when the gateway has had enough."""
    while True:
        try:
            if not await asyncio.wait_for(client._loop.sock_recv(client.sock, 1), 10):
                return
        except OSError:
            return
        await asyncio.sleep(pause)


async def floods(asked):
    asked.write(STREAM)
    while not asked.line.lost.is_set():
        asked.write(chunk(event("x" * 32_000)))
        await asked.line.writable.wait()


async def test_a_stream_that_is_read_byte_by_byte_is_given_up_and_frees_its_slot(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.wire.UNREAD_SECONDS", 0.3)
    engine = await world.engine(floods, slots=1)
    client = await world.client(receive_buffer=16_384)
    await client.send(chat(stream=True))
    asked = await engine.was_asked()
    sipping = world.loop.create_task(sips(client))
    await asked.left()
    await world.rests()
    await eventually(lambda: not world.gateway.clients, "its connection is closed")
    sipping.cancel()


async def test_a_large_answer_that_is_read_slowly_but_steadily_is_read_to_its_end(world, monkeypatch):
    """Longer than the limit in all; in each limit it reads more than it has to."""
    monkeypatch.setattr("headrace.gateway.wire.UNREAD_SECONDS", 1.0)

    async def large(asked):
        asked.write(STREAM + b"".join(chunk(event("x" * 50_000)) for _ in range(40)) + chunk(event("", "stop") + DONE) + LAST)

    await world.engine(large, folds=True)  # put together here, so that all of it is written at once
    client = await world.client(receive_buffer=16_384)
    await eventually(lambda: world.gateway.clients, "the gateway has the client")
    (served,) = world.gateway.clients
    served.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # or the kernel has it all
    await client.send(chat())
    began, got = world.loop.time(), 0
    while got < 2_000_000:
        data = await asyncio.wait_for(world.loop.sock_recv(client.sock, 16_384), 10)
        assert data, f"cut after {got} bytes"
        got += len(data)
        if world.loop.time() - began < 2.5:
            await asyncio.sleep(0.02)
    assert world.loop.time() - began > 1.0, "it took longer than the limit"


@pytest.mark.parametrize("last", [True, False], ids=["close", "keep-alive"])
async def test_a_small_answer_that_is_never_read_keeps_no_connection(world, monkeypatch, last):
    """Too little to be held against the engine; the kernel's buffers are full, and closing waits for a reader."""
    monkeypatch.setattr("headrace.gateway.wire.READ_SECONDS", {"idle": 0.2, "head": 5.0, "body": 5.0})
    monkeypatch.setattr("headrace.gateway.wire.UNREAD_SECONDS", 0.2)
    monkeypatch.setattr("headrace.gateway.wire.WRITE_HIGH_WATER", 1 << 30)  # so that nothing is too much

    async def sent(asked):
        asked.write(whole(b'"%s"' % (b"x" * 8_000_000)))

    engine = await world.engine(sent)
    client = await world.client(receive_buffer=4096)
    await client.send(chat(*(["Connection: close"] if last else [])))
    await engine.was_asked()
    await eventually(lambda: world.gateway.clients, "the gateway has the client")
    (served,) = world.gateway.clients
    await world.rests()
    assert served.transport.get_write_buffer_size() > 0, "the test needs an answer that the kernel does not take"
    await eventually(lambda: not world.gateway.clients, "the connection is cut")


async def test_slow_clients_of_every_kind_keep_nobody_else_from_being_answered(world):
    engine = await world.engine(slots=1)
    head, body, mute = [await world.client() for _ in range(3)]
    await head.send(b"POST /v1/chat/comp")
    await body.send(chat()[:-3])
    unread = await world.client(receive_buffer=4096)
    await unread.send(get("/metrics") * 200)
    for _ in range(5):
        assert (await world.ask(chat())).status == 200
    assert len(engine.asked) == 5
    mute.close()


async def test_a_client_that_vanishes_while_it_waits_frees_its_place(world):
    """RST instead of FIN: no end of a stream tells of it."""
    await world.engine(holds, slots=1)
    holding, waiting = await world.client(), await world.client()
    await holding.send(chat())
    await eventually(lambda: world.running == 1, "one is at the engine")
    await waiting.send(chat())
    await eventually(lambda: world.waiting == 1, "one waits")
    waiting.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    waiting.close()
    await eventually(lambda: world.waiting == 0, "it is forgotten")
