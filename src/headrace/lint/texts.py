"""The bad and the good example of each rule, and what `headrace explain` prints of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import headrace.lint.rules  # noqa: F401 (fills the table)
from headrace.lint.base import RULES


@dataclass(frozen=True, slots=True)
class Example:
    """What a rule speaks of, and what it does not; `name` is the file's, where that matters."""

    bad: str
    good: str
    name: str = "example.yaml"


@cache
def examples() -> Mapping[str, Example]:
    """By code; a rule without one is found by the tests."""
    import yaml

    found: dict[str, Example] = {}
    for file in sorted(files("headrace.lint").joinpath("examples").iterdir(), key=lambda each: each.name):
        if file.name.endswith(".yaml"):
            content = yaml.load(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            found |= {code: Example(**entry) for code, entry in content.items()}
    return found


def explanation(code: str) -> Iterator[str]:
    """A rule in full, line by line. Raises KeyError for a code that is none."""
    rule = RULES[code]
    yield f"{rule.code} ({rule.severity}): {rule.title}"
    yield ""
    yield rule.why
    yield ""
    yield f"Evidence: {rule.evidence}"
    example = examples().get(code)
    for title, text in (("Bad", example.bad), ("Good", example.good)) if example else ():
        yield f"\n{title}:\n"
        yield from (f"    {line}" if line else "" for line in text.rstrip("\n").split("\n"))


def page() -> Iterator[str]:
    """The reference page of all rules."""
    yield "# Rules of `headrace check`\n"
    yield "Made by `scripts/reference.py` from `src/headrace/lint/rules`: edit there. How to use them: [Check](../check.md).\n"
    yield "| code | severity | about |"
    yield "|---|---|---|"
    for rule in sorted(RULES.values(), key=lambda each: each.code):
        yield f"| [{rule.code}](#{rule.code.lower()}) | {rule.severity} | {rule.title} |"
    yield ""
    for rule in sorted(RULES.values(), key=lambda each: each.code):
        yield f"## {rule.code}\n"
        yield f"**{rule.severity}: {rule.title}.** {rule.why}\n"
        evidence = rule.evidence if rule.evidence.startswith("http") else f"the repository's {rule.evidence}"
        yield f"Evidence: {f'<{evidence}>' if evidence.startswith('http') else evidence}\n"
        example = examples().get(rule.code)
        for title, text in (("Bad", example.bad), ("Good", example.good)) if example else ():
            yield f"{title}:\n\n```\n{text.rstrip()}\n```\n"
