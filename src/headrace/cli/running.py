"""The commands about a gateway that runs, `headrace status`, `top`, `logs` and `reload`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli import cluster, keys, url

if TYPE_CHECKING:
    from headrace.spec.model import Spec

_POLL_SECONDS = 0.2
_RELOAD = "/admin/reload"
SpecOf = Callable[[argparse.Namespace], "Spec"]


def add(commands: Any, spec_of: SpecOf) -> None:
    """Add the commands; `spec_of` reads what the options name."""
    _add_status(commands, spec_of)
    _add_top(commands)
    _add_logs(commands, spec_of)
    _add_reload(commands)


def _add_status(commands: Any, spec_of: SpecOf) -> None:
    command = commands.add_parser("status", help="show models, replicas, their states, load and reasons")
    cluster.add_cluster(command)
    url.add(command)
    command.add_argument("--json", action="store_true", help="the whole status, for machines")
    command.add_argument("--decisions", action="store_true", help="what changed the number of replicas, and why")
    command.add_argument("--keys", action="store_true", help="what each key may, and took this month")
    command.set_defaults(command=lambda options: _status(options, spec_of))


def _add_top(commands: Any) -> None:
    command = commands.add_parser(
        "top",
        help="watch a running gateway in the terminal: load, waiting, speed, memory, decisions",
        description="Asks once a second, and shows each model with its load, the last decisions, and what keys use. q or Ctrl-C "
        "ends it, arrows scroll. Without a terminal it prints one snapshot. Where the gateway has keys: an administrator's in "
        "HEADRACE_KEY.",
    )
    command.add_argument("--once", action="store_true", help="one snapshot as text, with --json as JSON")
    command.add_argument("--json", action="store_true", help="a JSON object in a line, every second")
    url.add(command)
    command.set_defaults(command=_top)


def _add_logs(commands: Any, spec_of: SpecOf) -> None:
    command = commands.add_parser("logs", help="show what the replicas of a model wrote")
    command.add_argument("model", help="a model, an alias or a replica such as chat-1")
    cluster.add_cluster(command)
    command.add_argument("-n", "--lines", type=int, default=200, help="lines of each replica (default 200)")
    url.add(command)
    command.set_defaults(command=lambda options: _logs(options, spec_of))


def _add_reload(commands: Any) -> None:
    command = commands.add_parser(
        "reload",
        help="let a running gateway read its file again: models come, go and change, and no request is dropped",
        description="Asks the gateway to read the file that it serves again, prints what that changes, and waits until it is so. "
        "A file with mistakes, or that does not fit, changes nothing. Exits with 1 when a model could not be started.",
    )
    command.add_argument("file", nargs="?", metavar="FILE", help="another version of it, in the same folder")
    command.add_argument("--dry-run", action="store_true", help="say what would change; nothing is fetched or changed")
    command.add_argument("--detach", action="store_true", help="begin it and leave; --status looks later")
    command.add_argument("--status", action="store_true", help="the last reload, watched to its end while it is under way")
    command.add_argument("--json", action="store_true", help="the reload for machines, once it is over")
    url.add(command)
    command.set_defaults(command=_reload)


def _status(options: argparse.Namespace, spec_of: SpecOf) -> None:
    from headrace.report import get, status_text

    if spec := cluster.spec_in_cluster(options, spec_of):
        return cluster.status(options, spec)
    if options.decisions:
        return print(_decisions(options))
    if options.keys:
        return print(keys.status(options))
    status = get(options.url, "/admin/status")
    if options.json:
        print(json.dumps(status, indent=2))
    else:
        print(status_text(status))


def _top(options: argparse.Namespace) -> None:
    from headrace.top import live

    if options.json and not options.once:
        live.lines(options.url)
    elif options.once or not live.can_live():
        print(live.once(options.url, as_json=options.json))
    else:
        live.live(options.url)


def _decisions(options: argparse.Namespace) -> str:
    from headrace.report import decisions_text, get

    rows = get(options.url, "/admin/decisions")["decisions"]
    return json.dumps(rows, indent=2) if options.json else decisions_text(rows)


def _logs(options: argparse.Namespace, spec_of: SpecOf) -> None:
    from urllib.parse import quote

    from headrace.report import get

    if spec := cluster.spec_in_cluster(options, spec_of):
        logs = cluster.logs(options, spec)
    else:
        logs = get(options.url, f"/admin/logs/{quote(options.model)}?lines={max(0, options.lines)}")["logs"]
    for replica, lines in logs.items():
        for line in lines:
            print(f"{replica}: {line}" if len(logs) > 1 else line)


def _reload(options: argparse.Namespace) -> int:
    """0 once it is so, or with --detach once it has begun; 1 when a model could not be started; else that of what was wrong."""
    from headrace.report import get, post

    if options.status:
        if get(options.url, _RELOAD)["reload"] is None:
            print("null" if options.json else "The file was not read again yet: headrace reload does.")
            return 0
        return _watched(options)
    wish = {"file": str(Path(options.file).absolute())} if options.file else {}
    begun = post(options.url, _RELOAD, {**wish, "dry_run": options.dry_run})["reload"]
    if options.detach:
        print(json.dumps(begun, indent=2) if options.json else "Begun. headrace reload --status watches it.")
        return 0
    return _watched(options)


def _watched(options: argparse.Namespace) -> int:
    """Print what it changes and what happens until it is over."""
    import sys

    from headrace.report import followed, get
    from headrace.terminal import Terminal

    lines, terminal = 0, Terminal()

    def tell(one: dict[str, Any]) -> None:
        nonlocal lines
        lines += _told(one, lines)
        if one["phase"] == "planning" and one["fetching"]:
            terminal.progress(*one["fetching"])

    one = followed(lambda: get(options.url, _RELOAD)["reload"], (lambda _: None) if options.json else tell, _POLL_SECONDS)
    if options.json:
        print(json.dumps(one, indent=2))
    elif one["error"]:
        print(one["error"], file=sys.stderr)
    else:
        print(_end(one))
    return int(one["exit_code"])


def _told(one: dict[str, Any], told: int) -> int:
    """Print what is new, and say how many lines that were: what changes, once it is decided, then what happened."""
    if one["phase"] in ("reading", "planning") or one["phase"] == "refused":
        return 0
    lines = [*one["changes"], *(row["said"] for row in one["story"][1:])]
    for line in lines[told:]:
        print(line, flush=True)
    return max(0, len(lines) - told)


def _end(one: dict[str, Any]) -> str:
    if not one["changes"]:
        return "Nothing changes: the file asks for what runs."
    if one["dry_run"]:
        return "Nothing was changed (--dry-run)."
    return "Done: the file is in force, in every model." if one["phase"] == "done" else ""
