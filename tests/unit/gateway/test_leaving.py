"""Clients that leave and clients that read or send slowly: engines are freed at once, memory is bounded, accounts are right."""

import asyncio
import socket
import struct

import pytest

from .clients import asking, chat, get, request
from .engines import ANSWER, LAST, STREAM, Gate, answers, chunk, event, eventually, holds, settled, streams_and_holds, whole
from .test_retries import _full_backlog

PROMPTLY = 1.0
"""Seconds within which an engine must see that its client has left."""


def finishes_sending(client):
    client.finish_sending()


def closes(client):
    client.close()


def resets(client):
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


LEAVES = [
    finishes_sending,  # FIN: curl's end, and what most clients do
    closes,
    resets,  # RST: a process that was killed with unread data
]


@pytest.fixture(params=LEAVES, ids=lambda leaves: leaves.__name__)
def leaves(request):
    return request.param


async def gone(world, engine=None) -> None:
    """Everything the client held is free, promptly, and it was counted once."""
    await world.rests(PROMPTLY)
    await eventually(lambda: not world.model.exchanges, "the request is over", PROMPTLY)
    if engine is not None:
        await eventually(lambda: not engine.running, "the engine was told", PROMPTLY)
    assert world.counted == {499: 1}
    assert world.model.stats.disconnects == 1
    assert world.model.held_bytes == 0


async def test_a_client_that_leaves_while_it_waits_is_forgotten(world, leaves):
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.waiting == 1, "it waits")
    leaves(client)
    await gone(world)
    engine = await world.engine()
    assert (await world.ask(chat())).status == 200
    assert len(engine.asked) == 1, "what nobody waits for is not sent"


async def test_a_client_that_leaves_while_the_gateway_connects_frees_the_slot(world, leaves):
    with _full_backlog() as address:
        world.adds(address, slots=1)
        client = await world.client()
        await client.send(chat())
        await eventually(lambda: world.running == 1, "it connects")
        leaves(client)
        await gone(world)


async def test_a_client_that_leaves_before_the_first_byte_is_noticed_by_the_engine(world, leaves):
    engine = await world.engine(holds, slots=1)
    client = await world.client()
    await client.send(chat())
    await engine.was_asked()
    leaves(client)
    await gone(world, engine)
    engine.script = answers
    assert (await world.ask(chat())).status == 200, "the slot is free"


async def test_a_client_that_leaves_in_the_middle_of_a_stream_is_noticed_by_the_engine(world, leaves):
    engine = await world.engine(streams_and_holds(event()), slots=1)
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(event())
    leaves(client)
    await gone(world, engine)


async def test_a_client_that_leaves_while_its_answer_is_folded_is_noticed_by_the_engine(world, leaves):
    engine = await world.engine(streams_and_holds(event()), slots=1, folds=True)
    client = await world.client()
    await client.send(chat())
    await engine.was_asked()
    leaves(client)
    await gone(world, engine)


async def test_a_client_that_leaves_in_the_middle_of_its_request_is_forgotten(world, leaves):
    engine = await world.engine()
    client = await world.client()
    await client.send(chat()[:-5])
    leaves(client)
    await eventually(lambda: not world.gateway.clients, "the connection is forgotten", PROMPTLY)
    assert not engine.asked
    assert world.counted == {}


async def test_a_client_that_leaves_between_tries_is_not_sent_again(world):
    """Its first replica resets it while it is leaving; the second is never asked for nobody."""

    async def script(asked):
        await gate(asked)

    async def resets_it(asked):
        asked.reset()

    gate = Gate(resets_it)
    engine = await world.engine(script, slots=1)
    client = await world.client()
    await client.send(chat())
    await engine.was_asked()
    client.close()
    gate.let(5)
    await world.rests(PROMPTLY)
    assert sum(world.counted.values()) == 1


async def test_the_slot_of_a_client_that_left_is_given_to_the_next(world):
    engine = await world.engine(holds, slots=1)
    first, second = await world.client(), await world.client()
    await first.send(chat())
    await engine.was_asked()
    await second.send(chat())
    await eventually(lambda: world.waiting == 1, "the second waits")
    engine.script = answers
    first.close()
    assert (await second.answer()).status == 200
    assert engine.most <= 2
    assert world.counted == {499: 1, 200: 1}


async def test_pipelined_requests_of_a_client_that_left_are_not_sent(world):
    engine = await world.engine(holds)
    client = await world.client()
    await client.send(chat() * 5)
    await engine.was_asked()
    client.close()
    await world.rests(PROMPTLY)
    await eventually(lambda: not engine.running, "the engine was told", PROMPTLY)
    assert len(engine.asked) == 1


async def test_many_clients_that_leave_at_once_leave_nothing_behind(world):
    engine = await world.engine(Gate(), slots=4)
    clients = [await world.client() for _ in range(12)]
    for number, client in enumerate(clients):
        await client.send(chat(stream=bool(number % 2)))
    await eventually(lambda: world.running == 4 and world.waiting == 8, "all are there")
    for client in clients:
        client.close()
    await world.rests(PROMPTLY)
    await eventually(lambda: not engine.open_lines, "the engine sees it", PROMPTLY)
    assert sum(world.counted.values()) == 12
    assert set(world.counted) == {499}


async def test_a_client_that_has_its_answer_and_leaves_is_no_lost_client(world):
    await world.engine()
    assert (await world.ask(chat())).status == 200
    await eventually(lambda: not world.gateway.clients, "it left")
    assert world.model.stats.disconnects == 0
    assert world.counted == {200: 1}


# ---- slow readers and slow writers

PIECE = chunk(event("x" * 32_000))


async def floods(asked):
    """Writes a stream as fast as it is taken, at most 64 MiB, and counts what was taken."""
    line = asked.line
    asked.write(STREAM)
    line.sent = 0
    for _ in range(2048):
        if line.lost.is_set():
            return
        asked.write(PIECE)
        line.sent += len(PIECE)
        await line.writable.wait()
    asked.write(chunk(b"data: [DONE]\n\n") + LAST)


@pytest.mark.parametrize("unix", [True, False])
async def test_a_client_that_does_not_read_stops_the_engine_and_fills_no_memory(world, unix):
    engine = await world.engine(floods, unix=unix)
    client = await world.client(receive_buffer=16_384)
    await client.send(chat(stream=True))
    asked = await engine.was_asked()
    await settled(lambda: asked.line.sent)
    assert asked.line.sent < 16 << 20, "the kernel's buffers fill, the gateway does not hoard"
    await eventually(lambda: world.gateway.clients, "the gateway has accepted the client")
    (served,) = world.gateway.clients
    assert served.transport.get_write_buffer_size() < 700_000
    client.close()
    await gone(world, engine)


async def test_a_client_that_reads_late_gets_all_of_it(world):
    async def script(asked):
        asked.write(STREAM)
        for _ in range(300):
            asked.write(PIECE)
            await asked.line.writable.wait()
        asked.write(chunk(b"data: [DONE]\n\n") + LAST)

    engine = await world.engine(script)
    client = await world.client(receive_buffer=16_384)
    await client.send(chat(stream=True))
    await engine.was_asked()
    await eventually(lambda: world.gateway.clients, "the gateway has accepted the client")
    (served,) = world.gateway.clients
    await eventually(lambda: served._paused_at, "the gateway waits for the client")
    answer = await client.answer()
    assert answer.whole
    assert answer.body.count(b"data: ") == 301
    assert answer.events[-1] == b"[DONE]"
    await world.rests()
    await client.send(chat())
    engine.script = answers
    assert (await client.answer()).status == 200, "reading goes on afterwards"


async def test_a_pipelining_client_that_does_not_read_is_not_hoarded_for(world):
    async def large(asked):
        asked.write(whole(b'"%s"' % (b"x" * 200_000)))

    engine = await world.engine(large)
    client = await world.client(receive_buffer=16_384)
    await client.send(chat() * 200)
    await settled(lambda: len(engine.asked))
    await eventually(lambda: world.gateway.clients, "the gateway has accepted the client")
    (served,) = world.gateway.clients
    assert served.transport.get_write_buffer_size() < 700_000
    for _ in range(200):
        assert len((await client.answer()).body) == 200_002


async def test_a_client_that_never_reads_is_given_up_in_time(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.wire.UNREAD_SECONDS", 0.1)
    engine = await world.engine(floods)
    client = await world.client(receive_buffer=16_384)
    await client.send(chat(stream=True))
    await engine.was_asked()
    await gone(world, engine)


async def test_a_paused_engine_is_not_taken_for_a_silent_one(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.GAP_SECONDS", 0.1)
    engine = await world.engine(floods)
    client = await world.client(receive_buffer=16_384)
    await client.send(chat(stream=True))
    asked = await engine.was_asked()
    await settled(lambda: asked.line.sent, quiet=0.4)
    assert not asked.line.lost.is_set()
    client.close()
    await gone(world, engine)


async def test_an_admin_answer_to_a_client_that_does_not_read_is_not_hoarded(world):
    client = await world.client(receive_buffer=16_384)
    await client.send(get("/metrics") * 600)
    await eventually(lambda: world.gateway.clients, "the gateway has accepted the client")
    (served,) = world.gateway.clients
    await settled(lambda: served.transport.get_write_buffer_size())
    assert served.transport.get_write_buffer_size() < 700_000
    for _ in range(600):
        assert (await client.answer()).status == 200


async def test_a_slow_sender_costs_no_slot(world):
    engine = await world.engine(slots=1)
    slow, quick = await world.client(), await world.client()
    body = asking()
    await slow.send(request(body)[:-10])
    await quick.send(chat())
    assert (await quick.answer()).status == 200
    await slow.send_bytes_alone(request(body)[-10:])
    assert (await slow.answer()).body == ANSWER
    assert len(engine.asked) == 2


async def test_further_requests_kept_for_later_are_bounded(world):
    """While one request runs, a client may send others; past the limit it is not read."""
    gate = Gate()
    engine = await world.engine(gate)
    client = await world.client()
    await client.send(chat())
    await engine.was_asked()
    sent = 0
    later = chat(padding="x" * 30_000)

    async def pushes():
        nonlocal sent
        for _ in range(1000):
            await client.send(later)
            sent += len(later)

    task = asyncio.create_task(pushes())
    await settled(lambda: sent)
    await eventually(lambda: world.gateway.clients, "the gateway has accepted the client")
    (served,) = world.gateway.clients
    assert len(served._backlog) < 600_000
    assert sent < 30_000_000
    gate.let(1001)
    for _ in range(1001):
        assert (await client.answer()).status == 200
    await task
