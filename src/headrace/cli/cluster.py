"""Commands about clusters: parse → call → print. Imports happen in the commands."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import UsageError
from headrace.spec.file import USUAL, lock_of, usual

if TYPE_CHECKING:
    from headrace.clusters import Which
    from headrace.report import UnreachableError
    from headrace.spec.model import Spec

SpecOf = Callable[[argparse.Namespace], "Spec"]
"""The spec that a command line names."""


_LONGEST_WAIT = "30m"


def add(commands: Any, spec: SpecOf, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the command line. `add_url` adds the option for a gateway's address."""
    _apply_parser(commands, spec)
    _diff_parser(commands, spec)
    _delete_parser(commands, spec)
    _why_parser(commands, spec, add_url)
    _import_parser(commands)
    _nodepool_parser(commands, spec)
    _gateway_parser(commands)


def add_cluster(command: argparse.ArgumentParser, file: str = "with --cluster: the file (default headrace.yaml)") -> None:
    """The options by which a command asks a cluster instead of a gateway."""
    command.add_argument("what", nargs="?", metavar="FILE", help=file)
    command.add_argument("--cluster", action="store_true", help="ask the cluster that the file is applied to, not a gateway")
    _add_which(command)


def spec_in_cluster(options: argparse.Namespace, spec: SpecOf) -> "Spec | None":
    """The spec where a cluster is meant, None where a gateway is. Raises UsageError for what belongs to a cluster only."""
    if options.cluster:
        return _spec(options, spec)
    for given, said in ((options.what, "A file"), (options.context, "--context"), (options.kubeconfig, "--kubeconfig")):
        if given:
            raise UsageError(f"{said} is for a cluster.", "Add --cluster; a running gateway is asked by its --url.")
    return None


def status(options: argparse.Namespace, spec: "Spec") -> None:
    """`headrace status --cluster`."""
    from headrace.clusters import graduations, standings
    from headrace.targets.kubernetes.standing import data, table

    found = standings(spec, _which(options))
    if options.json:
        import json

        print(json.dumps({"models": data(found)}, indent=2))
    else:
        print(table(found))
        for record in graduations(spec, _which(options)):
            if not record.over:
                print(f"{record}: {record.reason}")


def logs(options: argparse.Namespace, spec: "Spec") -> dict[str, list[str]]:
    """`headrace logs --cluster`: lines by pod."""
    from headrace import clusters

    return clusters.logs(spec, _which(options), options.model, max(1, options.lines))


def _spec(options: argparse.Namespace, spec: SpecOf) -> "Spec":
    """Unlike `serve`, never a demo: what is named here is changed or removed elsewhere."""
    if not options.what and not usual():
        raise UsageError(f"There is no {USUAL} here.", "Name a file; headrace init writes one.")
    return spec(options)


def _add_which(command: argparse.ArgumentParser) -> None:
    command.add_argument("--context", metavar="NAME", help="a context of the kubeconfig instead of its current one")
    command.add_argument("--kubeconfig", metavar="PATH", help="instead of KUBECONFIG and ~/.kube/config")


def _which(options: argparse.Namespace) -> "Which":
    from headrace.clusters import Which

    return Which(options.kubeconfig, options.context)


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", nargs="?", metavar="FILE|MODEL", help="as for headrace serve (default headrace.yaml)")
    command.add_argument("--machine", help="plan for these machines instead of the file's, as for headrace plan")
    command.add_argument("--offline", action="store_true", help="ask nobody but the cluster: the cache must know the models")
    _add_which(command)


def _apply_parser(commands: Any, spec: SpecOf) -> None:
    command = commands.add_parser(
        "apply",
        help="make a Kubernetes cluster serve a file's models",
        description="Render the file's objects and apply them (server-side, as the field manager headrace), in order. "
        "What the cluster lacks is said before anything is written. Done twice it changes nothing.",
    )
    _add_plan(command)
    command.add_argument(
        "--wait",
        nargs="?",
        const=_LONGEST_WAIT,
        metavar="DURATION",
        help=f"until all models are ready, and say what stands in their way (default {_LONGEST_WAIT})",
    )
    command.add_argument("--dry-run", action="store_true", help="let the server check everything, and write nothing")
    command.add_argument(
        "--prune", "--yes", action="store_true", help="remove objects that the file names no more, without asking; never weights"
    )
    command.add_argument("--weights", action="store_true", help="with --prune: volumes with weights as well")
    command.add_argument("--force", action="store_true", help="take fields from others who have set them")
    command.set_defaults(command=lambda options: _apply(options, spec))


def _diff_parser(commands: Any, spec: SpecOf) -> None:
    command = commands.add_parser(
        "diff",
        help="show what apply would change in the cluster, field by field",
        description="Ask the cluster what apply would change. Exits with 1 when there is something, 0 when not.",
    )
    _add_plan(command)
    command.set_defaults(command=lambda options: _diff(options, spec))


def _delete_parser(commands: Any, spec: SpecOf) -> None:
    command = commands.add_parser(
        "delete",
        help="remove what apply has made from the cluster; weights are kept",
        description="Remove everything of Headrace from the file's namespace, after asking. Volumes with weights and the "
        "namespace stay.",
    )
    command.add_argument("what", nargs="?", metavar="FILE", help="the file (default headrace.yaml)")
    command.add_argument("--yes", action="store_true", help="without asking")
    command.add_argument("--weights", action="store_true", help="volumes with weights as well")
    _add_which(command)
    command.set_defaults(command=lambda options: _delete(options, spec))


def _why_parser(commands: Any, spec: SpecOf, add_url: Callable[[argparse.ArgumentParser], None]) -> None:
    command = commands.add_parser(
        "why",
        help="name the one thing that keeps a model from being ready",
        description="Ask a running gateway, or (with --cluster) the cluster, what stands in the way of a model. Where no gateway "
        "runs here it looks at what a start of the file would stop at: the file, the port, engines, weights, memory.",
    )
    command.add_argument("model", help="a model or an alias")
    add_cluster(command, "the file that is served or applied (default headrace.yaml)")
    add_url(command)
    command.set_defaults(command=lambda options: _why(options, spec))


def _apply(options: argparse.Namespace, spec: SpecOf) -> None:
    from headrace.clusters import Request, apply
    from headrace.rendering import Wish
    from headrace.terminal import Terminal

    seconds = _patience(options)
    wish = Wish(options.machine, offline=options.offline)
    request = Request(wish, seconds, options.dry_run, options.prune, options.weights, options.force)
    print(apply(_spec(options, spec), _which(options), request, Terminal()), end="")


def _patience(options: argparse.Namespace) -> float | None:
    """Seconds to wait. `headrace apply --wait chat.yaml` names a file: argparse takes it for the duration."""
    from headrace.units import parse_duration

    if options.wait is None:
        return None
    try:
        return parse_duration(options.wait)
    except ValueError as error:
        if options.what is not None:
            raise UsageError(f"--wait: {error}") from None
    options.what, options.wait = options.wait, _LONGEST_WAIT
    return parse_duration(_LONGEST_WAIT)


def _diff(options: argparse.Namespace, spec: SpecOf) -> int:
    from headrace.clusters import diff
    from headrace.rendering import Wish
    from headrace.terminal import Terminal

    text, differs = diff(_spec(options, spec), _which(options), Wish(options.machine, offline=options.offline), Terminal())
    print(text, end="")
    return int(differs)


def _delete(options: argparse.Namespace, spec: SpecOf) -> None:
    from headrace.clusters import delete
    from headrace.terminal import Terminal

    print(delete(_spec(options, spec), _which(options), Terminal(), yes=options.yes, weights=options.weights), end="")


def _why(options: argparse.Namespace, spec: SpecOf) -> int:
    """0 when a gateway or the cluster has answered; 69 when nobody serves the model."""
    from headrace.in_the_way import why_text
    from headrace.report import UnreachableError, get

    if options.cluster:
        from headrace.clusters import why

        print(why(_spec(options, spec), _which(options), options.model))
        return 0
    file, options.what = options.what, None
    spec_in_cluster(options, spec)  # refuses what is for a cluster
    try:
        print(why_text(get(options.url, "/admin/status"), options.model))
    except UnreachableError as error:
        return _unserved(options, file, spec, error)
    return 0


def _unserved(options: argparse.Namespace, file: str | None, spec: SpecOf, error: "UnreachableError") -> int:
    """No gateway answers where it was asked: it may listen where the file says, else a start of the file says why."""
    from contextlib import suppress
    from urllib.parse import urlsplit

    from headrace.in_the_way import why_text
    from headrace.report import UnreachableError, get
    from headrace.spec.addresses import GATEWAY, LOOPBACK
    from headrace.terminal import Terminal
    from headrace.unserved import Unserved, why

    what = file or usual()
    if what is None or urlsplit(options.url).hostname not in LOOPBACK:
        raise error
    options.what = what
    asked = Unserved(what, spec(options), lock_of(what))
    if options.url == GATEWAY != asked.address:
        with suppress(UnreachableError):
            print(why_text(get(asked.address, "/admin/status"), options.model))
            return 0
    print(why(asked, options.model, Terminal()))
    return error.exit_code


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


def _gateway_parser(commands: Any) -> None:
    command = commands.add_parser(
        "gateway",
        help="run the gateway in a cluster, over the pods of models that run there",
        description="What pods of the gateway run: it follows the pods behind each model's Service and reloads FILE when it "
        "changes. headrace render writes the file (the ConfigMap of the gateway).",
    )
    command.add_argument("file", metavar="FILE", help="gateway.json, as headrace render writes it")
    command.add_argument("--listen", metavar="HOST:PORT", help="where it listens, instead of gateway.listen")
    command.add_argument("--api", metavar="URL", help="outside of a pod: where kubectl proxy listens (http://127.0.0.1:8001)")
    command.add_argument("--insecure", action="store_true", help="allow listening beyond loopback without keys")
    command.add_argument("--takeover", action="store_true", help="take the place of the gateway that listens there")
    command.set_defaults(command=_gateway)


def _gateway(options: argparse.Namespace) -> None:
    from headrace.cluster_gateway import Options, run
    from headrace.terminal import Terminal

    run(Options(Path(options.file), options.api, options.listen, options.insecure, options.takeover), Terminal())


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
