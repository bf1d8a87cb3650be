"""What is not the data path: models, health, readiness, metrics, status, logs; who may reach it, and whether counts agree."""

from hashlib import sha256
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from openai.types import Model
from prometheus_client.parser import text_string_to_metric_families

from headrace.gateway.accounts import Key
from headrace.gateway.door import Door
from headrace.gateway.keys import Keys
from headrace.gateway.metrics import NAMES
from headrace.targets.base import Replica, State

from .clients import CHAT, chat, get, request
from .engines import Gate, answers, eventually, holds, in_turn, says, streams_and_holds, whole
from .engines import event as an_event

PAGES = ("/", "/v1/models", "/v1/models/chat", "/health", "/ready", "/metrics", "/admin/status", "/admin/logs/chat-1")


def replica(name: str = "chat-1", state: State = State.READY, **facts) -> Replica:
    return Replica(name, "chat", f"unix:/run/{name}.sock", state, slots=4, **facts)


# ---- who may reach it


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "evil.example"},  # a page that rebound its name to 127.0.0.1
        {"host": "localhost.evil.example"},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "10.0.0.1"},
        {"host": ""},
        {"origin": "https://evil.example"},  # a page that asks across origins
        {"origin": "null"},  # a page in a sandboxed frame, or a local file
        {"origin": "http://localhost.evil.example"},
        {"origin": "file://"},
    ],
    ids=str,
)
async def test_pages_of_others_reach_nothing(world, fields):
    origin = [f"Origin: {fields['origin']}"] if "origin" in fields else []
    for path in PAGES:
        answer = await world.ask(get(path, *origin, host=fields.get("host", "localhost")))
        assert answer.status == 403
        assert answer.error["type"] == "permission_error"
        assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080"])
async def test_loopback_names_reach_everything(world, host):
    await world.engine()
    assert (await world.ask(get("/health", f"Origin: http://{host}", host=host))).status == 200
    assert (await world.ask(chat(f"Origin: http://{host}"))).status == 200


async def test_models_can_be_used_under_any_host_but_not_from_another_origin(world):
    """Containers and clusters name hosts as they like; a browser names the origin with every POST."""
    await world.engine()
    body = chat().partition(b"\r\n\r\n")[2]
    assert (await world.ask(request(body, host="gateway.internal"))).status == 200
    assert (await world.ask(request(body, "Origin: https://evil.example"))).status == 403


async def test_a_trusted_gateway_may_be_used_from_anywhere(open_world):
    world = await open_world(trusted=True)
    await world.engine()
    assert (await world.ask(get("/health", "Origin: https://app.example", host="models.example"))).status == 200
    assert (await world.ask(chat("Origin: https://app.example"))).status == 200


# ---- models, health, readiness


async def test_the_list_of_models_is_openais_and_names_aliases(world):
    answer = await world.ask(get("/v1/models"))
    models = {each["id"]: each for each in answer.json["data"]}
    assert answer.json["object"] == "list"
    assert list(models) == ["chat", "vectors", "gpt-4o", "org/model:tag"]
    for each in models.values():
        Model.model_validate(each, strict=True)
    assert models["chat"]["max_model_len"] == models["gpt-4o"]["max_model_len"] == 4096
    assert "max_model_len" not in models["vectors"], "nothing is said where nothing is known"


@pytest.mark.parametrize("spelled", ["chat", "gpt-4o", "org/model:tag", "org%2Fmodel%3Atag", "%63hat"])
async def test_one_model_is_found_by_its_name_however_it_is_encoded(world, spelled):
    """Clients may encode any character of a path, slashes in names included (RFC 3986 2.1)."""
    answer = await world.ask(get(f"/v1/models/{spelled}"))
    assert answer.json["id"] == unquote(spelled)


@pytest.mark.parametrize("name", ["nobody", "a/b", "chat/x"])
async def test_a_model_that_is_not_there_is_not_found(world, name):
    answer = await world.ask(get(f"/v1/models/{name}"))
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert name in answer.error["message"]


async def test_the_gateway_is_healthy_whatever_its_models_are(world):
    world.tell(phase="failed", reason="no such file")
    assert (await world.ask(get("/health"))).json == {"status": "ok"}


@pytest.mark.parametrize(("phase", "status"), [("ready", 200), ("loading", 503), ("failed", 503)])
async def test_the_gateway_is_ready_when_its_models_are(world, phase, status):
    world.tell(phase=phase)
    answer = await world.ask(get("/ready"))
    assert answer.status == status
    assert answer.json["ready"] is (status == 200)
    assert answer.json["models"] == {"chat": phase, "vectors": "ready"}


# ---- metrics


async def metrics(world) -> dict[tuple[str, ...], float]:
    answer = await world.ask(get("/metrics"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.body.decode())
    samples = [sample for family in families for sample in family.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert len(values) == len(samples), "every sample is there once"
    return values


async def test_counters_agree_with_what_was_sent(open_world):
    world = await open_world(queue=1)
    refuses = says(whole(b"{}", b"400 Bad Request"))
    dies = says(then="close")
    engine = await world.engine(in_turn(dies), slots=1)
    for script, data, count in (
        (None, chat(), 3),
        (None, chat(stream=True), 2),
        (refuses, chat(), 2),
        (dies, chat(), 1),
    ):
        engine.script = script or answers
        for _ in range(count):
            await world.ask(data)
    engine.script = streams_and_holds(an_event())
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(an_event())
    waiting = await world.client()
    await waiting.send(chat())
    await eventually(lambda: world.waiting == 1, "one waits")
    assert (await world.ask(chat())).status == 429
    assert (await world.ask(chat(model="nobody"))).status == 404
    during = await metrics(world)
    assert during["headrace_queue_depth", "chat"] == 1
    assert during["headrace_in_flight_requests", "chat", "chat-1"] == 1
    assert during["headrace_slots", "chat"] == 1
    waiting.close()
    client.close()
    await world.rests()
    after = await metrics(world)
    finished = {key[2]: value for key, value in after.items() if key[:2] == ("headrace_requests_total", "chat")}
    assert finished == {"200": 5, "400": 2, "502": 1, "429": 1, "499": 2}
    assert after["headrace_retries_total", "chat"] == 3, "a kept connection that was closed, then two more tries"
    assert after["headrace_client_disconnects_total", "chat"] == 2
    assert after["headrace_prompt_tokens_total", "chat"] == 5 * 7
    assert after["headrace_generated_tokens_total", "chat"] == 5 * 2
    assert after["headrace_queue_depth", "chat"] == 0
    assert after["headrace_in_flight_requests", "chat", "chat-1"] == 0
    assert after["headrace_request_seconds_count", "chat"] == 11
    assert after["headrace_time_to_first_token_seconds_count", "chat"] == 6, "five answers and a stream that was left"
    assert after["headrace_queue_wait_seconds_count", "chat"] == 9, "what was refused or waited in vain never left the queue"
    assert not any("nobody" in key for key in after), "names that clients invent are no labels"


async def test_buckets_are_cumulative_and_end_in_the_count(world):
    await world.engine()
    for _ in range(3):
        await world.ask(chat())
    answer = await world.ask(get("/metrics"))
    for family in text_string_to_metric_families(answer.body.decode()):
        if family.type != "histogram":
            continue
        for model in ("chat", "vectors"):
            buckets = [s.value for s in family.samples if s.name.endswith("_bucket") and s.labels["model"] == model]
            (count,) = [s.value for s in family.samples if s.name.endswith("_count") and s.labels["model"] == model]
            assert buckets == sorted(buckets)
            assert buckets[-1] == count


async def test_every_metric_is_in_the_table_and_the_other_way_round(world, monkeypatch):
    await world.engine()
    monkeypatch.setattr(Door, "tls", (86_400.0, 1))  # this gateway speaks no TLS
    world.view.replicas = [replica(pid=1, restarts=2, memory_bytes=3)]
    world.view.wanted, world.view.scaled = {"chat": 1}, {("chat", "up"): 2}
    world.gateway.keys = Keys([Key("ops", sha256(b"secret-of-ops").digest(), admin=True, concurrent=1)])
    world.gateway.keys.accounts["ops"].refused["requests"] = 1
    world.gateway.keys.shared = SimpleNamespace(answers=True, failures=1, waits=2)
    await world.ask(chat("Authorization: Bearer secret-of-ops"))
    answer = await world.ask(get("/metrics", "Authorization: Bearer secret-of-ops"))
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert set(families) == {name.name.removesuffix("_total") for name in NAMES}
    for name in NAMES:
        family = families[name.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (name.kind, name.help)
        assert family.samples, f"{name.name} is shown"
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert labels == {frozenset(name.labels)}


async def test_states_of_replicas_are_metrics(world):
    world.view.replicas = [replica(restarts=2, memory_bytes=3), replica("chat-2", State.FAILED)]
    values = await metrics(world)
    assert values["headrace_replica_state", "chat", "chat-1", "ready"] == 1
    assert values["headrace_replica_state", "chat", "chat-1", "failed"] == 0
    assert values["headrace_replica_state", "chat", "chat-2", "failed"] == 1
    assert values["headrace_replica_restarts_total", "chat", "chat-1"] == 2
    assert values["headrace_replica_memory_bytes", "chat", "chat-1"] == 3
    assert ("headrace_replica_memory_bytes", "chat", "chat-2") not in values, "what is not known is not zero"


async def test_connections_are_counted(world):
    clients = [await world.client() for _ in range(3)]
    await eventually(lambda: len(world.gateway.clients) == 3, "they are there")
    assert (await metrics(world))["headrace_client_connections",] == 4
    for client in clients:
        client.close()


# ---- status and logs


async def test_the_status_says_what_runs_where(world):
    await world.engine(holds, slots=4)
    world.view.replicas = [replica(pid=7, restarts=1, since=world.gateway.now())]
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.running == 1, "one runs")
    answer = await world.ask(get("/admin/status"))
    model = answer.json["models"][0]
    assert (model["name"], model["phase"], model["slots"], model["aliases"]) == ("chat", "ready", 4, ["gpt-4o", "org/model:tag"])
    assert model["load"]["running"] == {"chat-1": 1}
    (shown,) = model["replicas"]
    assert (shown["name"], shown["state"], shown["in_flight"], shown["pid"]) == ("chat-1", "ready", 1, 7)
    assert "key" not in answer.body.decode(), "secrets are never shown"
    client.close()


async def test_the_status_says_where_it_is_asked(world):
    assert (await world.ask(get("/admin/status"))).json["url"] == f"http://127.0.0.1:{world.port}"
    world.gateway.door.close()
    assert world.admin.status()["url"] == ""


async def test_the_status_says_what_administrators_asked_for(world):
    world.view.wants = {"chat": "2"}
    rows = (await world.ask(get("/admin/status"))).json["models"]
    assert {row["name"]: row["wish"] for row in rows} == {"chat": "2", "vectors": "auto"}


async def test_logs_are_shown_by_replica_and_by_model(world):
    world.view.replicas = [replica(), replica("chat-2")]
    one = await world.ask(get("/admin/logs/chat-1?lines=2"))
    assert one.json["logs"] == {"chat-1": ["line 1 of chat-1", "line 2 of chat-1"]}
    for name in ("chat", "gpt-4o"):
        assert set((await world.ask(get(f"/admin/logs/{name}"))).json["logs"]) == {"chat-1", "chat-2"}


@pytest.mark.parametrize(
    ("path", "status"), [("/admin/logs/nobody", 404), ("/admin/logs/chat-1?lines=x", 400), ("/admin/logs/chat-1?lines=-1", 400)]
)
async def test_logs_that_cannot_be_shown_are_refused(world, path, status):
    world.view.replicas = [replica()]
    assert (await world.ask(get(path))).status == status


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_an_application_may_stream(world, version):
    """The dashboard's events; an HTTP/1.0 client gets them until the connection ends."""
    gate = Gate()

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await gate._open.acquire()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    world.gateway._app = app
    client = await world.client()
    await client.send(request(b"", method="GET", target="/events", version=version))
    gate.let()
    answer = await client.answer()
    assert answer.whole
    assert answer.events == [b"1", b"2"]


async def test_an_application_that_streams_sends_no_body_to_head(world):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b"y"})

    world.gateway._app = app
    client = await world.client()
    await client.send(get("/events", "Connection: close", method="HEAD"))
    assert (await client.answer(to_head=True)).status == 200
    await client.gone()


async def test_an_application_sees_the_length_of_the_body_it_gets(world):
    """Heads are remembered without it."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d %s" % (len(body), b",".join(lengths))})

    world.gateway._app = app
    for size in (5, 9):
        answer = await world.ask(request(b"x" * size, method="GET", target="/anything"))
        assert answer.body == b"%d %d" % (size, size)


async def test_an_application_that_is_left_is_stopped(world):
    stopped = []

    async def app(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await receive()
            await receive()
        finally:
            stopped.append(True)

    world.gateway._app = app
    client = await world.client()
    await client.send(get("/events"))
    await client.until(b"x\r\n")
    client.close()
    await eventually(lambda: stopped, "the application is stopped")


async def test_an_application_that_fails_is_a_500_and_is_reported(world):
    async def app(scope, receive, send):
        raise RuntimeError("a bug")

    world.gateway._app = app
    answer = await world.ask(get("/anything"))
    assert answer.status == 500
    assert "a bug" not in answer.body.decode()
    assert isinstance(world.complaints.pop()["exception"], RuntimeError)


async def test_an_application_that_fails_in_the_middle_is_cut(world):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise RuntimeError("a bug")

    world.gateway._app = app
    answer = await world.ask(get("/anything"))
    assert not answer.whole
    assert world.complaints.pop()


async def test_the_paths_of_the_data_path_are_those_of_openai(world):
    await world.engine()
    await world.engine(name="vectors-1", model="vectors")
    for path, model in ((CHAT, "chat"), ("/v1/completions", "chat"), ("/v1/embeddings", "vectors")):
        body = b'{"model":"%s","messages":[1],"prompt":"a","input":"a"}' % model.encode()
        assert (await world.ask(request(body, target=path))).status == 200


async def test_a_number_of_lines_that_is_none_is_answered_once(world):
    client = await world.client()
    for lines in ("%C2%B2", "-1", "", "9" * 20):
        await client.send(get(f"/admin/logs/chat?lines={lines}"))
        answer = await client.answer()
        assert (answer.status, answer.error["param"]) == (400, "lines")


async def test_a_bug_in_the_application_is_one_answer_and_the_connection_goes_on(world):
    def bug(replica, lines):
        raise RuntimeError("a bug")

    world.view.replicas = [Replica("chat-1", "chat", "http://127.0.0.1:1", State.READY)]
    world.view.logs = bug
    client = await world.client()
    await client.send(get("/admin/logs/chat"))
    assert (await client.answer()).error["code"] == "internal_error"
    await client.send(get("/health"))
    assert (await client.answer()).status == 200
    assert [str(complaint["exception"]) for complaint in world.complaints] == ["a bug"]
    world.complaints.clear()
