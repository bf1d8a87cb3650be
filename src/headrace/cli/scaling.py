"""The command `headrace simulate`: parse → call → print. Imports happen in the command."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.spec.model import Spec

SpecOf = Callable[[argparse.Namespace], "Spec"]
"""The spec that a command line names."""


def add(commands: Any, spec: SpecOf) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "simulate",
        help="replay a trace through scaling policies before paying for GPUs",
        description="Waiting times, GPU-hours and replicas over time, for our policy and for others, on replicas as planned. "
        "The queue, the routing and the policy are those that serve; replicas and time are made up.",
    )
    command.add_argument("what", nargs="?", metavar="FILE|MODEL", help="as for headrace serve; not needed with --replica")
    command.add_argument(
        "--trace",
        required=True,
        metavar="PATH",
        help="Azure's, Mooncake's or BurstGPT's, or what headrace history export wrote",
    )
    command.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="headrace, keda, keda-rendered, kpa, clairvoyant, fixed:N; several times for several (default: all but fixed)",
    )
    command.add_argument("--machine", help="plan for these machines instead of the file's, as for headrace plan")
    command.add_argument("--model", metavar="NAME", help="which model of the file, and of the trace where that has several")
    command.add_argument("--replicas", metavar="A..B", help="instead of the file's (default 0..8)")
    command.add_argument("--cold-start", metavar="TIME", help="from the decision to its first request (default: estimated)")
    command.add_argument(
        "--replica",
        default="",
        metavar="K=V,…",
        help="how fast one is, instead of the planner's estimate: slots=32,prefill=9000,step=11.6ms,each=0.12ms,gpus=1",
    )
    command.add_argument("--limit", metavar="TIME", help="longest time to the first token (default: the file's, else 2s)")
    command.add_argument("--times", type=int, default=1, metavar="N", help="as many users more, at the same times")
    command.add_argument("--suggest", action="store_true", help="the settings that keep the limit at least cost")
    command.add_argument("--plot", metavar="FILE", help="a picture: .svg, or .html with the table")
    command.add_argument("--json", action="store_true", help="all of it for machines")
    command.add_argument("--offline", action="store_true", help="ask nobody: the cache and the catalogue must know the model")
    command.set_defaults(command=lambda options: _simulate(options, spec))


def _simulate(options: argparse.Namespace, spec: SpecOf) -> None:
    from headrace.simulating import Wish, simulate
    from headrace.terminal import Terminal

    wish = Wish(
        trace=Path(options.trace),
        policies=tuple(options.policy),
        machine=options.machine,
        cold_start=options.cold_start,
        replicas=options.replicas,
        replica=options.replica,
        limit=options.limit,
        times=options.times,
        model=options.model,
        as_json=options.json,
        plot=Path(options.plot) if options.plot else None,
        suggest=options.suggest,
        offline=options.offline,
    )
    named = None if options.replica and options.what is None else spec(options)
    print(simulate(named, wish, Terminal()))
