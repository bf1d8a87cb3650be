"""What administrators do, on record: who, what, when, and what came of it; a line of JSON each, beside the event loop."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.gateway.line_writer import LineWriter

LONGEST = 300
"""Characters of one value, or of an answer's message, that are kept."""
_BODY_BYTES = 16 * 1024
_ACTIONS = {"/admin/reload": "reload", "/admin/graduations": "graduate", "/admin/graduations/abort": "abort graduation"}
_WANTS = {"stopped": "stop", "asleep": "sleep", "auto": "auto"}


class Audit:
    """The `file`, for its owner only; `say` is told once when it cannot be written, which stops nothing."""

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self._writer: LineWriter | None = None
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = LineWriter(str(file), say, "audit log")
        except OSError as error:
            say(f"What administrators do is not kept: {file} cannot be written: {error.strerror or error}.")

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def note(self, by: str, origin: str | None, action: str, what: Mapping[str, Any], outcome: str) -> None:
        """`by` is who (see `asker`), `origin` the address that it came from."""
        if self._writer is None:
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "by": by, "from": origin, "action": action, "what": dict(what), "outcome": outcome[:LONGEST],
        }  # fmt: skip
        self._writer.write(json.dumps(line).replace("\x7f", "\\u007f").encode() + b"\n")
        self._writer.flush()

    def keys(self, before: Iterable[str], after: Iterable[str]) -> None:
        """Other keys are in force; who changed them stands beside their file (key_store.py)."""
        old, new = set(before), set(after)
        if what := {name: names for name, names in (("added", sorted(new - old)), ("revoked", sorted(old - new))) if names}:
            self.note("whoever changed the keys", None, "keys", what, "in force")


class Audited:
    """The admin application, whose every request that may change something is noted with its outcome."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app, self._audit = app, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        body, said, status = b"", b"", 500

        async def received() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")[: _BODY_BYTES - len(body)]
            return message

        async def sent(message: Message) -> None:
            nonlocal said, status
            status = message.get("status", status)
            said += message.get("body", b"")[: _BODY_BYTES - len(said)]
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            what = _what(body)
            origin = scope["client"][0] if scope["client"] else None
            self._audit.note(asker(scope), origin, _action(scope["path"], what), what, _outcome(status, said))


def asker(scope: Scope) -> str:
    """Who asks: the name of the key, or where they are when nobody is asked for one."""
    account = scope["headrace.account"]
    if account is not None:
        return str(account.key.name)
    address = scope["client"][0] if scope["client"] else ""
    try:
        here = ip_address(address.partition("%")[0])
        mapped = getattr(here, "ipv4_mapped", None)
        return f"someone at {address}" if not (mapped or here).is_loopback else "someone on this machine"
    except ValueError:
        return "someone on this machine"


def _action(path: str, what: Mapping[str, Any]) -> str:
    if path == "/admin/wanted":
        return _WANTS.get(str(what.get("want")), "scale")
    return _ACTIONS.get(path, path[:LONGEST])


def _what(body: bytes) -> dict[str, Any]:
    """What was asked for, in JSON or as a form: plain values only."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=100)) if body.count(b"&") < 100 else {}
    if not isinstance(value, dict):
        return {}
    plain = {name[:LONGEST]: each for name, each in list(value.items())[:20] if isinstance(each, (str, int, float, type(None)))}
    return {name: each[:LONGEST] if isinstance(each, str) else _finite(each) for name, each in plain.items()}


def _finite(value: float | None) -> float | str | None:
    """The number, as text where JSON has none for it: Python reads NaN and 1e999."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _outcome(status: int, said: bytes) -> str:
    """In a word, with the reason where it was refused."""
    if status < 400:
        return "accepted"
    try:
        return f"refused with {status}: {json.loads(said)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"refused with {status}"
