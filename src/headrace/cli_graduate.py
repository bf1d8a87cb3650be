"""The commands `headrace advise`, `graduate` and `drill`: when to move on, moving a model, proving that nothing is dropped."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.errors import UsageError

_POLL_SECONDS = 0.5


def add(commands: Any, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands."""
    _add_advise(commands, add_url)
    _add_drill(commands, add_url)
    command = commands.add_parser(
        "graduate",
        help="move a model to another engine while it serves, and back by itself when that is no good",
        description="Starts the new one beside the old, compares them, shifts traffic in steps and watches errors and speed; "
        "goes back by itself when a guard is broken; then drains the old and keeps the decision in the lock.",
    )
    command.add_argument("model", nargs="?", help="the model; with --status all when left out")
    command.add_argument("--to", metavar="ENGINE", help="openvino, llamacpp, vllm, …")
    command.add_argument("--quantization", metavar="FORMAT", help="another number format of the same weights, such as Q4_K_M")
    command.add_argument("--revision", help="another version of the weights: a commit, tag or package version")
    command.add_argument("--context", type=int, metavar="N", help="tokens per request; as now when left out")
    command.add_argument("--prompts", metavar="FILE", help="prompts to compare answers on, one a line; else made-up ones")
    command.add_argument("--steps", default="1,10,50,100", help="percent of the conversations (default 1,10,50,100)")
    command.add_argument("--answers", type=int, default=20, help="answers of the new one that end a step (default 20)")
    command.add_argument("--patience", default="2m", help="a step ends after so long with fewer (default 2m)")
    command.add_argument("--slower", type=float, default=1.3, help="how many times as long it may take (default 1.3)")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--detach", action="store_true", help="begin it and leave; --status looks later")
    command.add_argument("--status", action="store_true", help="where it stands, watched to its end while it is under way")
    command.add_argument("--abort", action="store_true", help="go back")
    command.add_argument("--json", action="store_true", help="the graduation for machines, once it is over")
    add_url(command)
    command.set_defaults(command=_graduate)


def _graduate(options: argparse.Namespace) -> int:
    """0 once it is done; 1 when it was rolled back."""
    from headrace.report import get, post

    if options.status and options.model is None:
        print(_list(get(options.url, _PATH)["graduations"]))
        return 0
    if options.model is None:
        raise UsageError("Name the model.", "For example: headrace graduate chat --to openvino")
    if options.abort:
        post(options.url, f"{_PATH}/abort", {"model": options.model})
        return _watched(options, seen=0)
    if options.status:
        return _watched(options, seen=0)
    if options.to is None:
        raise UsageError("--to is missing: which engine?", "headrace engines says which are here.")
    aim = _aim(options)
    if not options.yes and not _agreed(options):
        print("Nothing was changed.")
        return 0
    post(options.url, _PATH, aim)
    if options.detach:
        print(f"Begun. headrace graduate {options.model} --status watches it.")
        return 0
    return _watched(options, seen=0)


_PATH = "/admin/graduations"


def _aim(options: argparse.Namespace) -> dict[str, Any]:
    from headrace.units import parse_duration

    try:
        steps = tuple(int(one) for one in options.steps.replace("%", "").split(","))
        patience = parse_duration(options.patience)
    except ValueError as error:
        raise UsageError(f"--steps and --patience are numbers such as 1,10,50,100 and 2m: {error}.") from None
    rules = {"steps": steps, "answers": options.answers, "patience_seconds": patience, "slower": options.slower}
    aim = {"model": options.model, "to": options.to, "rules": rules}
    for name in ("quantization", "revision", "context"):
        if (value := getattr(options, name)) is not None:
            aim[name] = value
    return aim | ({"prompts": _prompts(Path(options.prompts))} if options.prompts else {})


def _prompts(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from None
    if not lines:
        raise UsageError(f"{file} has no prompts.", "Write one a line.")
    return lines[:100]


def _agreed(options: argparse.Namespace) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to ask.", "Say --yes to go ahead.")
    asked = (
        f"Move {options.model} to {options.to}: {options.steps} % of the traffic, back by itself when a guard is broken? [y/N] "
    )
    return input(asked).strip().lower() in ("y", "yes")


def _watched(options: argparse.Namespace, seen: int) -> int:
    """Print what happens until it is over."""
    import json
    import time

    from headrace.report import get

    while True:
        found = [one for one in get(options.url, _PATH)["graduations"] if one["model"] == options.model]
        if not found:
            raise UsageError(f'There was no graduation of "{options.model}" here.')
        one = found[0]
        for row in one["story"][seen:] if not options.json else ():
            print(f"{time.strftime('%H:%M:%S', time.localtime(row['at']))}  {row['said']}", flush=True)
        seen = len(one["story"])
        if one["over"]:
            break
        time.sleep(_POLL_SECONDS)
    if options.json:
        print(json.dumps(one, indent=2))
    elif one["evidence"]:
        print(f"Seen of it: {one['evidence']}.")
    return 0 if one["phase"] == "done" else 1


def _list(graduations: list[dict[str, Any]]) -> str:
    from headrace.columns import aligned

    if not graduations:
        return "No model has graduated here yet. headrace graduate MODEL --to ENGINE begins."
    rows = [("MODEL", "TO", "STANDS AT", "SHARE", "WHY")]
    rows += [(g["model"], g["to"], g["phase"], f"{100 * g['share']:.0f} %", g["reason"]) for g in graduations]
    return "\n".join(aligned(rows))


def _add_advise(commands: Any, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "advise",
        help="say by what was recorded when a model should move on, to what, with which command; or stay",
        description="Judges signals over the recorded history of a running gateway on this machine: each with its numbers, how "
        "sure it is, what to change, what to expect, and the command.",
    )
    command.add_argument("model", nargs="?", help="a model or an alias; all when left out")
    command.add_argument("--window", default="24h", help="how far to look back (default 24h)")
    command.add_argument("--history", metavar="FILE", help="the recording (default: history/history.db in the cache)")
    command.add_argument("--json", action="store_true", help="for machines")
    add_url(command)
    command.set_defaults(command=_advise)


def _advise(options: argparse.Namespace) -> None:
    import time
    from pathlib import Path

    from headrace.advising import advice, data, text
    from headrace.errors import UsageError
    from headrace.report import get
    from headrace.units import parse_duration
    from headrace.weights.cache import default_root

    try:
        seconds = parse_duration(options.window)
    except ValueError as error:
        raise UsageError(f"--window: {error}") from None
    file = Path(options.history) if options.history else Path(default_root(), "history", "history.db")
    found = advice(get(options.url, "/admin/status"), file, options.model, seconds, time.time())
    print(data(found, seconds) if options.json else text(found, seconds))


def _add_drill(commands: Any, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "drill",
        help="prove it on your own set-up: kill, scale and graduate under load, and count what was dropped",
        description="Sends requests without a pause to a running gateway on this machine, kills its replicas (SIGKILL), changes "
        "their number and moves the model to another engine and back meanwhile. Exits with 1 when a request was dropped.",
    )
    command.add_argument("model", help="the model; its clients go on, and share it with the drill")
    command.add_argument("-n", "--requests", type=int, default=200, help="how many at least (default 200)")
    command.add_argument("--clients", type=int, default=4, help="how many at once (default 4)")
    command.add_argument("--tokens", type=int, default=32, help="tokens of each answer (default 32)")
    command.add_argument("--kills", type=int, default=2, help="replicas to kill, one after the other (default 2)")
    command.add_argument("--graduate", metavar="ENGINE", help="move it to this engine, and back")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--json", action="store_true", help="the report for machines")
    add_url(command)
    command.set_defaults(command=_drill)


def _drill(options: argparse.Namespace) -> int:
    """1 when a request was dropped."""
    from headrace.drill import Wish, drill

    if min(options.requests, options.clients, options.tokens) < 1 or options.kills < 0 or options.clients > 256:
        raise UsageError("--requests and --tokens are at least 1, --clients between 1 and 256, --kills at least 0.")
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError("Nobody is there to ask.", "Say --yes to go ahead: a drill kills replicas of the running gateway.")
        if input(f"Kill {options.kills} replicas of {options.model} under load? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    wish = Wish(options.model, options.requests, options.clients, options.tokens, options.kills, graduate=options.graduate)
    report = drill(options.url, wish, lambda said: None if options.json else print(said, flush=True))
    print(report.data() if options.json else report.summary())
    return 1 if report.ends["dropped"] else 0
