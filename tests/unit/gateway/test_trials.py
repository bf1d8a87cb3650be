"""What a gateway says of a trial: each answer once, by side and without whose it was; and that questions keep the trial alive."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from headrace.gateway import trials
from headrace.gateway.admin import _refused
from headrace.gateway.openai import Refusal
from headrace.gateway.trials import Asked, Trials
from headrace.traffic import Finished, Load, Split

SPLIT = Split(frozenset({"new-1"}), 0.1)


class World:
    """Trials behind their paths, and a comparison that is answered by hand."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self.asked: list[Asked] = []
        self.trials = Trials(lambda model: ("chat", "chat-b") if model == "chat" else None, lambda model: 0.1, self.compare)
        app = Starlette(routes=self.trials.routes(), exception_handlers={Refusal: _refused})  # type: ignore[dict-item]
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")

    async def compare(self, asked: Asked) -> tuple[str, str]:
        self.asked.append(asked)
        return await self.answer

    def see(self, *replicas: str, split: Split | None = SPLIT, lost: int = 0, running: int = 1, status: int = 200) -> None:
        load = Load("chat", 0, {"old-1": 2, "new-1": running}, 0, 0, 0, 0, 0, None, None, lost={"new-1": lost})
        done = [Finished(1.0, "chat", replica, status, 3, 8, 0.0, 0.1, 0.5, key="alice") for replica in replicas]
        self.trials.see("chat", split, (1, 1), load, done)

    async def get(self, **params: Any) -> dict[str, Any]:
        answer = await self.client.get("/admin/trials", params={"model": "chat", **params})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def post(self, **body: Any) -> int:
        return (await self.client.post("/admin/trials", content=json.dumps(body))).status_code


@pytest.fixture
async def world():
    made = World()
    yield made
    await made.trials.close()
    await made.client.aclose()


async def test_each_answer_is_told_once_and_by_side(world: World) -> None:
    world.see("old-1", "new-1")
    first = await world.get()
    assert [(row[0], row[-1]) for row in first["finished"]] == [("old-1", False), ("new-1", True)]
    assert (first["service"], first["trial"], first["share"]) == ("chat", "chat-b", 0.1)
    assert (first["running"], first["ready"]) == ([2, 1], [1, 1])
    assert "alice" not in json.dumps(first)
    world.see("new-1", status=500)
    second = await world.get(after=first["next"], id=first["id"])
    assert [row[1] for row in second["finished"]] == [500]
    assert (await world.get(after=second["next"], id=second["id"]))["finished"] == []


async def test_whoever_has_asked_another_process_hears_all(world: World) -> None:
    world.see("old-1", "new-1")
    assert len((await world.get(after=99, id="another"))["finished"]) == 2


async def test_what_the_trial_failed_and_others_answered_is_counted_through_restarts(world: World) -> None:
    world.see(lost=2)
    world.see(lost=3)
    world.see(lost=0)  # the replica was forgotten, and is known again
    world.see(lost=1)
    assert (await world.get())["lost"] == 4


async def test_a_replica_that_is_gone_was_on_trial_all_the_same(world: World) -> None:
    world.see()
    world.see("new-1", split=Split(frozenset({"new-2"}), 0.1))
    assert [row[-1] for row in (await world.get())["finished"]] == [True]


async def test_a_trial_is_watched_as_long_as_somebody_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(trials, "monotonic", lambda: now)
    assert not world.trials.watched("chat")
    world.see()
    assert not world.trials.watched("chat")  # a gateway that has just begun does not know whether anybody is there
    await world.get()
    assert world.trials.watched("chat")
    now += trials.UNWATCHED_SECONDS
    assert not world.trials.watched("chat")
    await world.get()
    assert world.trials.watched("chat")
    await world.get(watch="no")  # whoever watches goes back
    assert not world.trials.watched("chat")


async def test_a_comparison_is_made_once_and_told_when_it_is_there(world: World) -> None:
    world.see()
    assert await world.post(model="chat", prompts=["Hi"], slower=2.0) == 202
    assert await world.post(model="chat") == 202
    assert (await world.get())["compared"] is None
    world.answer.set_result(("", "alike"))
    async with asyncio.timeout(5):
        while (told := (await world.get())["compared"]) is None:
            await asyncio.sleep(0)
    assert told == {"trouble": "", "remark": "alike"}
    assert [(one.prompts, one.slower) for one in world.asked] == [(("Hi",), 2.0)]


async def test_a_comparison_that_breaks_says_so(world: World) -> None:
    world.see()
    world.answer.set_exception(RuntimeError("no"))
    await world.post(model="chat")
    async with asyncio.timeout(5):
        while (told := (await world.get())["compared"]) is None:
            await asyncio.sleep(0)
    assert told["remark"].startswith("not compared: RuntimeError")


@pytest.mark.parametrize(
    ("body", "status"), [({"model": "other"}, 409), ({"model": "chat"}, 409), ({}, 400), ({"model": "chat", "prompts": 3}, 400)]
)
async def test_what_cannot_be_compared_is_refused(world: World, body: dict[str, Any], status: int) -> None:
    assert await world.post(**body) == status


async def test_pages_may_not_and_models_that_are_none_are_told(world: World) -> None:
    world.see()
    answer = await world.client.post("/admin/trials", content='{"model": "chat"}', headers={"Origin": "http://evil"})
    assert answer.status_code == 403
    assert (await world.client.get("/admin/trials", params={"model": "x"})).status_code == 404
    assert (await world.client.get("/admin/trials", params={"model": "chat", "after": "-1"})).status_code == 400


async def test_over_it_is_forgotten(world: World) -> None:
    world.see("new-1")
    world.see(split=None)
    told = await world.get()
    assert (told["finished"], told["compared"], told["running"]) == ([], None, [0, 0])
