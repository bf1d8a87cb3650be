"""OpenAI's Responses API in front of engines that speak chat: its own client, its events in their order, its errors."""

import contextlib
import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from pydantic import BaseModel

from headrace.gateway.asking import asked
from headrace.gateway.http import BrokenAnswer, Request, RequestHead
from headrace.gateway.letter import Letter, last_event
from headrace.gateway.openai import Refusal, Usage
from headrace.gateway.paths import ROUTES
from headrace.gateway.translate import through
from headrace.gateway.translate.base import Asked
from headrace.testing.fake import FakeEngine

from .engines import DONE, LAST, STREAM, answers, chunk, in_turn, says, streams_and_holds, whole
from .test_messages import STREAMED, USAGE, calls, event, now, pieces, read, stream_of

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True}


def translation(**fields):
    body = json.dumps({"model": "chat", "input": "Say hi"} | fields).encode()
    ask = asked(Request(RequestHead("POST", PATH.encode(), [], False, True), body))
    return through.chat(Asked("responses", ask, "there", None, None, "1", now))


def sent(**fields):
    return json.loads(translation(**fields).body)


# ---- what the engine is asked


def test_a_request_becomes_a_chat():
    asks = sent(
        instructions="Be kind.",
        max_output_tokens=16,
        temperature=0.5,
        top_p=0.9,
        user="me",
        reasoning={"effort": "low", "summary": "auto"},
        tools=[TOOL],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True}},
        store=False,
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        min_p=0.1,
        truncation="disabled",
    )
    function = {key: value for key, value in TOOL.items() if key != "type"}
    assert asks == {
        "model": "there",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hi"}],
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "me",
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}, "strict": True}},
        "min_p": 0.1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_items_become_messages():
    asks = sent(
        instructions="Be kind.",
        input=[
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "weather", "arguments": '{"at":1}'},
            {"type": "function_call_output", "call_id": "a", "output": "Rain"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "Sun"}]},
            {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "Again."}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": ""},
            {"role": "assistant", "content": "Or"},
            {"type": "reasoning", "id": "rs_3", "summary": [{"type": "summary_text", "text": "And again."}]},
            {"type": "function_call", "call_id": "d", "name": "weather", "arguments": "{}"},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:x", "detail": "low"}]},
            {"role": "system", "content": "Now."},
        ],
    )

    def call(identity, arguments="{}"):
        return {"id": identity, "type": "function", "function": {"name": "weather", "arguments": arguments}}

    assert asks["messages"] == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},  # many templates take one, at the start
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": [call("a"), call("b", '{"at":1}')]},
        {"role": "tool", "tool_call_id": "a", "content": "Rain"},
        {"role": "tool", "tool_call_id": "b", "content": "Sun"},
        {"role": "assistant", "content": None, "reasoning_content": "Again.", "tool_calls": [call("c")]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {
            "role": "assistant",
            "content": "Or",
            "reasoning_content": "And again.",
            "tool_calls": [call("d")],
        },  # one turn, one message
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}]},
        {"role": "system", "content": "Now."},
    ]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": []}, "missing_required_parameter", "input"),
        ({"input": 1}, "invalid_type", "input"),
        ({"input": [1]}, "invalid_type", "input.0"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "unsupported_parameter", "input.0.type"),
        ({"input": [{"type": "web_search_call"}]}, "unsupported_parameter", "input.0.type"),
        ({"input": [{"role": "tool", "content": ""}]}, "unsupported_parameter", "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "unsupported_parameter", "input.0.content.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "invalid_type",
            "input.0.content.0",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "invalid_type", "input.0"),
        (
            {"input": [{"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image", "image_url": "x"}]}]},
            "unsupported_parameter",
            "input.0.output",
        ),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "unsupported_parameter", "include"),
        ({"top_logprobs": 1}, "unsupported_parameter", "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "invalid_type", "tools.0"),
        ({"tool_choice": {"type": "allowed_tools"}}, "unsupported_parameter", "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "unsupported_parameter", "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "missing_required_parameter", "text.format.schema"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    ],
)
def test_what_a_chat_cannot_say_is_refused_by_name(fields, code, param):
    with pytest.raises(Refusal) as refused:
        translation(**fields)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)
    assert param in refused.value.message


# ---- what comes back

NAMES = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
]
OUTPUT = [
    {
        "id": "rs_1_0",
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hmm."}],
    },
    {
        "id": "msg_1_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
    },
    {
        "id": "fc_1_2",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_a",
        "name": "weather",
        "arguments": '{"at": "Bern"}',
    },
    {
        "id": "fc_1_3",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_b",
        "name": "weather",
        "arguments": '{"at": "Rom"}',
    },
]


def test_the_events_come_in_openais_order():
    made = translation(stream=True)
    found = read(made.feed(STREAMED) + made.end())
    assert [each["type"] for each in found] == NAMES
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    for each in found:
        _model(each["type"]).model_validate(each, strict=True)
    first, last = found[0]["response"], found[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert (last["status"], last["output"]) == ("completed", OUTPUT)
    assert last["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }
    assert found[2]["item"] == {"id": "rs_1_0", "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
    assert found[11] == {
        "type": "response.output_text.delta",
        "sequence_number": 11,
        "item_id": "msg_1_1",
        "output_index": 1,
        "content_index": 0,
        "logprobs": [],
        "delta": "Hel",
    }
    assert made.usage == Usage(7, 2)


def _model(name: str) -> type[BaseModel]:
    """The class that the official client reads an event as."""
    from typing import get_args

    from openai.types.responses import ResponseStreamEvent

    union = get_args(ResponseStreamEvent)[0]
    return next(each for each in get_args(union) if each.model_fields["type"].annotation.__args__[0] == name)


def test_an_answer_that_is_not_streamed_is_one_response():
    made = translation(instructions="Be kind.", tools=[TOOL], metadata={"a": "b"}, temperature=0.5)
    assert made.feed(STREAMED) == b""
    answer = json.loads(made.end())
    Response.model_validate(answer, strict=True)
    assert answer["output"] == OUTPUT
    assert answer["id"] == "resp_1"
    kept = {key: answer[key] for key in ("instructions", "metadata", "temperature", "tools", "store", "model")}
    assert kept == {
        "instructions": "Be kind.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "tools": [TOOL],
        "store": False,
        "model": "chat",
    }


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete(finish, reason):
    made = translation(stream=True)
    last = read(made.feed(event({"content": "a"}) + event({}, finish) + DONE) + made.end())[-1]
    assert last["type"] == "response.incomplete"
    assert (last["response"]["status"], last["response"]["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_stream_that_breaks_ends_with_its_error():
    made = translation(stream=True)
    before = read(made.feed(event({"content": "a"})))
    refusal = Refusal(502, "It broke off.", "engine_lost", "server_error")
    error, failed = read(last_event(refusal, ROUTES[PATH], Letter(b"", b"", made)))
    assert (error["code"], error["message"]) == ("engine_lost", "It broke off.")
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert [each["sequence_number"] for each in (*before, error, failed)] == list(range(len(before) + 2))


@given(st.lists(pieces, max_size=10), st.lists(st.integers(0, 3000), max_size=12), st.booleans())
def test_bytes_split_anywhere_make_the_same_response(parts, cuts, stream):
    data = stream_of(parts)
    cuts = sorted(cut for cut in cuts if cut < len(data))
    split_up = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    once, split = translation(stream=stream), translation(stream=stream)
    answer = once.feed(data) + once.end()
    assert b"".join(map(split.feed, split_up)) + split.end() == answer
    assert split.usage == once.usage == Usage(7, 2)
    response = read(answer)[-1]["response"] if stream else json.loads(answer)
    assert response["usage"]["total_tokens"] == USAGE["total_tokens"]
    said = [part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]]
    assert "".join(said) == "".join(text for kind, text in parts if kind == "text")
    given_ = [item["arguments"] for item in response["output"] if item["type"] == "function_call"]
    assert "".join(given_) == "".join(text for kind, text in parts if kind == "call")
    if stream:
        deltas = [each["delta"] for each in read(answer) if each["type"] == "response.output_text.delta"]
        assert "".join(deltas) == "".join(said)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["message", "user", "input_text", "auto", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "format", "name", "output"]), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    st.sampled_from(["input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata"]),
)
def test_any_value_is_translated_or_refused(value, field):
    with contextlib.suppress(Refusal):
        made = translation(**{field: value})
        json.loads(made.body)
        json.loads(made.whole(whole().partition(b"\r\n\r\n")[2]))


@pytest.mark.parametrize(
    "data",
    [
        event(calls(0, "{", "f")) + event(calls(1, "{}", "g")) + event(calls(0, "}")),
        b"data: x\n\n",
        event({"content": "a"}) + event({}, "abort") + DONE,
    ],
)
def test_what_is_no_answer_is_an_error(data):
    with pytest.raises(BrokenAnswer):
        translation(stream=True).feed(data)


# ---- through the gateway, with OpenAI's own client


@pytest.fixture
async def client(world):
    async with openai.AsyncOpenAI(base_url=f"http://{world.host}:{world.port}/v1", api_key="mine", max_retries=0) as made:
        yield made


@pytest.fixture
async def fake(world):
    async with FakeEngine(tokens=4) as engine:
        world.adds(engine.address, folds=True)
        yield engine


async def test_its_client_gets_a_response(world, fake, client):
    response = await client.responses.create(model="chat", input="Say hi", instructions="Be brief.")
    assert response.output_text == "w0 w1 w2 w3 "
    assert (response.status, response.model) == ("completed", "chat")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (4, 4, 8)
    assert fake.received[-1].path == "/v1/chat/completions"
    assert (world.model.stats.tokens_in, world.model.stats.tokens_out) == (4, 4)


async def test_its_client_gets_a_stream(world, fake, client):
    async with client.responses.stream(model="chat", input="Say hi") as stream:
        texts = [each.delta async for each in stream if each.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert texts == ["w0 ", "w1 ", "w2 ", "w3 "]
    assert response.output_text == "w0 w1 w2 w3 "
    assert response.usage.output_tokens == 4


async def test_its_client_parses_what_has_a_schema(world, client):
    class City(BaseModel):
        name: str

    engine = await world.engine(says(STREAM + chunk(event({"content": '{"name":"Bern"}'}, "stop") + DONE) + LAST))
    response = await client.responses.parse(model="chat", input="A city", text_format=City)
    assert response.output_parsed == City(name="Bern")
    assert engine.asked[-1].json["response_format"]["json_schema"]["schema"]["properties"] == {
        "name": {"title": "Name", "type": "string"}
    }


async def test_a_conversation_with_a_tool_goes_on_with_what_was_said(world, client):
    engine = await world.engine(in_turn(says(STREAM + chunk(STREAMED) + LAST), answers))
    given_ = [{"role": "user", "content": "Where?"}]
    async with client.responses.stream(model="chat", input=given_, tools=[TOOL]) as stream:
        response = await stream.get_final_response()
    given_ += [item.model_dump(exclude_none=True) for item in response.output]
    given_ += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "Rain"}
        for item in response.output
        if item.type == "function_call"
    ]
    again = await client.responses.create(model="chat", input=given_, tools=[TOOL])
    assert again.output_text == "Hi"
    roles = [message["role"] for message in engine.asked[-1].json["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert engine.asked[-1].json["messages"][1]["reasoning_content"] == "Hmm."


async def test_errors_are_openais(world, fake, client):
    with pytest.raises(openai.BadRequestError, match="previous_response_id") as caught:
        await client.responses.create(model="chat", input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nobody", input="x")


async def test_a_broken_stream_says_so(world, client):
    await world.engine(says(STREAM + chunk(event({"content": "Hel"})), then="close"))
    stream = await client.responses.create(model="chat", input="x", stream=True)
    found = []
    with contextlib.suppress(openai.APIError):  # the connection ends without the last chunk
        async for each in stream:
            found.append(each)  # noqa: PERF401
    assert [each.type for each in found[-3:]] == ["response.output_text.delta", "error", "response.failed"]
    assert world.counted == {502: 1}


async def test_a_client_that_leaves_frees_the_engine(world, client):
    engine = await world.engine(streams_and_holds(event({"content": "Hel"})))
    stream = await client.responses.create(model="chat", input="x", stream=True)
    async for each in stream:
        if each.type == "response.output_text.delta":
            break
    await stream.close()
    asked_ = await engine.was_asked()
    await asked_.left()
    await world.rests()
