"""How an error is put for whoever asked: as OpenAI, the Open Inference Protocol or Anthropic has it, as an event too."""

import msgspec

from headrace.gateway.openai import Refusal
from headrace.gateway.paths import Route

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",  # Anthropic's own status for it is 529; its clients try again after either
    504: "timeout_error",
    529: "overloaded_error",
}


def envelope(refusal: Refusal, route: Route | None) -> bytes:
    """The JSON body of an answer on `route`, or on none that is known."""
    if route is not None and route.errors == "anthropic":
        return _anthropic(refusal)
    return refusal.envelope(plain=route is not None and route.plain_errors)


def error_event(refusal: Refusal, route: Route) -> bytes:
    """The same as a server-sent event, for a stream that has begun without a word of its answer."""
    if route.errors == "anthropic":
        return b"event: error\ndata: " + _anthropic(refusal) + b"\n\n"
    if route.errors == "responses":
        return response_error(refusal, 0)
    return refusal.event(plain=route.plain_errors)


def response_error(refusal: Refusal, number: int) -> bytes:
    """The error event of OpenAI's Responses API, the `number`th event of its stream."""
    error = {"type": "error", "code": refusal.code, "message": refusal.message, "param": refusal.param}
    return b"event: error\ndata: " + msgspec.json.encode(error | {"sequence_number": number, "source": refusal.source}) + b"\n\n"


def _anthropic(refusal: Refusal) -> bytes:
    """Anthropic's object; what ours says beyond it stands beside its own two fields."""
    kind = _TYPES.get(refusal.status) or ("api_error" if refusal.status >= 500 else "invalid_request_error")
    more = {"code": refusal.code, "param": refusal.param, "source": refusal.source}
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": refusal.message} | more})
