"""Bodies → prompts: OpenAI's parameters, limits and words."""

import pytest

from headrace.runners.openai import Refused
from headrace.runners.openvino_request import Reader, Settings

CONTEXT = 32


def render(messages):
    if any(message["role"] == "bad" for message in messages):
        raise RuntimeError("Check failed at somewhere.cpp:1:\nthe template knows no such role\n")
    return " ".join(f"{message['role']}:{message['content']}" for message in messages)


READER = Reader(CONTEXT, lambda text: [ord(letter) % 100 for letter in text], render)


def chat(**more):
    return READER.chat({"messages": [{"role": "user", "content": "hi"}], **more})


def complete(**more):
    return READER.completion({"prompt": "hi", **more})


def test_a_chat_has_the_room_that_its_prompt_leaves():
    (prompt,) = chat()
    assert len(prompt.tokens) == len("user:hi")
    assert prompt.settings.max_tokens == CONTEXT - len("user:hi")


@pytest.mark.parametrize(
    ("more", "tokens"),
    [({"max_tokens": 5}, 5), ({"max_completion_tokens": 6, "max_tokens": 5}, 6), ({"max_tokens": 1000}, 25), ({}, 25)],
)
def test_max_tokens_is_clamped_to_the_room_left(more, tokens):
    assert chat(**more)[0].settings.max_tokens == tokens


def test_a_completion_that_names_no_number_has_openais_sixteen():
    assert complete()[0].settings.max_tokens == 16


def test_every_setting_arrives():
    (prompt,) = chat(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        seed=7,
        stop="x",
        ignore_eos=True,
        response_format={"type": "json_object"},
    )
    assert prompt.settings == Settings(25, 0.5, 0.9, 40, 0.1, 1, -1, 1.1, 7, ("x",), True, '{"type": "object"}')


def test_choices_have_seeds_of_their_own_and_several_prompts_come_in_order():
    assert [prompt.settings.seed for prompt in chat(n=3, seed=5)] == [5, 6, 7]
    assert [len(prompt.tokens) for prompt in complete(prompt=["a", "bc"], n=2)] == [1, 1, 2, 2]


def test_without_a_seed_no_two_answers_are_alike():
    assert len({prompt.settings.seed for prompt in chat(n=20)}) == 20


def test_content_in_parts_is_put_together_and_none_is_empty():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
    ]
    (prompt,) = READER.chat({"messages": messages})
    assert len(prompt.tokens) == len("user:ab assistant:")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}}, "response_format"),
        ({"tools": [{}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_names_the_parameter(more, param):
    with pytest.raises(Refused) as caught:
        chat(**more)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("prompt", [None, "", [], [""], [1, 2], {"a": 1}])
def test_a_prompt_must_be_text(prompt):
    with pytest.raises(Refused) as caught:
        complete(prompt=prompt)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_what_is_off_is_not_refused():
    assert chat(tools=[], logprobs=False, top_logprobs=0, logit_bias={}, functions=None)


@pytest.mark.parametrize("letters", [CONTEXT, CONTEXT + 1])
def test_a_prompt_that_fills_the_context_is_refused_in_openais_words(letters):
    with pytest.raises(Refused) as caught:
        complete(prompt="x" * letters)
    assert caught.value.code == "context_length_exceeded"
    assert str(caught.value).startswith(
        f"This model's maximum context length is {CONTEXT} tokens. However, your prompt resulted in"
    )


def test_one_token_of_room_is_room():
    assert complete(prompt="x" * (CONTEXT - 1))[0].settings.max_tokens == 1


def test_the_templates_own_refusal_is_passed_on_in_one_line():
    with pytest.raises(Refused, match="the template knows no such role"):
        chat(messages=[{"role": "bad", "content": "hi"}])
