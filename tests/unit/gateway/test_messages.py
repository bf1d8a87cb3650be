"""Anthropic's Messages API in front of engines that speak chat: its own client, its events in their order, its errors."""

import contextlib
import json
from datetime import UTC, datetime

import anthropic
import msgspec
import openai
import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.asking import asked
from headrace.gateway.http import BrokenAnswer, Request, RequestHead
from headrace.gateway.letter import Letter, last_event
from headrace.gateway.openai import Refusal, Usage
from headrace.gateway.paths import ROUTES
from headrace.gateway.translate import through
from headrace.gateway.translate.base import Asked
from headrace.testing.fake import FakeEngine
from headrace.testing.tgi import FakeTgi
from headrace.testing.vllm import FakeVllm

from .clients import request
from .engines import DONE, LAST, STREAM, answers, chunk, eventually, in_turn, says, streams_and_holds, whole

PATH = "/v1/messages"
HELLO = [{"role": "user", "content": "Say hi"}]
TOOL = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}}


def now() -> datetime:
    return datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def body(**fields) -> bytes:
    return json.dumps({"model": "chat", "max_tokens": 16, "messages": HELLO} | fields).encode()


def ask_of(data: bytes, path=PATH):
    return asked(Request(RequestHead("POST", path.encode(), [], False, True), data))


def translation(**fields):
    return through.chat(Asked("messages", ask_of(body(**fields)), "there", None, None, "1", now))


def sent(**fields):
    return json.loads(translation(**fields).body)


def event(delta=None, finish=None, **more) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish} | more.pop("choice", {})]
    value = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(value | more).encode() + b"\n\n"


def calls(index, arguments=None, name=None, identity=None):
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    return {"tool_calls": [{"index": index, "function": function} | ({"id": identity, "type": "function"} if identity else {})]}


STREAMED = b"".join(
    (
        event({"role": "assistant", "content": None}),
        event({"reasoning_content": "Hm"}),
        event({"reasoning_content": "m."}),
        event({"content": "Hel"}),
        event({"content": "lo"}),
        event(calls(0, "", "weather", "call_a")),
        event(calls(0, '{"at":')),
        event(calls(0, ' "Bern"}')),
        event(calls(1, '{"at": "Rom"}', "weather", "call_b")),
        event({}, "tool_calls"),
        event(usage=USAGE),
        DONE,
    )
)


def read(stream: bytes) -> list:
    """The events of a stream; each has the name that its data has as type."""
    found = []
    for part in stream.split(b"\n\n"):
        if part and not part.startswith(b":"):
            name, data = part.split(b"\n")
            found.append(json.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + found[-1]["type"].encode()
    return found


# ---- what the engine is asked


def test_a_message_becomes_a_chat():
    asks = sent(
        system=[
            {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief."},
        ],
        stop_sequences=["\n\n"],
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        metadata={"user_id": "me"},
        min_p=0.1,
        service_tier="auto",
    )
    assert asks == {
        "model": "there",
        "messages": [{"role": "system", "content": "Be kind.\nBe brief."}, *HELLO],
        "max_tokens": 16,
        "stop": ["\n\n"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "user": "me",
        "min_p": 0.1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_conversation_with_tools_and_thoughts_becomes_a_chats():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    asks = sent(
        tools=[TOOL | {"cache_control": {"type": "ephemeral"}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Where?"}, image]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"at": "Bern"}},
                    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Rain"}, image]},
                    {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such place", "is_error": True},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    )
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"at":"Bern"}'}}
    assert asks["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Where?"}, picture]},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [call, call | {"id": "toolu_2", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Rain"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no such place"},
        {"role": "user", "content": [picture, {"type": "text", "text": "And now?"}]},
    ]
    function = {"name": "weather", "description": "Tells it.", "parameters": TOOL["input_schema"]}
    assert asks["tools"] == [{"type": "function", "function": function}]
    assert (asks["tool_choice"], asks["parallel_tool_calls"]) == ("required", False)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        ({"tool_choice": {"type": "tool", "name": "f"}}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"thinking": {"type": "adaptive"}}, {"chat_template_kwargs": None}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),  # a chat knows no more than that
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        # the start of the answer
        (
            {"messages": [*HELLO, {"role": "assistant", "content": "Hel"}]},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ({"n": 1, "mcp_servers": [], "container": None}, {"n": None, "mcp_servers": None, "container": None}),
    ],
)
def test_settings_have_their_counterparts(fields, wanted):
    asks = sent(**fields)
    assert {name: asks.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"max_tokens": None}, "missing_required_parameter", "max_tokens"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": "many"}, "invalid_type", "max_tokens"),
        ({"messages": []}, "missing_required_parameter", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unsupported_parameter", "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            "unsupported_parameter",
            "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "invalid_type", "messages.0.content.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
            "unsupported_parameter",
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]},
            "invalid_value",
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
            "invalid_value",
            "messages.0.content.0",
        ),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "unsupported_parameter", "tools.1.type"),
        ({"tool_choice": {"type": "tool"}}, "missing_required_parameter", "tool_choice.name"),
        ({"mcp_servers": [{"url": "x"}]}, "unsupported_parameter", "mcp_servers"),
        ({"container": "c"}, "unsupported_parameter", "container"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"inference_geo": "us"}, "unsupported_parameter", "inference_geo"),
    ],
)
def test_what_a_chat_cannot_say_is_refused_by_name(fields, code, param):
    with pytest.raises(Refusal) as refused:
        translation(**fields)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)
    assert param in refused.value.message


# ---- what comes back


def test_the_events_come_in_anthropics_order():
    made = translation(stream=True)
    found = read(made.feed(STREAMED) + made.end())
    start = found[0]["message"]
    assert {key: start[key] for key in ("id", "model", "role", "type", "content", "stop_reason")} == {
        "id": "msg_1",
        "model": "chat",
        "role": "assistant",
        "type": "message",
        "content": [],
        "stop_reason": None,
    }
    assert found[1:] == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "call_a", "name": "weather", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"at":'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ' "Bern"}'}},
        {"type": "content_block_stop", "index": 2},
        {
            "type": "content_block_start",
            "index": 3,
            "content_block": {"type": "tool_use", "id": "call_b", "name": "weather", "input": {}},
        },
        {"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": '{"at": "Rom"}'}},
        {"type": "content_block_stop", "index": 3},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 2},
        },
        {"type": "message_stop"},
    ]
    assert made.usage == Usage(7, 2)


def test_an_answer_that_is_not_streamed_is_one_message():
    made = translation()
    assert made.feed(STREAMED) == b""
    answer = json.loads(made.end())
    Message.model_validate(answer, strict=True)
    assert answer["content"] == [
        {"type": "thinking", "thinking": "Hmm.", "signature": ""},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"at": "Bern"}},
        {"type": "tool_use", "id": "call_b", "name": "weather", "input": {"at": "Rom"}},
    ]
    assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("finish", "choice", "reason", "stop"),
    [
        ("stop", {}, "end_turn", None),
        ("stop", {"stop_reason": "###"}, "stop_sequence", "###"),  # vLLM says which
        ("stop", {"stop_reason": 128009}, "end_turn", None),  # or the token of it
        ("length", {}, "max_tokens", None),
        ("content_filter", {}, "refusal", None),
        ("tool_calls", {}, "tool_use", None),
        ("eos_token", {}, "end_turn", None),
    ],
)
def test_the_reason_for_the_end_is_said_in_anthropics_words(finish, choice, reason, stop):
    made = translation()
    made.feed(event({"content": "a"}) + event({}, finish, choice=choice) + DONE)
    answer = json.loads(made.end())
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, stop)


def test_a_call_of_an_engine_that_says_stop_is_a_use_of_a_tool():
    made = translation()
    made.feed(event(calls(0, "{}", "f")) + event({}, "stop") + DONE)
    answer = json.loads(made.end())
    assert answer["stop_reason"] == "tool_use"
    assert answer["content"] == [{"type": "tool_use", "id": "toolu_1_0", "name": "f", "input": {}}]


def test_arguments_that_were_cut_are_given_as_text():
    made = translation()
    made.feed(event(calls(0, '{"at": "Be', "f", "a")) + event({}, "length") + DONE)
    answer = json.loads(made.end())
    assert answer["content"][0]["input"] == {"INVALID_JSON": '{"at": "Be'}
    assert answer["stop_reason"] == "max_tokens"


def test_an_answer_without_a_word_is_a_message_all_the_same():
    made = translation(stream=True)
    found = read(made.feed(event({}, "stop") + DONE) + made.end())
    assert [each["type"] for each in found] == ["message_start", "message_delta", "message_stop"]


def test_an_engine_that_is_at_work_pings():
    made = translation(stream=True)
    assert made.feed(b":\n\n") == b"", "nothing has begun"
    made.feed(event({"content": "a"}))
    assert read(made.feed(b":\n\n")) == [{"type": "ping"}]


def test_an_engine_that_does_not_stream_answers_too():
    made = translation()
    assert json.loads(made.whole(whole().partition(b"\r\n\r\n")[2]))["content"] == [{"type": "text", "text": "Hi"}]
    assert made.usage == Usage(7, 2)


def test_tokens_that_nobody_counts_are_about_one_a_piece():
    made = translation()
    made.feed(event({"content": "a"}) + event({"content": "b"}) + event({}, "stop") + DONE)
    assert json.loads(made.end())["usage"]["output_tokens"] == 2


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'data: {"error":{"message":"boom","code":503}}\n\n', Refusal),
        (b'data: {"error":"boom"}\n\n', Refusal),
        (b"data: hello\n\n", BrokenAnswer),
        (b"data: []\n\n", BrokenAnswer),
        (event({"content": 1}), BrokenAnswer),
        (event(calls(0, "{}")), BrokenAnswer),  # of which tool?
        (event(calls(0, "{", "f")) + event(calls(1, "{}", "g")) + event(calls(0, "}")), BrokenAnswer),
        (b'data: {"choices":"' + b"a" * (17 << 20), BrokenAnswer),
    ],
)
def test_what_is_no_answer_is_an_error(data, error):
    with pytest.raises(error):
        translation(stream=True).feed(data)


def test_the_last_end_of_line_may_be_missing():
    made = translation()
    made.feed((event({"content": "a"}, "stop") + DONE).rstrip())
    assert json.loads(made.end())["content"][0]["text"] == "a"


def test_a_stream_without_its_end_is_no_answer():
    made = translation(stream=True)
    made.feed(event({"content": "a"}) + event({}, "stop"))
    with pytest.raises(BrokenAnswer, match="DONE"):
        made.end()


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_what_the_engine_gave_up_is_no_answer(finish):
    made = translation(stream=True)
    made.feed(event({"content": "a"}))
    with pytest.raises(BrokenAnswer, match=finish):
        made.feed(event({}, finish) + DONE)
    with pytest.raises(BrokenAnswer, match=finish):
        translation().whole(json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": finish}]}).encode())


pieces = st.tuples(st.sampled_from(["text", "thought", "call"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))


def stream_of(parts) -> bytes:
    """An engine's stream that says `parts`; each run of calls is one call."""
    data, last, number = b"", "", -1
    for kind, text in parts:
        if kind == "call":
            number += last != "call"
            data += event(calls(number, text, "f" if last != "call" else None))
        else:
            data += event({"content" if kind == "text" else "reasoning": text})
        last = kind if text or kind == "call" else last
    return data + event({}, "stop") + event(usage=USAGE) + DONE


@given(st.lists(pieces, max_size=10), st.lists(st.integers(0, 3000), max_size=12), st.booleans())
def test_bytes_split_anywhere_make_the_same_message(parts, cuts, stream):
    data = stream_of(parts)
    cuts = sorted(cut for cut in cuts if cut < len(data))
    split_up = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    once, split = translation(stream=stream), translation(stream=stream)
    answer = once.feed(data) + once.end()
    assert b"".join(map(split.feed, split_up)) + split.end() == answer
    assert split.usage == once.usage == Usage(7, 2)
    said = said_in_events(read(answer)) if stream else said_in(json.loads(answer)["content"])
    assert said["text"] == "".join(text for kind, text in parts if kind == "text")
    assert said["thinking"] == "".join(text for kind, text in parts if kind == "thought")
    if stream:
        assert said["partial_json"] == "".join(text for kind, text in parts if kind == "call")
        check_blocks(read(answer))


def said_in_events(events):
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    return {key: "".join(delta.get(key, "") for delta in deltas) for key in ("text", "thinking", "partial_json")}


def said_in(blocks):
    return {key: "".join(block.get(key, "") for block in blocks) for key in ("text", "thinking")}


def check_blocks(events):
    """Blocks come one after the other, each with a start and a stop."""
    open_, next_ = None, 0
    for each in events:
        if each["type"] == "content_block_start":
            assert open_ is None
            assert each["index"] == next_
            open_, next_ = next_, next_ + 1
        elif each["type"] in ("content_block_delta", "content_block_stop"):
            assert each["index"] == open_
            open_ = None if each["type"] == "content_block_stop" else open_
    assert open_ is None


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"data:", b"{", b"}", b'"choices"', b'"delta"', b":", b"[", b"]", b"\n", b'"a"', b"1"])).map(
        b"".join
    )
)
def test_any_bytes_of_an_engine_are_an_answer_or_an_error(data):
    made = translation(stream=True)
    with contextlib.suppress(Refusal, BrokenAnswer):
        read(made.feed(data) + made.end())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["text", "user", "image", "auto", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "role", "content", "text", "source", "name", "input", "id"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["messages", "system", "tools", "tool_choice", "thinking", "metadata", "output_config", "stop_sequences"]),
)
def test_any_value_is_translated_or_refused(value, field):
    with contextlib.suppress(Refusal):
        json.loads(translation(**{field: value}).body)


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_breaks_ends_with_anthropics_error(begun):
    made = translation(stream=True)
    if begun:
        made.feed(event({"content": "a"}))
    refusal = Refusal(502, "It broke off.", "engine_lost", "server_error")
    (found,) = read(last_event(refusal, ROUTES[PATH], Letter(b"", b"", made)))
    assert found["error"] | {"type": "api_error", "message": "It broke off."} == found["error"]
    assert found["type"] == "error"


# ---- through the gateway, with Anthropic's own client


@pytest.fixture
async def client(world):
    async with anthropic.AsyncAnthropic(base_url=f"http://{world.host}:{world.port}", api_key="mine", max_retries=0) as made:
        yield made


@pytest.fixture
async def fake(world):
    async with FakeEngine(tokens=4) as engine:
        world.adds(engine.address, folds=True)
        yield engine


ARGUMENTS = {"model": "chat", "max_tokens": 16, "messages": HELLO}


async def test_its_client_gets_a_message(world, fake, client):
    message = await client.messages.create(**ARGUMENTS, system="Be brief.")
    assert [block.text for block in message.content] == ["w0 w1 w2 w3 "]
    assert (message.model, message.role, message.stop_reason) == ("chat", "assistant", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (4, 4)
    received = fake.received[-1]
    assert received.path == "/v1/chat/completions"
    assert "x-api-key" not in received.headers, "the client's key is no engine's business"
    assert (world.model.stats.tokens_in, world.model.stats.tokens_out) == (4, 4)


async def test_its_client_gets_a_stream(world, fake, client):
    async with client.messages.stream(**ARGUMENTS) as stream:
        text = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert text == ["w0 ", "w1 ", "w2 ", "w3 "]
    assert message.content[0].text == "w0 w1 w2 w3 "
    assert (message.usage.input_tokens, message.usage.output_tokens) == (2, 4)
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("make", "endpoint"),
    [
        (lambda: FakeEngine(tokens=4), {"folds": True}),
        (lambda: FakeVllm(tokens=4, per_event=2), {}),
        (lambda: FakeTgi(tokens=4), {"speaks": "tgi"}),
    ],
    ids=["llama.cpp", "vllm", "tgi"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_every_engine_that_speaks_chat_answers(world, client, make, endpoint, stream):
    async with make() as fake:
        world.adds(fake.address, model_there=fake.model, **endpoint)
        async with client.messages.stream(**ARGUMENTS) as events:
            streamed = await events.get_final_message()
        message = streamed if stream else await client.messages.create(**ARGUMENTS)
        async with openai.AsyncOpenAI(base_url=f"http://{world.host}:{world.port}/v1", api_key="mine", max_retries=0) as other:
            response = await other.responses.create(model="chat", input="Say hi")
    assert message.content[0].text == response.output_text
    assert len(response.output_text.split()) == message.usage.output_tokens == response.usage.output_tokens == 4
    assert message.usage.input_tokens == response.usage.input_tokens > 0


async def test_a_full_engine_that_says_so_in_its_stream_is_one_more_that_failed(world, client):
    async with FakeVllm(queued=0, late=True) as full, FakeVllm(tokens=4) as free:
        world.adds(full.address, model_there=full.model)
        world.adds(free.address, name="chat-2", model_there=free.model)
        for _ in range(3):
            message = await client.messages.create(**ARGUMENTS)
            assert message.usage.output_tokens == 4
    assert world.counted == {200: 3}


async def test_its_client_gets_calls_of_tools(world, client):
    await world.engine(says(STREAM + chunk(STREAMED) + LAST))
    async with client.messages.stream(**ARGUMENTS, tools=[TOOL]) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[2:]] == [{"at": "Bern"}, {"at": "Rom"}]


async def test_an_engine_that_completes_text_answers_messages(world, client):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    data = b'data: {"text_output":"Hel","finish_reason":"None","num_input_tokens":7,"num_output_tokens":1}\n\n'
    data += b'data: {"text_output":"lo","finish_reason":"stop","num_input_tokens":7,"num_output_tokens":1}\n\n'
    engine = await world.engine(says(STREAM + chunk(data) + LAST), speaks="generate", template=template)
    async with client.messages.stream(**ARGUMENTS, system="Kind.") as stream:
        message = await stream.get_final_message()
    assert (message.content[0].text, message.usage.input_tokens, message.usage.output_tokens) == ("Hello", 7, 2)
    assert engine.asked[-1].json["text_input"] == "system: Kind.\nuser: Say hi\n"
    with pytest.raises(anthropic.BadRequestError, match="tools"):
        await client.messages.create(**ARGUMENTS, tools=[TOOL])


@pytest.mark.parametrize(
    ("arguments", "kind", "error_type", "words"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "not_found_error", "does not exist"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", "max_tokens"),
        ({"model": "vectors"}, anthropic.BadRequestError, "invalid_request_error", "embeddings"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            anthropic.BadRequestError,
            "invalid_request_error",
            "tools.0.type",
        ),
    ],
)
async def test_errors_are_anthropics(world, fake, client, arguments, kind, error_type, words):
    with pytest.raises(kind, match=words) as caught:
        await client.messages.create(**(ARGUMENTS | arguments))
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == error_type
    assert caught.value.body["error"]["source"] == "gateway"


async def test_an_engines_error_is_anthropics(world, client):
    await world.engine(says(whole(b'{"error":{"message":"boom","type":"invalid_request_error"}}', b"400 Bad Request")))
    with pytest.raises(anthropic.BadRequestError, match="boom"):
        await client.messages.create(**ARGUMENTS)


async def test_a_model_that_loads_is_overloaded(open_world):
    world = await open_world(wait=0.05)
    world.tell(phase="loading", reason="3 of 9 GB")
    answer = await world.ask(request(body(), target=PATH))
    assert (answer.status, answer.json["error"]["type"]) == (503, "overloaded_error")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_broken_stream_raises_at_the_client(world, client):
    await world.engine(says(STREAM + chunk(event({"content": "Hel"})), then="close"))
    texts = []

    async def listen():
        async with client.messages.stream(**ARGUMENTS) as stream:
            async for piece in stream.text_stream:
                texts.append(piece)  # noqa: PERF401  # they are there, whatever is raised

    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        await listen()
    assert texts == ["Hel"]
    assert world.counted == {502: 1}


async def test_what_breaks_before_a_word_is_asked_again(world, client):
    broken = says(STREAM + chunk(event({"role": "assistant", "content": ""})), then="close")
    first = await world.engine(in_turn(broken, answers))
    message = await client.messages.create(**ARGUMENTS)
    assert message.content[0].text == "Hi"
    assert len(first.asked) == 2


async def test_a_client_that_leaves_frees_the_engine(world, client):
    engine = await world.engine(streams_and_holds(event({"content": "Hel"})))
    async with client.messages.stream(**ARGUMENTS) as stream:
        async for _ in stream.text_stream:
            break
    asked = await engine.was_asked()
    await asked.left()
    await world.rests()


async def test_tokens_are_counted_by_the_engine(world, client):
    engine = await world.engine(says(whole(b'{"input_tokens":12}')))
    counted = await client.messages.count_tokens(model="chat", messages=HELLO)
    assert counted.input_tokens == 12
    assert (engine.asked[-1].target, engine.asked[-1].model) == ("/v1/messages/count_tokens", "there")


async def test_an_engine_that_cannot_count_says_so(world, fake, client):
    with pytest.raises(anthropic.BadRequestError, match="has no /v1/messages/count_tokens"):
        await client.messages.count_tokens(model="chat", messages=HELLO)


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_stream_that_waits_for_its_model_is_told_so_in_comments(world, client, monkeypatch, ends_well):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.02)
    world.tell(phase="loading", reason="reading weights")
    raw = await world.client()
    await raw.send(request(body(stream=True), target=PATH))
    await eventually(lambda: any(exchange.opened for exchange in world.model.exchanges), "the stream is opened")
    if ends_well:
        world.tell(phase="ready", reason="")
        await world.engine()
    else:
        world.tell(phase="failed", reason="no such file")
    answer = await raw.answer()
    assert answer.body.startswith(b": chat is loading")
    last = read(answer.body)[-1]
    assert last["type"] == ("message_stop" if ends_well else "error")
    assert answer.whole is ends_well
    assert ends_well or "no such file" in last["error"]["message"]


def test_the_request_is_read_once_and_may_be_sent_often():
    ask = ask_of(body())
    first, second = (through.chat(Asked("messages", ask, "there", None, None, "1", now)) for _ in range(2))
    assert first.body == second.body
    first.feed(STREAMED)
    assert json.loads(second.feed(event({"content": "a"}, "stop") + DONE) + second.end())["content"][0]["text"] == "a"
    assert all(isinstance(value, msgspec.Raw) for value in ask.fields.values())
