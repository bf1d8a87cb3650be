"""Ask a running gateway what it knows, and print it: `headrace status` and `headrace logs`."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from headrace.columns import aligned
from headrace.errors import HeadraceError
from headrace.units import show_bytes, show_duration

_SECONDS = 10.0
_LONGEST_REASON = 110


class UnreachableError(HeadraceError):
    """There is no gateway at the address, or it does not answer as one."""

    exit_code = 69


def get(url: str, path: str) -> Any:
    """The JSON at `path` of the gateway at `url`. Raises HeadraceError."""
    try:
        with urllib.request.urlopen(url.rstrip("/").removesuffix("/v1") + path, timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise HeadraceError(_message(error)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"No gateway answers at {url}: {reason}.", "Start one with headrace serve, or give its --url."
        ) from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The gateway answered {error.code} {error.reason}."


def status_text(status: dict[str, Any]) -> str:
    """The status as a table of models with their replicas below them."""
    rows: list[tuple[str, ...]] = [("MODEL", "STATE", "TASK", "IN FLIGHT", "WAITING", "REQUESTS", "TOKENS OUT", "MEMORY", "WHY")]
    for model in status["models"]:
        rows.append(_model_row(model))
        rows.extend(_replica_row(replica) for replica in model["replicas"])
    text = "\n".join(aligned(rows))
    aliases = [f"{alias} = {model['name']}" for model in status["models"] for alias in model["aliases"]]
    return text + (f"\n\nAliases: {', '.join(aliases)}" if aliases else "") + ("\n\nDraining." if status["draining"] else "")


def _model_row(model: dict[str, Any]) -> tuple[str, ...]:
    load = model["load"]
    memory = [replica["memory_bytes"] for replica in model["replicas"] if replica["memory_bytes"] is not None]
    return (
        model["name"],
        model["phase"],
        model["task"] or "any",
        f"{sum(load['running'].values())}/{model['slots']}",
        str(load["waiting"]),
        str(load["requests"]),
        str(load["tokens_out"]),
        show_bytes(sum(memory)) if memory else "-",
        _short(model["reason"]),
    )


def _replica_row(replica: dict[str, Any]) -> tuple[str, ...]:
    where = replica["address"] or (f"pid {replica['pid']}" if replica["pid"] else "no process")
    since = show_duration(replica["seconds_in_state"])
    count = replica["restarts"]
    restarts = f", {count} restart{'' if count == 1 else 's'}" if count else ""
    return (
        f"  {replica['name']}",
        replica["state"],
        "",
        f"{replica['in_flight']}/{replica['slots']}",
        "",
        "",
        "",
        "-" if replica["memory_bytes"] is None else show_bytes(replica["memory_bytes"]),
        f"{where}, {since}{restarts}" + (f"; {_short(replica['reason'])}" if replica["reason"] else ""),
    )


def _short(reason: str) -> str:
    """One line that leaves the table readable; --json has it whole."""
    line = reason.splitlines()[0] if reason else ""
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"
