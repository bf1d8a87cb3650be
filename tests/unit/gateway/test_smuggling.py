"""Every known way to smuggle a request is refused, its connection closed and nothing forwarded; or it is provably harmless."""

import json

import pytest

from .clients import CHAT, Ended, asking, chat, get, request
from .engines import ANSWER, chunk, eventually, settled
from .smuggling import BODY, CODED, EVIL, HARMLESS, HIDDEN, LENGTH, REFUSED, SMALL, Vector, with_lines

BYTE_BY_BYTE = 2000
"""Longer vectors are not sent so."""
MUCH = 64 << 20
"""Bytes that the kernel does not hold for a connection."""


def named(vectors: list[Vector]) -> list[object]:
    return [pytest.param(vector, id=vector.name) for vector in vectors]


async def statuses(client) -> list[int]:
    """Of all answers until the gateway closes the connection, or says nothing more for the request that is always legal."""
    seen = []
    while True:
        try:
            seen.append((await client.answer()).status)
        except Ended:
            return seen


async def sent(client, data: bytes, way: str) -> None:
    """The vector, in one write or byte by byte; a connection that closes meanwhile is no failure."""
    try:
        if way == "bytes" and len(data) < BYTE_BY_BYTE:
            await client.send_bytes_alone(data)
        else:
            await client.send(data)
    except ConnectionError:
        pass


def test_the_table_has_each_attack_once():
    names = [vector.name for vector in (*REFUSED, *HARMLESS)]
    assert len(names) == len(set(names))
    assert len({vector.data for vector in (*REFUSED, *HARMLESS)}) == len(names)


@pytest.mark.parametrize("vector", named(REFUSED))
async def test_it_is_refused_and_the_connection_closed(world, vector):
    """At once, byte by byte, and behind a request whose head is remembered: what is nearly a known head must still be read."""
    engine = await world.engine()
    for way in ("whole", "bytes"):
        client = await world.client()
        await sent(client, vector.data, way)
        assert await statuses(client) == [vector.status], way
        assert engine.asked == []
    client = await world.client()
    for _ in range(2):
        await client.send(with_lines(LENGTH, BODY, b""))
        assert (await client.answer()).status == 200
    await sent(client, vector.data, "whole")
    assert await statuses(client) == [vector.status]
    assert len(engine.asked) == 2


@pytest.mark.parametrize("vector", named(HARMLESS))
async def test_it_is_harmless(world, vector):
    """Whatever it holds, the engine gets the requests that are there and no other; the next client gets its own answer."""
    engine = await world.engine()
    expected = vector.answers or (vector.status,)
    to_head = vector.data.startswith(b"HEAD")
    for way in ("whole", "bytes"):
        client = await world.client()
        await sent(client, vector.data, way)
        assert [(await client.answer(to_head=to_head)).status for _ in expected] == list(expected), way
    assert [asked.json for asked in engine.asked] == [json.loads(body) | {"model": "there"} for body in vector.reaches * 2]
    for asked in engine.asked:
        names = [name for name, _ in asked.fields]
        assert names.count("content-length") == names.count("host") == 1
        assert not {"transfer-encoding", "upgrade", "http2-settings", "connection", "expect"} & set(names)
        assert asked.target.split("?")[0] == CHAT
    assert (await world.ask(chat())).body == ANSWER


async def test_what_follows_a_refusal_is_dropped_although_the_connection_lingers(world):
    """A client may read its answer before the connection ends; what it sends meanwhile is no request."""
    engine = await world.engine()
    client = await world.client()
    await client.send(with_lines(b"Content-Length: x\r\n"))
    assert (await client.answer()).status == 400
    await sent(client, HIDDEN * 3, "whole")
    await client.gone()
    assert engine.asked == []


# ---- what came to light while this table was made


async def test_a_closing_upgrade_closes(world):
    """The offer is taken out of Connection, the rest of it stays."""
    await world.engine()
    client = await world.client()
    await client.send(with_lines(LENGTH + b"Upgrade: h2c\r\nConnection: close, Upgrade\r\n", BODY, b""))
    assert (await client.answer()).headers["connection"] == "close"
    await client.gone()


async def test_a_stream_for_a_client_of_http_1_0_that_offers_an_upgrade_has_no_chunks(world):
    await world.engine()
    body = asking(stream=True)
    client = await world.client()
    await client.send(request(body, "Upgrade: h2c", "Connection: Upgrade", version="HTTP/1.0"))
    answer = await client.answer()
    assert "transfer-encoding" not in answer.headers
    assert answer.events[-1] == b"[DONE]"


async def test_a_client_of_http_1_0_is_told_that_its_connection_is_kept(world):
    """It must be told: it would wait for the connection's end otherwise."""
    await world.engine()
    client = await world.client()
    for _ in range(2):
        await client.send(request(asking(), "Connection: keep-alive", version="HTTP/1.0"))
        assert (await client.answer()).headers["connection"] == "keep-alive"


async def test_thousands_of_upgrades_in_one_read_are_requests_like_others(world):
    """Each is read anew without its offer: one after the other, not one inside the other."""
    client = await world.client()
    count = 3000
    await client.send(get("/health", "Connection: upgrade", "Upgrade: x") * count)
    for _ in range(count):
        assert (await client.answer()).status == 200
    assert world.complaints == []


async def test_leave_to_send_a_body_is_given_after_the_answers_before_it(world):
    """Else the client would take it for a part of the first answer, and wait for it later."""
    await world.engine()
    client = await world.client()
    await client.send(chat() + with_lines(LENGTH + b"Expect: 100-continue\r\n", b"", b""))
    assert [(await client.answer()).status for _ in range(2)] == [200, 100]
    await client.send(BODY)
    assert (await client.answer()).status == 200


async def test_no_leave_is_given_for_a_body_that_came_already(world):
    await world.engine()
    client = await world.client()
    await client.send(chat() + with_lines(LENGTH + b"Expect: 100-continue\r\n", BODY, b""))
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]


async def test_bodies_in_chunks_of_one_byte_pass(world):
    engine = await world.engine()
    body = asking(user="u" * 30_000)
    client = await world.client()
    framed = b"".join(chunk(body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"
    await client.send(with_lines(CODED, framed, b""))
    assert (await client.answer()).status == 200
    assert engine.asked[0].json["user"] == "u" * 30_000


async def test_answers_that_nobody_reads_do_not_pile_up(world):
    """A client that asks on and on without reading is not answered until it reads: its answers would fill the memory."""
    client = await world.client()
    await eventually(lambda: world.gateway.clients, "the connection is there")
    (wire,) = world.gateway.clients
    pushed = 0
    while pushed < MUCH:
        try:
            pushed += client.sock.send(chat(model="nobody") * 200)
        except BlockingIOError:
            before = pushed
            await settled(wire.transport.get_write_buffer_size)
            if pushed == before:
                break
    assert pushed < MUCH, "the kernel's buffers are full as well: the client is held back"
    assert wire.transport.get_write_buffer_size() < 1 << 20
    assert (await client.answer()).status == 404


async def test_the_hidden_request_is_one_that_would_be_served(world):
    """What proves the rest of the table: it reaches the engine when nothing hides it."""
    engine = await world.engine()
    client = await world.client()
    await client.send(HIDDEN + with_lines(CODED, SMALL, b""))
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert [asked.json for asked in engine.asked] == [json.loads(body) | {"model": "there"} for body in (EVIL, BODY)]
