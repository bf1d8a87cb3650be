"""docs/import.md: its example is what really happens."""

import re
from pathlib import Path

from headrace.importing.convert import File, convert

PAGE = (Path(__file__).parents[3] / "docs" / "import.md").read_text("utf-8")


def test_the_example_becomes_what_the_page_says() -> None:
    given, wanted, notes = (block for kind, block in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S) if kind in ("yaml", "text"))
    made = convert([File("deployment.yaml", given)])
    assert made.text == wanted
    assert "".join(f"{note}\n" for note in made.notes) == notes
