"""The HTTP side: OpenAI's paths, health and metrics."""

import time
from collections.abc import AsyncGenerator, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.runners.openai import DONE, Answer, Choice, Events, Json, Refused, body, event, models, usage, wants_usage
from headrace.runners.openvino_pipeline import Batching, Piece
from headrace.runners.openvino_request import Prompt, Reader
from headrace.runners.serving import Counts, error, unless_left

_LEFT = Response(status_code=499)
"""For a client that is gone: nobody sees it."""


def application(name: str, reader: Reader, batching: Batching, counts: Counts) -> Starlette:
    """The ASGI application of a replica that serves one model as `name`."""
    server = _Server(name, reader, batching)
    started = int(time.time())
    routes = [
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.completion, methods=["POST"]),
        Route("/v1/models", lambda request: JSONResponse(models([name], started))),
        Route("/health", lambda request: JSONResponse({"status": "ok"})),
        Route("/metrics", lambda request: Response(counts.page(), media_type="text/plain; version=0.0.4")),
    ]
    handlers = {Refused: _refused, HTTPException: _elsewhere}
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]


async def _refused(request: Request, refused: Refused) -> Response:
    return refused.response


async def _elsewhere(request: Request, found: HTTPException) -> Response:
    return error(found.status_code, f"{request.method} {request.url.path}: {found.detail}", "not_found")


class _Server:
    def __init__(self, name: str, reader: Reader, batching: Batching) -> None:
        self._name, self._reader, self._batching = name, reader, batching

    async def chat(self, request: Request) -> Response:
        given = await body(request)
        return await self._answer(request, given, Answer("chat", self._name), self._reader.chat(given))

    async def completion(self, request: Request) -> Response:
        given = await body(request)
        return await self._answer(request, given, Answer("text", self._name), self._reader.completion(given))

    async def _answer(self, request: Request, given: Json, answer: Answer, prompts: Sequence[Prompt]) -> Response:
        if given.get("stream") not in (None, True, False):
            raise Refused(400, "'stream' must be true or false.", "invalid_type", "stream")
        pieces = self._batching.pieces(prompts)
        asked = sum(len(prompt.tokens) for prompt in prompts[:: given.get("n") or 1])
        if not given.get("stream"):
            whole = await unless_left(request, _whole(pieces, answer, len(prompts), asked))
            return _LEFT if whole is None else JSONResponse(whole)
        first = await unless_left(request, anext(pieces))  # until there is one, an error is still an error's status
        if first is None:
            await pieces.aclose()
            return _LEFT
        return Events(_events(first, pieces, answer, asked if wants_usage(given) else None))


async def _whole(pieces: AsyncGenerator[Piece, None], answer: Answer, choices: int, asked: int) -> Json:
    """The answer once it is complete."""
    texts: list[list[str]] = [[] for _ in range(choices)]
    reasons = [""] * choices
    tokens = 0
    try:
        async for piece in pieces:
            texts[piece.choice].append(piece.text)
            tokens += piece.tokens
            reasons[piece.choice] = piece.finish or ""
    finally:
        await pieces.aclose()
    done = [Choice("".join(text), reason) for text, reason in zip(texts, reasons, strict=True)]
    return answer.whole(done, usage(asked, tokens))


async def _events(
    first: Piece, pieces: AsyncGenerator[Piece, None], answer: Answer, asked: int | None
) -> AsyncGenerator[bytes, None]:
    """The answer as it comes; `asked` are the tokens of its prompts where its usage is wanted."""
    seen: set[int] = set()
    tokens = 0
    try:
        piece: Piece | None = first
        while piece is not None:
            tokens += piece.tokens
            if events := _sent(piece, answer, seen):
                yield events
            piece = await anext(pieces, None)
    except Refused as refused:
        yield refused.event
        return
    finally:
        await pieces.aclose()
    if asked is not None:
        yield event(answer.closing(usage(asked, tokens)))
    yield DONE


def _sent(piece: Piece, answer: Answer, seen: set[int]) -> bytes:
    """The events of one piece: who speaks before the first of its choice, its text, its end."""
    events = []
    if piece.choice not in seen:
        seen.add(piece.choice)
        events.append(answer.opening(piece.choice))
    if piece.text:
        events.append(answer.piece(piece.text, piece.choice))
    if piece.finish:
        events.append(answer.ending(piece.finish, piece.choice))
    return b"".join(event(each) for each in events if each is not None)
