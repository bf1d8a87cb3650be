"""Ask a running gateway what it knows, and print it: `headrace status` and `headrace logs`."""

import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from headrace.columns import aligned
from headrace.errors import HeadraceError, plainly
from headrace.units import show_bytes, show_duration

_SECONDS = 10.0
_LONGEST_REASON = 110


class UnreachableError(HeadraceError):
    """There is no gateway at the address, or it does not answer as one."""

    exit_code = 69


class BusyError(HeadraceError):
    """The gateway cannot do that now, or not with what it serves."""

    exit_code = 75


def get(url: str, path: str, key: str | None = None) -> Any:
    """The JSON at `path` of the gateway at `url`; `key` instead of HEADRACE_KEY. Raises HeadraceError."""
    return _asked(url, path, None, key=key)


def post(url: str, path: str, value: Any) -> Any:
    """What the gateway answers to `value` as JSON. Raises HeadraceError."""
    return _asked(url, path, json.dumps(value).encode())


def want(url: str, model: str, wish: str) -> Any:
    """Ask as an administrator for `wish` of a model: a number of replicas, auto, asleep or stopped. Raises HeadraceError."""
    return _asked(url, "/admin/wanted", urlencode({"model": model, "want": wish}).encode(), "application/x-www-form-urlencoded")


def followed(ask: Callable[[], dict[str, Any]], tell: Callable[[dict[str, Any]], None], every_seconds: float) -> dict[str, Any]:
    """Ask again and again, and tell each answer, until what it is about is `over`; the last answer."""
    while True:
        tell(one := ask())
        if one["over"]:
            return one
        time.sleep(every_seconds)


def _asked(url: str, path: str, body: bytes | None, kind: str = "application/json", key: str | None = None) -> Any:
    request = _request(url.rstrip("/").removesuffix("/v1") + path, key)
    if body is not None:
        request.data = body
        request.add_header("Content-Type", kind)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refused(error, url) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        fix = "Start one with headrace serve, or give its --url."
        if isinstance(reason, ssl.SSLCertVerificationError):
            reason = f"its certificate is not believed ({reason.verify_message})"
            fix = "Give the certificates that signed it: --ca FILE, or SSL_CERT_FILE."
        elif isinstance(reason, ssl.SSLError):
            reason = f"TLS failed ({reason.reason or reason})"
            fix = "Does it speak TLS? Without it its address begins with http://."
        raise UnreachableError(f"No gateway answers at {url}: {plainly(reason)}.", fix) from None


def _request(url: str, key: str | None) -> urllib.request.Request:
    """With the key of whoever asks, where there is one; from the environment, for command lines are read by others."""
    key = os.environ.get("HEADRACE_KEY", "") if key is None else key
    return urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})


def _refused(error: urllib.error.HTTPError, url: str) -> HeadraceError:
    if error.code in (401, 403):
        return HeadraceError(
            f"The gateway answered {error.code}: it wants a key made with headrace key add --admin, in HEADRACE_KEY."
        )
    try:
        said = json.load(error)["error"]
        message = str(said["message"]) if "source" in said else None  # other servers have errors too
    except (ValueError, KeyError, TypeError):
        message = None
    if message is None:
        return UnreachableError(
            f"What answers at {url} is no gateway of Headrace: {error.code} {error.reason}.", "Is it the address, --url?"
        )
    return (BusyError if error.code == 409 else HeadraceError)(message)


def status_text(status: dict[str, Any]) -> str:
    """The status as a table of models with their replicas below them."""
    rows: list[tuple[str, ...]] = [("MODEL", "STATE", "TASK", "IN FLIGHT", "WAITING", "REQUESTS", "TOKENS OUT", "MEMORY", "WHY")]
    for model in status["models"]:
        rows.append(_model_row(model))
        rows.extend(_replica_row(replica) for replica in model["replicas"])
    text = "\n".join(aligned(rows))
    aliases = [f"{alias} = {model['name']}" for model in status["models"] for alias in model["aliases"]]
    return text + (f"\n\nAliases: {', '.join(aliases)}" if aliases else "") + ("\n\nDraining." if status["draining"] else "")


def decisions_text(decisions: list[dict[str, Any]]) -> str:
    """What changed a number of replicas, the newest last."""
    if not decisions:
        return "No number of replicas has changed yet. Those of models with a range, such as replicas: 0..3, follow the load."
    return "\n".join(aligned([(f"{show_duration(row['ago_seconds'])} ago", row["decision"]) for row in decisions]))


def keys_text(keys: list[dict[str, Any]] | None) -> str:
    """What each key may and took this month."""
    if keys is None:
        return "The gateway asks nobody for a key: gateway.keys in the file says where keys are (docs/keys.md)."
    rows: list[tuple[str, ...]] = [
        ("KEY", "MODELS", "PRIORITY", "NOW", "REQUESTS", "TOKENS IN", "TOKENS OUT", "COST", "REFUSED", "LIMITS")
    ]
    for key in keys:
        limits = ", ".join(f"{name} {limit if isinstance(limit, str) else f'{limit:,}'}" for name, limit in key["limits"].items())
        counts = (key["running"], key["requests"], key["tokens_in"], key["tokens_out"], round(key["cost"], 6))
        role = " (admin)" if key["admin"] else " (metrics)" if key["metrics"] else ""
        models = "none" if key["metrics"] else ", ".join(key["models"]) or "all"
        told = (*map(str, counts), str(sum(key["refused"].values())))
        rows.append((key["name"] + role, models, key["priority"], *told, limits or "none"))
    return "\n".join(aligned(rows)) + "\n\nRequests and tokens of this month (UTC); refused by limits since the gateway started."


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
    where += "".join(f", {uuid} {show_bytes(size)}" for uuid, size in replica.get("gpus", {}).items())
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
