"""A stream, put together again, is the answer that the engine would have given to a client that asked for no stream."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion

from headrace.gateway.fold import BrokenStream, Fold

from .test_http import cut, places

RECORDED = Path(__file__).parent / "recorded"
LLAMA = (RECORDED / "llamacpp_sse.txt").read_bytes()
VLLM = (RECORDED / "vllm_sse.txt").read_bytes()


def event(*choices: dict, **more) -> bytes:
    value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices)}
    return b"data: " + json.dumps(value | more).encode() + b"\n\n"


def delta(index: int = 0, finish: str | None = None, logprobs: dict | None = None, **fields) -> dict:
    return {"index": index, "delta": fields, "finish_reason": finish, "logprobs": logprobs}


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
END = event(usage=USAGE) + b"data: [DONE]\n\n"


def folded(*pieces: bytes) -> Fold:
    fold = Fold()
    for piece in pieces:
        fold.feed(piece)
    return fold


def chat(*pieces: bytes, choices: int = 1) -> ChatCompletion:
    """The answer as the openai client reads it, strictly."""
    fold = folded(*pieces)
    assert fold.done
    return ChatCompletion.model_validate_json(fold.answer(choices=choices), strict=True)


# ---- recorded streams


@pytest.mark.parametrize(
    ("stream", "text", "usage"),
    [(LLAMA, "L'É,", (37, 12)), (VLLM, "1. 1\n20.", (36, 48))],
    ids=["llama.cpp", "vLLM"],
)
def test_a_recorded_stream_is_an_answer(stream, text, usage):
    answer = chat(stream)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", text, "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == usage
    assert answer.object == "chat.completion"
    assert answer.model == "smollm2"
    assert answer.id.startswith("chatcmpl-")


@given(st.sampled_from([LLAMA, VLLM]), st.lists(st.integers(0, 5000), max_size=20))
def test_a_recorded_stream_is_the_same_answer_however_it_is_split(stream, where):
    assert folded(*cut(stream, where)).answer() == folded(stream).answer()


@pytest.mark.parametrize("stream", [LLAMA, VLLM], ids=["llama.cpp", "vLLM"])
def test_a_recorded_stream_in_single_bytes_is_the_same_answer(stream):
    assert folded(*(stream[at : at + 1] for at in range(len(stream)))).answer() == folded(stream).answer()


def test_lines_may_end_in_crlf_and_comments_may_come_between():
    stream = LLAMA.replace(b"\n", b"\r\n").replace(b"data: {", b": ping\r\n\r\ndata:{")
    assert folded(stream).answer() == folded(LLAMA).answer()


@pytest.mark.parametrize("end", [0, 1, 100, 500, len(LLAMA) - 16, len(LLAMA) - 3])
def test_a_stream_is_not_done_before_done(end):
    assert not folded(LLAMA[:end]).done


# ---- what streams hold


def test_tool_calls_are_put_together_by_their_index():
    def call(index: int, arguments: str, **more) -> dict:
        return {"index": index, "function": {"arguments": arguments} | more.pop("function", {}), **more}

    first = call(0, "", id="call_a", type="function", function={"name": "weather"})
    second = call(1, '{"x":', id="call_b", type="function", function={"name": "time"})
    answer = chat(
        event(delta(role="assistant", content=None)),
        event(delta(tool_calls=[first])),
        event(delta(tool_calls=[call(0, '{"city":')])),
        event(delta(tool_calls=[second])),
        event(delta(tool_calls=[call(0, '"Paris"}'), call(1, "1}")])),
        event(delta(finish="tool_calls")),
        END,
    )
    message = answer.choices[0].message
    assert message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [(each.id, each.function.name, each.function.arguments) for each in message.tool_calls] == [
        ("call_a", "weather", '{"city":"Paris"}'),
        ("call_b", "time", '{"x":1}'),
    ]


def test_several_choices_are_kept_apart_and_counted():
    """llama.cpp counts each choice by itself, and its prompt with it."""
    answer = chat(
        event(delta(1, content="B")),
        event(delta(0, content="A")),
        event(delta(1, content="b")),
        event(delta(0, content="a")),
        event(delta(0, finish="stop")),
        event(delta(1, finish="length")),
        event(usage=USAGE),
        END,
        choices=2,
    )
    assert [(each.index, each.message.content, each.finish_reason) for each in answer.choices] == [
        (0, "Aa", "stop"),
        (1, "Bb", "length"),
    ]
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 11)


def test_log_probabilities_are_joined():
    def token(text: str) -> dict:
        return {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}], "refusal": None}

    answer = chat(
        event(delta(content="A", logprobs=token("A"))),
        event(delta(content="B", logprobs=token("B"))),
        event(delta(finish="stop")),
        END,
    )
    assert [each.token for each in answer.choices[0].logprobs.content] == ["A", "B"]


def test_reasoning_is_joined_beside_the_answer():
    answer = chat(
        event(delta(role="assistant", content=None, reasoning_content="I ")),
        event(delta(reasoning_content="think")),
        event(delta(content="Hi")),
        event(delta(finish="stop")),
        END,
    )
    assert answer.choices[0].message.content == "Hi"
    assert answer.choices[0].message.reasoning_content == "I think"


@pytest.mark.parametrize("first", [{"role": "assistant", "content": None}, {"role": "assistant", "content": ""}, {}])
def test_a_message_has_a_role_and_a_content_however_it_begins(first):
    """null from llama.cpp, "" from vLLM, nothing from others."""
    message = chat(event(delta(**first)), event(delta(content="Hi")), event(delta(finish="stop")), END).choices[0].message
    assert (message.role, message.content) == ("assistant", "Hi")


def test_a_role_that_comes_with_every_event_is_one_role():
    answer = chat(event(delta(role="assistant", content="H")), event(delta(role="assistant", content="i", finish="stop")), END)
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", "Hi")


def test_text_completions_are_put_together():
    def part(text: str, finish: str | None = None) -> bytes:
        logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{}], "text_offset": [0]}
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}
        return event(choice, object="text_completion")

    fold = folded(part("H"), part("i"), part("", "stop"), event(usage=USAGE, object="text_completion"), b"data: [DONE]\n\n")
    answer = Completion.model_validate_json(fold.answer(), strict=True)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hi", "stop")
    assert answer.choices[0].logprobs.tokens == ["H", "i", ""]
    assert answer.usage.completion_tokens == 2
    assert fold.events == 2


def test_usage_may_come_with_every_event_and_the_last_one_counts():
    early = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    fold = folded(event(delta(content="H"), usage=early), event(delta(finish="stop"), usage=USAGE), b"data: [DONE]\n\n")
    assert fold.usage() == USAGE


def test_an_answer_without_usage_says_so():
    fold = folded(event(delta(content="H")), event(delta(finish="stop")), b"data: [DONE]\n\n")
    assert fold.usage() is None
    assert ChatCompletion.model_validate_json(fold.answer(), strict=True).usage is None


def test_several_prompts_are_counted_together():
    """llama.cpp begins with null, numbers the answers, and ends each with its own usage."""

    def part(index: int, text: str, finish: str | None = None, **more) -> bytes:
        return event({"index": index, "text": text, "finish_reason": finish, "logprobs": None}, object="text_completion", **more)

    first, second = ({"prompt_tokens": n, "completion_tokens": 3, "total_tokens": n + 3} for n in (1, 3))
    ends = part(1, "", "length", usage=first), part(0, "", "stop", usage=second)
    fold = folded(b"data: null\n\n", part(1, "B"), part(0, "A"), *ends, b"data: [DONE]\n\n")
    answer = Completion.model_validate_json(fold.answer(), strict=True)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "A"), (1, "B")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 6, 10)


def test_timings_and_other_things_of_the_engine_are_not_usage():
    answer = json.loads(folded(LLAMA).answer())
    assert "timings" not in answer
    assert answer["system_fingerprint"] == "b0-unknown"
    assert set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}


def test_an_error_in_the_stream_is_told():
    fold = folded(event(delta(content="H")), b'data: {"error":{"message":"out of memory","code":500}}\n\n')
    assert not fold.done
    assert fold.error.message == "out of memory"
    assert fold.error.source == "engine"


# ---- what is no such stream


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {\n\n",
        b"data: [1]\n\n",
        b"data: \xff\n\n",
        b"data: <html>\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        event(None),
        event(5),
        b'data: {"choices":5}\n\n',
        event({"index": 0, "delta": None}),
        event(delta(finish="abort")),  # the engine was told to stop (vLLM, SGLang)
        event(delta(finish="error")),
        event({"index": 0, "delta": "text"}),
        event({"index": 0, "delta": {"tool_calls": 5}}),
        event({"index": 0, "delta": {"tool_calls": [None]}}),
        event({"index": 0, "delta": {"tool_calls": [{"index": "a"}]}}),
        event({"index": 0, "delta": {"tool_calls": [{"index": -1}]}}),
        event({"index": 0, "delta": {"tool_calls": [{"index": 100_000}]}}),  # would be a list as long
        event({"index": 0, "text": None}),
        event({"index": [], "delta": {}}),
        event({"index": 0, "delta": {}, "logprobs": 5}),
        event(usage=5),
        event(usage={"completion_tokens": 1}),
        event(usage={"prompt_tokens": "a", "completion_tokens": None}),
    ],
)
def test_an_event_of_another_shape_is_a_broken_stream(broken):
    with pytest.raises(BrokenStream):
        _ends(folded(event(delta(content="H")), broken, event(delta(finish="stop")), b"data: [DONE]\n\n"))


def _ends(fold: Fold) -> None:
    """What is done with every stream."""
    fold.answer(choices=2)
    usage = fold.usage() or {}
    assert all(isinstance(usage[key], int) for key in usage if key.endswith("_tokens"))


def test_an_event_that_does_not_end_is_a_broken_stream(monkeypatch):
    monkeypatch.setattr("headrace.gateway.fold.EVENT_LIMIT", 1000)
    with pytest.raises(BrokenStream):
        folded(b"data: ", *[b"x" * 100] * 20)


keys = st.sampled_from(["index", "content", "role", "id", "tool_calls", "prompt_tokens", "completion_tokens"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
choice = st.fixed_dictionaries(
    {}, optional={"index": values, "delta": values, "text": values, "finish_reason": values, "logprobs": values}
)
anything = st.fixed_dictionaries(
    {}, optional={"id": values, "object": values, "choices": st.lists(choice, max_size=3) | values, "usage": values}
)


@given(st.lists(anything, max_size=4), st.integers(1, 2))
def test_any_events_are_folded_or_broken(events, choices):
    stream = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events) + b"data: [DONE]\n\n"
    try:
        fold = folded(stream)
    except BrokenStream:
        return
    json.loads(fold.answer(choices=choices))


@given(st.binary(max_size=200), places)
def test_any_bytes_are_folded_or_broken(data, where):
    try:
        folded(*cut(data, where))
    except BrokenStream:
        return
