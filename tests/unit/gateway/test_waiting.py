"""Requests that cannot be answered now: they wait, are told what for, and end in a clear answer within their limit."""

from time import monotonic

import pytest

from headrace.traffic import ModelStatus

from .clients import chat, get, request
from .engines import DONE, Gate, event, eventually, holds, says, streams_and_holds, whole


async def test_an_unknown_model_is_answered_with_what_exists(world):
    answer = await world.ask(chat(model="chta"))
    assert answer.status == 404
    error = answer.error
    assert (error["code"], error["param"], error["source"]) == ("model_not_found", "model", "gateway")
    for name in ("chat", "vectors", "gpt-4o", "org/model:tag", 'Did you mean "chat"?'):
        assert name in error["message"]


@pytest.mark.parametrize(
    ("target", "model", "able"),
    [("/v1/chat/completions", "vectors", "chat"), ("/v1/completions", "vectors", "chat"), ("/v1/embeddings", "chat", "vectors")],
)
async def test_a_model_that_cannot_do_it_is_answered_with_those_that_can(world, target, model, able):
    await world.engine(name="v", model="vectors")
    await world.engine(name="c", model="chat")
    body = b'{"model":"%s","messages":[1],"prompt":"a","input":"a"}' % model.encode()
    answer = await world.ask(request(body, target=target))
    assert answer.status == 400
    assert answer.error["code"] == "wrong_task"
    assert able in answer.error["message"]


async def test_a_failed_model_is_answered_with_the_cause(world):
    world.tell(phase="failed", reason="exit code 137, out of memory")
    answer = await world.ask(chat())
    assert answer.status == 503
    assert answer.error["code"] == "model_unavailable"
    assert "exit code 137, out of memory" in answer.error["message"]


async def test_requests_that_wait_for_a_model_that_fails_are_answered_with_the_cause(world):
    world.tell(phase="loading", reason="reading weights")
    clients = [await world.client() for _ in range(3)]
    for client in clients:
        await client.send(chat())
    await eventually(lambda: world.waiting == 3, "all wait")
    world.tell(phase="failed", reason="no such file")
    for client in clients:
        answer = await client.answer()
        assert answer.status == 503
        assert "no such file" in answer.error["message"]
    await world.rests()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_for_a_loading_model_waits_and_is_answered(world, stream):
    world.tell(phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(chat(stream=stream))
    await eventually(lambda: world.waiting == 1, "it waits")
    world.tell(phase="ready", reason="")
    await world.engine()
    answer = await client.answer()
    assert answer.status == 200
    assert answer.body.endswith(DONE) if stream else answer.json["id"] == "chatcmpl-1"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_waiting_stream_is_told_what_it_waits_for(world, monkeypatch, version):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.05)
    world.tell(phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(chat(stream=True, version=version))
    await client.until(b"\r\n\r\n")
    for _ in range(2):
        line = await client.until(b"\n\n")
        assert b": chat is loading, waited " in line
    client.close()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_progress_and_the_answer_make_one_legal_stream(world, monkeypatch, version):
    """An HTTP/1.0 client gets no chunks, before or after."""
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.02)
    world.tell(phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(chat(stream=True, version=version))
    (exchange,) = await _exchanges(world)
    await eventually(lambda: exchange.opened, "the stream is opened")
    world.tell(phase="ready", reason="")
    await world.engine()
    answer = await client.answer()
    assert answer.whole
    assert answer.body.startswith(b": chat is loading")
    assert answer.events[-1] == b"[DONE]"
    assert ("transfer-encoding" in answer.headers) is (version == "HTTP/1.1")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("cause", ["failed", "engine"])
async def test_an_opened_stream_ends_in_an_error_event_when_there_is_no_answer(world, monkeypatch, version, cause):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.02)
    world.tell(phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(chat(stream=True, version=version))
    (exchange,) = await _exchanges(world)
    await eventually(lambda: exchange.opened, "the stream is opened")
    if cause == "failed":
        world.tell(phase="failed", reason="no such file")
    else:
        await world.engine(says(whole(b'{"error":{"message":"no such file"}}', b"400 Bad Request")))
    answer = await client.answer()
    await client.gone()
    assert not answer.whole or version == "HTTP/1.0"
    assert b"no such file" in answer.events[-1]
    assert DONE not in answer.body


@pytest.mark.parametrize(
    ("target", "model", "body"),
    [
        ("/v1/embeddings", "vectors", b'"input":"a"'),
        ("/tokenize", "chat", b'"prompt":"a"'),
        ("/v1/audio/speech", "chat", b'"input":"a"'),
    ],
)
async def test_what_is_never_a_stream_is_answered_as_it_is(world, monkeypatch, target, model, body):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.0)
    world.tell(model, phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(request(b'{"model":"%s","stream":true,%s}' % (model.encode(), body), target=target))
    served = world.gateway.models[model]
    await eventually(lambda: served.exchanges, "the request is there")
    served.tick(monotonic())
    world.tell(model, phase="ready", reason="")
    await world.engine(says(whole(b'{"data":[]}')), model=model)
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b'{"data":[]}')


async def test_a_request_that_is_no_stream_is_not_told_of_progress(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.0)
    world.tell(phase="loading", reason="reading weights")
    client = await world.client()
    await client.send(chat())
    await _exchanges(world)
    await world.engine()
    assert (await client.answer()).json["id"] == "chatcmpl-1"


async def _exchanges(world):
    await eventually(lambda: world.model.exchanges, "the request is there")
    return tuple(world.model.exchanges)


# ---- the limits of the queue


async def test_a_full_queue_refuses_with_a_time_to_come_back(open_world):
    world = await open_world(queue=3)
    gate = Gate()
    await world.engine(gate, slots=1)
    clients = [await world.client() for _ in range(4)]
    for client in clients:
        await client.send(chat())
    await eventually(lambda: world.waiting == 3, "three wait")
    answer = await world.ask(chat())
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 600
    error = answer.error
    assert (error["code"], error["type"], error["source"]) == ("queue_full", "rate_limit_error", "gateway")
    assert "3 requests waiting" in error["message"]
    gate.let(4)
    for client in clients:
        assert (await client.answer()).status == 200
    assert world.counted == {200: 4, 429: 1}
    assert world.model.load().refused == 1


async def test_a_queue_of_nothing_refuses_what_finds_no_slot(open_world):
    world = await open_world(queue=0)
    gate = Gate()
    await world.engine(gate, slots=1)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "one runs")
    assert (await world.ask(chat())).status == 429
    gate.let()
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("phase", "slots", "status", "code"),
    [
        ("ready", 1, 429, "queue_expired"),  # too much to do: come back
        ("loading", 0, 503, "model_loading"),  # OpenAI's status for what is not there yet
        ("ready", 0, 503, "model_unavailable"),  # replicas are there and cannot be reached
    ],
)
async def test_a_request_that_waited_long_enough_is_refused_with_the_cause(open_world, phase, slots, status, code):
    world = await open_world(wait=0.2)
    await world.engine(holds, slots=slots)
    if slots:
        first = await world.client()
        await first.send(chat())
        await eventually(lambda: world.running == 1, "one runs")
    world.tell(phase=phase, reason="reading weights")
    started = world.gateway.now()
    answer = await world.ask(chat())
    assert answer.status == status
    assert answer.error["code"] == code
    assert int(answer.headers["retry-after"]) >= 1
    assert 0.2 <= world.gateway.now() - started < 2
    if phase == "loading":
        assert "reading weights" in answer.error["message"]


async def test_a_refused_request_leaves_its_connection_usable(open_world):
    world = await open_world(wait=0.05)
    client = await world.client()
    for _ in range(2):
        await client.send(chat())
        assert (await client.answer()).status == 503
    await world.engine()
    await client.send(chat())
    assert (await client.answer()).status == 200


async def test_bodies_held_at_once_are_bounded(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.gateway.BUFFER_LIMIT", 100_000)
    gate = Gate()
    await world.engine(gate)
    client = await world.client()
    await client.send(chat(padding="x" * 110_000))
    await eventually(lambda: world.running == 1, "one runs")
    answer = await world.ask(chat())
    assert answer.status == 429
    gate.let()
    assert (await client.answer()).status == 200
    gate.let()
    assert (await world.ask(chat())).status == 200


# ---- draining


async def test_draining_finishes_what_runs_and_what_waits(world):
    gate = Gate()
    engine = await world.engine(gate, slots=1)
    clients = [await world.client() for _ in range(3)]
    for number, client in enumerate(clients):
        await client.send(chat(stream=bool(number % 2)))
        await eventually(lambda n=number: world.running + world.waiting == n + 1, "it is there")
    drained = world.loop.create_task(world.gateway.drain(10))
    await eventually(lambda: world.gateway.draining, "it drains")
    gate.let(3)
    for client in clients:
        answer = await client.answer()
        assert answer.status == 200
        assert answer.whole
        assert answer.headers["connection"] == "close"
        await client.gone()
    assert await drained == 0
    assert len(engine.asked) == 3


async def test_draining_answers_a_request_on_a_connection_that_is_open_and_then_closes_it(world):
    gate = Gate()
    await world.engine(gate)
    holder, client = await world.client(), await world.client()
    await client.send(get("/health"))
    await client.answer()
    await holder.send(chat())
    await eventually(lambda: world.running == 1, "one runs")
    drained = world.loop.create_task(world.gateway.drain(10))
    await eventually(lambda: world.gateway.draining, "it drains")
    await client.send(get("/ready"))
    answer = await client.answer()
    assert answer.status == 503
    assert answer.json["draining"] is True
    assert answer.headers["connection"] == "close"
    await client.gone()
    gate.let()
    assert (await holder.answer()).status == 200
    assert await drained == 0


async def test_draining_accepts_no_new_connections(world):
    gate = Gate()
    await world.engine(gate)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "one runs")
    drained = world.loop.create_task(world.gateway.drain(10))
    await eventually(lambda: world.gateway.draining and not world.gateway.door.sockets, "it does not listen")
    with pytest.raises(ConnectionRefusedError):
        await world.client()
    gate.let()
    await client.answer()
    await drained


async def test_draining_closes_idle_connections(world):
    client = await world.client()
    await client.send(get("/health"))
    await client.answer()
    assert await world.gateway.drain(10) == 0
    await client.gone()


async def test_at_its_deadline_draining_breaks_off_with_a_clear_error(world):
    """One request streams, one is with the engine, one waits: all are told."""
    engine = await world.engine(streams_and_holds(event()), slots=2)
    streaming, silent, waiting = [await world.client() for _ in range(3)]
    await streaming.send(chat(stream=True))
    await engine.was_asked(1)
    await streaming.until(event())
    engine.script = holds
    await silent.send(chat())
    await engine.was_asked(2)
    await waiting.send(chat())
    await eventually(lambda: world.waiting == 1, "one waits")
    assert await world.gateway.drain(0.05) == 3
    rest = await streaming.rest()
    assert b'"code":"stopped"' in rest
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    for client in (silent, waiting):
        answer = await client.answer()
        assert answer.status == 503
        assert answer.error["code"] == "stopped"
        await client.gone()
    await world.rests()
    assert world.counted == {503: 3}
    await eventually(lambda: not engine.open_lines, "the engine sees it")


async def test_a_model_that_is_not_control_yet_known_waits(world):
    """A model is there from the start of the gateway, before control has seen a replica."""
    assert world.gateway.models["chat"].status == ModelStatus("chat", "generate", "ready", context=4096)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.waiting == 1, "it waits")
    await world.engine()
    assert (await client.answer()).status == 200


async def test_a_request_for_a_model_that_sleeps_wakes_it_and_is_answered(world):
    looks = []
    world.gateway.when_needed(lambda: looks.append(1))
    world.tell(phase="asleep", reason="it starts when somebody asks")
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: looks, "control is told")
    await world.engine()
    world.tell(phase="ready", reason="")
    assert (await client.answer()).status == 200


async def test_a_request_for_a_model_that_is_ready_wakes_nobody(world):
    looks = []
    world.gateway.when_needed(lambda: looks.append(1))
    await world.engine()
    assert (await world.ask(chat())).status == 200
    assert not looks


async def test_control_is_told_when_a_replica_that_drains_has_answered_all(world):
    looks = []
    world.gateway.when_needed(lambda: looks.append(1))
    gate = Gate()
    await world.engine(gate)
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "it runs")
    world.changes("chat-1", slots=0)
    assert not looks
    gate.let()
    assert (await client.answer()).status == 200
    await eventually(lambda: looks, "control is told")


async def test_a_model_that_does_not_wake_in_time_says_when_it_should(world):
    world.gateway.models["chat"].queue._wait = 0.3
    world.tell(phase="asleep", reason="it waits for 3 GiB of memory", ready_in=41.2)
    answer = await world.ask(chat())
    assert answer.status == 503
    assert answer.error["code"] == "model_loading"
    assert "asleep and is being woken: it waits for 3 GiB of memory" in answer.error["message"]
    assert answer.headers["retry-after"] == "42"


async def test_a_stream_that_waits_for_a_model_that_sleeps_is_told_how_long(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.1)
    world.tell(phase="asleep", reason="it starts when somebody asks", ready_in=7.5)
    client = await world.client()
    await client.send(chat(stream=True))
    (exchange,) = await _exchanges(world)
    await eventually(lambda: exchange.opened, "the stream is opened")
    await world.engine()
    world.tell(phase="ready", reason="")
    answer = await client.answer()
    assert answer.body.startswith(b": chat is asleep, waited ")
    assert b", ready in about 8s; it starts when somebody asks" in answer.body
    assert answer.events[-1] == b"[DONE]"


async def test_a_model_that_sleeps_counts_as_ready_for_whoever_asks(world):
    await world.engine(name="v", model="vectors")
    world.tell(phase="asleep")
    assert (await world.ask(get("/ready"))).status == 200
    assert (await world.ask(get("/v2/models/chat/ready"))).status == 200
    world.tell(phase="loading")
    assert (await world.ask(get("/ready"))).status == 503


async def test_what_is_over_is_told_once_without_a_word_of_it(world):
    await world.engine()
    await world.ask(chat())
    world.tell(phase="failed", reason="gone")
    await world.ask(chat())
    first, second = world.gateway.finished()
    assert (first.model, first.replica, first.status) == ("chat", "chat-1", 200)
    assert first.tokens_out
    assert 0 <= first.waited <= first.seconds
    assert first.ttft is not None
    assert first.ttft <= first.seconds
    assert (second.status, second.replica, second.tokens_in) == (503, "", None)
    assert world.gateway.finished() == []
    assert world.gateway.models["chat"].load().arrived == 2


async def test_scaling_decisions_are_shown_newest_last_by_model(world):
    now = world.gateway.now()
    world.view.decisions = [(now - 9, "chat", "chat 0 → 1 replicas"), (now - 1, "vectors", "vectors 1 → 0 replicas")]
    both = (await world.ask(get("/admin/decisions"))).json["decisions"]
    assert [row["decision"] for row in both] == ["chat 0 → 1 replicas", "vectors 1 → 0 replicas"]
    assert both[0]["ago_seconds"] == pytest.approx(9, abs=5)
    one = (await world.ask(get("/admin/decisions?model=gpt-4o"))).json["decisions"]
    assert [row["model"] for row in one] == ["chat"]
    assert (await world.ask(get("/admin/decisions?model=none"))).status == 404
