"""What a deployment is for, as text."""

import pytest

from headrace.plan.intent import Intent, Wanted, asked, parse, wanted
from headrace.spec.load import loads
from headrace.spec.model import ModelSpec


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("", Intent()),  # nothing asked: the defaults, which the answer prints
        ("users=50", Intent(users=50)),
        ("users=50, context=8k ,ttft=500ms", Intent(users=50, context=8192, ttft=0.5)),  # k is 1024 where tokens are counted
        ("prompt=1.5k,output=300,tpot=50ms", Intent(prompt=1536, output=300, tpot=0.05)),
        ("context=300", Intent(prompt=200, output=100, context=300)),  # the defaults are made to fit, in proportion
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
        ("ttft=0s", "ttft: .* above 0"),  # nothing is that fast, and how far it is missed is a ratio
        ("tpot=0ms", "tpot: .* above 0"),
        ("context=300,prompt=400", "less than prompt and output"),  # what was said is not changed silently
    ],
)
def test_a_mistake_is_told(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def model(keys: str) -> ModelSpec:
    return loads(f"models: {{a: {{source: x, {keys}}}}}").models["a"]


@pytest.mark.parametrize(
    ("keys", "text", "intent"),
    [
        ("slots: 1", "", Intent()),  # nothing said
        ("for: {users: 50, ttft: 500ms}", "", Intent(users=50, ttft=0.5)),
        ("context: 8192", "", Intent(context=8192)),  # the model's own key says it, too
        ("for: {users: 50, ttft: 500ms}", "users=3,tpot=20ms", Intent(users=3, ttft=0.5, tpot=0.02)),  # key by key
        ("for: {prompt: 1500, output: 500, context: 2k}", "context=4k", Intent(prompt=1500, output=500, context=4096)),
        ("context: 300", "", Intent(prompt=200, output=100, context=300)),  # the defaults are made to fit
        ("for: {prompt: 1500, output: 500}", "context=1000", Intent(prompt=750, output=250, context=1000)),  # and the file's
    ],
)
def test_the_spec_says_what_a_model_is_for_and_the_command_line_overrides_it(keys: str, text: str, intent: Intent) -> None:
    assert parse(text, asked(model(keys))) == intent


def test_the_spec_says_which_ways_are_wanted() -> None:
    assert wanted(model("slots: 1")) == Wanted()
    assert wanted(model("quantization: fp8, tensor_parallel: 2, share: mig")) == Wanted("fp8", 2, "mig")


def test_an_intent_says_what_it_is_for() -> None:
    assert str(parse("users=50,context=8k,ttft=500ms")) == (
        "50 users, prompts of 512 and answers of 256 tokens, contexts of 8192, first token within 500ms"
    )
