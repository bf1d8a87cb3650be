"""Names that engines know themselves: adapters, and the models of one repository, asked for as models of their own."""

import pytest

from .clients import asking, get, request
from .engines import ANSWER, answers, eventually, in_turn, says, whole

ALSO = frozenset(("polite", "org/terse:v1"))


async def test_an_adapter_is_asked_for_by_its_own_name(world):
    """The body is not touched: another name in it would be another model."""
    world.tell(also=ALSO)
    engine = await world.engine(also=ALSO)
    for name in sorted(ALSO):
        body = asking(name)
        assert (await world.ask(request(body))).body == ANSWER
        assert engine.asked[-1].body == body
    assert (await world.ask(request(asking("gpt-4o")))).status == 200
    assert engine.asked[-1].model == "there", "an alias is the model itself"


async def test_an_adapter_keeps_its_name_in_a_body_that_is_written_anew(world):
    world.tell(also=ALSO)
    engine = await world.engine(also=ALSO, folds=True)
    assert (await world.ask(request(asking("polite")))).status == 200
    assert (engine.asked[-1].model, engine.asked[-1].json["stream"]) == ("polite", True)


async def test_an_adapter_shares_the_slots_and_counts_of_its_model(world):
    world.tell(also=ALSO)
    await world.engine(also=ALSO, slots=1)
    for name in ("polite", "chat"):
        assert (await world.ask(request(asking(name)))).status == 200
    await world.rests()
    assert world.counted == {200: 2}


async def test_a_name_is_known_once_a_replica_has_it(world):
    await world.engine()
    assert (await world.ask(request(asking("late")))).status == 404
    world.changes("chat-1", also=frozenset(("late",)))
    assert (await world.ask(request(asking("late")))).status == 200
    world.changes("chat-1", also=frozenset())
    assert (await world.ask(request(asking("late")))).status == 404


async def test_a_replica_without_the_adapter_is_not_the_last_word(world):
    """vLLM's 404 for it: no work was done, and another replica may have loaded it."""
    unknown = whole(
        b'{"error":{"message":"The model `polite` does not exist. Valid aliases: chat.","type":"NotFoundError","code":404}}',
        b"404 Not Found",
    )
    world.tell(also=ALSO)
    await world.engine(says(unknown), name="chat-1")
    await world.engine(name="chat-2")
    assert (await world.ask(request(asking("polite")))).body == ANSWER


async def test_adapters_are_listed_with_their_model(world):
    world.tell(also=ALSO)
    listed = {card["id"]: card for card in (await world.ask(get("/v1/models"))).json["data"]}
    assert list(listed) == ["chat", "vectors", "gpt-4o", "org/model:tag", "org/terse:v1", "polite"]
    assert [card.get("parent") for card in listed.values()] == [None, None, None, None, "chat", "chat"]
    assert listed["polite"]["max_model_len"] == 4096
    assert (await world.ask(get("/v1/models/polite"))).json == listed["polite"]
    assert (await world.ask(get("/v1/models/org/terse:v1"))).json["parent"] == "chat"


async def test_who_asks_for_no_model_is_told_all_names(world):
    world.tell(also=ALSO)
    message = (await world.ask(request(asking("polit")))).error["message"]
    assert 'Did you mean "polite"?' in message
    assert "chat, gpt-4o, org/model:tag, org/terse:v1, polite, vectors" in message


async def test_a_models_own_name_comes_before_anothers_adapter(world):
    world.tell(also=frozenset(("vectors", "gpt-4o")))
    engine = await world.engine()
    assert (await world.ask(request(asking("vectors")))).error["code"] == "wrong_task"
    assert (await world.ask(request(asking("gpt-4o")))).status == 200
    assert len(engine.asked) == 1


@pytest.mark.parametrize("name", ["iris", "org/iris"])
async def test_a_model_of_a_repository_is_asked_for_by_its_own_name(world, name):
    world.tell(task="infer", also=frozenset((name,)))
    engine = await world.engine(says(whole(b"{}")), speaks="v2", also=frozenset((name,)))
    for asked_for, there in ((name, name.replace("/", "%2F")), ("chat", "there")):
        assert (await world.ask(request(b"{}", target=f"/v2/models/{asked_for}/infer"))).status == 200
        assert engine.asked[-1].target == f"/v2/models/{there}/infer"


async def test_requests_for_adapters_wait_while_their_model_loads(world):
    world.tell(phase="loading", also=ALSO)
    client = await world.client()
    await client.send(request(asking("polite")))
    await eventually(lambda: world.waiting == 1, "it waits")
    engine = await world.engine(in_turn(answers), also=ALSO)
    world.tell(phase="ready")
    assert (await client.answer()).status == 200
    assert engine.asked[0].model == "polite"


async def test_the_status_lists_them(world):
    world.tell(also=ALSO)
    status = (await world.ask(get("/admin/status"))).json
    assert status["models"][0]["also"] == sorted(ALSO)
