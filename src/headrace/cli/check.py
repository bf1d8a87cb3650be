"""`headrace check` and `headrace explain`: parse → call → print. Imports happen in the commands."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the commands to the command line."""
    _check_parser(commands)
    _explain_parser(commands)


def _check_parser(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="find what is wrong in serving set-ups: ours, Kubernetes manifests, compose files, scripts",
        description="Find what will not work, or will hurt, in headrace.yaml and in other people's manifests. "
        "Exits with 1 when there is an error or a warning, 0 when there is none, 64 when it cannot do what was asked.",
    )
    command.add_argument("paths", nargs="*", default=["."], metavar="PATH", help="files and folders, or - (default: this folder)")
    command.add_argument("--fix", action="store_true", help="write the fixes that are safe into the files, and check again")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="for programs")
    form.add_argument("--sarif", dest="form", action="store_const", const="sarif", help="SARIF 2.1.0, for code scanning")
    form.add_argument("--github", dest="form", action="store_const", const="github", help="annotations of GitHub Actions")
    command.add_argument(
        "--severity", choices=["error", "warning", "info"], default="info", help="the least that is shown (default info)"
    )
    command.add_argument(
        "--ignore", action="append", default=[], metavar="HR101,…", help="rules to leave out; in a file: # headrace: ignore HR101"
    )
    command.add_argument("--baseline", metavar="FILE", help="leave out the findings that are in it")
    command.add_argument("--write-baseline", metavar="FILE", help="write the findings of now as a baseline")
    command.set_defaults(command=_check)


def _explain_parser(commands: Any) -> None:
    command = commands.add_parser(
        "explain", help="say what a rule of headrace check is about: why, evidence, a bad and a good example"
    )
    command.add_argument("code", metavar="HR101", help="the code of a rule")
    command.set_defaults(command=_explain)


def _check(options: argparse.Namespace) -> int:
    """1 when there is an error or a warning, else 0."""
    from headrace.checking import Wish, checked

    text, code = checked(
        Wish(
            paths=tuple(options.paths),
            form=options.form or "text",
            fix=options.fix,
            least=options.severity,
            ignored=tuple(options.ignore),
            baseline=Path(options.baseline) if options.baseline else None,
            write_baseline=Path(options.write_baseline) if options.write_baseline else None,
        )
    )
    if text:
        print(text)
    return code


def _explain(options: argparse.Namespace) -> None:
    from headrace.checking import explained

    print(explained(options.code))
