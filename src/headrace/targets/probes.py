"""Asking a server how it is: ready, still loading, or the reason why neither."""

import errno
import json
from dataclasses import dataclass
from typing import Any

from headrace.engines.base import Engine, Probe, Reading
from headrace.targets.http import Answer, ShutDoor, ask, get

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Health:
    """What a server said of itself: `ready`, or `trouble` in words; `loading` is trouble that passes by itself."""

    ready: bool
    loading: bool = False
    unasked: bool = False
    """It is our own fault that we do not know: no verdict on the server."""
    closed: bool = False
    """It accepts no connections, or shuts them without a word: nothing listens there (any more)."""
    trouble: str = ""


async def health(address: str, path: str, timeout: float, key: str | None = None) -> Health:
    """Ready if `GET path` answers 200, loading if 503. Raises nothing."""
    try:
        answer = await get(address, path, timeout, key)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OUT_OF_FILES:
            return Health(ready=False, unasked=True, trouble="it could not be asked: too many files are open here")
        closed = isinstance(error, ConnectionRefusedError | FileNotFoundError | ShutDoor)
        return Health(ready=False, closed=closed, trouble=f"{path} {_cause(error, timeout)}")
    if answer.status == 200:
        return Health(ready=True)
    return Health(ready=False, loading=answer.status == 503, trouble=f"{path} answered {answer.status}")


async def refusal(address: str, probe: Probe, timeout: float, key: str) -> str:
    """Why a request was not answered with 200; empty when it was. Raises nothing."""
    try:
        answer = await ask(address, "POST", probe.path, probe.body, timeout, key)
    except (OSError, ValueError) as error:
        return f"{probe.path} {_cause(error, timeout)}"
    said = answer.body.decode("utf-8", "replace").strip()
    return "" if answer.status == 200 else f"{probe.path} answered {answer.status}: {said[:300]}"


async def any_health(address: str, timeout: float, key: str | None = None) -> Health:
    """Ready if `/health` or, on servers that lack it, `/v1/models` answers 200. Raises nothing."""
    first = await health(address, "/health", timeout, key)
    if first.ready:
        return first
    second = await health(address, "/v1/models", timeout, key)
    return second if second.ready else first


async def model_there(address: str, model: str, timeout: float, key: str | None = None) -> str | list[str]:
    """What the server calls `model`: the same if it is listed or nothing is known, the only one listed; else what it has."""
    try:
        ids = _ids(await get(address, "/v1/models", timeout, key))
    except (OSError, ValueError):
        return model
    if model in ids or not ids:
        return model
    return ids[0] if len(ids) == 1 else ids


async def reading(engine: Engine, address: str, model: str, timeout: float, key: str) -> Reading | None:
    """What the engine's metrics page says; None (unknown, never zero) if it cannot be had or read. Raises nothing."""
    if engine.metrics_path is None:
        return None
    try:
        answer = await get(address, engine.metrics_path, timeout, key)
        return engine.read(answer.body.decode(), model) if answer.status == 200 else None
    except (OSError, ValueError, OverflowError):
        return None


def _ids(answer: Answer) -> list[str]:
    try:
        page: Any = json.loads(answer.body)
    except RecursionError:
        return []
    entries = page.get("data", []) if isinstance(page, dict) else []
    return [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _cause(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"did not answer within {timeout:g}s"
    return f"could not be asked: {getattr(error, 'strerror', None) or error or type(error).__name__}"
