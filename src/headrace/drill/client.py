"""The drill's requests, and its looks at the gateway."""

import http.client
import json
import os
import re
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

from headrace.drill.base import Asked, End
from headrace.drill.ended import ended
from headrace.errors import UsageError
from headrace.report import get

_SECONDS = 300.0
_LONGEST = 120


def ask(url: str, model: str, prompt: str, tokens: int, began: float, *, stream: bool) -> Asked:
    """One request, to its end. `began` is when the drill began, in monotonic seconds."""
    at = time.monotonic()
    end, words = _ask(url, model, prompt, tokens, stream=stream)
    return Asked(at - began, time.monotonic() - at, end, words, stream)


def row(url: str, model: str) -> dict[str, Any]:
    """What the gateway's status says of a model. Raises HeadraceError."""
    rows: list[dict[str, Any]] = get(url, "/admin/status")["models"]
    for one in rows:
        if model == one["name"]:
            return one
    raise UsageError(f'The gateway has no model "{model}".', f"It has: {', '.join(one['name'] for one in rows)}.")


def want(url: str, model: str, number: str) -> int:
    """Hold a number of replicas, or `auto`; the status of the answer."""
    connection = _connected(url)
    try:
        fields = urlencode({"model": model, "want": number})
        connection.request("POST", "/admin/wanted", fields, _headers("application/x-www-form-urlencoded"))
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def counted(url: str, model: str, name: str) -> int | None:
    """A counter of the gateway's metrics page, None where it cannot be had."""
    connection = _connected(url)
    try:
        connection.request("GET", "/metrics", headers=_headers("text/plain"))
        page = connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    found = re.search(rf'^headrace_{name}{{model="{re.escape(model)}"}} (\S+)$', page, re.MULTILINE)
    return int(float(found[1])) if found else None


def _ask(url: str, model: str, prompt: str, tokens: int, *, stream: bool) -> tuple[End, str]:
    messages = [{"role": "user", "content": prompt}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": tokens, "stream": stream})
    connection = _connected(url)
    try:
        connection.request("POST", "/v1/chat/completions", body, _headers("application/json"))
        answer = connection.getresponse()
        return ended(answer.status, _read(answer), stream=stream)
    except (OSError, http.client.HTTPException) as error:
        return "dropped", f"{type(error).__name__}: {error}"[:_LONGEST]
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read()
    except http.client.IncompleteRead as cut:  # how a stream ends after its error event
        return cut.partial


def _connected(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=_SECONDS)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_SECONDS)


def _headers(kind: str) -> dict[str, str]:
    key = os.environ.get("HEADRACE_KEY", "")
    return {"Content-Type": kind} | ({"Authorization": f"Bearer {key}"} if key else {})
