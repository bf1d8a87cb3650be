"""What can be said of a request by its head: a wrong method, nothing at its path, or a page of a browser that may not be here."""

from headrace.gateway.http import RequestHead, host_is_loopback, origin_allowed
from headrace.gateway.openai import Refusal
from headrace.gateway.paths import SERVED, find

_READ_ONLY = ("/health", "/ready", "/metrics", "/v1/models", "/v2/health/", "/admin/")
_ACTIONS = ("/admin/wanted", "/admin/reload", "/admin/graduations", "/admin/graduations/abort", "/admin/trials")


def judge(head: RequestHead, *, trusted: bool) -> Refusal | None:
    """Why a request is refused, if it is. `trusted` says that a page of any origin may use the gateway, under any name."""
    method, path, headers, route = head.method, head.path, head.headers, head.route
    if head.preflight:
        return _judge_preflight(head)
    if route is not None:
        if method not in route.methods:
            allow = ", ".join(route.methods)
            return Refusal(405, f"{path} is served with {allow}, not {method}.", "method_not_allowed", allow=allow)
        # A page that rebinds its own name to 127.0.0.1 sends no Origin with what only reads.
        local = method == "POST" or host_is_loopback(headers)
        if not trusted and not (local and origin_allowed(headers)):
            return Refusal(403, "Pages of other origins may not use this gateway.", "origin_refused", "permission_error")
    elif not trusted and not (host_is_loopback(headers) and origin_allowed(headers)):
        message = "Only loopback names such as localhost may be used to reach this part of the gateway."
        return Refusal(403, message, "host_refused", "permission_error")
    elif method not in ("GET", "HEAD"):
        if method == "POST" and path in _ACTIONS:
            return None
        if path.startswith(_READ_ONLY):
            return Refusal(405, f"{path} is served with GET, not {method}.", "method_not_allowed", allow="GET, HEAD")
        return nothing_at(path)
    return None


def nothing_at(path: str) -> Refusal:
    """The answer to a path that is not served."""
    return Refusal(404, f"There is nothing at {path[:200]}. Served are {SERVED}.", "not_found", "not_found_error")


def _judge_preflight(head: RequestHead) -> Refusal | None:
    asked = head.known[b"access-control-request-method"].decode("latin-1")
    if not head.cors:
        return Refusal(403, "Pages of other origins may not use this gateway.", "origin_refused", "permission_error")
    return None if head.path.startswith("/v1/models") or find(asked, head.path) else nothing_at(head.path)
