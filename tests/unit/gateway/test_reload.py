"""Other models, names and limits while requests are under way: nothing is dropped."""

import asyncio

import pytest

from headrace.gateway.gateway import Limits
from headrace.traffic import ModelStatus

from .clients import chat, get
from .conftest import ALIASES, STATUSES, World
from .engines import ANSWER, DONE, LAST, STREAM, Asked, Gate, chunk, event, eventually, says, whole

LIMITS = Limits(8, 8.0, 1 << 20)
OTHER = ModelStatus("other", "generate", "loading")


def reload(world: World, *statuses: ModelStatus, aliases: dict[str, str] | None = None, limits: Limits = LIMITS) -> None:
    world.gateway.replace(limits, statuses, aliases or {})
    world.statuses = {status.model: status for status in statuses}


async def test_a_model_that_is_added_appears(world):
    assert (await world.ask(chat(model="other"))).status == 404
    reload(world, *STATUSES, OTHER, aliases={"alias": "other"})
    await world.engine(name="other-1", model="other")
    world.tell("other", phase="ready")
    assert (await world.ask(chat(model="alias"))).status == 200
    assert (await world.ask(chat(model="gpt-4o"))).status == 404  # an alias of before


async def one_runs_and_one_waits(world, gate):
    """Two clients of a replica with one slot, whose engine answers when the gate lets it."""
    await world.engine(gate, slots=1)
    running, waiting = await world.client(), await world.client()
    await running.send(chat())
    await eventually(lambda: world.running == 1, "one runs")
    await waiting.send(chat())
    await eventually(lambda: world.waiting == 1, "one waits")
    return running, waiting


async def test_a_model_that_is_removed_answers_what_it_has_and_takes_nothing_new(world):
    gate = Gate()
    running, waiting = await one_runs_and_one_waits(world, gate)
    reload(world, STATUSES[1])
    assert (await world.ask(chat())).status == 404
    assert b'"chat"' not in (await world.ask(get("/v1/models"))).body
    world.gateway.update([STATUSES[1]], [])  # control tells of the others as ever
    gate.let(2)
    assert (await running.answer()).status == 200
    assert (await waiting.answer()).status == 200
    await eventually(lambda: not world.gateway._retired, "it is forgotten")


async def test_what_a_removed_model_does_is_counted_and_recorded_to_its_end(world):
    """Its replicas may be stopped once nothing runs there: that has to be known."""
    gate = Gate()
    await world.engine(gate, slots=1)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "it runs")
    world.gateway.finished()
    reload(world, STATUSES[1])
    assert world.gateway.loads()["chat"].running == {"chat-1": 1}
    gate.let(1)
    assert (await client.answer()).status == 200
    await eventually(lambda: "chat" not in world.gateway.loads(), "it is forgotten")
    assert [one.status for one in world.gateway.finished()] == [200]
    assert world.gateway.finished() == []


async def test_who_waits_for_a_removed_model_without_a_replica_is_told(world):
    world.tell(phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.waiting == 1, "it waits")
    reload(world, STATUSES[1])
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_who_waits_for_a_removed_model_whose_replica_drains_is_told(world):
    gate = Gate()
    running, waiting = await one_runs_and_one_waits(world, gate)
    world.changes("chat-1", slots=0)
    reload(world, STATUSES[1])
    answer = await waiting.answer()
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    gate.let()
    assert (await running.answer()).status == 200
    await eventually(lambda: not world.gateway._retired, "it is forgotten")


async def test_who_waits_for_a_removed_model_whose_replica_takes_no_connection_any_more_is_told(world):
    gate = Gate(says(whole(ANSWER, b"200 OK", b"Connection: close")))
    engine = await world.engine(gate, slots=1)
    running, *waiting = [await world.client() for _ in range(3)]
    await running.send(chat())
    await eventually(lambda: world.running == 1, "one runs")
    for client in waiting:
        await client.send(chat())
    await eventually(lambda: world.waiting == 2, "two wait")
    reload(world, STATUSES[1])
    engine.stop_listening()
    gate.let()
    assert (await running.answer()).status == 200
    for client in waiting:
        assert (await client.answer()).error["code"] == "model_not_found"


async def test_a_stream_of_a_removed_model_is_not_cut(world):
    removed = asyncio.Event()

    async def script(asked: Asked) -> None:
        asked.write(STREAM + chunk(event("Hel")))
        await removed.wait()
        asked.write(chunk(event("lo")) + chunk(DONE) + LAST)

    await world.engine(script)
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(b"Hel")
    reload(world, STATUSES[1])
    removed.set()
    assert b"[DONE]" in await client.until(b"[DONE]")
    await eventually(lambda: not world.gateway._retired, "it is forgotten")


async def test_a_model_that_comes_back_meanwhile_is_the_same(world):
    gate = Gate()
    await world.engine(gate, slots=1)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "it runs")
    model = world.model
    reload(world, STATUSES[1])
    reload(world, *STATUSES, aliases=ALIASES)
    assert world.model is model
    assert world.running == 1  # its slot is not free a second time
    gate.let(2)
    assert (await client.answer()).status == 200


async def test_other_limits_hold_for_requests_from_now_on(world):
    world.tell(phase="loading", reason="reading weights")
    first = await world.client()
    await first.send(chat())
    await eventually(lambda: world.waiting == 1, "it waits")
    reload(world, *STATUSES, limits=Limits(1, 0.05, 2000))
    world.tell(phase="loading", reason="reading weights")
    full = await world.ask(chat())
    assert full.status == 503
    assert (await world.ask(chat(more="x" * 3000))).status == 413
    world.tell(phase="ready")
    await world.engine()
    assert (await first.answer()).status == 200


@pytest.mark.parametrize("rounds", [40])
async def test_under_load_with_models_coming_and_going_every_request_is_answered(world, rounds):
    """Eight clients ask without a pause for a model that stays, while another one, names and limits change all the time."""
    await world.engine(slots=2)
    await world.engine(name="chat-2", slots=2)
    stop = asyncio.Event()

    async def asks(name: str) -> list[int]:
        client, statuses = await world.client(), []
        while not stop.is_set():
            await client.send(chat(model=name))
            statuses.append((await client.answer()).status)
        return statuses

    tasks = [asyncio.create_task(asks(name)) for name in ("chat", "gpt-4o") * 4]
    for turn in range(rounds):
        extra = [OTHER] if turn % 2 else []
        reload(
            world,
            *STATUSES,
            *extra,
            aliases={**ALIASES, **({"alias": "other"} if extra else {})},
            limits=Limits(64 + turn, 8.0, 1 << 20),
        )
        world.tell()
        await asyncio.sleep(0.005)
    stop.set()
    answered = [status for statuses in await asyncio.gather(*tasks) for status in statuses]
    assert set(answered) == {200}
    assert len(answered) > rounds
    assert world.counted == {200: len(answered)}


async def test_the_end_of_the_gateway_ends_requests_of_removed_models_with_an_error(world):
    gate = Gate()
    await world.engine(gate, slots=1)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "it runs")
    model = world.model
    reload(world, STATUSES[1])
    world.gateway.close()
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "stopped")
    assert not model.exchanges
