"""`headrace why` where no gateway runs: what a start would stop at, step by step as `headrace serve` takes them.

Nothing is fetched, started or written.
"""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import psutil

from headrace.elsewhere import Question
from headrace.errors import HeadraceError, PlanError, UsageError, WeightsError
from headrace.planning import plan_here
from headrace.prepare import cache_of, check_installed, here, servable, server_keys, ways_of
from headrace.spec.addresses import host_port, joined
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.weights.source import parse


@dataclass(frozen=True, slots=True)
class Unserved:
    """A file (or a model) that nobody serves, its spec, and where its decisions are kept."""

    what: str
    spec: Spec
    lock: Path | None

    @property
    def address(self) -> str:
        """Where its gateway would listen."""
        host, port = host_port(self.spec.gateway.listen)
        return f"{'https' if self.spec.gateway.tls else 'http'}://{joined(_reachable(host), port)}"


def why(asked: Unserved, model: str, terminal: Terminal) -> str:
    """What stands in the way of a model of the file, else how it is started. Raises UsageError for one that is not in it."""
    name = _named(asked.spec, model)
    try:
        remarks = list(_remarks(asked, name, terminal))
    except HeadraceError as error:
        return f"{name} is not served, and headrace serve {asked.what} would stop: {error}"
    said = (f"{name} is not served: nobody started it.", "Nothing stands in its way.", *remarks)
    return " ".join((*said, f"Run: headrace serve {asked.what}"))


def _named(spec: Spec, model: str) -> str:
    name = spec.aliases.get(model, model)
    if name not in spec.models:
        names = [*spec.models, *spec.aliases]
        near = get_close_matches(model, names, 1)
        raise UsageError(
            f'The file has no model "{model}".', f"Did you mean {near[0]}?" if near else f"It has: {', '.join(names)}."
        )
    return name


def _remarks(asked: Unserved, name: str, terminal: Terminal) -> Iterator[str]:
    """What is to be known although it stands in nobody's way. Raises HeadraceError for what does."""
    spec = asked.spec
    servable(spec)
    server_keys(spec)
    _free(spec.gateway.listen)
    engines_here = here(spec)
    check_installed(spec, engines_here)
    source = spec.models[name].source
    missing = source is not None and not _cached(asked, name)
    if missing:
        yield f"Its weights ({source}) are not here yet: a start fetches them, and so does headrace pull {asked.what}."
    try:
        plan = plan_here(spec, asked.lock, Question(offline=True), terminal)
    except PlanError as error:
        raise PlanError(error.what) from None  # without its word on other machines
    except WeightsError:
        if not missing:
            raise
        return
    planned = next(one for one in plan.models if one.name == name)
    if planned.refused:
        raise HeadraceError(planned.refused)


def _cached(asked: Unserved, name: str) -> bool:
    model = asked.spec.models[name]
    source, cache = parse(model.source or ""), cache_of(asked.spec)
    if source.kind == "file":
        return True  # planning says what is wrong with it
    for formats in ways_of(model, here(asked.spec)):
        with contextlib.suppress(WeightsError):
            cache.fetch(source, lambda progress: None, formats=formats, offline=True)
            return True
    return False


def _free(listen: str) -> None:
    """Raises HeadraceError when another program listens there."""
    host, port = host_port(listen)
    with contextlib.suppress(OSError), socket.create_connection((_reachable(host), port), timeout=1.0):
        raise HeadraceError(
            f"port {port} of {host} is taken{_holder(port)}.",
            "End that program, or listen elsewhere: gateway.listen in the file, or headrace serve --listen HOST:PORT.",
        )


def _holder(port: int) -> str:
    """` by nginx (pid 7)`, as far as the system tells."""
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                return f" by {psutil.Process(one.pid).name()} (pid {one.pid})"
    return ""


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
