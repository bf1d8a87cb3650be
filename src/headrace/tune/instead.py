"""A tune instead of what runs: the model is stopped through the running gateway, and given back however the tune ends."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from headrace.control.wishes import ASLEEP, AUTO, STOPPED
from headrace.errors import HeadraceError, UsageError
from headrace.report import UnreachableError, get, want
from headrace.tune.store import Left, Stopped
from headrace.units import show_duration

_GONE_SECONDS = 660.0
"""Longest that replicas take to answer what they have (foreground.LONGEST_ANSWER) and end."""
_HEARD_SECONDS = 10.0
"""Longest that control takes to hear what is asked of it."""
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
    """While inside, the model has no replicas, and no request starts one. Raises HeadraceError when it cannot be stopped."""
    row = running(url, model)
    if row is None:
        raise UsageError(f"--instead: no gateway at {url} serves {model}.", "Leave it out: then nothing has to be stopped.")
    if "wish" not in row:
        raise HeadraceError(
            f"The gateway at {url} is of an earlier Headrace, which does not tell what to give back.", "Restart it."
        )
    if row["wish"] == STOPPED:
        say(f"{model} is stopped already at {url}, and stays so.")
        _until_gone(url, model)
        yield
        return
    left = Left(url, model, row["wish"])
    kept.write(left)
    try:
        _stop(left, kept)
        say(f"{model} is stopped at {url} while its settings are tried; requests for it are refused meanwhile.")
        reason = _until_gone(url, model)
        with suppress(HeadraceError):  # a full disk: what is kept gives it back as well
            kept.write(replace(left, reason=reason))
        yield
    finally:
        restore(kept, say)


def restore(kept: Stopped, say: Callable[[str], None]) -> None:
    """Give back what a tune had stopped, this one or one that was killed, as it was wished for before."""
    left = kept.read()
    if left is None:
        return
    for attempt in range(_TRIES):
        try:
            say(_given_back(left))
            break
        except UnreachableError as error:
            if attempt == _TRIES - 1:
                say(f"{error} It forgets on its next start that {left.model} was stopped.")
            time.sleep(_POLL_SECONDS)
        except HeadraceError as error:
            say(f"{left.model} could not be started again at {left.url}: {error} It is left in {kept.place} for the next tune.")
            return
    kept.clear()


def _stop(left: Left, kept: Stopped) -> None:
    try:
        want(left.url, left.model, STOPPED)
    except UnreachableError:  # it may have been heard
        raise
    except HeadraceError:
        kept.clear()
        raise


def _until_gone(url: str, model: str) -> str:
    """Until it is stopped and no replica is left; the gateway's reason for that, which it tells a little after the wish."""
    until = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < until:
        row = running(url, model)
        if row is None:
            return ""
        if row["wish"] == STOPPED and row["phase"] == "failed" and not row["replicas"]:
            return str(row["reason"])
        time.sleep(_POLL_SECONDS)
    raise HeadraceError(f"{model} still has replicas {show_duration(_GONE_SECONDS)} after it was told to stop.")


def _given_back(left: Left) -> str:
    """Ask for what was wished before, unless somebody wishes something else by now; says which. Raises HeadraceError."""
    row = running(left.url, left.model)
    others = row is not None and left.reason and row["reason"] != left.reason  # who asked for the stop is part of it
    if row is not None and others and row["wish"] != left.wish:
        return f"{left.model} is no longer stopped for a tune at {left.url}: what is asked of it by now stays ({row['wish']})."
    wish = _wished(left)
    _until_heard(left)
    how = {AUTO: "runs again, as planned", ASLEEP: "may be woken again"}.get(wish, f"is held at {wish} again")
    return f"{left.model} {how}, at {left.url}."


def _wished(left: Left) -> str:
    """What could be asked for: what is not possible any more since the file changed is forgotten, as without a tune."""
    try:
        want(left.url, left.model, left.wish)
    except UnreachableError:
        raise
    except HeadraceError:
        if left.wish == AUTO:
            raise
        want(left.url, left.model, AUTO)
        return AUTO
    return left.wish


def _until_heard(left: Left) -> None:
    """A tune that follows at once is not to take it for stopped by an administrator."""
    until = time.monotonic() + _HEARD_SECONDS
    while time.monotonic() < until and (row := running(left.url, left.model)) and row.get("wish") == STOPPED:
        time.sleep(_POLL_SECONDS)
