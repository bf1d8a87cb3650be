"""The command `headrace history`: what was recorded, as a trace for the simulator; decisions, made again."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "history",
        help="write recorded requests as a trace, or make recorded scaling decisions again",
        description="What headrace serve recorded: when requests came and how many tokens they had, never what they said; how "
        "many replicas there were, and why.",
    )
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write the requests as a trace, which headrace simulate reads")
    export.add_argument("file", metavar="FILE", help="where to write: .csv or .parquet")
    replay = actions.add_parser("replay", help="make the recorded scaling decisions again from their numbers, and compare")
    replay.add_argument("model", nargs="?", help="of one model; all when left out")
    for action in (export, replay):
        action.add_argument("--history", metavar="FILE", help="the recording (default: history/history.db in the cache)")
    export.set_defaults(command=_export)
    replay.set_defaults(command=_replay)


def _file(options: argparse.Namespace) -> Path:
    from headrace.control.recording import in_cache
    from headrace.weights.cache import default_root

    return Path(options.history) if options.history else in_cache(default_root())


def _export(options: argparse.Namespace) -> None:
    from headrace.control.replay import export

    count = export(_file(options), Path(options.file))
    print(f"{count} {'request' if count == 1 else 'requests'} written to {options.file}.")


def _replay(options: argparse.Namespace) -> int:
    """1 when a decision comes out otherwise than it was recorded, else 0."""
    from headrace.control.replay import replayed

    count, differ = 0, 0
    for one in replayed(_file(options), options.model):
        count += 1
        if one.again != one.recorded:
            differ += 1
            print(f"{one.model}: {one.recorded} replicas recorded, {one.again} now: {one.reason}")
    print(f"{count} decisions made again, " + (f"{differ} of them otherwise." if differ else "all the same."))
    return 1 if differ else 0
