"""The command `headrace tune`: parse → call → print. Imports happen in the command."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.spec.addresses import GATEWAY

if TYPE_CHECKING:
    from headrace.spec.model import Spec
    from headrace.tuning import Tuned, Wish


SpecOf = Callable[[argparse.Namespace], "Spec"]
LockOf = Callable[[argparse.Namespace], Path | None]


def add(commands: Any, spec: SpecOf, lock: LockOf) -> None:
    """Add the command to the command line; `spec` and `lock` are what it is about, and where decisions on that are kept."""
    command = commands.add_parser(
        "tune",
        help="search the engine and its settings on this hardware for your own load, and keep the winner in the lock",
        description="Starts the real engine with one setting after the other, each under your load, and measures the best by "
        "turns against what is planned and llama.cpp as it comes. The next headrace serve obeys what won.",
    )
    command.add_argument("model", nargs="?", metavar="MODEL", help="the model's name; may be left out when the file has one")
    command.add_argument("--file", dest="what", metavar="FILE", help="the file with it (default ./headrace.yaml, else a demo)")
    _load(command.add_argument_group("the load"))
    _search(command.add_argument_group("the search"))
    _output(command.add_argument_group("the result"))
    command.set_defaults(command=lambda options: _tune(options, spec, lock))


def _load(group: Any) -> None:
    group.add_argument(
        "--for", dest="wanted", default="", metavar="K=V,…",
        help="users=8,prompt=300,output=100,ttft=500ms,tpot=50ms (default: recorded requests, else `for` in the file)",
    )  # fmt: skip
    group.add_argument(
        "--goal", choices=["throughput", "ttft", "tpot"], default="throughput",
        help="most tokens a second (default), the soonest first token, or the least time per token; the limits come first",
    )  # fmt: skip


def _search(group: Any) -> None:
    group.add_argument("--budget", default="10m", metavar="TIME", help="how long it may take in all (default 10m)")
    group.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="SOURCE",
        help="another version of the weights to try: file:./q4_0.gguf",
    )
    group.add_argument("--lossy", action="store_true", help="also try caches of fewer bits, which answer a little worse")
    group.add_argument("--instead", action="store_true", help="stop the running model meanwhile; it is given back in any case")
    default = os.environ.get("HEADRACE_URL", GATEWAY)
    group.add_argument("--url", default=default, help=f"the running gateway (default: HEADRACE_URL, else {GATEWAY})")
    group.add_argument("--force", action="store_true", help="go on although the machine is too noisy to tell")
    group.add_argument("--fresh", action="store_true", help="forget the trials of earlier runs of the same question")
    group.add_argument("--seed", type=int, default=1, help="of the search and of the requests (default 1)")
    group.add_argument("--offline", action="store_true", help="fetch nothing: the cache must have the weights")


def _output(group: Any) -> None:
    group.add_argument("--html", metavar="FILE", help="write the report with its plots: one file that needs nothing else")
    group.add_argument("--json", metavar="FILE", help="write all of it for machines; - prints it instead of the tables")
    group.add_argument("--dry-run", action="store_true", help="do not write the lock")
    group.add_argument("--yes", action="store_true", help="write the lock without asking")


def _tune(options: argparse.Namespace, spec_of: SpecOf, lock_of: LockOf) -> int:
    """0, also when nothing was better; 130 after Ctrl-C."""
    from headrace.terminal import Terminal
    from headrace.tune.page import html
    from headrace.tune.record import encoded
    from headrace.tune.text import shown
    from headrace.tuning import tune

    for name in (options.json, options.html):
        writable(name)
    spec, lock_file, terminal = spec_of(options), lock_of(options), Terminal()
    tuned = tune(spec, lock_file, _wish(options, _served(lock_file)), terminal)
    if options.json and options.json != "-":
        Path(options.json).write_bytes(encoded(tuned.study))
    if options.html:
        Path(options.html).write_text(html(tuned.study), "utf-8")
    print(encoded(tuned.study).decode() if options.json == "-" else shown(tuned.study))
    if tuned.interrupted:
        return 130
    _keep(options, tuned, lock_file, terminal.say)
    return 0


def _keep(options: argparse.Namespace, tuned: "Tuned", lock_file: Path | None, say: Callable[[str], None]) -> None:
    """Write the lock, once that is agreed to."""
    from headrace.terminal import Terminal, agreed
    from headrace.tuning import keep

    winner = tuned.study.verdict.winner
    if winner is None or tuned.lock is None:
        return
    if lock_file is None:
        say(f"No file is served, so nothing keeps it: headrace init writes one. What won: {winner.candidate}")
    elif options.dry_run:
        say(f"{lock_file} was not written (--dry-run).")
    elif options.yes or agreed(f"Replace what {lock_file} plans by {winner.candidate}?"):
        keep(lock_file, tuned, Terminal())
        say("The next headrace serve obeys it; headrace plan --diff says what planning anew would change.")
    else:
        say(f"{lock_file} was not written. Say --yes, or run it again: the trials are kept.")


def _served(lock_file: Path | None) -> str:
    """The file beside the lock, as the history names it."""
    files = (lock_file.absolute().with_suffix(suffix) for suffix in (".yaml", ".yml")) if lock_file else ()
    return next((str(file) for file in files if file.is_file()), "")


def _wish(options: argparse.Namespace, served: str) -> "Wish":
    from headrace.errors import UsageError
    from headrace.plan.intent import Intent, parse
    from headrace.tune.base import Limits
    from headrace.tuning import Wish
    from headrace.units import parse_duration

    try:
        said = parse(options.wanted, Intent())
        budget = parse_duration(options.budget)
    except ValueError as error:
        raise UsageError(f"--for and --budget: {error}.") from None
    given = {part.partition("=")[0].strip() for part in options.wanted.split(",")}
    if "context" in given:
        raise UsageError("--for: context is no part of a load.", "Set it in the file; the load says users, prompt and output.")
    if not 30 <= budget <= 86_400:
        raise UsageError(f"--budget: {options.budget} is not from 30s to 24h.", "Ten minutes find most of what there is.")
    if "users" in given and not 1 <= said.users <= 1024:
        raise UsageError(f"--for: {said.users} users are more than the 1,024 that are tried at once.")
    numbers = {name: getattr(said, name) if name in given else None for name in ("users", "prompt", "output")}
    return Wish(
        model=options.model,
        **numbers,
        goal=options.goal,
        limits=Limits(said.ttft, said.tpot) if given & {"ttft", "tpot"} else None,
        budget=budget,
        weights=tuple(options.weights),
        lossy=options.lossy,
        instead=options.instead,
        url=options.url,
        force=options.force,
        fresh=options.fresh,
        offline=options.offline,
        seed=options.seed,
        served=served,
    )


def writable(name: str | None) -> None:
    """Before minutes of measuring, not after."""
    from headrace.errors import UsageError

    if name and name != "-" and (not Path(name).absolute().parent.is_dir() or Path(name).is_dir()):
        raise UsageError(f"{name} cannot be written: no such folder, or it is one.")
