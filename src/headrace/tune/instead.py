"""A tune instead of what runs: the model is stopped through the running gateway, and given back however the tune ends."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from headrace.errors import HeadraceError, UsageError
from headrace.report import UnreachableError, get, want
from headrace.tune.store import Stopped
from headrace.units import show_duration

_GONE_SECONDS = 660.0
"""Longest that replicas take to answer what they have (foreground.LONGEST_ANSWER) and end."""
_POLL_SECONDS = 0.25
_TRIES = 3


def served(url: str) -> list[dict[str, Any]]:
    """The rows of the models at the gateway; none where no gateway answers."""
    try:
        rows: list[dict[str, Any]] = get(url, "/admin/status")["models"]
    except UnreachableError:
        return []
    return rows


def running(url: str, model: str) -> dict[str, Any] | None:
    """The row of the model at the gateway; None where no gateway answers or it does not have the model."""
    return next((row for row in served(url) if row["name"] == model), None)


def taken_bytes(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """What the replicas of each model take now; of those that take any."""
    taken = {row["name"]: sum(replica["memory_bytes"] or 0 for replica in row["replicas"]) for row in rows}
    return {name: found for name, found in taken.items() if found}


@contextmanager
def stopped(url: str, model: str, kept: Stopped, say: Callable[[str], None]) -> Iterator[None]:
    """While inside, the model has no replicas. Raises HeadraceError when it cannot be stopped."""
    row = running(url, model)
    if row is None:
        raise UsageError(f"--instead: no gateway at {url} serves {model}.", "Leave it out: then nothing has to be stopped.")
    if not row["replicas"]:
        say(f"{model} has no replicas now: nothing is stopped.")
        yield
        return
    kept.write(url, model)
    try:
        want(url, model, "stopped")
        say(f"{model} is stopped at {url} while its settings are tried; requests for it are refused meanwhile.")
        _until_gone(url, model)
        yield
    finally:
        restore(kept, say)


def restore(kept: Stopped, say: Callable[[str], None]) -> None:
    """Give back what a tune had stopped, this one or one that was killed."""
    left = kept.read()
    if left is None:
        return
    url, model = left
    for attempt in range(_TRIES):
        try:
            want(url, model, "auto")
            say(f"{model} runs again at {url}, as planned.")
            break
        except UnreachableError as error:
            if attempt == _TRIES - 1:
                say(f"{error} It forgets on its next start that {model} was stopped.")
            time.sleep(_POLL_SECONDS)
        except HeadraceError as error:
            say(f"{model} could not be started again at {url}: {error} It is left in {kept.place} for the next tune.")
            return
    kept.clear()


def _until_gone(url: str, model: str) -> None:
    until = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < until:
        row = running(url, model)
        if row is None or not row["replicas"]:
            return
        time.sleep(_POLL_SECONDS)
    raise HeadraceError(f"{model} still has replicas {show_duration(_GONE_SECONDS)} after it was told to stop.")
