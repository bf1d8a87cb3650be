"""The commands `headrace advise`, `graduate` and `drill`: when to move on, moving a model, proving that nothing is dropped."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.graduate_cluster import add_options, graduate, unchanged
from headrace.errors import HeadraceError, UsageError

if TYPE_CHECKING:
    from headrace.advice.advise import Advice
    from headrace.spec.model import Spec

SpecOf = Callable[[argparse.Namespace], "Spec"]
"""The spec that a command line names."""

_PATH = "/admin/graduations"
_POLL_SECONDS = 0.5


def add(commands: Any, spec: SpecOf, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands. `spec` reads the file that a command line names."""
    _add_advise(commands, spec, add_url)
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
    add_options(command)
    add_url(command)
    command.set_defaults(command=lambda options: _graduate(options, spec))


def _graduate(options: argparse.Namespace, spec: SpecOf) -> int:
    """0 once it is done; 1 when it was rolled back."""
    from headrace.report import post

    if options.cluster:
        if options.model is None and not options.status:
            raise UsageError("Name the model.", "For example: headrace graduate chat --to vllm --cluster")
        if options.detach:
            raise UsageError("--detach is for headrace serve: in a cluster the command itself watches over the move.")
        asks = not (options.status or options.abort)
        return graduate(options, spec, _aim(options) if asks else None, _agreed)
    for given, said in ((options.what, "A file"), (options.kubeconfig, "--kubeconfig"), (options.kube_context, "--kube-context")):
        if given:
            raise UsageError(f"{said} is for a cluster.", "Add --cluster; a running gateway is asked by its --url.")
    if options.status and options.model is None:
        found = _graduations(options.url)
        print(json.dumps(found, indent=2) if options.json else _list(found))
        return 0
    if options.model is None:
        raise UsageError("Name the model.", "For example: headrace graduate chat --to openvino")
    if options.abort:
        post(options.url, f"{_PATH}/abort", {"model": options.model})
    if options.abort or options.status:
        return _watched(options)
    if options.to is None:
        raise UsageError("--to is missing: which engine?", "headrace engines says which are here.")
    aim = _aim(options)
    move = f"Move {options.model} to {options.to}: {options.steps} % of the traffic, back by itself when a guard is broken?"
    if not options.yes and not _agreed(move, "to go ahead"):
        unchanged(options)
        return 0
    begun = post(options.url, _PATH, aim)["graduations"]
    if options.detach:
        said = f"Begun. headrace graduate {options.model} --status watches it."
        print(json.dumps(_of(options.model, begun), indent=2) if options.json else said)
        return 0
    return _watched(options)


def _aim(options: argparse.Namespace) -> dict[str, Any]:
    from headrace.units import parse_duration

    try:
        steps = tuple(int(one) for one in options.steps.replace("%", "").split(","))
        patience = parse_duration(options.patience)
    except ValueError as error:
        raise UsageError(f"--steps and --patience are numbers such as 1,10,50,100 and 2m: {error}.") from None
    rules = {"steps": steps, "answers": options.answers, "patience_seconds": patience, "slower": options.slower}
    aim = {"model": options.model, "to": options.to or "", "rules": rules}
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


def _agreed(question: str, why_yes: str) -> bool:
    from headrace.terminal import agreed, can_ask

    if not can_ask():
        raise UsageError("Nobody is there to ask.", f"Say --yes {why_yes}.")
    return agreed(question)


def _graduations(url: str) -> list[dict[str, Any]]:
    from headrace.report import get

    found: list[dict[str, Any]] = get(url, _PATH)["graduations"]
    return found


def _of(model: str, graduations: list[dict[str, Any]]) -> dict[str, Any]:
    found = next((one for one in graduations if one["model"] == model), None)
    if found is None:
        raise UsageError(f'There was no graduation of "{model}" here.')
    return found


def _watched(options: argparse.Namespace) -> int:
    """Print what happens until it is over."""
    import time

    from headrace.report import followed

    seen = 0

    def asked() -> dict[str, Any]:
        return _of(options.model, _graduations(options.url))

    def told(one: dict[str, Any]) -> None:
        nonlocal seen
        for row in one["story"][seen:] if not options.json else ():
            print(f"{time.strftime('%H:%M:%S', time.localtime(row['at']))}  {row['said']}", flush=True)
        seen = len(one["story"])

    one = followed(asked, told, _POLL_SECONDS)
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


def _add_advise(commands: Any, spec: SpecOf, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "advise",
        help="say by what was recorded when a model should move on, to what, with which command; or stay",
        description="Judges signals over the recorded history of a running gateway on this machine, or over what a Prometheus "
        "has of engines anywhere: each with its numbers, how sure it is, what to change, what to expect, and the command.",
    )
    command.add_argument("model", nargs="?", help="a model or an alias; all when left out")
    command.add_argument("what", nargs="?", metavar="FILE", help="with --prometheus: the file that was applied")
    command.add_argument("--window", help="how far to look back (default: as far as was recorded, 10m at least and 24h at most)")
    command.add_argument("--history", metavar="FILE", help="the recording (default: history/history.db in the cache)")
    command.add_argument("--prometheus", metavar="URL", help="ask this instead; its token is read from PROMETHEUS_TOKEN")
    command.add_argument("--namespace", metavar="NAME", help="with --prometheus: only what runs there")
    command.add_argument("--cluster", action="store_true", help="with --prometheus: read from the cluster how models are set up")
    command.add_argument("--json", action="store_true", help="for machines")
    add_url(command)
    command.set_defaults(command=lambda options: _advise(options, spec))


def _advise(options: argparse.Namespace, spec: SpecOf) -> None:
    import time

    from headrace.advice.text import data, text
    from headrace.units import asked_duration

    seconds = asked_duration("--window", options.window) if options.window else None
    until = time.time()
    asked = _by_prometheus if options.prometheus else _by_history
    found, since = asked(options, spec, until - seconds if seconds else None, until)
    print(data(found, until - since) if options.json else text(found, until - since))


def _by_history(options: argparse.Namespace, spec: SpecOf, since: float | None, until: float) -> "tuple[Advice, float]":
    import os

    from headrace.advice.advise import Here, here, window
    from headrace.report import get
    from headrace.spec.addresses import GATEWAY

    if options.what or options.namespace or options.cluster:
        raise UsageError("A file, --namespace and --cluster are for --prometheus.", "A running gateway is asked by its --url.")
    at = "" if options.url == os.environ.get("HEADRACE_URL", GATEWAY) else f" --url {options.url}"
    gateway = Here(get(options.url, "/admin/status"), Path(options.history) if options.history else None, at)
    since = since or window(gateway, until)
    return here(gateway, options.model, since, until), since


def _by_prometheus(options: argparse.Namespace, spec: SpecOf, since: float | None, until: float) -> "tuple[Advice, float]":
    from headrace.advice.advise import MOST_WINDOW_SECONDS, Question, elsewhere
    from headrace.advice.known import of_cluster, of_file
    from headrace.advice.prometheus import prometheus
    from headrace.targets.kubernetes.client import connect
    from headrace.terminal import Terminal

    if options.what is None and options.model and Path(options.model).suffix in (".yaml", ".yml"):
        options.model, options.what = None, options.model  # argparse takes the file for the model
    server, setup = prometheus(options.prometheus, options.namespace), None
    if options.cluster:
        with connect(None, None) as api:
            setup = of_cluster(api, options.namespace or "default")
    elif options.what:
        setup = of_file(spec(options), options.what)
    since = since or until - MOST_WINDOW_SECONDS
    return elsewhere(server, setup, Question(options.model, since, until), Terminal()), since


def _add_drill(commands: Any, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "drill",
        help="prove it on your own set-up: kill, scale and graduate under load, and count what was dropped",
        description="Sends requests without a pause to a running gateway on this machine, kills its replicas (SIGKILL), changes "
        "their number, rolls them, lets another model take their memory, and moves the model to another engine and back "
        "meanwhile. Exits with 1 when a request was dropped.",
    )
    command.add_argument("model", help="the model; its clients go on, and share it with the drill")
    command.add_argument("-n", "--requests", type=int, default=200, help="how many at least (default 200)")
    command.add_argument("--clients", type=int, default=4, help="how many at once (default 4)")
    command.add_argument("--tokens", type=int, default=32, help="tokens of each answer (default 32)")
    command.add_argument("--kills", type=int, default=2, help="replicas to kill, one after the other (default 2)")
    command.add_argument("--graduate", metavar="ENGINE", help="move it to this engine, and back")
    command.add_argument("--swap", metavar="MODEL", help="ask this model, which takes its place in memory for a while")
    command.add_argument("--roll", action="store_true", help="replace its replicas one after the other, and back")
    command.add_argument("--reload", metavar="FILE", help="read this version of the served file, then the served one again")
    command.add_argument("--patience", default="30m", help="how long a reload or a move may take (default 30m)")
    command.add_argument("--report", metavar="FILE", help="write a picture of it: a page that needs nothing else (.html)")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--json", action="store_true", help="the report for machines")
    add_url(command)
    command.set_defaults(command=_drill)


def _drill(options: argparse.Namespace) -> int:
    """1 when a request was dropped."""
    from headrace.drill.base import Wish
    from headrace.drill.picture import html
    from headrace.drill.run import drill

    if min(options.requests, options.clients, options.tokens) < 1 or options.kills < 0 or options.clients > 256:
        raise UsageError("--requests and --tokens are at least 1, --clients between 1 and 256, --kills at least 0.")
    kill = f"Kill {options.kills} replicas of {options.model} under load?"
    if not options.yes and not _agreed(kill, "to go ahead: a drill kills replicas of the running gateway"):
        unchanged(options)
        return 0
    wish = Wish(
        options.model,
        options.requests,
        options.clients,
        options.tokens,
        options.kills,
        roll=options.roll,
        swap=options.swap,
        reload=options.reload,
        graduate=options.graduate,
        patience_seconds=_patience(options.patience),
    )
    report = drill(options.url, wish, lambda said: None if options.json else print(said, flush=True))
    print(report.data() if options.json else report.summary())
    if options.report:
        _written(Path(options.report), html(report))
    return 1 if report.ends["dropped"] else 0


def _patience(text: str) -> float:
    from headrace.units import asked_duration

    if (seconds := asked_duration("--patience", text)) <= 0:
        raise UsageError("--patience is more than nothing.", "For example: --patience 30m")
    return seconds


def _written(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise HeadraceError(f"{file} cannot be written: {error.strerror or error}.") from None
