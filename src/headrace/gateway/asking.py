"""Requests of which more must be read than their top level: other protocols, forms with files."""

from collections.abc import Callable, Mapping

import msgspec

from headrace.gateway.form import peek_form
from headrace.gateway.http import Request
from headrace.gateway.openai import Ask, peek
from headrace.gateway.paths import Kind
from headrace.gateway.translate import messages, responses

_READERS: Mapping[Kind, Callable[[Ask, bytes], Ask]] = {"messages": messages.read, "responses": responses.read}
_TWINS = (("prompt", "content"), ("content", "prompt"))


def asked(request: Request) -> Ask:
    """What a request on a route that is `special` asks. Raises Refusal."""
    route = request.head.route
    assert route
    if route.kind == "form":
        return peek_form(request.head.known.get(b"content-type", b""), request.body)
    ask = peek(route, request.body)
    reader = _READERS.get(route.kind)
    return reader(ask, request.body) if reader is not None else _with_twin(ask)


def _with_twin(ask: Ask) -> Ask:
    """Text to be made tokens, under both of its names: vLLM reads `prompt` only, llama.cpp `content`."""
    for given, other in _TWINS:
        if given in ask.fields and other not in ask.fields:
            fields: dict[str, msgspec.Raw] = ask.fields | {other: ask.fields[given]}
            return Ask(ask.model, ask.stream, ask.choices, fields, sound=False)
    return ask
