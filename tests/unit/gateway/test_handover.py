"""A handover, step by step, within one process: what is passed on, who is refused, and what happens when either side goes."""

import asyncio
import os
import socket

import pytest

from headrace.gateway.door import ListenError
from headrace.gateway.gateway import Gateway
from headrace.handover.line import Held
from headrace.handover.predecessor import predecessor
from headrace.handover.serving import alone, take_over, unready
from headrace.plan.base import Plan
from headrace.traffic import ModelStatus

from .clients import chat, get
from .engines import ANSWER, Gate, eventually
from .handovers import HELD, reachable

# ---- as it should be


async def test_the_sockets_are_passed_on_and_the_running_one_answers_what_it_has(pair, world):
    gate = Gate()
    world.engines["chat-1"].script = gate
    before = await pair.asks()
    assert before.held == HELD
    assert before.pid == os.getpid()
    under_way, idle = await world.client(), await world.client()
    await under_way.send(chat())
    await eventually(lambda: world.running, "it is being answered")
    after = pair.gateway()
    await before.give_way(after)
    assert pair.offer.taken.is_set()
    leaving = asyncio.create_task(pair.offer.leave(10.0))
    await eventually(lambda: world.gateway.draining, "the running one leaves")
    newcomer = await world.client()
    await newcomer.send(chat())
    await eventually(lambda: len(after.clients) == 1, "newcomers are the next one's")
    await idle.send(get("/health"))
    assert (await idle.answer()).headers["connection"] == "close", "kept connections are ended by their next answer"
    await idle.gone()
    gate.let(2)
    assert (await under_way.answer()).body == ANSWER
    assert (await newcomer.answer()).body == ANSWER
    assert await leaving
    assert "Stopped" in pair.said.lines[-1]


async def test_connections_that_stay_idle_are_closed_after_a_while(pair, world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.gateway.LEAVE_SECONDS", 0.2)
    idle = await world.client()
    await eventually(lambda: world.gateway.clients, "it is connected")
    before = await pair.asks()
    await before.give_way(pair.gateway())
    assert await pair.offer.leave(10.0)
    world.gateway.close()
    await idle.gone()


async def test_what_the_one_before_held_is_free_once_it_is_gone(pair):
    class Loop:
        plan = Plan((), 10_000)

    before, loop = await pair.asks(), Loop()
    waiting = asyncio.create_task(alone(before, loop, pair.next_said.say))
    await asyncio.sleep(0.05)
    assert loop.plan.memory_bytes == 10_000
    assert before.remains == f"the Headrace before (pid {os.getpid()}) still answers what it has, and its memory is not free"
    pair.offer.close()
    await waiting
    assert (loop.plan.memory_bytes, before.remains) == (13_000, "")


async def test_where_nobody_is_there_it_is_a_start_like_any_other(pair):
    pair.offer.close()
    assert await pair.asks() is None
    assert "No Headrace" in pair.next_said


async def test_a_socket_that_a_killed_one_left_is_nobody(pair):
    path = pair.path
    pair.offer.close()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    assert await pair.asks() is None
    pair.offer.open()
    assert await pair.asks() is not None, "it is replaced by the next that listens"


# ---- when either goes, at each step


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_until_the_next_one_listens_its_end_changes_nothing(pair, world, steps):
    """0: before it says what it is; 1: while its models load; 2: with the sockets in its hands."""
    line = await pair.line()
    for step in ("hello", "sockets")[:steps]:
        await line.send(step, kind="serve")
        _, sockets = await line.receive(step, 5.0)
        for one in sockets:
            one.close()
    line.close()
    await eventually(lambda: not pair.offer._talks, "the running one has noticed")
    assert not pair.offer.taken.is_set()
    assert await reachable(world)
    assert await pair.asks() is not None, "another may try"


async def test_a_next_one_that_dies_while_the_running_one_leaves_gives_the_clients_back(pair, world):
    gate = Gate()
    world.engines["chat-1"].script = gate
    under_way = await world.client()
    await under_way.send(chat())
    await eventually(lambda: world.running, "it is being answered")
    line = await pair.line()
    await line.send("hello", kind="serve")
    await line.receive("hello", 5.0)
    await line.send("sockets")
    _, sockets = await line.receive("sockets", 5.0)
    await line.send("listening")
    await line.receive("listening", 5.0)
    leaving = asyncio.create_task(pair.offer.leave(10.0))
    await eventually(lambda: world.gateway.draining, "the running one leaves")
    waits = await world.client()
    await waits.send(chat())  # nobody accepts it: the kernel keeps it
    for one in sockets:
        one.close()
    line.close()
    assert await leaving is False
    assert not world.gateway.draining
    gate.let(2)
    assert (await under_way.answer()).status == 200
    assert (await waits.answer()).status == 200, "whoever came meanwhile was not refused"
    assert await pair.asks() is not None, "another may try"


async def test_a_next_one_that_is_stopped_does_not_bring_the_one_before_back(pair, world):
    gate = Gate()
    world.engines["chat-1"].script = gate
    under_way = await world.client()
    await under_way.send(chat())
    await eventually(lambda: world.running, "it is being answered")
    before, after = await pair.asks(), pair.gateway()
    await before.give_way(after)
    leaving = asyncio.create_task(pair.offer.leave(10.0))
    await eventually(lambda: world.gateway.draining, "the running one leaves")
    before.close()
    after.close()
    await eventually(lambda: not world.gateway.door.sockets, "the running one has heard of it")
    with pytest.raises(ConnectionRefusedError):
        await world.client()
    gate.let(1)
    assert (await under_way.answer()).status == 200
    assert await leaving


async def test_where_the_running_one_dies_first_the_next_listens_at_once(pair, world):
    before, after = await pair.asks(), pair.gateway()
    taking = asyncio.create_task(take_over(before, after, asyncio.Event()))
    await asyncio.sleep(0)
    world.gateway.close()
    pair.offer.close()
    await taking
    assert await reachable(world)
    assert after.door.address == (world.host, world.port)


async def test_one_that_dies_may_close_its_line_a_moment_before_its_door(pair, world):
    """The kernel closes what a killed process had open in an order of its own: an address in use is tried again."""
    before, after = await pair.asks(), pair.gateway()
    tried = asyncio.Event()

    async def listen(*address):
        if not tried.is_set():
            tried.set()
            world.gateway.close()
            raise ListenError("Address already in use.")
        return await Gateway.listen(after, *address)

    after.listen = listen
    pair.offer.close()
    await take_over(before, after, asyncio.Event())
    assert tried.is_set()
    assert await reachable(world)


# ---- who must be ready


@pytest.mark.parametrize(
    ("phase", "before", "missed"),
    [
        ("ready", "ready", False),
        ("asleep", "ready", False),  # it is woken by whoever asks
        ("loading", "ready", True),
        ("failed", "ready", True),
        ("failed", "asleep", True),
        ("failed", None, True),  # new in the file, and wrong: better said while the one before serves
        ("failed", "failed", False),  # nobody misses what did not work before
    ],
)
def test_a_model_that_clients_would_miss_keeps_the_next_one_from_taking_over(phase, before, missed):
    held = Held({} if before is None else {"chat": before})
    assert bool(unready([ModelStatus("chat", "generate", phase, "why")], held)) is missed


async def test_a_model_that_fails_is_named_and_nothing_changes(pair, world):
    before, after, settled = await pair.asks(), pair.gateway(), asyncio.Event()
    after.update([ModelStatus("chat", "generate", "failed", "no such file"), *list(world.statuses.values())[1:]], [])
    settled.set()
    with pytest.raises(Exception, match=r"serves on, for not all is ready here. chat is failed: no such file"):
        await take_over(before, after, settled)
    assert await reachable(world)


# ---- addresses


async def test_a_name_with_several_addresses_is_listened_on_at_all_that_are_here(pair, world, monkeypatch):
    """As localhost is, on a machine without IPv6."""

    async def two(host):
        return [(socket.AF_INET6, "2001:db8::1", 0, 0), (socket.AF_INET, "127.0.0.1")]

    monkeypatch.setattr("headrace.gateway.door.addresses", two)
    monkeypatch.setattr("headrace.handover.predecessor.addresses", two)
    gateway = pair.gateway()
    assert (await gateway.listen("localhost", 0))[0] == "127.0.0.1"
    assert len(gateway.door.sockets) == 1
    assert await pair.asks() is not None


async def test_a_name_that_leads_nowhere_is_nobodys(pair):
    assert await predecessor("serve", "nobody.invalid", 8000, pair.next_said) is None
    with pytest.raises(ListenError, match=r"Cannot listen on nobody.invalid:8000"):
        await pair.gateway().listen("nobody.invalid", 8000)
