"""The commands `headrace bench` and `tune`: parse → call → print. Imports happen in the command."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli import tune, url
from headrace.spec.addresses import GATEWAY

if TYPE_CHECKING:
    from headrace.measure.wish import Wish

_URL = f"{GATEWAY}/v1"


def add(commands: Any, spec: tune.SpecOf, lock: tune.LockOf) -> None:
    """Add the commands to the command line; `spec` and `lock` are what a tune is about, and where decisions on that are kept."""
    tune.add(commands, spec, lock)
    command = commands.add_parser(
        "bench",
        help="measure a running server: latencies, tokens a second, the highest rate within limits",
        description="Measure any OpenAI-compatible server, the gateway here by default. Without a load: 1, 8 and 32 at once. "
        "Latencies of a rate or a trace count from when a request was due, not from when it could be sent.",
    )
    command.add_argument("model", nargs="?", metavar="MODEL", help="may be left out when the server has one")
    default = os.environ.get("HEADRACE_URL", _URL)
    command.add_argument("--url", default=default, help=f"the API's address (default: HEADRACE_URL, else {_URL})")
    url.add_ca(command)
    command.add_argument("--key", default="", metavar="env:NAME", help="the variable that holds the API key")
    command.add_argument(
        "--api", choices=["chat", "completions"], default="chat", help="which of the two is asked (default chat)"
    )
    _load(command.add_argument_group("the load"))
    _requests(command.add_argument_group("the requests"))
    _length(command.add_argument_group("how long"))
    _output(command.add_argument_group("the result"))
    command.set_defaults(command=_bench)


def _load(group: Any) -> None:
    group.add_argument(
        "--concurrency", metavar="N,…", help="closed loop: so many requests at once; several are measured in turn: 1,8,32"
    )
    group.add_argument("--rate", metavar="R,…", help="open loop: requests a second, whatever is answered: 2,4")
    group.add_argument("--arrivals", choices=["poisson", "constant"], default="poisson", help="of --rate (default poisson)")
    kinds = "Azure's, Mooncake's, BurstGPT's, or a CSV with the columns timestamp,input_tokens,output_tokens"
    group.add_argument("--trace", metavar="FILE", help=f"replay a trace: {kinds}, as headrace history export writes it")
    group.add_argument("--speed", metavar="Nx", help="so many times as fast as the trace was (default 1x)")
    group.add_argument("--find-rate", action="store_true", help="search the highest rate that keeps --slo; begins at --rate")
    group.add_argument("--slo", metavar="K=V,…", help="limits of a good answer: ttft=500ms,tpot=50ms,e2e=10s")
    group.add_argument("--share", metavar="P%", help="how many of the requests have to keep the limits (default 95%%)")


def _requests(group: Any) -> None:
    group.add_argument("--prompt", metavar="TOKENS", help="tokens of a prompt, each made for its request (default 512)")
    group.add_argument("--output", metavar="TOKENS", help="tokens of an answer (default 128)")
    group.add_argument("--shared-prefix", metavar="TOKENS", help="so many tokens of a prompt are the same in all")
    group.add_argument("--lengths", metavar="TRACE", help="prompts and answers as long as those of a trace, drawn by chance")
    group.add_argument("--messages", metavar="FILE", help='JSON lines of your own: {"messages": […], "max_tokens": 300}')
    group.add_argument("--context", metavar="TOKENS", help="cut requests to fit (default: what the server says)")


def _length(group: Any) -> None:
    group.add_argument("--duration", metavar="TIME", help="measured time of a load (default 30s; a trace's own)")
    group.add_argument("--requests", type=int, metavar="N", help="stop a load after so many measured requests, if that is sooner")
    group.add_argument("--warmup", metavar="TIME", help="before it, not measured (default 5s; 0s for a trace)")
    group.add_argument("--stall", metavar="TIME", help="give up a request after such a silence (default 60s)")
    group.add_argument("--seed", type=int, default=1, help="of prompts and arrivals (default 1)")


def _output(group: Any) -> None:
    group.add_argument("--json", metavar="FILE", help="write all that was measured; - prints it instead of the table")
    group.add_argument("--html", metavar="FILE", help="write a report with plots: one file that needs nothing else")
    group.add_argument("--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="compare two files of --json, and measure nothing")
    group.add_argument("--strict", action="store_true", help="exit with 1 when a load misses the limits of --slo")


def _bench(options: argparse.Namespace) -> int:
    """0; 1 when --strict is asked for and limits are missed; 69 when nothing was answered; 130 after Ctrl-C."""
    from headrace.errors import UsageError
    from headrace.measure.record import decoded, encoded
    from headrace.measure.text import shown

    if options.compare:
        if options.strict or options.json or options.html:
            raise UsageError("--compare measures nothing: --strict, --json and --html are not for it.", "Leave them out.")
        from headrace.measure.asking import content
        from headrace.measure.compare import compared

        before, after = (decoded(content(name), name) for name in options.compare)
        print(compared(before, after))
        return 0
    from headrace.measure.bench import bench
    from headrace.measure.progress import Progress

    wish = _wish(options)
    if options.strict and wish.slo is None:
        raise UsageError("--strict needs limits that can be missed.", "Add --slo ttft=500ms,tpot=50ms.")
    for name in (options.json, options.html):
        tune.writable(name)
    progress = Progress()
    report = bench(wish, progress.say, progress.tick)
    progress.end()
    if options.json and options.json != "-":
        Path(options.json).write_bytes(encoded(report))
    if options.html:
        from headrace.measure.page import html

        Path(options.html).write_text(html(report), "utf-8")
    print(encoded(report).decode() if options.json == "-" else shown(report))
    return _code(report, strict=options.strict)


def _code(report: Any, *, strict: bool) -> int:
    if report.interrupted:
        return 130
    if not any(stage.ok for stage in report.stages):
        return 69
    missed = report.found_rate is None if report.found else any(s.goodput and not s.goodput.met for s in report.stages)
    return 1 if strict and missed else 0


def _wish(options: argparse.Namespace) -> "Wish":
    from headrace.measure.asking import Options, asked

    given: Any = {name: getattr(options, name) for name in Options.__annotations__}
    return asked(options.url, options.model, _key(options.key), given)


def _key(text: str) -> str:
    from headrace.errors import UsageError

    if not text:
        return ""
    if not text.startswith("env:"):
        raise UsageError("--key: keys do not belong on a command line, where others can read them.", "Write --key env:NAME.")
    value = os.environ.get(text[4:], "")
    if not value or not value.isascii() or not value.isprintable():
        raise UsageError(f"--key: the variable {text[4:]} is empty, not set, or no key.", f"Set it: export {text[4:]}=…")
    return value
