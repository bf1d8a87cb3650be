"""Write docs/reference from the spec's models and example.yaml; with --check, fail when what is there is stale."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

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
        yield from _table(section.model_fields)
        yield ""
    yield from _later()
    yield "## The commented example\n"
    yield "What `headrace init` writes:\n"
    yield f"```yaml\n{EXAMPLE.read_text('utf-8')}```"


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
    yield "Keys and engines of later versions, refused by name in this one:\n"
    for section, keys in model.NOT_YET.items():
        where = f"`{section.replace('*', 'NAME')}`" if section else "the top"
        yield f"- in {where}: {', '.join(f'`{key}`' for key in keys)}"
    engines = [*model.NOT_YET_ENGINES]
    yield f"- engines: {', '.join(f'`{engine}`' for engine in engines)} (now: {', '.join(get_args(model.EngineName))})"
    yield ""


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
