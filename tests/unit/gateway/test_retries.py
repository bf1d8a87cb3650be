"""Before the first byte a failed replica is survived: who is asked next, how often, and what holds the slots meanwhile."""

import asyncio
import socket

import pytest

from headrace.gateway.exchange import GAP_SECONDS

from .clients import chat
from .engines import LAST, STREAM, Gate, answers, chunk, event, eventually, holds, in_turn, says, settled, whole

BUSY = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


async def test_a_refused_connection_is_survived_and_the_replica_is_left_alone(world):
    world.adds(world.unused_port(), name="chat-1")
    engine = await world.engine(name="chat-2")
    for _ in range(4):
        assert (await world.ask(chat())).status == 200
    assert len(engine.asked) == 4
    assert world.model.stats.retries == 1, "a replica that does not accept is not asked again before control has looked"


async def test_a_socket_that_is_not_there_is_survived(world):
    world.adds(f"unix:{world.folder}/none.sock", name="chat-1")
    await world.engine(name="chat-2")
    for _ in range(2):
        assert (await world.ask(chat())).status == 200


async def test_connections_that_nobody_will_use_again_are_closed_though_the_engine_keeps_them(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.upstream.IDLE_SECONDS", 0.2)
    gate = Gate()
    engine = await world.engine(gate)
    asked = [asyncio.create_task(world.ask(chat())) for _ in range(3)]
    await engine.was_asked(3)
    gate.let(3)
    assert [(await answer).status for answer in asked] == [200] * 3
    await eventually(lambda: engine.open_lines == 0, "idle connections are closed")
    gate.let()
    assert (await world.ask(chat())).status == 200


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_replica_that_cannot_answer_now_is_survived(world, status):
    await world.engine(says(whole(BUSY, b"%d Busy" % status)), name="chat-1")
    good = await world.engine(name="chat-2")
    for _ in range(4):
        assert (await world.ask(chat())).status == 200
    assert len(good.asked) == 4


async def test_a_replica_that_never_can_answer_has_its_own_words_at_last(world):
    engine = await world.engine(says(whole(BUSY, b"503 Service Unavailable")))
    answer = await world.ask(chat())
    assert answer.status == 503
    assert answer.error["message"] == "Loading model"
    assert answer.error["source"] == "engine"
    assert len(engine.asked) == 3


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
async def test_other_errors_are_not_asked_again(world, status):
    """The request may be the cause; asking all replicas would bring all of them down."""
    engine = await world.engine(says(whole(b"{}", b"%d No" % status)))
    assert (await world.ask(chat())).status == status
    assert len(engine.asked) == 1


async def test_what_an_engine_forbids_to_ask_again_is_not(world):
    """An input that hangs one replica would hang the next: our own servers say so with their 504."""
    answer = whole(BUSY, b"504 Gateway Timeout").replace(b"\r\n", b"\r\nX-Should-Retry: false\r\n", 1)
    engine = await world.engine(says(answer), name="chat-1")
    other = await world.engine(says(answer), name="chat-2")
    assert (await world.ask(chat())).status == 504
    assert len(engine.asked) + len(other.asked) == 1


async def test_a_stale_connection_is_no_failure(world):
    """Between two requests the engine closed: every kept connection ends this way one day."""
    engine = await world.engine()
    client = await world.client()
    for _ in range(3):
        await client.send(chat())
        assert (await client.answer()).status == 200
        engine.lines[-1].transport.close()
    assert len(engine.asked) == 3


async def test_a_connection_that_dies_when_it_is_used_again_is_no_failure(world):
    """The engine closes while the request is on its way: no try is used up, also when many connections are stale."""

    async def script(asked):
        if len([each for each in engine.asked if each.line is asked.line]) > 1:
            asked.reset()
        else:
            await gate(asked)

    gate = Gate()
    engine = await world.engine(script, slots=5)
    clients = [await world.client() for _ in range(5)]
    for client in clients:
        await client.send(chat())
    await engine.was_asked(5)
    gate.let(6)
    for client in clients:
        await client.answer()
    await clients[0].send(chat())
    assert (await clients[0].answer()).status == 200, "five stale connections, then a new one"
    assert world.counted == {200: 6}


async def test_a_connection_is_not_kept_longer_than_the_engine_says(world, monkeypatch):
    """Keep-Alive: timeout=1 leaves nothing, a second being the margin."""
    engine = await world.engine(says(whole(b"{}", b"200 OK", b"Keep-Alive: timeout=1, max=100")))
    client = await world.client()
    for _ in range(2):
        await client.send(chat())
        await client.answer()
    assert len(engine.lines) == 2


async def test_an_engine_that_closes_is_not_asked_over_the_same_connection(world):
    engine = await world.engine(says(whole(b"{}", b"200 OK", b"Connection: close")))
    client = await world.client()
    for _ in range(2):
        await client.send(chat())
        assert (await client.answer()).status == 200
    assert len(engine.lines) == 2


async def test_a_retried_request_goes_before_those_that_wait(world):
    order = []

    async def script(asked):
        order.append(asked.json["seed"])
        if order.count(0) == 1 and asked.json["seed"] == 0:
            await gate(asked)
        else:
            await answers(asked)

    async def resets(asked):
        asked.reset()

    gate = Gate(resets)
    engine = await world.engine(script, slots=1)
    clients = [await world.client() for _ in range(3)]
    for number, client in enumerate(clients):
        await client.send(chat(seed=number))
        await eventually(lambda n=number: world.waiting == n, "the request waits")
    await engine.was_asked()
    gate.let()
    for client in clients:
        assert (await client.answer()).status == 200
    assert order == [0, 0, 1, 2]


async def test_a_replica_that_never_accepts_does_not_hold_a_request_for_ever(open_world):
    world = await open_world(wait=0.5)
    world.adds(world.unused_port())

    async def believes() -> None:
        while True:
            world.tell()
            await asyncio.sleep(0.02)

    control = asyncio.create_task(believes())
    answer = await world.ask(chat())
    control.cancel()
    assert answer.status in (502, 503)
    assert answer.error["source"] == "gateway"
    assert "retry-after" in answer.headers or answer.status == 502


async def test_when_no_replica_can_be_reached_the_request_waits_for_one(world):
    world.adds(world.unused_port(), name="chat-1")
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.waiting == 1, "the request waits")
    await world.engine(name="chat-2")
    assert (await client.answer()).status == 200


async def test_a_silent_engine_is_given_up_in_time(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.FIRST_BYTE_SECONDS", 0.1)
    engine = await world.engine(in_turn(holds, answers))
    assert (await world.ask(chat())).status == 200
    assert engine.abandoned == 1, "its connection was closed"
    assert len(engine.asked) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_kept_connection_has_all_the_time_to_its_first_byte(world, stream):
    """What was heard over it is of the request before."""
    gate = Gate()
    engine = await world.engine(in_turn(answers, gate))
    client = await world.client()
    await client.send(chat(stream=stream))
    assert (await client.answer()).whole
    await client.send(chat())
    await engine.was_asked(2)
    assert len(engine.lines) == 1
    (exchange,), now = world.model.exchanges, world.gateway.now()
    exchange.tick(now)
    assert exchange.deadline > now + GAP_SECONDS
    gate.let()
    assert (await client.answer()).status == 200


async def test_a_stream_that_falls_silent_is_broken_off_in_time(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.GAP_SECONDS", 0.1)
    await world.engine(says(STREAM + chunk(event())))
    answer = await world.ask(chat(stream=True))
    assert not answer.whole
    assert b'"engine_lost"' in answer.body


async def test_pings_keep_a_stream_alive(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.GAP_SECONDS", 0.3)

    async def script(asked):
        asked.write(STREAM + chunk(event()))
        for _ in range(10):
            await asyncio.sleep(0.06)
            asked.write(chunk(b": ping\n\n"))
        asked.write(chunk(b"data: [DONE]\n\n") + LAST)

    await world.engine(script)
    answer = await world.ask(chat(stream=True))
    assert answer.whole
    assert answer.body.count(b": ping") == 10


async def test_a_slow_connection_is_given_up_in_time(world, monkeypatch):
    """A server that is not ours and whose backlog is full does not answer at all."""
    monkeypatch.setattr("headrace.gateway.upstream.CONNECT_SECONDS", 0.1)
    with _full_backlog() as address:
        world.adds(address, name="chat-1")
        good = await world.engine(name="chat-2")
        for _ in range(2):
            assert (await world.ask(chat())).status == 200
        assert len(good.asked) == 2


class _full_backlog:
    """An address where connections are neither accepted nor refused."""

    def __enter__(self) -> str:
        self.sockets = [socket.socket()]
        self.sockets[0].bind(("127.0.0.1", 0))
        self.sockets[0].listen(0)
        address = self.sockets[0].getsockname()
        for _ in range(4):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(address)
            self.sockets.append(each)
        return f"http://127.0.0.1:{address[1]}"

    def __exit__(self, *_: object) -> None:
        for each in self.sockets:
            each.close()


async def test_an_engine_whose_socket_is_briefly_full_is_not_given_up(world):
    """llama.cpp listens with a short backlog; a Unix socket refuses with EAGAIN beyond it."""
    path = world.folder / "small.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        world.adds(f"unix:{path}", slots=8)
        clients = [await world.client() for _ in range(8)]
        for client in clients:
            await client.send(chat())
        await settled(lambda: world.running + world.waiting)
        served = asyncio.create_task(_serve(listener))
        try:
            for client in clients:
                assert (await client.answer()).status == 200
        finally:
            served.cancel()


async def _serve(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    tasks = []
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.setblocking(False)
        tasks.append(loop.create_task(_answer(connection)))


async def _answer(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection:
        while await loop.sock_recv(connection, 65536):
            await loop.sock_sendall(connection, whole())


# ---- slots


@pytest.mark.parametrize("slots", [1, 3])
async def test_an_engine_never_has_more_requests_than_slots(world, slots):
    gate = Gate()
    engine = await world.engine(gate, slots=slots)
    clients = [await world.client() for _ in range(slots + 5)]
    for client in clients:
        await client.send(chat())
    await eventually(lambda: world.waiting == 5, "five wait")
    assert world.running == slots
    gate.let(100)
    for client in clients:
        assert (await client.answer()).status == 200
    assert engine.most == slots


async def test_a_freed_slot_is_given_to_the_first_that_waits(world):
    gate = Gate()
    engine = await world.engine(gate, slots=1)
    clients = [await world.client() for _ in range(4)]
    for number, client in enumerate(clients):
        await client.send(chat(seed=number))
        await eventually(lambda n=number: world.waiting + world.running == n + 1, "the request is there")
    gate.let(4)
    for client in clients:
        await client.answer()
    assert [asked.json["seed"] for asked in engine.asked] == [0, 1, 2, 3]


async def test_work_is_spread_over_replicas(world):
    gate = Gate()
    engines = [await world.engine(gate, name=f"chat-{number}", slots=4) for number in range(3)]
    clients = [await world.client() for _ in range(6)]
    for client in clients:
        await client.send(chat())
    await eventually(lambda: sum(len(engine.asked) for engine in engines) == 6, "all are sent")
    assert [len(engine.asked) for engine in engines] == [2, 2, 2]
    gate.let(6)
    for client in clients:
        await client.answer()


async def test_a_replica_without_slots_drains(world):
    gate = Gate()
    first = await world.engine(gate, name="chat-1")
    client = await world.client()
    await client.send(chat(stream=True))
    await first.was_asked()
    world.changes("chat-1", slots=0)
    second = await world.engine(name="chat-2")
    for _ in range(3):
        assert (await world.ask(chat())).status == 200
    assert (len(first.asked), len(second.asked)) == (1, 3)
    gate.let()
    assert (await client.answer()).whole, "what ran there was finished"


async def test_a_replica_that_is_removed_finishes_what_it_has_begun(world):
    gate = Gate()
    first = await world.engine(gate, name="chat-1")
    client = await world.client()
    await client.send(chat())
    await first.was_asked()
    world.removes("chat-1")
    assert world.gateway.loads()["chat"].running == {"chat-1": 1}, "control must know that it is not idle"
    gate.let()
    assert (await client.answer()).status == 200
    await eventually(lambda: world.gateway.loads()["chat"].running == {}, "then it is forgotten")
    await eventually(lambda: not first.open_lines, "and its connection is closed")


async def test_a_replica_that_moves_is_asked_at_its_new_address(world):
    first = await world.engine(name="chat-1")
    assert (await world.ask(chat())).status == 200
    second = await world.engine(name="chat-2", slots=0)
    world.changes("chat-1", address=second.address)
    assert (await world.ask(chat())).status == 200
    assert (len(first.asked), len(second.asked)) == (1, 1)
    await eventually(lambda: not first.open_lines, "the old connection is closed")
