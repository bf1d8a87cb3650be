"""The OpenAI API as the gateway needs it: peek at a request, errors for clients, usage, the list of models.

Shapes after the OpenAI API reference (platform.openai.com/docs/api-reference), as its own Python client reads them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from headrace.gateway.paths import Route

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode
_EMPTY_BYTES = 64  # copying a prompt to look at it would cost more than reading it
TAIL_BYTES = 2048
"""How much of an answer's end is looked through for its usage."""
_TRUE, _FALSE, _NULL = b"true", b"false", b"null"

Source = Literal["gateway", "engine"]


@dataclass(eq=False)
class Refusal(Exception):
    """An answer that is an error: a status and what goes into the envelope."""

    status: int
    message: str
    code: str
    type: str = "invalid_request_error"
    param: str | None = None
    source: Source = "gateway"
    retry_after: int | None = None
    allow: str | None = None
    """The methods that are served, with 405."""
    elsewhere: bool = False
    """An engine's error that says more of the engine than of the request: another replica may answer."""

    def envelope(self, *, plain: bool = False) -> bytes:
        """The JSON body: OpenAI's object, or (`plain`) the Open Inference Protocol's text with the rest beside it."""
        rest = {"type": self.type, "code": self.code, "param": self.param, "source": self.source}
        return _encode({"error": self.message} | rest if plain else {"error": {"message": self.message} | rest})

    def event(self, *, plain: bool = False) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        return b"data: " + self.envelope(plain=plain) + b"\n\n"


@dataclass(slots=True)  # not frozen: that would cost a microsecond per request
class Ask:
    """What the gateway must know of a request; never changed. `fields` are the values of its top level, as they were sent.

    `sound` is False when the body cannot be forwarded as it is, because two readers might see different values in it
    (a key given twice, or spelled with escapes).
    """

    model: str
    stream: bool
    choices: int
    fields: dict[str, msgspec.Raw]
    sound: bool


def peek(route: Route, body: bytes) -> Ask:
    """Read what routing needs from the top level of `body`, which names its model. Raises Refusal."""
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refusal(400, f"The body is not a JSON object: {_short(error)}.", "invalid_json") from None
    model = _value(fields, "model", str) if "model" in fields else None
    if not model:
        raise Refusal(400, 'The body names no model. Add "model"; GET /v1/models lists them.', "missing_model", param="model")
    for needed in route.needs:
        if needed not in fields or (len(fields[needed]) <= _EMPTY_BYTES and not route.may_be_empty and _is_empty(fields[needed])):
            raise Refusal(400, f'"{needed}" is missing or empty.', "missing_required_parameter", param=needed)
    stream = "stream" in fields and _flag(fields["stream"])
    choices = (_value(fields, "n", int) or 1) if "n" in fields else 1
    return Ask(model, stream, choices, fields, _is_sound(fields, body))


def _is_sound(fields: dict[str, msgspec.Raw], body: bytes) -> bool:
    """Whether every reader finds the same values in `body`: no key of the top level is there twice, or spelled with escapes.

    A body as long as its fields written compactly has no room for either: that proof costs the same for any size of prompt.
    """
    if 1 + 4 * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values())) == len(body):
        return True
    return body.count(b'"model"') < 2 and body.count(b'"stream"') < 2 and b"\\u" not in body


def _is_empty(raw: msgspec.Raw) -> bool:
    value = bytes(raw)
    return value in (_NULL, b'""') or (value[:1] == b"[" and not value[1:-1].strip())


def _flag(raw: msgspec.Raw) -> bool:
    text = bytes(raw)
    if text == _TRUE:
        return True
    if text in (_FALSE, _NULL):
        return False
    raise Refusal(400, '"stream" must be true or false.', "invalid_type", param="stream")


def _value(fields: dict[str, msgspec.Raw], name: str, kind: type[Any]) -> Any:
    try:
        return _DECODE[kind](fields[name])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(400, f'"{name}" must be {_KINDS[kind]}.', "invalid_type", param=name) from None


_KINDS = {str: "a string", int: "an integer"}
_DECODE = {kind: msgspec.json.Decoder(kind | None).decode for kind in _KINDS}


def _short(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__


def rewritten(ask: Ask, model: str, *, fold: bool) -> bytes:
    """The body for an engine that knows the model as `model`, or that must stream so that the answer can be folded.

    Values keep their bytes; only the top level is written anew.
    """
    fields = dict(ask.fields)
    fields["model"] = msgspec.Raw(_encode(model))
    if fold:
        fields["stream"] = msgspec.Raw(_TRUE)
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    return _encode(fields)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request, as the engine counted them."""

    tokens_in: int
    tokens_out: int
    cached: int = 0
    """Of those in, the ones that it had cached, where it says so."""


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _UsageFields(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


# Usage objects hold numbers, and objects of numbers: no string in them can hold a brace.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_decode_usage = msgspec.json.Decoder(_UsageFields).decode


class _Answer(msgspec.Struct, gc=False):
    usage: _UsageFields | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def usage_of(body: bytes) -> Usage | None:
    """The usage in a whole answer; None when there is none."""
    if len(body) <= TAIL_BYTES:  # to read so little is cheaper than to look through it
        try:
            found = _decode_answer(body).usage
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        if found is not None:
            return _usage(found)
    return usage_in(body[-TAIL_BYTES:]) or usage_in(body[:TAIL_BYTES])  # embeddings have it in front


def usage_in(tail: bytes) -> Usage | None:
    """The last usage object in `tail`, the end of an answer or of a stream; None when there is none."""
    at = tail.rfind(b'"usage"')
    while at >= 0:
        match = _USAGE.match(tail, at)
        if match is None:  # null, in every event but the last, or cut
            at = tail.rfind(b'"usage"', 0, at)
            continue
        try:
            return _usage(_decode_usage(match[1]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
    return None


def _usage(found: _UsageFields) -> Usage | None:
    if found.prompt_tokens is None:
        return None
    details = found.prompt_tokens_details
    return Usage(found.prompt_tokens, found.completion_tokens or 0, (details and details.cached_tokens) or 0)


def model_list(cards: Iterable[dict[str, Any]]) -> bytes:
    """GET /v1/models."""
    return _encode({"object": "list", "data": list(cards)})


def model_card(name: str, context: int | None, created: int, parent: str | None = None) -> dict[str, Any]:
    """One model, as in OpenAI's list; `max_model_len` and `parent`, the model that an adapter belongs to, as vLLM has them."""
    card: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "headrace"}
    card |= {"max_model_len": context} if context else {}
    return card | {"parent": parent} if parent else card
