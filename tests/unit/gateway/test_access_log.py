"""The access log at a real gateway: one line for each request, how it ended, and nothing that a client could put into it."""

import json
import os
import re
import string
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.gateway.access_log import AccessLog, Entry, line
from headrace.gateway.accounts import Key
from headrace.gateway.keys import Keys

from .clients import MESSAGES, asking, chat, get, request
from .engines import ANSWER, STREAM, Gate, answers, chunk, event, eventually, holds, in_turn, says, streams_and_holds, whole

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PRINTABLE = set(string.printable.encode()) - set(b"\t\r\x0b\x0c")


@pytest.fixture
def log(world, tmp_path):
    """`await log(count)` gives the entries, once there are so many; they are checked to be lines of printable ASCII."""
    file = tmp_path / "access.jsonl"
    world.gateway.log = AccessLog(str(file), print)

    async def entries(count=1):
        await eventually(lambda: file.read_bytes().count(b"\n") >= count, f"{count} lines")
        data = file.read_bytes()
        assert set(data) <= PRINTABLE, "nothing but printable ASCII and line ends"
        found = [json.loads(each) for each in data.splitlines()]
        assert len(found) == count, found
        return found

    yield entries
    world.gateway.log.close()


async def test_an_answered_request_has_its_numbers(world, log):
    await world.engine()
    body = asking()
    answer = await world.ask(request(body, "X-Request-Id: mine-1", f"traceparent: {TRACE}"))
    (entry,) = await log()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    durations = [entry.pop(name) for name in ("seconds", "queue_seconds", "ttft_seconds")]
    assert all(0 <= seconds < 10 for seconds in durations)
    assert entry.pop("bytes_out") > len(answer.body)
    assert entry == {
        "id": "mine-1", "client": "127.0.0.1", "key": None, "method": "POST", "path": "/v1/chat/completions", "model": "chat",
        "asked": None, "replica": "chat-1", "status": 200, "end": "done", "code": None, "tokens_in": 7, "tokens_out": 2,
        "bytes_in": len(body), "retries": 0, "trace": "0af7651916cd43dd8448eb211c80319c",
    }  # fmt: skip


async def test_a_stream_is_logged_with_its_tokens_and_all_its_bytes(world, log):
    await world.engine()
    client = await world.client()
    await client.send(chat(stream=True))
    head = await client.until(b"\r\n\r\n")
    rest = await client.until(b"0\r\n\r\n")
    (entry,) = await log()
    assert (entry["end"], entry["tokens_in"], entry["tokens_out"]) == ("done", 7, 2)
    assert entry["bytes_out"] == len(head) + len(rest)


async def test_each_request_of_a_connection_has_its_own_bytes(world, log):
    await world.engine()
    client = await world.client()
    for _ in range(2):
        await client.send(chat("X-Request-Id: same"))
        await client.answer()
    first, second = await log(2)
    assert first["bytes_out"] == second["bytes_out"]


async def breaks(world):
    """Its stream breaks in the middle, and cannot be continued."""
    await world.engine(says(STREAM + chunk(event("H")), then="reset"))
    assert b"error" in (await world.ask(chat(stream=True))).body


async def resumes(world):
    """Its stream goes on at another replica."""
    kept = {"continues": "prefill", "slots": 4}
    first = says(STREAM + chunk(event("H")), then="close")
    await world.engine(first, name="chat-1", **kept)
    await world.engine(name="chat-2", **kept)
    answer = await world.ask(chat(stream=True))
    assert world.engines["chat-1"].asked, "the first in order, where none has anything to do"
    assert b"[DONE]" in answer.body


async def leaves(world):
    """Its client goes while the engine works."""
    engine = await world.engine(holds)
    client = await world.client()
    await client.send(chat())
    await engine.was_asked()
    client.close()


async def leaves_a_stream(world):
    """Its client goes in the middle of the answer."""
    engine = await world.engine(streams_and_holds(event("H")))
    client = await world.client()
    await client.send(chat(stream=True))
    await engine.was_asked()
    await client.until(b'"H"')
    client.close()


async def fails(world):
    """All attempts fail."""
    await world.engine(says(then="close"), name="chat-1")
    await world.engine(says(then="close"), name="chat-2")
    assert (await world.ask(chat())).status == 502


async def refused_by_the_engine(world):
    """The engine refuses it."""
    await world.engine(says(whole(b'{"error":{"message":"no","code":"odd_one"}}', b"400 Bad Request")))
    assert (await world.ask(chat())).status == 400


async def asks_for_what_is_not_there(world):
    """No such model."""
    assert (await world.ask(chat(model="nope"))).status == 404


async def sends_no_json(world):
    """Its body is nothing."""
    assert (await world.ask(request(b"{"))).status == 400


async def speaks_no_http(world):
    """It is no request at all."""
    assert (await world.ask(b"\x16\x03\x01 nonsense\r\n\r\n")).status == 400


async def asks_an_admin_path(world):
    """Not of the data path."""
    assert (await world.ask(get("/health"))).status == 200


async def asks_for_nothing(world):
    """A path that is not served."""
    assert (await world.ask(get("/nothing/here"))).status == 404


async def by_an_alias(world):
    """The name asked for is an alias."""
    await world.engine()
    assert (await world.ask(chat(model="gpt-4o"))).status == 200


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (breaks, {"end": "broken", "status": 502, "code": "engine_lost", "model": "chat", "replica": "chat-1"}),
        (resumes, {"end": "resumed", "status": 200, "code": None, "replica": "chat-2"}),
        (leaves, {"end": "left", "status": 499, "model": "chat", "ttft_seconds": None, "bytes_out": 0}),
        (leaves_a_stream, {"end": "left", "status": 499}),
        (fails, {"end": "refused", "status": 502, "code": "engine_lost", "retries": 2}),
        (refused_by_the_engine, {"end": "refused", "status": 400, "model": "chat", "replica": "chat-1"}),
        (
            asks_for_what_is_not_there,
            {"end": "refused", "status": 404, "code": "model_not_found", "model": None, "asked": "nope"},
        ),
        (sends_no_json, {"end": "refused", "status": 400, "code": "invalid_json", "model": None, "bytes_in": 1}),
        (speaks_no_http, {"end": "refused", "status": 400, "code": "invalid_http", "method": None, "path": None}),
        (asks_an_admin_path, {"end": "done", "status": 200, "path": "/health", "model": None}),
        (asks_for_nothing, {"end": "refused", "status": 404, "path": "/nothing/here"}),
        (by_an_alias, {"end": "done", "model": "chat", "asked": "gpt-4o"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_how_a_request_ended_is_said(world, log, happens, expected):
    await happens(world)
    (entry,) = await log()
    assert {name: entry[name] for name in expected} == expected


async def test_no_prompt_no_answer_and_no_secret_is_in_it(world, log, tmp_path):
    secret = "secret-of-somebody-0123456789"
    world.gateway.keys = Keys([Key("somebody", sha256(secret.encode()).digest())])
    await world.engine()
    fields = (f"Authorization: Bearer {secret}", "Cookie: crumbs", "X-Request-Id: one")
    await world.ask(request(asking(), *fields, target=f"/v1/chat/completions?api-key={secret}"))
    await world.ask(request(asking(), f"x-api-key: {secret}"))
    await world.ask(request(asking(), "Authorization: Bearer not-the-key-of-anybody"))
    first, second, third = await log(3)
    assert (first["key"], second["key"], third["key"]) == ("somebody", "somebody", None)
    assert (first["path"], third["code"]) == ("/v1/chat/completions", "invalid_api_key")
    written = (tmp_path / "access.jsonl").read_bytes()
    for part in (secret.encode(), b"not-the-key", b"crumbs", MESSAGES[0]["content"].encode(), b"Hi", ANSWER):
        assert part not in written


async def test_a_request_that_outlives_its_key_is_logged_with_its_name(world, log):
    """The head is shared with a request that came when the key was nobody's any more."""
    gate = Gate()
    await world.engine(in_turn(gate, answers))
    world.gateway.keys = Keys([Key("somebody", sha256(b"secret").digest())])
    same = request(asking(), "Authorization: Bearer secret")
    first, second = await world.client(), await world.client()
    await first.send(same)
    await eventually(lambda: world.running == 1, "one runs")
    await second.send(same)
    assert (await second.answer()).status == 200
    world.gateway.keys = Keys([], world.gateway.keys)
    await second.send(same)
    assert (await second.answer()).status == 401
    gate.let()
    assert (await first.answer()).status == 200
    assert [(entry["status"], entry["key"]) for entry in await log(3)] == [(200, "somebody"), (401, None), (200, "somebody")]


@pytest.mark.parametrize(
    "target",
    [
        b'/"}{"status":200',
        b"/%0a%0d{}",
        b"/\xff\xfe\x9b2J",  # bytes that are no UTF-8, and a terminal's escape among them
        "/é\u2028".encode(),
        b"/" + b"x" * 20_000,
    ],
)
async def test_a_hostile_path_stays_one_line_of_printable_text(world, log, target):
    client = await world.client()
    await client.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.answer()
    (entry,) = await log()
    assert entry["end"] == "refused"
    assert entry["path"] is None or entry["path"] == target.decode("latin-1")[:256]


@pytest.mark.parametrize("model", ['"}\n{"status": 200}', "\x1b[2J\x7f\x9b\u2028", "é" * 5000, "\ud83d"])
async def test_a_hostile_name_of_a_model_stays_one_line_of_printable_text(world, log, model):
    await world.ask(chat(model=model))
    (entry,) = await log()
    assert entry["status"] in (400, 404)
    assert entry["asked"] in (None, model[:256])


@pytest.mark.parametrize("identity", ["a b", 'x"y', "x\x1by", "é", "x" * 200, "a\\nb"])
async def test_a_hostile_request_id_is_not_taken(world, log, identity):
    await world.engine()
    await world.ask(chat(f"X-Request-Id: {identity}"))
    (entry,) = await log()
    assert entry["id"] != identity
    assert entry["id"].isascii()


@pytest.mark.parametrize(
    "parent", ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACE.upper(), TRACE + "\x1b", TRACE[:-1], f"{TRACE}, {TRACE}"]
)
async def test_what_is_no_traceparent_is_no_trace(world, log, parent):
    await world.engine()
    await world.ask(chat(f"traceparent: {parent}"))
    (entry,) = await log()
    assert entry["trace"] is None


@settings(max_examples=300, suppress_health_check=[HealthCheck.differing_executors])
@given(st.text(max_size=50), st.text(max_size=50), st.binary(max_size=50))
@example("\n", "\x7f", b"\x85")
@example("\ud800", "\u2028", b"\xff")
def test_any_text_is_one_line_of_printable_ascii_and_comes_back_as_it_was(model, asked, path):
    numbers = (200, "done", None, 0.1, None, None, None, None, 1, 2, 0, None)
    made = Entry("t", "i", "c", None, "GET", path.decode("latin-1"), model, asked, None, *numbers)
    written = line(made)
    assert set(written[:-1]) <= PRINTABLE - {10}
    assert written.endswith(b"\n")
    read = json.loads(written)
    assert (read["model"], read["asked"], read["path"]) == (model, asked, path.decode("latin-1"))


async def test_a_log_that_cannot_be_written_fails_no_request_and_is_a_metric(world, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    said = []
    world.gateway.log = AccessLog(str(pipe), said.append)
    os.close(reader)
    await world.engine(answers)
    for _ in range(3):
        assert (await world.ask(chat())).status == 200
    await eventually(lambda: world.gateway.log.lost == 3, "the lines are counted")
    assert b"headrace_access_log_lost_lines_total 3.0" in (await world.ask(get("/metrics"))).body
    assert len(said) == 1
    world.gateway.log.close()
