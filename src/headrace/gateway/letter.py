"""A request as an engine gets it that does not get its client's bytes as they are: under another path, in another protocol."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from headrace.gateway.envelope import error_event
from headrace.gateway.form import FormAsk, renamed
from headrace.gateway.http import Request
from headrace.gateway.openai import Ask, Refusal, rewritten
from headrace.gateway.paths import Kind, Route
from headrace.gateway.translate import generate, through
from headrace.gateway.translate.base import Asked, Translation
from headrace.traffic import Endpoint, Speaks

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange
    from headrace.gateway.served import ServedModel


class Letter(NamedTuple):
    """Request line and headers, the body, and who reads the answer when the client would not understand it."""

    lines: bytes
    body: bytes
    translation: Translation | None


_BY_CHAT: tuple[Kind, ...] = ("messages", "responses")
_CHATS: tuple[Speaks, ...] = ("openai", "tgi")
_TRANSLATED: Mapping[tuple[Kind, Speaks], Callable[[Asked], Translation]] = {
    ("chat", "generate"): generate.translated,
    ("completions", "generate"): generate.translated,
    ("generate", "generate"): generate.checked,
    **{(kind, speaks): through.chat for kind in _BY_CHAT for speaks in _CHATS},
    **{(kind, "generate"): through.generated for kind in _BY_CHAT},
}
_SPOKEN: Mapping[Speaks, str] = {
    "openai": "OpenAI's API, not this; ask /v1/…",
    "tgi": "OpenAI's API, not this; ask /v1/…",
    "v2": "the Open Inference Protocol, not this; ask /v2/models/NAME/infer",
    "generate": "the Open Inference Protocol and Triton's generate, not this",
    "http": "neither OpenAI's API nor the Open Inference Protocol; ask /upstream/NAME/… for its own paths",
}


def last_event(refusal: Refusal, route: Route, sent: Letter | None) -> bytes:
    """What ends a stream that cannot be completed, for the clients of `route`."""
    if sent is not None and isinstance(sent.translation, through.Through):
        return sent.translation.broken(refusal)
    return error_event(refusal, route)


def outgoing(exchange: "Exchange", sent: Letter | None, own: bytes) -> tuple[bytes, bytes]:
    """Head and body for the replica that `exchange` was given, whose `own` header lines are the same for every request."""
    if sent is None:
        head = exchange.request.head
        lines, body = head.lines or head.lines_for_engine(), _as_asked(exchange)
    else:
        lines, body = sent.lines, sent.body
    if exchange.trace is not None:
        lines = exchange.trace.onward(lines)
    return request_head(lines, own, len(body), exchange.request_id), body


def request_head(lines: bytes, own: bytes, length: int, request_id: bytes) -> bytes:
    """The head of a request with a body of `length` bytes: its `lines` (see `RequestHead.lines_for_engine`), the replica's `own`
    (see `Pool.lines`).
    """
    return b"%s%sX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n" % (lines, own, request_id, length)


def _as_asked(exchange: "Exchange") -> bytes:
    """The body, where the engine understands what its client sent, or nearly."""
    endpoint, ask = exchange.endpoint, exchange.ask
    fold = endpoint.folds and not ask.stream and exchange.route.folds
    if exchange.seam is not None and endpoint.continues is not None:
        return exchange.seam.body(exchange.model.there(endpoint, ask.model), endpoint.continues)
    if fold or not ask.sound or endpoint.model_there != ask.model:
        return rewritten(ask, exchange.model.there(endpoint, ask.model), fold=fold)
    return exchange.request.body


def letter(request: Request, ask: Ask, endpoint: Endpoint, model: "ServedModel", identity: str) -> Letter:
    """What the engine at `endpoint` gets. `identity` is the request's. Raises Refusal when it understands nothing like it."""
    head, route = request.head, request.head.route
    assert route
    there, translate = model.there(endpoint, ask.model), _TRANSLATED.get((route.kind, endpoint.speaks))
    known = endpoint.speaks in route.known_by
    translation = None
    if translate is not None:
        asked = Asked(route.kind, ask, there, model.status.context, endpoint.template, identity, datetime.now)
        translation = translate(asked)
    elif not known:
        message = f'Model "{model.name}" has an engine that speaks {_SPOKEN[endpoint.speaks]}.'
        raise Refusal(400, message, "wrong_protocol", param="model")
    if isinstance(ask, FormAsk):
        return Letter(head.lines_to(head.path.encode("latin-1"), json=False), renamed(ask, request.body, there), None)
    if known:
        return Letter(head.lines_to(route.target_for(there), json=False), request.body, translation)
    assert translation
    return Letter(head.lines_to(translation.target, json=True), translation.body, translation)
