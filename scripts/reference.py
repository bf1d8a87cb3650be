"""Write docs/reference from the code: the spec, the metrics, the commands; with --check, fail when what is there is stale."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headrace import cli
from headrace.gateway.metrics import NAMES
from headrace.lint import texts as rules
from headrace.spec import model, schema
from headrace.units import show_duration

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
EXAMPLE = Path(schema.__file__).with_name("example.yaml")


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with `--check` say which are stale. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a page is stale")
    check = parser.parse_args(arguments).check
    stale = [name for name, text in pages().items() if _read(FOLDER / name) != text]
    for name in stale:
        if check:
            print(f"{FOLDER / name} is stale: run `python scripts/reference.py`.", file=sys.stderr)
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / name).write_text(pages()[name], "utf-8")
    return 1 if check and stale else 0


def pages() -> dict[str, str]:
    """Every page of the folder by its file name."""
    return {
        "spec.md": "\n".join(_page()) + "\n",
        "metrics.md": "\n".join(_metrics()) + "\n",
        "rules.md": "\n".join(rules.page()) + "\n",
        "commands.md": "\n".join(_commands()) + "\n",
        "headrace.schema.json": json.dumps(schema.json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def _page() -> Iterator[str]:
    yield "# headrace.yaml\n"
    yield "Made by `scripts/reference.py` from `src/headrace/spec`: edit there.\n"
    yield "Editors complete and check the file with this first line:"
    yield "`# yaml-language-server: $schema=headrace.schema.json` (see [headrace.schema.json](headrace.schema.json)).\n"
    for path, section in model.SECTIONS.items():
        yield f"## {_title(path)}\n"
        yield f"{(section.__doc__ or '').strip()}\n"
        yield from _table(model.fields(section))
        yield ""
    yield from _later()
    yield "## The commented example\n"
    yield "What `headrace init` writes:\n"
    yield f"```yaml\n{EXAMPLE.read_text('utf-8')}```"


def _metrics() -> Iterator[str]:
    yield "# Metrics\n"
    yield "`GET /metrics` on the gateway, in Prometheus' text format. Made by `scripts/reference.py` from"
    yield "`src/headrace/gateway/metrics.py`: edit there.\n"
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for name in NAMES:
        labels = ", ".join(f"`{label}`" for label in name.labels)
        yield f"| `{name.name}` | {name.kind} | {labels} | {name.help} |"


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "Made by `scripts/reference.py` from `src/headrace/cli/`: edit there.\n"
    for name, command in cli.commands(cli.parser()).items():
        yield f"## headrace {name}\n"
        yield f"{command.description or _help(name)}\n"
        yield "| argument | meaning |"
        yield "|---|---|"
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction):
                yield f"| {_argument(action)} | {action.help} |"
        yield ""


def _help(name: str) -> str:
    """What `headrace --help` says of a command, as a sentence."""
    subparsers = next(action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    text = next(choice.help or "" for choice in subparsers._choices_actions if choice.dest == name)
    return f"{text[:1].upper()}{text[1:]}."


def _argument(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    names = [f"`{name}{value}`" for name in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    return ", ".join(names).replace("|", "\\|")


def _title(path: str) -> str:
    return f"`{path.replace('*', 'NAME')}`" if path else "The file"


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for name, field in fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        yield f"| `{name}` | {_default(name, field)} | {meaning} |"


def _default(name: str, field: FieldInfo) -> str:
    value: Any = field.default
    if value is PydanticUndefined:
        return "needed"
    if value is None or value == () or value == {}:
        return "none"
    if name in ("wait", "drain") and isinstance(value, float):
        return f"`{show_duration(value)}`"
    return "see below" if isinstance(value, BaseModel) else f"`{value}`"


def _later() -> Iterator[str]:
    yield "## Not yet\n"
    yield "Keys of later versions, refused by name in this one:\n"
    for section, keys in model.NOT_YET.items():
        where = f"`{section.replace('*', 'NAME')}`" if section else "the top"
        yield f"- in {where}: {', '.join(f'`{key}`' for key in keys)}"
    yield ""


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
