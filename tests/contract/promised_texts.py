"""What is promised of texts: chats and completions, whole and streamed, and what may be asked of them."""

import json
from typing import Any

from deployment import Deployment, idle
from engine_client import chat, content, header, texts
from promises import promise

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "green"]}, "wheels": {"type": "integer", "enum": [2, 3, 4]}},
    "required": ["color", "wheels"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "car", "schema": SCHEMA, "strict": True}}

CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather in a city.", "parameters": CITY}}

COUNTED = {"stream": True, "stream_options": {"include_usage": True}}


@promise("generate", CHAT, chat())
async def a_chat_is_answered_whole(at: Deployment) -> None:
    """A chat is answered with a text, why it ended, and its usage."""
    answer = (await at.chat(max_tokens=6)).json
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("length", "stop")
    assert answer["object"] == "chat.completion"
    usage = answer["usage"]
    assert 0 < usage["completion_tokens"] <= 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@promise("generate", CHAT, chat(stream=True))
async def a_stream_ends_with_done(at: Deployment) -> None:
    """A stream begins with who speaks, says why it ended, and ends with [DONE]."""
    answer = await at.chat(stream=True)
    assert header(answer, "content-type").startswith("text/event-stream")
    *events, done = answer.events
    assert answer.complete
    assert done == "[DONE]"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(texts(events))
    assert [each["choices"][0]["finish_reason"] for each in events if each["choices"]][-1] in ("length", "stop")


@promise("generate", CHAT, chat(**COUNTED))
async def a_stream_says_its_usage_when_asked(at: Deployment) -> None:
    """A stream says its usage when asked to, once, with its last event; else not at all."""
    *events, done = (await at.chat(**COUNTED, max_tokens=5, ignore_eos=True)).events
    assert done == "[DONE]"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 5
    assert not any(each.get("usage") for each in events[:-1])
    assert not any(each.get("usage") for each in (await at.chat(stream=True)).events[:-1])


@promise("generate")
async def usage_is_the_engines_own(at: Deployment) -> None:
    """The usage that clients are told is what the engine's metrics page counts."""
    before = await at.reading("chat", idle)
    usage = (await at.chat(max_tokens=7, ignore_eos=True)).json["usage"]
    assert usage["completion_tokens"] == 7
    assert not usage.get("estimated")
    counted = await at.reading("chat", lambda now: now.tokens_out_total >= before.tokens_out_total + 7)
    assert counted.tokens_out_total - before.tokens_out_total == 7
    assert counted.tokens_in_total - before.tokens_in_total == usage["prompt_tokens"]


@promise("generate", COMPLETION, {"model": "chat", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0})
async def a_text_is_completed(at: Deployment) -> None:
    """A plain text is completed, whole and streamed."""
    body = {"model": "chat", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    whole = (await at.ask(COMPLETION, body)).json
    *events, done = (await at.ask(COMPLETION, body | {"stream": True})).events
    assert (whole["object"], events[0]["object"], done) == ("text_completion", "text_completion", "[DONE]")
    assert whole["choices"][0]["text"]
    assert "".join(each["choices"][0]["text"] for each in events if each["choices"]) == whole["choices"][0]["text"]


@promise("generate")
async def a_stream_has_the_same_text(at: Deployment) -> None:
    """Without chance in it, a stream has the same text as an answer that is none."""
    whole = content(await at.chat(temperature=0, max_tokens=24))
    assert "".join(texts((await at.chat(temperature=0, max_tokens=24, stream=True)).events[:-1])) == whole


@promise("generate", CHAT, chat(stop=["e"]))
async def stop_strings_end_the_answer(at: Deployment) -> None:
    """A stop string ends the answer and is not in it, streamed or not, also where it spans tokens."""
    whole = content(await at.chat(temperature=0, max_tokens=24))
    stop = whole[7:11]  # within words and across them
    wanted = whole[: whole.index(stop)]
    answer = await at.chat(temperature=0, max_tokens=24, stop=[stop])
    assert content(answer) == wanted
    assert answer.json["choices"][0]["finish_reason"] == "stop"
    streamed = (await at.chat(temperature=0, max_tokens=24, stop=stop, stream=True)).events[:-1]
    assert "".join(texts(streamed)) == wanted


@promise("generate")
async def a_prompt_that_is_too_long_is_refused(at: Deployment) -> None:
    """A prompt longer than the context is 400 with the code context_length_exceeded, also for a stream."""
    for stream in (False, True):
        answer = await at.chat(text="word " * 2000, stream=stream)
        error = answer.json["error"]
        assert (answer.status, error["code"]) == (400, "context_length_exceeded"), answer.body
        assert error["source"] == "engine"


@promise("generate")
async def unknown_fields_are_ignored(at: Deployment) -> None:
    """A field that nobody knows changes nothing."""
    assert (await at.chat(frobnicate={"deeply": ["nested"]}, max_tokens=2)).status == 200


MALFORMED: tuple[dict[str, Any], ...] = (
    {"messages": "Say something."},
    {"messages": ["Say something."]},
    {"messages": [{"content": "no role"}]},
    {"max_tokens": "many"},
    {"max_tokens": {}},
    {"temperature": "hot"},
    {"top_p": "most"},
    {"seed": "x"},
    {"n": "two"},
    {"stream": "yes"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}},
)
DISPUTED: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": 7}]},
    {"response_format": {"type": "json_schema"}},
    {"stop": {"at": "a"}},
    {"max_tokens": -5},
    {"n": 0},
    {"temperature": -1},
    {"top_p": 7},
    {"logit_bias": "much"},
)
"""Which some engines refuse and others ignore, or take to mean something."""


@promise("generate")
async def malformed_values_are_400(at: Deployment) -> None:
    """A value of the wrong kind is 400 with words, never 500, and the next request is served."""
    wrong = []
    for more in MALFORMED:
        answer = await at.chat(**{"max_tokens": 2, **more})
        if answer.status != 400 or not answer.json["error"]["message"]:
            wrong.append((more, answer.status, answer.body[:200]))
    for more in DISPUTED:
        answer = await at.chat(**{"max_tokens": 2, **more})
        if answer.status not in (200, 400):
            wrong.append((more, answer.status, answer.body[:200]))
    assert not wrong
    assert (await at.chat(max_tokens=2)).status == 200


@promise("generate", CHAT, chat(response_format=JSON_SCHEMA, max_tokens=4))
async def a_json_schema_is_obeyed(at: Deployment) -> None:
    """A JSON schema is obeyed: whatever the model would say, the answer fits it, streamed or not."""
    body = chat("Describe a car as JSON.", response_format=JSON_SCHEMA, temperature=0, max_tokens=120)
    whole = content(await at.ask(CHAT, body))
    streamed = "".join(texts((await at.ask(CHAT, body | {"stream": True})).events[:-1]))
    for text in (whole, streamed):
        car = json.loads(text)
        assert set(car) == {"color", "wheels"}
        assert car["color"] in ("red", "green")
        assert car["wheels"] in (2, 3, 4)


@promise("generate", CHAT, chat(logprobs=True, top_logprobs=2))
async def log_probabilities_are_given(at: Deployment) -> None:
    """Log probabilities are given for each token, with its rivals."""
    answer = (await at.chat(logprobs=True, top_logprobs=2, max_tokens=4, ignore_eos=True)).json
    given = answer["choices"][0]["logprobs"]["content"]
    assert len(given) == 4
    for token in given:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2


@promise("generate", CHAT, chat(n=2))
async def several_choices_are_given(at: Deployment) -> None:
    """Several choices (n) are each there and all counted, streamed or not."""
    answer = (await at.chat(n=2, max_tokens=5, ignore_eos=True)).json
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 10
    events = (await at.chat(n=2, max_tokens=5, stream=True)).events[:-1]
    assert {choice["index"] for each in events for choice in each["choices"]} == {0, 1}


@promise("generate", CHAT, chat("How is the weather in Oslo?", tools=[TOOL], tool_choice="required", max_tokens=40))
async def tools_are_called(at: Deployment) -> None:
    """A tool that must be called is called, with arguments that fit its schema."""
    more = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40}
    answer = await at.chat("How is the weather in Oslo?", **more)
    assert answer.status == 200, answer.body
    call, *_ = answer.json["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Oslo", "Rome")


@promise("generate", CHAT, chat(model="poet"))
async def adapters_are_models_of_their_own(at: Deployment) -> None:
    """A LoRA adapter is asked for as a model of its own, and says other things."""
    plain, poet = (await at.chat(temperature=0, model="chat")), (await at.chat(temperature=0, model="poet"))
    assert (plain.status, poet.status) == (200, 200)
    assert content(plain) != content(poet)
