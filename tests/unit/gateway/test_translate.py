"""OpenAI's chats and completions to engines that speak Triton's generate: what is asked, and every byte of what comes back."""

import contextlib
import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from headrace.gateway.http import BrokenAnswer
from headrace.gateway.openai import Ask, Refusal, Usage
from headrace.gateway.translate.base import Asked
from headrace.gateway.translate.generate import translated
from headrace.gateway.translate.template import rendered

from .clients import MESSAGES, asking, chat, request
from .engines import LAST, STREAM, answers, chunk, in_turn, says, settled, whole

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"


def now() -> datetime:
    return datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def translation(kind="chat", there="llm", context=2048, template=CHATML, **fields):
    fields = {"messages": MESSAGES} | fields if kind == "chat" else {"prompt": "Once"} | fields
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
    ask = Ask("chat", bool(fields.get("stream")), 1, raw, True)
    return translated(Asked(kind, ask, there, context, template, "1", now))


def events(*texts, finish="stop", tokens_in=7, **more):
    """The stream of a model of the vLLM back end."""
    last = len(texts) - 1
    values = [
        {
            "model_name": "llm",
            "model_version": "1",
            "text_output": text,
            "finish_reason": finish if number == last else "None",
            "num_input_tokens": tokens_in,
            "num_output_tokens": 1,
        }
        | more
        for number, text in enumerate(texts)
    ]
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def read(stream: bytes) -> list:
    lines = [line[6:] for line in stream.split(b"\n") if line]
    assert lines[-1] == b"[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# ---- what the engine is asked


def test_a_chat_becomes_a_prompt_by_the_models_template():
    made = translation(
        stream=True, temperature=0, max_tokens=16, stop="\n", seed=7, user="me", stream_options={"include_usage": True}
    )
    assert made.target == b"/v2/models/llm/generate_stream"
    body = json.loads(made.body)
    assert json.loads(body.pop("sampling_parameters")) == {"temperature": 0, "seed": 7, "stop": ["\n"], "max_tokens": 16}
    assert body == {
        "text_input": PROMPT,
        "stream": True,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }


def test_trt_llm_is_asked_in_its_own_words():
    made = translation(there="tensorrt_llm", top_p=0.5, min_p=0, repetition_penalty=1.0, stop=["a", "b"], max_completion_tokens=9)
    assert made.target == b"/v2/models/tensorrt_llm/generate_stream"
    assert json.loads(made.body) == {
        "text_input": PROMPT,
        "streaming": False,
        "return_finish_reason": True,
        "sampling_param_top_p": 0.5,
        "sampling_param_stop": ["a", "b"],
        "sampling_param_max_tokens": 9,
        "sampling_param_exclude_input_from_output": True,
    }


@pytest.mark.parametrize(
    ("fields", "context", "limit"),
    [
        ({"max_tokens": 5}, 2048, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 2048, 6),
        ({}, 2048, 2048),  # as much as there is room for: the back end's own default is 16
        ({}, None, 4096),
        ({"max_tokens": None}, 1024, 1024),
    ],
)
def test_a_limit_is_always_sent(fields, context, limit):
    body = json.loads(translation(context=context, **fields).body)
    assert json.loads(body["sampling_parameters"])["max_tokens"] == limit


def test_a_completion_is_its_prompt():
    assert json.loads(translation("completions").body)["text_input"] == "Once"
    assert json.loads(translation("completions", prompt=["Once"]).body)["text_input"] == "Once"
    assert json.loads(translation("completions", template=None).body)["text_input"] == "Once", "no template is needed"


def test_parts_of_text_are_one_text():
    content = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi"}]
    body = json.loads(translation(messages=[{"role": "user", "content": content}]).body)
    assert body["text_input"] == PROMPT


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"template": None}, "no_chat_template", "no chat template"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter", '"tools"'),
        ({"logprobs": True}, "unsupported_parameter", '"logprobs"'),
        ({"logit_bias": {"1": 1}}, "unsupported_parameter", '"logit_bias"'),
        ({"guided_json": {"type": "object"}}, "unsupported_parameter", '"guided_json"'),
        ({"structured_outputs": {"choice": ["a"]}}, "unsupported_parameter", '"structured_outputs"'),
        ({"grammar": "root ::= x"}, "unsupported_parameter", '"grammar"'),
        ({"regex": "a+", "ebnf": "x"}, "unsupported_parameter", '"regex", "ebnf"'),
        ({"there": "tensorrt_llm", "min_p": 0.1, "bad_words": ["x"]}, "unsupported_parameter", '"min_p", "bad_words"'),
        ({"there": "tensorrt_llm", "repetition_penalty": 1.1}, "unsupported_parameter", '"repetition_penalty"'),
        ({"there": "tensorrt_llm", "ignore_eos": True}, "unsupported_parameter", '"ignore_eos"'),
        ({"kind": "completions", "logprobs": 0}, "unsupported_parameter", '"logprobs"'),  # that of each token
        ({"max_tokens": 0}, "invalid_value", '"max_tokens" must be at least 1'),
        ({"max_completion_tokens": -1, "max_tokens": 5}, "invalid_value", '"max_completion_tokens" must be at least 1'),
        ({"n": 2}, "unsupported_parameter", '"n"'),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", '"response_format"'),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "unsupported", "no images"),
        ({"messages": ["hi"]}, "invalid_type", "wrong kind"),
        ({"max_tokens": "many"}, "invalid_type", "wrong kind"),
        ({"stop": 1}, "invalid_type", "wrong kind"),
        ({"kind": "completions", "prompt": ["a", "b"]}, "unsupported", "one prompt"),
        ({"kind": "completions", "prompt": [1, 2]}, "unsupported", "one prompt"),
        ({"kind": "completions", "echo": True}, "unsupported_parameter", '"echo"'),
        ({"kind": "completions", "suffix": "x"}, "unsupported_parameter", '"suffix"'),
        ({"kind": "completions", "best_of": 3}, "unsupported_parameter", '"best_of"'),
        ({"template": "{{ raise_exception('roles must alternate') }}"}, "template_error", "roles must alternate"),
        ({"template": "{% if %}"}, "template_error", "template"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(fields, code, words):
    with pytest.raises(Refusal) as refused:
        translation(**fields)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert words in refused.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": None},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"logprobs": False},
        {"n": 1},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}},
        {"guided_json": None},
        {"there": "tensorrt_llm", "min_tokens": 0, "stop_token_ids": [], "ignore_eos": False},
    ],
)
def test_what_asks_for_nothing_is_no_reason_to_refuse(fields):
    assert translation(**fields).body


# ---- templates


@pytest.mark.parametrize(
    ("template", "more", "text"),
    [
        ("{{ messages[0] | tojson }}", {}, '{"role": "user", "content": "<é>"}'),  # neither HTML's nor ASCII's escapes
        ("{{ strftime_now('%d %b %Y') }}", {}, "27 Nov 2026"),  # Llama 3
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", {}, ""),
        ("{% generation %}a{% endgeneration %}", {}, "a"),  # SmolLM3
        ("{% if enable_thinking is defined and not enable_thinking %}quiet{% endif %}", {"enable_thinking": False}, "quiet"),
        ("{{ bos_token }}x", {}, "x"),  # the engine adds its own when it makes tokens
        ("{% if add_generation_prompt %}go{% endif %}", {}, "go"),
        ("{% if add_generation_prompt %}go{% endif %}", {"add_generation_prompt": False}, ""),
        ("  {% set a = 1 %}\n{{ a }}", {}, "1"),  # blocks leave no space, as transformers has it
        ("{{ messages|length }}", {"messages": []}, "1"),  # the messages are the client's, whatever else it sends
    ],
)
def test_templates_are_rendered_as_transformers_does(template, more, text):
    assert rendered(template, [{"role": "user", "content": "<é>"}], now, more) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ lipsum.__globals__.os }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing(template):
    with pytest.raises(Refusal, match="template"):
        rendered(template, MESSAGES, now)


# ---- what comes back


def test_a_stream_is_openais():
    made = translation(stream=True)
    chunks = read(made.feed(events("Hel", "lo")) + made.end())
    for each in chunks:
        ChatCompletionChunk.model_validate(each, strict=True)
    assert [each["choices"][0]["delta"] for each in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None, None, None, "stop"]
    assert {(each["id"], each["model"], each["created"]) for each in chunks} == {("chatcmpl-1", "chat", int(now().timestamp()))}
    assert made.usage == Usage(7, 2)


def test_a_stream_ends_with_usage_when_asked():
    made = translation(stream=True, stream_options={"include_usage": True})
    last = read(made.feed(events("a", "b", finish="length")) + made.end())[-2:]
    assert last[0]["choices"][0]["finish_reason"] == "length"
    assert (last[1]["choices"], last[1]["usage"]) == ([], {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})


def test_a_completions_stream_is_openais():
    made = translation("completions", stream=True)
    chunks = read(made.feed(events("Hel", "lo")) + made.end())
    for each in chunks:
        Completion.model_validate(each | {"choices": [each["choices"][0] | {"finish_reason": "stop"}]}, strict=True)
    assert [each["choices"][0]["text"] for each in chunks] == ["Hel", "lo", ""]


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_an_answer_that_is_not_streamed_is_one_object(kind):
    made = translation(kind)
    assert made.feed(events("Hel", "lo")) == b""
    answer = json.loads(made.end())
    (ChatCompletion if kind == "chat" else Completion).model_validate(answer, strict=True)
    choice = answer["choices"][0]
    assert (choice["message"]["content"] if kind == "chat" else choice["text"]) == "Hello"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def test_texts_that_repeat_all_that_was_said_are_said_once():
    """TensorRT-LLM's llmapi."""
    made = translation(there="tensorrt_llm", stream=True)
    data = b"".join(b'data: {"text_output":"%s","finish_reason":"None"}\n\n' % text for text in (b"H", b"Hel", b"Hel", b"Hello"))
    chunks = read(made.feed(data) + made.end())
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks) == "Hello"


def test_what_an_engine_does_not_count_is_estimated_and_said_to_be():
    made = translation()
    made.feed(b'data: {"text_output":"Hel"}\n\ndata: {"text_output":"lo"}\n\ndata: {"text_output":""}\n\n')
    usage = json.loads(made.end())["usage"]
    assert usage == {"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16, "estimated": True}
    assert made.usage == Usage(14, 2)


@pytest.mark.parametrize(("limit", "finish"), [(2, "length"), (3, "stop")])
def test_without_a_reason_the_limit_tells_why_it_ended(limit, finish):
    made = translation(max_tokens=limit)
    made.feed(b'data: {"text_output":"a"}\n\ndata: {"text_output":"b"}\n\n')
    assert json.loads(made.end())["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize("text", [b'"a"', b'["a"]'])
def test_a_tensor_of_one_element_is_written_in_two_ways(text):
    made = translation()
    made.feed(b'data: {"text_output":%s,"num_output_tokens":[1],"num_input_tokens":[3],"finish_reason":["length"]}\n\n' % text)
    answer = json.loads(made.end())
    assert answer["choices"][0]["message"]["content"] == "a"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 4


def test_one_response_of_a_model_that_sends_one_is_an_answer():
    made = translation()
    answer = json.loads(made.whole(b'{"model_name":"llm","text_output":"Hello"}'))
    assert answer["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'data: {"error":"in ensemble: boom"}\n\n', Refusal),
        (b"data: hello\n\n", BrokenAnswer),
        (b"data: []\n\n", BrokenAnswer),
        (b'data: {"text_output":"a","finish_reason":"abort"}\n\n', BrokenAnswer),  # vLLM was told to stop
        (b'data: {"text_output":"' + b"a" * (17 << 20), BrokenAnswer),
    ],
)
def test_what_is_no_answer_is_an_error(data, error):
    with pytest.raises(error):
        translation(stream=True).feed(data)


def test_a_stream_without_an_event_is_no_answer():
    with pytest.raises(BrokenAnswer):
        translation(stream=True).end()


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=8)


@given(texts, st.lists(st.integers(0, 2000), max_size=12), st.booleans(), st.sampled_from(["chat", "completions"]))
def test_bytes_split_anywhere_make_the_same_answer(parts, cuts, stream, kind):
    data = events(*parts)
    cuts = sorted(cut for cut in cuts if cut < len(data))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    once, split = translation(kind, stream=stream), translation(kind, stream=stream)
    whole_answer = once.feed(data) + once.end()
    assert b"".join(map(split.feed, pieces)) + split.end() == whole_answer
    assert split.usage == once.usage
    if stream:
        choices = [each["choices"][0] for each in read(whole_answer)]
        said = [choice["delta"].get("content", "") if kind == "chat" else choice["text"] for choice in choices]
    else:
        choice = json.loads(whole_answer)["choices"][0]
        said = [choice["message"]["content"] if kind == "chat" else choice["text"]]
    assert "".join(said) == "".join(parts)


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"data:", b"{", b"}", b'"text_output"', b":", b"\n", b'"a"', b"1"])).map(b"".join)
)
def test_any_bytes_of_an_engine_are_an_answer_or_an_error(data):
    made = translation(stream=True)
    with contextlib.suppress(Refusal, BrokenAnswer):
        read(made.feed(data) + made.end())


# ---- through the gateway


@pytest.fixture
async def llm(world):
    async def replica(script, **endpoint):
        return await world.engine(script, **{"speaks": "generate", "template": CHATML} | endpoint)

    return replica


def triton(*pieces, then="wait"):
    return says(STREAM, *map(chunk, pieces), LAST if then == "wait" else b"", then=then)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat_is_answered_by_an_engine_that_completes_text(world, llm, stream, version):
    engine = await llm(triton(events("Hel", "lo")))
    answer = await world.ask(chat(stream=stream, version=version))
    assert (answer.status, answer.whole) == (200, True)
    asked = engine.asked[0]
    assert (asked.method, asked.target, asked.headers["content-type"]) == (
        "POST",
        "/v2/models/there/generate_stream",
        "application/json",
    )
    assert asked.json["text_input"] == PROMPT
    if stream:
        assert answer.events[-1] == b"[DONE]"
        said = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in answer.events[:-1]]
        assert "".join(said) == "Hello"
    else:
        assert answer.json["choices"][0]["message"]["content"] == "Hello"
        assert answer.json["model"] == "chat"
    await world.rests()
    assert world.counted == {200: 1}
    load = world.model.load()
    assert (load.tokens_in, load.tokens_out) == (7, 2)


async def test_each_event_is_passed_on_as_it_comes(world, llm):
    first = events("Hel", "lo").split(b"\n\n")[0]

    async def script(asked):
        await asked.writes(STREAM, chunk(first + b"\n\n"))
        await asked.left()

    await llm(script)
    client = await world.client()
    await client.send(chat(stream=True))
    assert b'"content":"Hel"' in await client.until(b'"content":"Hel"')
    client.close()


async def test_an_engine_that_dies_in_the_middle_is_no_end(world, llm):
    await llm(triton(events("Hel"), then="close"))
    answer = await world.ask(chat(stream=True))
    assert not answer.whole
    assert b"[DONE]" not in answer.body
    assert "broke off" in json.loads(answer.events[-1])["error"]["message"]


async def test_an_engine_that_dies_before_its_answer_is_survived(world, llm):
    await llm(triton(events("Hel"), then="close"))
    await llm(triton(events("Hel", "lo")), name="chat-2")
    for _ in range(3):
        answer = await world.ask(chat())  # not streamed: nothing is given before all is there
        assert answer.json["choices"][0]["message"]["content"] == "Hello"


async def test_an_error_in_the_middle_ends_the_stream_without_done(world, llm):
    await llm(triton(events("Hel"), b'data: {"error":"in ensemble: boom"}\n\n', b'data: {"text_output":"lost"}\n\n'))
    answer = await world.ask(chat(stream=True))
    assert json.loads(answer.events[-1])["error"]["message"] == "in ensemble: boom"
    assert b"[DONE]" not in answer.body
    assert b"lost" not in answer.body
    assert not answer.whole
    await world.rests()
    assert world.counted == {500: 1}


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_as_first_event_has_a_status(world, llm, stream):
    await llm(triton(b'data: {"error":"[request id: 1] input too long"}\n\n'))
    answer = await world.ask(chat(stream=stream))
    assert (answer.status, answer.error["message"]) == (500, "[request id: 1] input too long")


async def test_a_full_engine_is_survived_by_another_and_then_said(world, llm):
    full = b'data: {"error":"Exceeds maximum queue size"}\n\n'
    await llm(triton(full))
    await llm(triton(events("Hello")), name="chat-2")
    for _ in range(2):
        assert (await world.ask(chat(stream=True))).status == 200
    world.removes("chat-2")
    answer = await world.ask(chat(stream=True))
    assert (answer.status, answer.error["code"]) == (429, "engine_overloaded")
    assert "retry-after" in answer.headers


async def test_a_promised_stream_is_kept_by_a_translation(world, llm, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.02)
    world.tell(phase="loading")
    client = await world.client()
    await client.send(chat(stream=True))
    await client.until(b"chat is loading")
    await llm(triton(events("Hello")))
    world.tell(phase="ready")
    rest = await client.until(b"0\r\n\r\n")
    assert b'"content":"Hello"' in rest
    assert b"HTTP/1.1" not in rest, "one head"
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_promised_stream_of_tritons_own_is_kept(world, llm, monkeypatch):
    monkeypatch.setattr("headrace.gateway.exchange.PROGRESS_SECONDS", 0.02)
    world.tell(phase="loading")
    client = await world.client()
    await client.send(request(b'{"text_input":"a"}', target="/v2/models/chat/generate_stream"))
    await client.until(b"chat is loading")
    await llm(in_turn(says(whole(b'{"error":"Exceeds maximum queue size"}')), triton(events("Hello"))))
    await llm(triton(events("Hello")), name="chat-2")
    world.tell(phase="ready")
    rest = await client.until(b"0\r\n\r\n")
    assert b'"text_output": "Hello"' in rest
    assert b"Exceeds" not in rest
    assert b"[DONE]" not in rest


async def test_an_answer_that_is_json_is_translated_too(world, llm):
    await llm(in_turn(says(whole(b'{"text_output":"Hello"}')), says(whole(b'{"error":"boom"}'))))
    assert (await world.ask(chat())).json["choices"][0]["message"]["content"] == "Hello"
    assert (await world.ask(chat())).status == 500


async def test_what_cannot_be_translated_reaches_no_engine(world, llm):
    engine = await llm(answers, template=None)
    answer = await world.ask(chat())
    assert (answer.status, answer.error["code"]) == (400, "no_chat_template")
    assert not engine.asked
    await world.rests()
    client = await world.client()
    for _ in range(2):  # the connection is good for more
        await client.send(request(asking(tools=[{"type": "function"}])))
        assert (await client.answer()).status == 400


async def test_a_client_that_leaves_frees_the_engine(world, llm):
    async def script(asked):
        asked.write(STREAM + chunk(events("Hel")))
        await asked.left()

    engine = await llm(script)
    client = await world.client()
    await client.send(chat())
    await engine.was_asked()
    client.close()
    await world.rests()
    assert await settled(lambda: engine.open_lines) == 0
    assert world.counted == {499: 1}
