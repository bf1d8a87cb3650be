"""`headrace graduate --cluster`: parse → call → print. graduate.py has the command."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import UsageError
from headrace.spec.file import USUAL

if TYPE_CHECKING:
    from headrace.control.cluster_record import Record
    from headrace.spec.model import Spec


def add_options(command: argparse.ArgumentParser) -> None:
    """The options for a model in a cluster. `--context` is the model's, so the cluster's has another name here."""
    command.add_argument("what", nargs="?", metavar="FILE", help="with --cluster: the file (default headrace.yaml)")
    command.add_argument("--cluster", action="store_true", help="a model of the cluster that the file is applied to")
    command.add_argument("--kubeconfig", metavar="PATH", help="instead of KUBECONFIG and ~/.kube/config")
    command.add_argument("--kube-context", metavar="NAME", help="a context of the kubeconfig instead of its current one")
    command.add_argument("--start", default="30m", metavar="DURATION", help="the longest start in a cluster (default 30m)")
    command.add_argument("--machine", help="with --cluster: plan for these machines instead of the file's")


def graduate(
    options: argparse.Namespace,
    spec: Callable[[argparse.Namespace], "Spec"],
    aim: dict[str, Any] | None,
    agreed: Callable[[str, str], bool],
) -> int:
    """0 once it is done, and where nothing was begun; 1 when it was rolled back or is left where it stands."""
    from headrace.cluster_graduation import command
    from headrace.cluster_graduation.command import Asked
    from headrace.cluster_graduation.prospect import File
    from headrace.clusters import Which, graduations
    from headrace.control.graduation import Aim, Rules
    from headrace.rendering import Wish
    from headrace.terminal import Terminal
    from headrace.units import asked_duration

    path = Path(options.what or USUAL)
    if not path.is_file():
        raise UsageError(f"There is no {path} here.", "Name the file that was applied: headrace graduate MODEL --cluster FILE")
    options.what = str(path)
    read, which, terminal = spec(options), Which(options.kubeconfig, options.kube_context), Terminal()
    if options.model is None:
        _print(graduations(read, which), options)
        return 0
    made = Aim(options.model, "")
    if aim is not None:
        rules = Rules(**aim["rules"], start_seconds=asked_duration("--start", options.start))
        made = Aim(**{**aim, "rules": rules, "prompts": tuple(aim.get("prompts", ()))})

    def yes() -> bool:
        return options.yes or agreed(f"Move {options.model}, {options.steps} % of the conversations at a time?", "to go ahead")

    asked = Asked(File(path, read), made, which, Wish(options.machine), yes)
    if options.abort:
        record: Record | None = command.abort(asked, terminal)
    elif options.status:
        record = command.status(asked, terminal)
    else:
        record = command.graduate(asked, terminal)
    if record is None:
        unchanged(options)
        return 0
    _print([record], options)
    return 0 if record.phase == "done" else 1


def unchanged(options: argparse.Namespace) -> None:
    """Say that whoever was asked said no."""
    print("Nothing was changed.", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print("null")


def _print(records: "list[Record]", options: argparse.Namespace) -> None:
    from headrace.columns import aligned

    if options.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(records if options.model is None else records[0]), indent=2).decode())
    elif options.model is not None:
        print(_ended(records[0]))
    elif records:
        rows = [("MODEL", "FROM", "TO", "STANDS AT", "HELD BY", "WHY")]
        rows += [(r.aim.model, r.old, r.new, r.phase, r.holder or "nobody", r.reason) for r in records]
        print("\n".join(aligned(rows)))
    else:
        print("No model has graduated there yet. headrace graduate MODEL --to ENGINE --cluster begins.", file=sys.stderr)


def _ended(record: "Record") -> str:
    model = record.aim.model
    if record.phase == "done":
        return f"{model} runs as {record.new}; the file says so. Weights of {record.old} are kept where it had a volume."
    if record.phase == "rolled back":
        return f"{model} runs as {record.old}, as before: {record.reason}."
    if record.holder:
        return f"{model} stands at {record.phase}; {record.holder} carries it out."
    return f"{model} stands at {record.phase}, and nobody carries it out: headrace graduate {model} --cluster does."
