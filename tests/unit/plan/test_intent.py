"""What a deployment is for, as text."""

import pytest

from headrace.plan.intent import Intent, parse


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("", Intent()),  # nothing asked: the defaults, which the answer prints
        ("users=50", Intent(users=50)),
        ("users=50, context=8k ,ttft=500ms", Intent(users=50, context=8192, ttft=0.5)),  # k is 1024 where tokens are counted
        ("prompt=1.5k,output=300,tpot=50ms", Intent(prompt=1536, output=300, tpot=0.05)),
        ("context=300,prompt=400,output=200", Intent(prompt=200, output=100, context=300)),  # made to fit, in proportion
    ],
)
def test_text_becomes_an_intent(text: str, intent: Intent) -> None:
    assert parse(text) == intent


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user=5", "Did you mean users"),  # a typo
        ("users", "key=value"),
        ("users=0", "above 0"),
        ("users=many", "users"),
        ("ttft=fast", "duration"),
        ("users=-1", "above 0"),
    ],
)
def test_a_mistake_is_told(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_an_intent_says_what_it_is_for() -> None:
    assert str(parse("users=50,context=8k,ttft=500ms")) == (
        "50 users, prompts of 512 and answers of 256 tokens, contexts of 8192, first token within 500ms"
    )
