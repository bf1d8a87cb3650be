"""`chat`, `embed` and `rerank` of a user's class behind OpenAI's paths, and Jina's and Cohere's for reranking."""

import base64
import inspect
import struct
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from headrace.runners.batching import Batcher
from headrace.runners.custom_answers import Stream, begun, parsed
from headrace.runners.custom_failure import Failure
from headrace.runners.custom_outputs import split, to_json
from headrace.runners.custom_worker import Worker
from headrace.runners.openai import DONE, Answer, Choice, event, usage, wants_usage
from headrace.runners.serving import Counts

_OURS = ("model", "messages", "stream", "stream_options", "n")
"""What a chat's request says to us and not to the user's method."""

Json = dict[str, Any]


class Chat:
    """Answers with the text that the user's `chat(messages, **parameters)` returns or yields.

    Besides text it may yield mappings with `prompt_tokens`, `completion_tokens` or `finish_reason`. Unless it does,
    completion tokens are the pieces that it yields, of a whole answer the words, and prompt tokens the words.
    """

    def __init__(self, name: str, where: str, function: Callable[..., Any], worker: Worker, counts: Counts) -> None:
        self._name, self._where, self._function, self._worker, self._counts = name, where, function, worker, counts
        self._accepts = inspect.signature(function).parameters
        self._accepts_all = any(each.kind is each.VAR_KEYWORD for each in self._accepts.values())
        plain = inspect.unwrap(function)
        self._yields = inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain)

    async def completion(self, body: bytes) -> Response:
        """The answer to a chat completion, whole or as events."""
        given = parsed(body)
        messages = given.get("messages")
        if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages) or not messages:
            raise Failure(400, '"messages" is missing, empty or no list of messages.', "invalid_input", param="messages")
        if given.get("n") not in (None, 1):
            raise Failure(400, f"{self._where} gives one choice; n is {given['n']}.", "invalid_input", param="n")
        told = _Told(_words(messages))
        pieces = self._pieces(messages, self._parameters(given), told)
        answer = Answer("chat", self._name)
        if given.get("stream") is True:
            return Stream(await begun(self._events(answer, pieces, told, with_usage=wants_usage(given))))
        text = "".join([piece async for piece in pieces])
        self._count(told)
        return JSONResponse(answer.whole([Choice(text, told.finish)], told.usage))

    def _parameters(self, given: Mapping[str, Any]) -> Json:
        """What of the request the method takes: all of it if it has `**`, else what it names."""
        return {
            name: value for name, value in given.items() if name not in _OURS and (self._accepts_all or name in self._accepts)
        }

    async def _pieces(self, messages: list[Any], parameters: Json, told: "_Told") -> AsyncGenerator[str]:
        items = self._worker.items(self._where, self._function, messages, **parameters)
        try:
            async for item in items:
                if isinstance(item, Mapping):
                    told.says(item)
                elif isinstance(item, str):
                    told.pieces += 1 if self._yields else len(item.split())
                    if item:
                        yield item
                else:
                    raise Failure(500, f"{self._where} gave {type(item).__name__}; it must give text", "model_error")
        finally:
            await items.aclose()

    async def _events(
        self, answer: Answer, pieces: AsyncGenerator[str], told: "_Told", *, with_usage: bool
    ) -> AsyncGenerator[bytes]:
        opening = answer.opening()
        try:
            async for piece in pieces:
                if opening is not None:  # with the first piece, so that what fails before it has a status
                    yield event(opening)
                    opening = None
                yield event(answer.piece(piece))
            if opening is not None:
                yield event(opening)
            yield event(answer.ending(told.finish))
            if with_usage:
                yield event(answer.closing(told.usage))
            yield DONE
        finally:
            self._count(told)
            await pieces.aclose()

    def _count(self, told: "_Told") -> None:
        self._counts.tokens_in.inc(told.usage["prompt_tokens"])
        self._counts.tokens_out.inc(told.usage["completion_tokens"])


class _Told:
    """Why an answer ended and what it took: counted, unless the user's code says."""

    def __init__(self, words: int) -> None:
        self.finish, self.pieces, self._words = "stop", 0, words
        self._said: dict[str, int] = {}

    def says(self, item: Mapping[str, Any]) -> None:
        self.finish = str(item.get("finish_reason", self.finish))
        counts = {name: item[name] for name in ("prompt_tokens", "completion_tokens") if isinstance(item.get(name), int)}
        self._said |= {name: max(0, count) for name, count in counts.items()}

    @property
    def usage(self) -> Json:
        return usage(self._said.get("prompt_tokens", self._words), self._said.get("completion_tokens", self.pieces))


class Embed:
    """Answers with the vectors that the user's `embed(texts)` gives, texts of several requests together."""

    def __init__(self, name: str, where: str, function: Callable[..., Any], worker: Worker, counts: Counts) -> None:
        self._name, self._where, self._function, self._worker, self._counts = name, where, function, worker, counts
        self.batcher: Batcher | None = None

    async def call(self, texts: Sequence[Any]) -> list[Any]:
        """As many vectors as texts, in order; what is no vector of numbers is a Failure in its place."""
        result = await self._worker.call(self._where, self._function, list(texts))
        return [self._vector(each) for each in split(result, len(texts), self._where)]

    async def embeddings(self, body: bytes) -> Response:
        """The answer to an embeddings request."""
        given = parsed(body)
        texts = given.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
            raise Failure(400, '"input" must be text or a list of texts, none of them empty.', "invalid_input", param="input")
        if given.get("dimensions") is not None:
            raise Failure(400, '"dimensions" cannot be chosen for this model.', "invalid_input", param="dimensions")
        encoding = given.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise Failure(400, '"encoding_format" is float or base64.', "invalid_input", param="encoding_format")
        assert self.batcher is not None
        vectors = await self.batcher.outputs(texts)
        words = sum(len(text.split()) for text in texts)
        self._counts.tokens_in.inc(words)
        data = [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if encoding == "base64" else vector}
            for index, vector in enumerate(vectors)
        ]
        used = {"prompt_tokens": words, "total_tokens": words}
        return _json({"object": "list", "data": data, "model": self._name, "usage": used}, self._where)

    def _vector(self, value: Any) -> Any:
        if isinstance(value, Failure):
            return value
        numbers = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(numbers, list | tuple) and numbers and all(type(each) in (int, float) for each in map(_plain, numbers)):
            return [float(each) for each in numbers]
        return Failure(500, f"{self._where} gave an output that is no list of numbers", "model_error")


class Rerank:
    """Answers with the documents in the order of the scores that the user's `rerank(query, documents)` gives."""

    def __init__(self, name: str, where: str, function: Callable[..., Any], worker: Worker, counts: Counts) -> None:
        self._name, self._where, self._function, self._worker, self._counts = name, where, function, worker, counts

    async def ranking(self, body: bytes) -> Response:
        """The answer to a rerank request: the highest score first; equal ones in the documents' order."""
        given = parsed(body)
        query, documents = given.get("query"), given.get("documents")
        if not isinstance(query, str) or not query:
            raise Failure(400, '"query" is missing or empty.', "invalid_input", param="query")
        texts = [_text(each) for each in documents] if isinstance(documents, list) and documents else [None]
        if None in texts:
            message = '"documents" must be a list of texts or of objects with a "text".'
            raise Failure(400, message, "invalid_input", param="documents")
        top = len(texts) if given.get("top_n") is None else given["top_n"]
        if type(top) is not int or top < 1:
            raise Failure(400, '"top_n" is no number from 1 on.', "invalid_input", param="top_n")
        result = await self._worker.call(self._where, self._function, query, texts)
        scores = [self._score(each) for each in split(result, len(texts), self._where)]
        order = sorted(range(len(texts)), key=lambda index: -scores[index])[:top]
        shown = given.get("return_documents") is True
        results = [
            {"index": index, "relevance_score": scores[index]} | ({"document": {"text": texts[index]}} if shown else {})
            for index in order
        ]
        words = len(query.split()) + sum(len(str(text).split()) for text in texts)
        self._counts.tokens_in.inc(words)
        used = {"prompt_tokens": words, "total_tokens": words}
        return _json({"model": self._name, "results": results, "usage": used}, self._where)

    def _score(self, value: Any) -> float:
        if isinstance(value, Failure):
            raise value
        score = _plain(value)
        if type(score) not in (int, float) or score != score:
            raise Failure(500, f"{self._where} gave a score that is no number", "model_error")
        return float(score)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _text(document: Any) -> str | None:
    text = document.get("text") if isinstance(document, dict) else document
    return text if isinstance(text, str) else None


def _words(messages: Sequence[Mapping[str, Any]]) -> int:
    texts = []
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts += [_text(part) or "" for part in parts]
    return sum(len(text.split()) for text in texts)


def _base64(vector: Sequence[float]) -> str:
    """As OpenAI's client asks for it unless told otherwise: little-endian FP32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _json(value: Json, where: str) -> Response:
    return Response(to_json(value, where), media_type="application/json")
