"""Requests whose path names the model: tensors (KServe V2 and V1), Triton's generate, plain servers."""

import json

import pytest

from headrace.traffic import ModelStatus

from .clients import asking, get, request
from .conftest import STATUSES
from .engines import LAST, STREAM, Gate, chunk, eventually, holds, says, whole

INFER = "/v2/models/iris/infer"
TENSORS = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
ANSWER = b'{"model_name":"iris","outputs":[{"name":"y","datatype":"INT64","shape":[1],"data":[2]}]}'
BINARY = bytes(range(256)) * 8


@pytest.fixture
async def world(open_world):
    """A model that takes tensors, besides the two others."""
    return await open_world(statuses=(*STATUSES, ModelStatus("iris", "infer", "ready")))


@pytest.fixture
async def iris(world):
    """`await iris(script, …)` adds a replica."""

    async def replica(script, name="iris-1", **endpoint):
        endpoint = {"speaks": "v2", "model_there": "iris there"} | endpoint
        return await world.engine(script, name=name, model="iris", **endpoint)

    return replica


def of_iris(world):
    return dict(world.gateway.models["iris"].stats.requests)


def plain_error(answer) -> str:
    """The error of the Open Inference Protocol: a text, and what OpenAI's has beside it."""
    assert set(answer.json) == {"error", "type", "code", "param", "source"}
    assert isinstance(answer.json["error"], str)
    return answer.json["error"]


# ---- tensors


@pytest.mark.parametrize(
    ("method", "target", "there"),
    [
        ("POST", INFER, "/v2/models/iris%20there/infer"),
        ("POST", "/v2/models/iris/versions/2/infer", "/v2/models/iris%20there/versions/2/infer"),
        ("POST", "/v2/models/iris/infer?a=b", "/v2/models/iris%20there/infer?a=b"),
        ("POST", "/v1/models/iris:predict", "/v1/models/iris%20there:predict"),
        ("GET", "/v2/models/iris", "/v2/models/iris%20there"),
        ("GET", "/v2/models/iris/config", "/v2/models/iris%20there/config"),
        ("GET", "/v2/models/iris/stats", "/v2/models/iris%20there/stats"),
        ("POST", "http://localhost/v2/models/iris/infer", "/v2/models/iris%20there/infer"),  # the absolute form
    ],
)
async def test_a_model_named_in_the_path_is_asked_by_its_engines_name(world, iris, method, target, there):
    engine = await iris(says(whole(ANSWER)))
    answer = await world.ask(request(TENSORS if method == "POST" else b"", method=method, target=target))
    assert (answer.status, answer.body) == (200, ANSWER)
    asked = engine.asked[0]
    assert (asked.method, asked.target) == (method, there)
    assert asked.body == (TENSORS if method == "POST" else b"")
    await world.rests()
    assert of_iris(world) == {200: 1}


async def test_binary_tensors_and_their_headers_pass_both_ways(world, iris):
    fields = (b"Content-Type: application/octet-stream", b"Inference-Header-Content-Length: 64")
    head = b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: %d\r\n\r\n" % (b"\r\n".join(fields), len(BINARY))
    engine = await iris(says(head + BINARY))
    lines = ["Content-Type: application/octet-stream", "Inference-Header-Content-Length: 64", f"Content-Length: {len(BINARY)}"]
    answer = await world.ask(request(BINARY, *lines, target=INFER, length=False))
    assert answer.body == BINARY
    assert answer.headers["inference-header-content-length"] == "64"
    assert answer.headers["content-type"] == "application/octet-stream"
    asked = engine.asked[0]
    assert asked.body == BINARY
    assert asked.headers["content-type"] == "application/octet-stream"
    assert asked.headers["inference-header-content-length"] == "64"


async def test_large_tensors_arrive_whole(world, iris):
    body = BINARY * 400
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    engine = await iris(says(head, *(body[at : at + 65536] for at in range(0, len(body), 65536))))
    answer = await world.ask(request(body, target=INFER))
    assert answer.body == body
    assert engine.asked[0].body == body


async def test_an_alias_names_a_model_in_a_path_as_well(world, iris):
    world.gateway._aliases["org/iris:v2"] = "iris"
    world.tell("iris")
    engine = await iris(says(whole(ANSWER)))
    for target in ("/v2/models/org/iris:v2/infer", "/v2/models/org%2Firis%3Av2/infer"):
        assert (await world.ask(request(TENSORS, target=target))).status == 200
    assert [asked.target for asked in engine.asked] == ["/v2/models/iris%20there/infer"] * 2


@pytest.mark.parametrize("name", ["nosuch", "..", "%2e%2e", "..%2f..", "iris/../iris", "a%0d%0ab", "%ff"])
async def test_a_name_that_is_none_reaches_no_engine(world, iris, name):
    engine = await iris(says(whole(ANSWER)))
    answer = await world.ask(request(TENSORS, target=f"/v2/models/{name}/infer"))
    assert answer.status == 404
    assert "does not exist here" in plain_error(answer)
    assert not engine.asked


async def test_inference_is_survived_by_another_replica(world, iris):
    await iris(says(b"", then="close"))
    await iris(says(whole(ANSWER)), name="iris-2")
    assert (await world.ask(request(TENSORS, target=INFER))).body == ANSWER


async def test_inference_waits_for_a_slot_and_frees_it(world, iris):
    gate = Gate(says(whole(ANSWER)))
    engine = await iris(gate, slots=1)
    clients = [await world.client() for _ in range(3)]
    for client in clients:
        await client.send(request(TENSORS, target=INFER))
    queue = world.gateway.models["iris"].queue
    await eventually(lambda: len(queue) == 2, "two wait")
    clients[1].close()
    await eventually(lambda: len(queue) == 1, "one left")
    gate.let(2)
    assert (await clients[0].answer()).body == ANSWER
    assert (await clients[2].answer()).body == ANSWER
    assert engine.most == 1


@pytest.mark.parametrize(
    ("status", "body", "expected", "words"),
    [
        (b"400 Bad Request", b'{"error":"[request id: <id_unknown>] unexpected shape for input"}', 400, "unexpected shape"),
        (b"500 Internal", b'{"error":"failed to parse the request JSON buffer: Invalid value. at 0"}', 400, "JSON buffer"),
        (b"404 Not Found", b'{"error":"Request for unknown model: \'iris\' is not found"}', 404, "unknown model"),
        (b"404 Not Found", b"", 404, "answered 404"),
    ],
)
async def test_an_engines_error_keeps_the_protocols_shape(world, iris, status, body, expected, words):
    await iris(says(whole(body, status)))
    answer = await world.ask(request(TENSORS, target=INFER))
    assert answer.status == expected
    assert words in plain_error(answer)
    assert answer.json["source"] == "engine"


async def test_a_wrong_method_says_the_right_one(world, iris):
    answer = await world.ask(get(INFER))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "is served with POST" in plain_error(answer)
    answer = await world.ask(request(b"{}", target="/v2/models/iris/config"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_page_of_another_origin_may_not_ask(world, iris):
    engine = await iris(says(whole(ANSWER)))
    foreign = await world.ask(request(TENSORS, "Origin: https://evil.example", target=INFER))
    rebound = await world.ask(get("/v2/models/iris", host="evil.example"))  # it sends no Origin with what only reads
    assert (foreign.status, rebound.status) == (403, 403)
    assert not engine.asked


async def test_a_model_that_loads_is_waited_for(world, iris):
    world.tell("iris", phase="loading")
    client = await world.client()
    await client.send(request(TENSORS, target=INFER))
    await eventually(lambda: len(world.gateway.models["iris"].queue) == 1, "it waits")
    await iris(says(whole(ANSWER)))
    world.tell("iris", phase="ready")
    assert (await client.answer()).body == ANSWER


async def test_the_head_of_an_answer_can_be_asked_for_alone(world, iris):
    engine = await iris(says(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)))
    client = await world.client()
    for _ in range(2):
        await client.send(get("/v2/models/iris", method="HEAD"))
        answer = await client.answer(to_head=True)
        assert (answer.status, answer.headers["content-length"]) == (200, str(len(ANSWER)))
    assert [asked.method for asked in engine.asked] == ["HEAD", "HEAD"]
    assert len(engine.lines) == 1, "nothing was left over"


# ---- which model can


@pytest.mark.parametrize(
    ("target", "body", "words"),
    [
        (INFER.replace("iris", "chat"), TENSORS, 'Model "chat" generates text and takes no tensors. Models that can: iris.'),
        (INFER.replace("iris", "vectors"), TENSORS, "makes embeddings and takes no tensors"),
        (
            "/v2/models/iris/generate",
            b"{}",
            'Model "iris" takes and gives tensors and cannot generate text. Models that can: chat.',
        ),
        ("/v1/chat/completions", asking("iris"), "takes and gives tensors and cannot generate text"),
        ("/v1/embeddings", b'{"model":"iris","input":"a"}', "has no embeddings. Models that can: vectors."),
        ("/v1/rerank", b'{"model":"iris","query":"a","documents":["b"]}', "cannot rank documents. No model here can."),
        ("/v1/rerank", b'{"model":"chat","query":"a","documents":["b"]}', "generates text and cannot rank documents"),
    ],
)
async def test_a_task_that_a_model_cannot_do_is_refused_with_those_that_can(world, iris, target, body, words):
    await iris(says(whole(ANSWER)))
    await world.engine()
    answer = await world.ask(request(body, target=target))
    error = answer.json["error"]
    assert answer.status == 400
    assert words in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(
    ("target", "speaks", "words"),
    [
        ("/v2/models/iris", "openai", "speaks OpenAI's API"),
        ("/v2/models/iris/infer", "http", "/upstream/NAME"),
        ("/upstream/iris/x", "v2", "Open Inference Protocol"),
        ("/v1/models/iris:predict", "openai", "speaks OpenAI's API"),
    ],
)
async def test_an_engine_gets_no_request_that_it_does_not_understand(world, iris, target, speaks, words):
    engine = await iris(says(whole(ANSWER)), speaks=speaks)
    answer = await world.ask(request(TENSORS, target=target) if "infer" in target or ":predict" in target else get(target))
    assert answer.status == 400
    assert words in str(answer.json["error"])
    assert not engine.asked
    assert world.at_rest()


async def test_ranking_goes_to_engines_that_speak_openai(world, iris):
    world.tell("iris", task="rerank")
    engine = await iris(says(whole(b'{"results":[]}')), speaks="openai")
    body = {"model": "iris", "query": "a", "documents": ["b"]}
    for target in ("/v1/rerank", "/rerank", "/v2/rerank"):
        assert (await world.ask(request(json.dumps(body).encode(), target=target))).status == 200
    assert [(asked.target, asked.json["model"]) for asked in engine.asked] == [("/v1/rerank", "iris there")] * 3
    for missing in ("query", "documents"):
        answer = await world.ask(request(json.dumps(body | {missing: []}).encode(), target="/v1/rerank"))
        assert (answer.status, answer.error["param"]) == (400, missing)


# ---- readiness


async def test_a_models_readiness_is_answered_here(world, iris):
    engine = await iris(says(whole(ANSWER)))
    for target in ("/v2/models/iris/ready", "/v2/models/iris/versions/1/ready"):
        answer = await world.ask(get(target))
        assert (answer.status, answer.body) == (200, b"")
    world.tell("iris", phase="loading", reason="its weights are read")
    answer = await world.ask(get("/v2/models/iris/ready"))
    assert answer.status == 400
    assert "its weights are read" in plain_error(answer)
    assert (await world.ask(get("/v2/models/nosuch/ready"))).status == 404
    assert not engine.asked


async def test_a_part_of_a_repository_is_as_ready_as_its_engine_says(world, iris):
    world.tell("iris", also=frozenset(("good", "broken")))

    async def script(asked):
        good = "/good/" in asked.target
        asked.write(whole(b"", b"200 OK") if good else whole(b'{"error":"Model version not ready"}', b"400 Bad Request"))

    await iris(script, also=frozenset(("good", "broken")))
    assert (await world.ask(get("/v2/models/good/ready"))).status == 200
    answer = await world.ask(get("/v2/models/broken/ready"))
    assert (answer.status, plain_error(answer)) == (400, "Model version not ready")
    world.tell("iris", phase="loading")
    assert (await world.ask(get("/v2/models/good/ready"))).status == 400


async def test_the_server_says_what_it_is_and_whether_it_is_ready(world, iris):
    assert (await world.ask(get("/v2"))).json["name"] == "headrace"
    assert (await world.ask(get("/v2/health/live"))).status == 200
    assert (await world.ask(get("/v2/health/ready"))).status == 200
    world.tell("iris", phase="loading")
    assert (await world.ask(get("/v2/health/live"))).status == 200
    assert (await world.ask(get("/v2/health/ready"))).status == 400


async def test_nobody_reaches_an_engines_own_controls(world, iris):
    engine = await iris(says(whole(ANSWER)))
    for target in ("/v2/repository/index", "/v2/repository/models/iris/unload", "/v2/logging", "/v2/models/iris/trace/setting"):
        assert (await world.ask(request(b"{}", target=target))).status in (404, 405)
    assert not engine.asked


# ---- Triton's generate

EVENTS = [b'data: {"model_name":"llm","text_output":"w%d"}\n\n' % number for number in range(3)]
GENERATE = b'{"text_input":"Say hi","parameters":{"max_tokens":3}}'


@pytest.fixture
async def llm(world, iris):
    """The chat model, by an engine that speaks Triton's generate."""

    async def replica(script, name="chat-1", **endpoint):
        return await world.engine(script, name=name, speaks="generate", **endpoint)

    return replica


async def test_a_stream_of_tritons_own_ends_without_done(world, llm):
    engine = await llm(says(STREAM + b"".join(map(chunk, EVENTS)) + LAST))
    answer = await world.ask(request(GENERATE, target="/v2/models/chat/generate_stream"))
    assert (answer.status, answer.body, answer.whole) == (200, b"".join(EVENTS), True)
    assert engine.asked[0].body == GENERATE
    await world.rests()
    assert world.counted == {200: 1}
    assert world.model.load().tokens_out == 3


async def test_a_stream_of_tritons_own_that_breaks_says_so(world, llm):
    await llm(says(STREAM + chunk(EVENTS[0]), then="close"))
    answer = await world.ask(request(GENERATE, target="/v2/models/chat/generate_stream"))
    assert not answer.whole
    last = json.loads(answer.events[-1])
    assert "broke off" in last["error"]
    assert last["code"] == "engine_lost"


async def test_an_error_as_first_event_becomes_a_status(world, llm):
    await llm(says(STREAM + chunk(b'data: {"error":"[request id: 1] Exceeds maximum queue size"}\n\n') + LAST))
    answer = await world.ask(request(GENERATE, target="/v2/models/chat/generate_stream"))
    assert answer.status == 429
    assert "Exceeds maximum queue size" in plain_error(answer)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_an_error_of_status_200_becomes_one_with_a_status(world, llm, framing):
    error = b'{"error":"generate expects model to produce exactly 1 response, use generate stream for model that"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    await llm(says(whole(error)) if framing == "length" else says(head + chunk(error[:9]), chunk(error[9:]) + LAST))
    answer = await world.ask(request(GENERATE, target="/v2/models/chat/generate"))
    assert answer.status == 400
    assert "exactly 1 response" in plain_error(answer)


async def test_one_response_of_tritons_own_passes(world, llm):
    await llm(says(whole(b'{"model_name":"llm","text_output":"hi"}')))
    answer = await world.ask(request(GENERATE, target="/v2/models/chat/generate"))
    assert answer.body == b'{"model_name":"llm","text_output":"hi"}'


async def test_tensors_reach_a_text_model_whose_engine_has_them(world, llm):
    engine = await llm(says(whole(ANSWER)))
    assert (await world.ask(request(TENSORS, target="/v2/models/chat/infer"))).status == 200
    assert engine.asked[0].target == "/v2/models/there/infer"


# ---- plain servers

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Mine: 1\r\nContent-Length: 4\r\n\r\n<p/>"


@pytest.fixture
async def app(world, iris):
    async def replica(script, name="iris-1", **endpoint):
        return await iris(script, name, speaks="http", **endpoint)

    return replica


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_any_request_reaches_a_plain_server_as_it_is(world, app, method):
    engine = await app(says(PAGE))
    body = b"a=1" if method in ("POST", "PUT", "PATCH") else b""
    fields = ("Content-Type: application/x-www-form-urlencoded", "X-Own: 2", "Authorization: Bearer ours")
    data = request(
        body, *fields, f"Content-Length: {len(body)}", method=method, target="/upstream/iris/a%20b?q=1&q=2", length=False
    )
    answer = await world.ask(data)
    assert (answer.status, answer.body, answer.headers["x-mine"]) == (200, b"<p/>", "1")
    asked = engine.asked[0]
    assert (asked.method, asked.target, asked.body) == (method, "/a%20b?q=1&q=2", body)
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.headers["x-own"] == "2"
    assert "authorization" not in asked.headers
    await world.rests()
    assert of_iris(world) == {200: 1}


@pytest.mark.parametrize("status", [b"302 Found", b"404 Not Found", b"418 Teapot", b"500 Oh", b"401 Unauthorized"])
async def test_what_a_plain_server_answers_is_nobodys_business(world, app, status):
    await app(says(PAGE.replace(b"200 OK", status)))
    answer = await world.ask(request(b"x", target="/upstream/iris/"))
    assert (answer.status, answer.body) == (int(status[:3]), b"<p/>")


async def test_a_plain_servers_stream_of_events_needs_no_done(world, app):
    await app(says(STREAM + chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n") + LAST))
    answer = await world.ask(get("/upstream/iris/events"))
    assert (answer.body, answer.whole) == (b"data: 1\n\ndata: 2\n\n", True)
    assert world.gateway.models["iris"].load().tokens_out == 0


async def test_what_only_reads_is_survived_by_another_replica(world, app):
    await app(says(b"", then="close"))
    await app(says(PAGE), name="iris-2")
    assert (await world.ask(get("/upstream/iris/x"))).body == b"<p/>"


async def test_what_may_change_something_is_not_asked_twice(world, app):
    first = await app(says(b"", then="close"))
    second = await app(says(PAGE), name="iris-2")
    answer = await world.ask(request(b"x", target="/upstream/iris/order"))
    assert (answer.status, answer.error["code"]) == (502, "engine_lost")
    assert "not asked again" in answer.error["message"]
    assert len(first.asked) + len(second.asked) == 1


async def test_what_may_change_something_goes_over_no_connection_that_may_be_stale(world, app):
    engine = await app(says(PAGE))
    client = await world.client()
    for _ in range(3):
        await client.send(request(b"x", target="/upstream/iris/order"))
        assert (await client.answer()).status == 200
    assert len(engine.lines) == 3


async def test_a_replica_that_is_not_there_was_not_asked(world, app):
    """Nothing was sent, so another one may be asked whatever the method."""
    await app(says(PAGE), name="iris-2")
    world.adds(world.unused_port(), name="iris-1", model="iris", speaks="http")
    for _ in range(2):
        assert (await world.ask(request(b"x", target="/upstream/iris/order"))).status == 200


async def test_a_plain_server_sees_who_leaves(world, app):
    engine = await app(holds)
    client = await world.client()
    await client.send(get("/upstream/iris/slow"))
    await engine.was_asked()
    client.close()
    await eventually(lambda: not engine.open_lines, "the engine's connection is closed")


@pytest.mark.parametrize(
    ("framing", "expected"),
    [
        (b"Content-Length: 12\r\n", {"content-length": "12"}),
        (b"Transfer-Encoding: chunked\r\n", {"connection": "close"}),
        (b"", {"connection": "close"}),
    ],
)
async def test_a_head_alone_of_any_framing_ends_with_itself(world, app, framing, expected):
    await app(says(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n"))
    client = await world.client()
    await client.send(get("/upstream/iris/x", method="HEAD"))
    answer = await client.answer(to_head=True)
    assert expected.items() <= answer.headers.items()
    if "connection" in expected:
        await client.gone()
