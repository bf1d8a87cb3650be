"""The real OpenVINO behind our own server: how it answers, counts and refuses."""

import asyncio
import json
import tempfile
from pathlib import Path

import pytest
from engine_client import Answer, chat
from openvino_process import ENDLESS, Runner
from test_engines import told_apart

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

RECORDED = Path(__file__).parent / "recorded"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(weights, tmp_path_factory):
    """One Runner for all tests that leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        runner = Runner(weights("generate"), folder, tmp_path_factory.mktemp("cache"))
        runner.said("serving")
        yield runner
        runner.close()


async def test_it_knows_what_the_capital_of_france_is(served):
    answer = await served.complete("The capital of France is")
    assert answer.json["choices"][0]["text"].startswith(" Paris")


async def test_a_stream_has_the_recorded_shape(served):
    answer = await served.chat(stream=True, stream_options={"include_usage": True}, ignore_eos=True)
    recorded = Answer(body=(RECORDED / "openvino_sse.txt").read_bytes())
    assert told_apart(answer.events) == told_apart(recorded.events)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert answer.events[-3]["choices"][0]["finish_reason"] == "length"
    assert answer.events[-2]["usage"]["completion_tokens"] == 8


async def test_a_stream_and_a_whole_answer_say_the_same(served):
    whole = (await served.chat(max_tokens=40, temperature=0)).json
    events = (await served.chat(max_tokens=40, temperature=0, stream=True)).events
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    assert whole["object"] == "chat.completion"
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    assert not any("usage" in event for event in events[:-1])


async def test_a_stop_string_is_left_out_also_of_a_stream(served):
    body = {"prompt": "1 2 3 4 5", "max_tokens": 40, "stop": ["9 10"]}
    whole = (await served.complete(**body)).json["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (" 6 7 8 ", "stop")
    events = (await served.complete(**body, stream=True)).events
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == " 6 7 8 "
    await served.until(lambda found: found.running == 0)


async def test_a_schema_is_kept_to(served):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = await served.chat(max_tokens=150, temperature=0, response_format=form)
    person = json.loads(answer.json["choices"][0]["message"]["content"])
    assert set(person) == {"name", "old"}
    assert isinstance(person["old"], bool)
    assert len(person["name"]) <= 5


ODD = [
    {},
    {"type": ["string", "null"]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "properties": {'a"b\n': {}, "": {"const": "\u2028"}}, "required": [""]},
    {"enum": ['quote"', "line\n", 1.5, None, True, "日本"]},
    {"type": "string", "enum": [1]},
    {"type": "string", "minLength": 0, "maxLength": 0},
    {"type": "string", "maxLength": 1000},
    {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "integer", "minimum": -5, "maximum": 5}},
    {"type": "array", "maxItems": 0},
    {"type": "number", "minimum": 0.5, "maximum": 0.75},
    {"type": "integer", "minimum": 2, "maximum": 2},
    {"type": "integer", "minimum": 1.2, "maximum": 1.8},
    {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
    {"anyOf": [{"type": "null"}, {"anyOf": [{"const": 1}, {"type": "array"}]}]},
    {"type": "object", "anyOf": [{"required": ["a"], "properties": {"a": {}}}]},
    {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"},
    {"type": "object", "properties": {"next": {"$ref": "#"}}},
    {"$defs": {"a/b": {"type": "null"}}, "items": {"$ref": "#/$defs/a/b"}},
    {"const": -0.0},
    {"const": 1e308, "title": 5},
    {"type": "boolean", "minLength": 3},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    *({"type": "string", "format": each} for each in ("date", "time", "date-time", "duration", "email", "hostname")),
    *({"type": "string", "format": each} for each in ("ipv4", "ipv6", "uri", "uuid")),
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
    {"oneOf": [{"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 9}, {"type": "null"}]},
    {"type": "object", "properties": {"日本 'x' $": {"type": "null"}}, "required": ["日本 'x' $"]},
]


async def test_no_schema_that_passes_breaks_the_pipeline(served):
    """OpenVINO makes the grammar within a step, and what it cannot make takes everybody with it."""
    for schema in ODD:
        form = {"type": "json_schema", "json_schema": {"schema": schema}}
        answer = await served.chat(max_tokens=3, response_format=form)
        assert answer.status in (200, 400), (schema, answer.body)
    assert (await served.chat()).status == 200


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "(?<=a)b", "\\p{Greek}", "a{99999}"])
async def test_a_schema_that_openvino_cannot_use_is_a_400_and_harms_nobody_else(served, pattern):
    other = chat(max_tokens=40, ignore_eos=True, stream=True, stream_options={"include_usage": True})
    stream = await served.send("POST", "/v1/chat/completions", other)
    await stream.until(seen=b"content")
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": pattern}}}
    refused = await served.chat(response_format=form, max_tokens=3)
    assert refused.status in (200, 400)
    answer = await stream.until()
    stream.close()
    assert (answer.events[-1], answer.events[-2]["usage"]["completion_tokens"]) == ("[DONE]", 40)
    assert answer.events[-3]["choices"][0]["finish_reason"] == "length"


async def test_choices_differ_and_the_usage_counts_all(served):
    answer = (await served.chat(n=3, max_tokens=12, seed=None, temperature=1.5, ignore_eos=True)).json
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer["usage"]["completion_tokens"] == 36


async def test_a_seed_repeats_an_answer(served):
    first, second = [(await served.chat(seed=5, temperature=1, max_tokens=20)).json for _ in range(2)]
    assert first["choices"] == second["choices"]


async def test_several_prompts_are_answered_in_order(served):
    answer = (await served.complete(["1 2 3 4 5", "The capital of France is"])).json
    assert [choice["text"][:2] for choice in answer["choices"]] == [" 6", " P"]


async def test_a_prompt_that_does_not_fit_is_a_400_also_for_a_stream(served):
    for stream in (False, True):
        answer = await served.chat(text="word " * 9000, stream=stream)  # more than the 8,192 that OpenVINO's tokenizer keeps
        assert answer.status == 400
        error = answer.json["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith(
            "This model's maximum context length is 256 tokens. However, your messages resulted in 90"
        )


async def test_an_answer_ends_where_the_context_does(served):
    answer = (await served.chat(text="word " * 190, max_tokens=1000, ignore_eos=True)).json
    assert answer["usage"]["total_tokens"] == 256
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "status"),
    [
        ("POST", "/v1/chat/completions", ["no object"], "s3cret", 400),
        ("POST", "/v1/chat/completions", {}, "s3cret", 400),
        ("POST", "/v1/completions", {"prompt": ""}, "s3cret", 400),
        ("POST", "/v1/chat/completions", {"messages": [], "stream": "yes"}, "s3cret", 400),
        ("POST", "/v1/nothing", {}, "s3cret", 404),
        ("GET", "/v1/completions", None, "s3cret", 405),
        ("GET", "/v1/models", None, "wrong", 401),
        ("GET", "/metrics", None, None, 401),
        ("GET", "/health", None, None, 200),
    ],
)
async def test_errors_have_openais_envelope(served, method, path, body, key, status):
    answer = await served.ask(method, path, body, key)
    assert answer.status == status
    assert status == 200 or set(answer.json["error"]) == {"message", "type", "code", "param"}


async def test_models_lists_the_name(served):
    assert [entry["id"] for entry in (await served.ask("GET", "/v1/models")).json["data"]] == ["chat"]


async def test_requests_beyond_the_slots_wait_and_are_counted(served):
    before = await served.reading()
    streams = [await served.send("POST", "/v1/chat/completions", chat(**ENDLESS | {"max_tokens": 50})) for _ in range(4)]
    await served.until(lambda found: (found.running, found.waiting) == (2, 2) and found.cache_usage > 0)
    answers = [await stream.until() for stream in streams]
    assert all(answer.events[-1] == "[DONE]" for answer in answers)
    await served.until(lambda found: (found.running, found.waiting, found.cache_usage) == (0, 0, 0))
    after = await served.reading()
    assert after.tokens_out_total - before.tokens_out_total == 200
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_who_leaves_frees_a_slot(served, stream):
    left = [await served.send("POST", "/v1/chat/completions", chat(**ENDLESS | {"stream": stream})) for _ in range(3)]
    await served.until(lambda found: (found.running, found.waiting) == (2, 1))
    before = await served.reading()
    for each in left:
        each.close()
    await served.until(lambda found: (found.running, found.waiting) == (0, 0))
    after = await served.reading()
    assert after.tokens_out_total - before.tokens_out_total < 100  # of the 600 that they asked for
    assert (await served.chat()).status == 200


async def test_who_leaves_at_once_leaves_nothing_behind(served):
    for _ in range(5):
        (await served.send("POST", "/v1/chat/completions", chat(**ENDLESS))).close()
    await served.until(lambda found: (found.running, found.waiting) == (0, 0))
    assert (await served.chat()).status == 200


async def test_many_short_requests_at_once_all_end(served):
    answers = await asyncio.gather(*(served.chat(max_tokens=3) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
