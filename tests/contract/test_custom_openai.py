"""A user's class behind OpenAI's paths: chats, embeddings, reranking."""

import base64
import struct

import openai
import pytest
from custom_process import KEY, running

pytestmark = pytest.mark.real


@pytest.fixture
def here(tmp_path_factory):
    """A folder with a short name: sockets have a longest."""
    return tmp_path_factory.mktemp("c")


CHAT = """
import asyncio
import base64

class Echo:
    async def chat(self, messages, temperature: float = 1.0, **parameters):
        text = messages[-1]["content"]
        if text == "raise": raise ValueError("no")
        for word in text.split(" "):
            if word == "late": raise ValueError("too late")
            if word == "number": yield 3
            await asyncio.sleep(0)
            yield word + " "
        if parameters.get("max_tokens"):
            yield {"finish_reason": "length", "completion_tokens": 40, "prompt_tokens": 7}
"""


def chat(text, **more):
    return {"model": "fraud", "messages": [{"role": "user", "content": text}], **more}


async def test_a_chat_is_answered_as_openai_does(here):
    async with running(here, CHAT, "generate") as process:
        whole = (await process.ask("/v1/chat/completions", chat("one two three"))).json
        assert whole["choices"][0]["message"] == {"role": "assistant", "content": "one two three "}
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        told = (await process.ask("/v1/chat/completions", chat("one", max_tokens=1))).json
        assert told["choices"][0]["finish_reason"] == "length"
        assert told["usage"] == {"prompt_tokens": 7, "completion_tokens": 40, "total_tokens": 47}
        stream = await process.ask("/v1/chat/completions", chat("a b", stream=True, stream_options={"include_usage": True}))
        deltas = [event["choices"][0]["delta"] for event in stream.events[:-2]]
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "a "}, {"content": "b "}, {}]
        assert stream.events[-2]["usage"]["completion_tokens"] == 2
        assert stream.events[-1] == "[DONE]"
        assert await process.metric("generation_tokens_total") == 3 + 40 + 2
        assert await process.metric("prompt_tokens_total") == 3 + 7 + 2


async def test_a_chat_that_fails_has_a_status_before_its_first_word_and_an_event_after(here):
    async with running(here, CHAT, "generate") as process:
        for more in ({}, {"stream": True}):
            answer = await process.ask("/v1/chat/completions", chat("raise", **more))
            assert (answer.status, answer.json["error"]["message"]) == (500, "Echo.chat raised ValueError: no")
            assert answer.json["error"]["type"] == "server_error"
        answer = await process.ask("/v1/chat/completions", chat("a late", stream=True))
        assert answer.events[-1]["error"]["message"] == "Echo.chat raised ValueError: too late"
        answer = await process.ask("/v1/chat/completions", chat("number"))
        assert answer.json["error"]["message"] == "Echo.chat gave int; it must give text"
        for body in ({}, chat("x") | {"messages": []}, chat("x") | {"messages": ["x"]}, chat("x", n=2)):
            assert (await process.ask("/v1/chat/completions", body)).status == 400


@pytest.mark.parametrize("method", ["def", "async def"])
async def test_a_chat_may_return_its_text_and_takes_only_what_it_names(here, method):
    code = f"""
    class Short:
        {method} chat(self, messages, temperature=1.0):
            return f"at {{temperature}}"
    """
    async with running(here, code, "generate") as process:
        answer = await process.ask("/v1/chat/completions", chat("x", temperature=0.5, top_p=1))
        assert answer.json["choices"][0]["message"]["content"] == "at 0.5"
        assert answer.json["usage"]["completion_tokens"] == 2


VECTORS = """
import numpy as np

class Search:
    def embed(self, texts):
        if "bad" in texts: return ["no vector"] * len(texts)
        return np.array([[len(text), 0.5] for text in texts], np.float32)

    def rerank(self, query, documents):
        if query == "few": return [1.0]
        if query == "nan": return [float("nan")] * len(documents)
        return [document.count(query) for document in documents]
"""


async def test_embeddings_are_batched_and_come_as_numbers_or_base64(here):
    async with running(here, VECTORS, "embed") as process:
        answer = (await process.ask("/v1/embeddings", {"input": ["a", "bb cc"]})).json
        assert [each["embedding"] for each in answer["data"]] == [[1.0, 0.5], [5.0, 0.5]]
        assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        packed = (await process.ask("/v1/embeddings", {"input": "a", "encoding_format": "base64"})).json
        assert packed["data"][0]["embedding"] == base64.b64encode(struct.pack("<2f", 1, 0.5)).decode()
        null = await process.ask("/v1/embeddings", {"input": "a", "encoding_format": None})
        assert null.json["data"][0]["embedding"] == [1.0, 0.5]
        bad = await process.ask("/v1/embeddings", {"input": "bad"})
        assert bad.json["error"]["message"] == "Search.embed gave an output that is no list of numbers"
        for body in ({}, {"input": []}, {"input": [1, 2]}, {"input": ""}, {"input": "a", "dimensions": 1}):
            assert (await process.ask("/v1/embeddings", body)).status == 400
        assert await process.metric("batch_size_count") == 4


async def test_reranking_puts_the_best_first(here):
    async with running(here, VECTORS, "rerank") as process:
        body = {"query": "a", "documents": ["b", "aa", {"text": "a"}, "c"], "top_n": 3, "return_documents": True}
        answer = (await process.ask("/v1/rerank", body)).json
        assert answer["results"] == [
            {"index": 1, "relevance_score": 2.0, "document": {"text": "aa"}},
            {"index": 2, "relevance_score": 1.0, "document": {"text": "a"}},
            {"index": 0, "relevance_score": 0.0, "document": {"text": "b"}},
        ]
        assert len((await process.ask("/v1/rerank", body | {"top_n": None})).json["results"]) == 4
        assert (await process.ask("/v1/rerank", {"query": "few", "documents": ["a", "b"]})).status == 500
        assert (await process.ask("/v1/rerank", {"query": "nan", "documents": ["a"]})).status == 500
        for wrong in ({"query": ""}, {"documents": []}, {"documents": [1]}, {"top_n": 0}):
            assert (await process.ask("/v1/rerank", body | wrong)).status == 400


async def test_openais_own_client_is_content(here):
    code = CHAT + VECTORS.replace("class Search", "class Search(Echo)")
    async with (
        running(here, code, "generate", tcp=True) as process,
        openai.AsyncOpenAI(api_key=KEY, base_url=process.url + "/v1", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(model="fraud", messages=chat("a b")["messages"])
        assert whole.choices[0].message.content == "a b "
        stream = await client.chat.completions.create(model="fraud", messages=chat("a b")["messages"], stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "a b "
        vectors = await client.embeddings.create(model="fraud", input=["a", "bb"])  # asks for base64
        assert [each.embedding for each in vectors.data] == [[1.0, 0.5], [2.0, 0.5]]
        assert [each.id async for each in client.models.list()] == ["fraud"]
        with pytest.raises(openai.InternalServerError, match=r"Search\.chat raised ValueError: no"):
            await client.chat.completions.create(model="fraud", messages=chat("raise")["messages"])
