"""Write docs/reference/engines.md: what each engine promises, as `tests/contract/engine_matrix.py` declares and the suite found.

It writes only what the last runs of the suite have shown (pytest keeps their outcomes); with --check nothing is written, and it
fails when the page says anything else than the declarations.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "engines.md"
sys.path.insert(0, str(ROOT / "tests" / "contract"))

from behaviours import PROMISES  # noqa: E402
from engine_matrix import COLUMNS, Column, cell  # noqa: E402
from outcomes import KEPT_AS  # noqa: E402
from promises import MARKS, Kept, NotApplicable, Refused  # noqa: E402

OUTCOMES = ROOT / ".pytest_cache" / "v" / KEPT_AS


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with `--check` compare it. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the page is stale")
    check = parser.parse_args(arguments).check
    text = "\n".join(page()) + "\n"
    if PAGE.is_file() and PAGE.read_text("utf-8") == text:
        return 0
    if check:
        print(f"{PAGE} is stale: run the contract suite, then `python scripts/engine_table.py`.", file=sys.stderr)
        return 1
    if unseen := list(not_shown()):
        print("Not written, for these did not pass in the last runs:", *unseen, sep="\n  ", file=sys.stderr)
        return 1
    PAGE.write_text(text, "utf-8")
    return 0


def not_shown() -> Iterator[str]:
    """What is declared and was not seen to be so."""
    found = json.loads(OUTCOMES.read_text("utf-8")) if OUTCOMES.is_file() else {}
    for column in COLUMNS:
        for promised in PROMISES.values():
            outcome = found.get(column.name, {}).get(promised.name, "not run")
            if column.deploy and not isinstance(cell(column, promised), NotApplicable) and outcome != "passed":
                yield f"{column.name}: {promised.name} ({outcome})"


def page() -> Iterator[str]:
    """The lines of the page."""
    yield "# What each engine does\n"
    yield "Made by `scripts/engine_table.py` from `tests/contract/engine_matrix.py`: edit there. Each engine is deployed by"
    yield "Headrace and asked through its gateway. The promises are the functions of `tests/contract/behaviours.py`.\n"
    yield "- **yes**: tested, with the engine itself unless its heading says otherwise."
    yield "- **refused**: it cannot, and who asks is told so. Tested: the status and the words below."
    yield "- **ignored**: it answers as if it had not been asked. Tested, too."
    yield "- **–**: not held to it, for the reason below.\n"
    shown = [column for column in COLUMNS if column.deploy]
    yield "| | | " + " | ".join(column.title for column in shown) + " |"
    yield "|---|---|" + "---|" * len(shown)
    for number, promised in enumerate(PROMISES.values(), 1):
        marks = (MARKS[type(cell(column, promised))] for column in shown)
        yield f"| {number} | {promised.sentence} | " + " | ".join(marks) + " |"
    for column in COLUMNS:
        yield f"\n## {column.title}\n"
        yield f"{column.about}\n"
        yield from reasons(column)


def reasons(column: Column) -> Iterator[str]:
    """Why not, by the numbers of what is not kept; one line for those with the same reason."""
    told: dict[str, list[str]] = {}
    for number, promised in enumerate(PROMISES.values() if column.deploy else (), 1):
        one = cell(column, promised)
        if not isinstance(one, Kept):
            words = f" ({one.status}: “{one.words}”)" if isinstance(one, Refused) else ""
            told.setdefault(f"**{MARKS[type(one)]}**{words}: {one.why}.", []).append(str(number))
    for reason, numbers in told.items():
        yield f"- {', '.join(numbers)} {reason}"


if __name__ == "__main__":
    sys.exit(main())
