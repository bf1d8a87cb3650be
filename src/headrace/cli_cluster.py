"""Commands about clusters: parse → call → print. Part of cli.py, which has the others; imports happen in the commands."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.spec.model import Spec

SpecOf = Callable[[argparse.Namespace], "Spec"]
"""The spec that a command line names."""


def add(commands: Any, spec: SpecOf) -> None:
    """Add the commands to the command line."""
    _import_parser(commands)
    _nodepool_parser(commands, spec)


def _import_parser(commands: Any) -> None:
    command = commands.add_parser(
        "import",
        help="turn a Deployment, a KAITO Workspace or a command line into a headrace.yaml",
        description="Print the headrace.yaml for other people's manifests, and on standard error, by line, what was not carried.",
    )
    command.add_argument(
        "paths", nargs="+", metavar="PATH", help="YAML files, folders, shell scripts (.sh), or - for standard input"
    )
    command.set_defaults(command=_import)


def _nodepool_parser(commands: Any, spec: SpecOf) -> None:
    command = commands.add_parser(
        "nodepool",
        help="print the commands that add the machines a file's models need to an AKS cluster",
        description="Print a shell script of `az aks nodepool add` commands, or Karpenter's NodePools. Nothing is run.",
    )
    command.add_argument("what", nargs="?", metavar="FILE|MODEL", help="as for headrace serve")
    command.add_argument(
        "--machine", help="a size instead of the file's: 'azure:Standard_NC24ads_A100_v4 x 4', or azure for the cheapest"
    )
    command.add_argument(
        "--sharing",
        nargs="?",
        const="time-slicing",
        choices=["time-slicing", "mps"],
        help="pack several models onto a GPU, and print how NVIDIA's device plugin and MIG are configured for it",
    )
    command.add_argument("--spot", action="store_true", help="machines that can be taken away, for less")
    command.add_argument("--zones", default="", metavar="1,2", help="availability zones")
    command.add_argument("--karpenter", action="store_true", help="Karpenter's NodePools instead of commands")
    command.add_argument("--offline", action="store_true", help="ask nobody: the cache and the catalogue must know the models")
    command.set_defaults(command=lambda options: _nodepool(options, spec))


def _import(options: argparse.Namespace) -> None:
    from headrace.importing.read import imported
    from headrace.terminal import Terminal

    made, terminal = imported(options.paths), Terminal()
    print(made.text, end="")
    for note in made.notes:
        terminal.say(str(note))
    terminal.say(made.summary)


def _nodepool(options: argparse.Namespace, spec: SpecOf) -> None:
    from headrace.nodepools import Wish, nodepools
    from headrace.terminal import Terminal

    zones = tuple(zone.strip() for zone in options.zones.split(",") if zone.strip())
    wish = Wish(options.machine, options.sharing, options.spot, zones, options.karpenter, options.offline)
    print(nodepools(spec(options), wish, Terminal()), end="")
