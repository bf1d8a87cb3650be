"""Engines' own words for what went wrong, each with where it was seen, and what becomes of a request that gets them."""

import json

import pytest

from headrace.gateway.engine_errors import KNOWN, engine_error, event_error, first_event_error

from .clients import chat
from .engines import ANSWER, DONE, EVENTS, LAST, STREAM, answers, chunk, event, says, settled, streams_and_holds, whole

VLLM = '{"error":{"message":"%s","type":"InternalServerError","param":null,"code":%d}}'
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
STOPPING = "cannot schedule new futures after shutdown"

# status, body → status, code, whether another replica may do better. M: measured, R: read in source (facts/engine-*.md).
WORDS = {
    # vLLM 0.32, from the instant of SIGTERM on (M)
    "vllm stops": (500, VLLM % (STOPPING, 500), 503, "engine_stopping", True),
    # vLLM 0.32 with --max-num-queued-reqs (M)
    "vllm is full": (503, VLLM % (BUSY, 503), 429, "engine_overloaded", True),
    # vLLM 0.32, its worker killed (M)
    "vllm lost its core": (
        500,
        VLLM % ("EngineCore encountered an issue. See stack trace (above) for the root cause.", 500),
        502,
        "engine_lost",
        True,
    ),
    # vLLM 0.32 (M): the client's own mistakes stay its own
    "vllm context": (
        400,
        '{"error":{"message":"This model\'s maximum context length is 2048 tokens. However, your prompt contains at least 2049 '
        'input tokens","type":"BadRequestError","param":"input_tokens","code":400}}',
        400,
        "context_length_exceeded",
        False,
    ),
    "vllm limit": (
        400,
        VLLM % ("max_tokens=5000 cannot be greater than max_model_len=2048.", 400),
        400,
        "InternalServerError",
        False,
    ),
    "vllm adapter": (404, VLLM % ("The model `nope` does not exist. Valid aliases: a.", 404), 404, "model_not_found", True),
    # FastAPI, which vLLM and SGLang are made of (M)
    "fastapi path": (404, '{"detail":"Not Found"}', 404, "not_found_error", False),
    # SGLang (R): flat, 503 past --max-queued-requests
    "sglang is full": (
        503,
        '{"object":"error","message":"The request queue is full.","type":"ServiceUnavailable","param":null,"code":503}',
        429,
        "engine_overloaded",
        True,
    ),
    "sglang context": (
        400,
        '{"object":"error","message":"The input (9000 tokens) is longer than the model\'s context length (8192 tokens).",'
        '"type":"BadRequest","param":null,"code":400}',
        400,
        "context_length_exceeded",
        False,
    ),
    # Triton 2.51 (M)
    "triton is full": (503, '{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}', 429, "engine_overloaded", True),
    "triton was slow": (503, '{"error":"Request timeout expired"}', 429, "engine_overloaded", True),
    "triton lost a model": (400, '{"error":"Stub process \'echo_plain_0_0\' is not healthy."}', 502, "engine_lost", True),
    "triton unloads": (
        404,
        '{"error":"Request for unknown model: \'stream\' has no available versions"}',
        503,
        "model_unavailable",
        True,
    ),
    "triton has not": (404, '{"error":"Request for unknown model: \'nosuch\' is not found"}', 404, "model_not_found", True),
    "triton shape": (400, '{"error":"[request id: 1] unexpected shape for input \'x\'"}', 400, "invalid_request_error", False),
    "triton json": (500, '{"error":"failed to parse the request JSON buffer: Missing a name"}', 400, "invalid_json", False),
    # seen by the contract suite: a key of V2 that is missing or of another kind
    "triton type": (500, '{"error":"Unable to parse \'inputs\': not an array"}', 400, "invalid_type", False),
    "triton context": (
        400,
        '{"error":"the request exceeds the available context size, try increasing it"}',
        400,
        "context_length_exceeded",
        False,
    ),
    "triton in an event": (400, 'data: {"error":"boom it was"}\n\n', 400, "invalid_request_error", False),
    # TGI 3.3.7 (R)
    "tgi is full": (429, '{"error":"Model is overloaded","error_type":"overloaded"}', 429, "engine_overloaded", True),
    "tgi validation": (
        422,
        '{"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"}',
        400,
        "invalid_request_error",
        False,
    ),
    "tgi context": (
        422,
        '{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000",'
        '"error_type":"validation"}',
        400,
        "context_length_exceeded",
        False,
    ),
    "tgi shard": (
        424,
        '{"error":"Request failed during generation: Server error: CUDA","error_type":"generation"}',
        502,
        "engine_lost",
        True,
    ),
    "tgi shard, otherwise": (424, '{"error":"shards are gone","error_type":"generation"}', 502, "server_error", False),
    "tgi key": (401, "", 502, "engine_unauthorized", False),
    # axum's own rejections, in plain text (K)
    "axum field": (
        422,
        "Failed to deserialize the JSON body into the target type: missing field `messages`",
        400,
        "invalid_type",
        False,
    ),
    "axum syntax": (400, "Failed to parse the request body as JSON: EOF while parsing", 400, "invalid_json", False),
    "axum size": (413, "Failed to buffer the request body: length limit exceeded", 413, "request_too_large", False),
    # uvicorn, past --limit-concurrency (R)
    "uvicorn is full": (503, "Service Unavailable", 503, "server_error", True),
    "uvicorn failed": (500, "Internal Server Error", 500, "server_error", False),
    # llama.cpp b-2026.10 (M)
    "llama.cpp loads": (
        503,
        '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
        503,
        "server_error",
        True,
    ),
    "llama.cpp grammar": (
        500,
        '{"error":{"code":500,"message":"Failed to parse grammar","type":"server_error"}}',
        400,
        "unsupported",
        False,
    ),
    # anybody's
    "too many": (429, '{"error":{"message":"slow down","code":"rate_limited"}}', 429, "rate_limited", True),
    "bad gateway": (502, "<html>502 Bad Gateway</html>", 502, "server_error", True),
}


@pytest.mark.parametrize(("status", "body", "expected", "code", "elsewhere"), WORDS.values(), ids=WORDS.keys())
def test_an_engines_words_are_understood(status, body, expected, code, elsewhere):
    error = engine_error(status, body.encode())
    assert (error.status, error.code, error.elsewhere, error.source) == (expected, code, elsewhere, "engine")
    assert error.type
    assert "data:" not in error.message


def test_every_known_word_is_in_the_table_above():
    texts = [body for _, body, *_ in WORDS.values()]
    missing = [known.words for known in KNOWN if not any(known.words in text for text in texts)]
    assert missing == [
        "maximum context length of",  # OpenAI's own words, which proxies repeat
        "generate expects model to produce exactly 1 response",  # comes with status 200: test_named.py
        "`inputs` must have less than",
        "input is not supported",
        "too large to process",  # with its numbers: test_openai.py
    ]


@pytest.mark.parametrize(
    ("data", "status", "code", "elsewhere"),
    [
        # TGI's chat says 422 for everything
        (b'{"error":{"message":"Model is overloaded","http_status_code":422}}', 429, "engine_overloaded", True),
        (b'{"error":{"message":"Input validation error: bad","http_status_code":422}}', 400, "invalid_request_error", False),
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', 429, "engine_overloaded", True),
        # vLLM in a burst, in a stream of status 200
        (
            b'{"error":{"message":"%s","type":"ServiceUnavailableError","code":503}}' % BUSY.encode(),
            429,
            "engine_overloaded",
            True,
        ),
        # Triton
        (b'{"error":"[request id: 1] Exceeds maximum queue size"}', 429, "engine_overloaded", True),
        (b'{"error":"in ensemble: boom"}', 500, "server_error", False),
    ],
)
def test_a_first_event_that_is_an_error_is_told_by_its_words(data, status, code, elsewhere):
    for error in (event_error(data), first_event_error(b"data: " + data + b"\n\n"), first_event_error(b"data:" + data + b"\n\n")):
        assert (error.status, error.code, error.elsewhere) == (status, code, elsewhere)


def test_an_engines_retry_after_is_kept_where_it_helps():
    assert engine_error(429, b"{}", 7).retry_after == 7
    assert engine_error(503, b"{}", 7).retry_after == 7
    assert engine_error(400, b"{}", 7).retry_after is None


# ---- what becomes of the request

ELSEWHERE = {name: (status, body) for name, (status, body, _, _, elsewhere) in WORDS.items() if elsewhere}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body"), ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_what_says_more_of_the_engine_than_of_the_request_is_tried_elsewhere(world, status, body, stream):
    bad = await world.engine(says(whole(body.encode(), b"%d Oh" % status)))
    good = await world.engine(answers, name="chat-2")
    answer = await world.ask(chat(stream=stream))
    assert answer.status == 200
    assert answer.body == (b"".join(EVENTS) if stream else ANSWER)
    assert (len(bad.asked), len(good.asked)) == (1, 1)


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("done", [b"", DONE], ids=["", "with [DONE]"])
async def test_an_overload_as_first_event_is_tried_elsewhere(world, done, folds):
    first = b'data: {"error":{"message":"%s","code":503}}\n\n' % BUSY.encode()
    bad = await world.engine(says(STREAM + chunk(first) + (chunk(done) if done else b"") + LAST), folds=folds)
    good = await world.engine(answers, name="chat-2", folds=folds)
    answer = await world.ask(chat(stream=not folds))
    assert answer.status == 200
    assert (len(bad.asked), len(good.asked)) == (1, 1)


async def test_when_all_replicas_are_full_the_client_is_told_when_to_come_back(world):
    for name, field in (("chat-1", b"Retry-After: 3"), ("chat-2", b"Retry-After: 4")):
        body = b'{"error":"Model is overloaded","error_type":"overloaded"}'
        await world.engine(says(whole(body, b"429 Too Many Requests", field)), name=name)
    answer = await world.ask(chat())
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "engine_overloaded", "4")
    assert sum(len(engine.asked) for engine in world.engines.values()) == 2, "each was asked once"


async def test_a_full_engine_that_says_no_time_gets_ours(world):
    engine = await world.engine(says(whole(b'{"error":"Exceeds maximum queue size"}', b"503 Service Unavailable")))
    answer = await world.ask(chat())
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert len(engine.asked) == 1, "an engine that is full is not asked again at once"


async def test_a_clients_mistake_is_asked_once(world):
    for name in ("chat-1", "chat-2"):
        await world.engine(says(whole(b'{"error":{"message":"no"}}', b"400 Bad Request")), name=name)
    assert (await world.ask(chat())).status == 400
    assert sum(len(engine.asked) for engine in world.engines.values()) == 1


async def test_trying_elsewhere_has_a_bound(world):
    for number in range(6):
        body = b'{"error":{"message":"cannot schedule new futures after shutdown"}}'
        await world.engine(says(whole(body, b"500 Internal Server Error")), name=f"chat-{number}")
    answer = await world.ask(chat())
    assert (answer.status, answer.error["code"]) == (503, "engine_stopping")
    assert await settled(lambda: sum(len(engine.asked) for engine in world.engines.values())) == 3


async def test_an_overload_in_the_middle_is_the_clients_to_see(world):
    """Tokens have been given: no other replica can go on."""
    error = b'data: {"error":{"message":"%s","code":503}}\n\n' % BUSY.encode()
    await world.engine(streams_and_holds(event("H"), error))
    good = await world.engine(answers, name="chat-2", slots=0)
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(error)
    assert not good.asked
    client.close()


# ---- a stream that was promised while the model loaded


@pytest.fixture
async def promised(world, monkeypatch):
    """`await promised(script)`: a client whose stream was opened with a comment, then the model is there."""
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.02)

    async def ask(*scripts):
        world.tell(phase="loading")
        client = await world.client()
        await client.send(chat(stream=True))
        await client.until(b": chat is loading")
        await client.until(b"\n\n\r\n")
        for number, script in enumerate(scripts):
            await world.engine(script, name=f"chat-{number}")
        world.tell(phase="ready")
        return client

    return ask


async def test_an_answer_that_is_no_stream_becomes_one(promised, world):
    client = await promised(says(whole()))
    rest = await client.until(b"0\r\n\r\n")
    lines = [line[6:] for line in rest.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1].strip() == b"[DONE]"
    first = json.loads(lines[0])
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "Hi"}
    assert first["choices"][0]["finish_reason"] == "stop"
    await world.rests()
    assert world.counted == {200: 1}
    assert world.model.load().tokens_out == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>hello</html>", "something else"),
        (b'{"hello":1}', "something else"),
        (b"[]", "something else"),
        (b'{"error":"Model is broken"}', "Model is broken"),
    ],
)
async def test_what_is_no_answer_ends_a_promised_stream_with_an_error(promised, world, body, words):
    client = await promised(says(whole(body)))
    rest = await client.rest()
    assert words.encode() in rest
    assert b'data: {"error":' in rest
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    await world.rests()
    assert sum(world.counted.values()) == 1
    assert 200 not in world.counted


async def test_a_promised_stream_is_given_by_another_replica(promised, world):
    client = await promised(says(whole(b'{"error":"cannot schedule new futures after shutdown"}')), answers)
    rest = await client.until(b"0\r\n\r\n")
    assert b"[DONE]" in rest
    assert b"shutdown" not in rest
