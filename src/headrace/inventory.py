"""`headrace engines`: which are here, which version, what each can serve, and how to install the others."""

import json
from collections.abc import Mapping
from difflib import get_close_matches

from headrace.columns import aligned
from headrace.engines import engines
from headrace.engines.base import Engine, Installed
from headrace.environments import how_to_install, installed
from headrace.environments import install as put
from headrace.errors import UsageError
from headrace.terminal import Terminal
from headrace.weights.cache import default_root


def inventory(*, as_json: bool = False) -> str:
    """The list as text or JSON. Nothing is imported or started for it."""
    here = installed(engines(), default_root())
    rows = [_row(engine, here) for engine in engines().values()]
    if as_json:
        return json.dumps(rows, indent=2)
    head = ("engine", "here", "does", "loads", "to install, or to know")
    lines = aligned([head, *((row["name"], _here(row), row["tasks"], row["formats"], _advice(row)) for row in rows)])
    return "\n".join(lines)


def _row(engine: Engine, here: Mapping[str, Installed]) -> dict[str, str]:
    there = here.get(engine.name)
    return {
        "name": engine.name,
        "title": engine.title,
        "version": there.version if there else "",
        "python": there.python if there else "",
        "tasks": ", ".join(engine.tasks),
        "formats": ", ".join(engine.formats),
        "install": how_to_install(engine),
        "note": engine.note,
    }


def _here(row: Mapping[str, str]) -> str:
    return row["version"] or "no"


def _advice(row: Mapping[str, str]) -> str:
    if row["version"]:
        return row["note"] or (f"in {row['python']}" if row["python"] else "")
    return f"{row['install']}{'; ' if row['note'] else ''}{row['note']}"


def install(name: str | None, terminal: Terminal, *, cpu: bool = False) -> None:
    """Install an engine; with `cpu` vLLM's build for CPUs also where there are GPUs. Raises UsageError."""
    engine = engines().get(name or "")
    if engine is None:
        near = get_close_matches(name or "", list(engines()), 1)
        hint = f"Did you mean {near[0]}?" if near else f"Engines: {', '.join(engines())}."
        raise UsageError(f'"{name}" is not an engine.' if name else "Which engine?", hint)
    found = put(engine, default_root(), terminal.say, cpu=cpu)
    terminal.say(f"{engine.title} {found.version} is installed. Write engine: {engine.name}.")
