"""What a rule says, and the table of rules: a code that never changes its meaning, severity, title, evidence, one function."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headrace.importing.base import At
from headrace.lint.parse import span_of

if TYPE_CHECKING:
    from headrace.lint.context import Context

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""error: it will not work, or not as written. warning: it will hurt under load, at a restart or at the next version. info:
pointless or untidy."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of a file that loses nothing: `at` is the value it is about.

    replace: every `old` inside the scalar becomes `new`. set: the scalar becomes `new`. delete: the key or item goes.
    add: the mapping at `at` gets the key `old` with the value `new`.
    """

    how: Literal["replace", "set", "delete", "add"]
    at: At
    old: str = ""
    new: object = None
    count: int = 1
    """Of `delete` in a list: how many items, from this one on."""


@dataclass(frozen=True, slots=True)
class Say:
    """What a rule found: where, the sentence with its numbers, what to do, and how `--fix` does it where that is safe."""

    at: At
    what: str
    fix: str
    edits: tuple[Edit, ...] = ()
    severity: Severity | None = None
    """Where it is not the rule's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, as every output prints it. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    code: str
    severity: Severity
    what: str
    fix: str
    evidence: str
    """A link."""
    about: str = ""
    """The object it is about: `Deployment chat`."""
    edits: tuple[Edit, ...] = ()

    @property
    def sentence(self) -> str:
        return f"{self.what} {self.fix}".strip()

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        return self.file, self.line, self.column, self.code, self.what


Check = Callable[["Context"], Iterator[Say]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `why` is its function's docstring."""

    code: str
    severity: Severity
    title: str
    evidence: str
    check: Check

    @property
    def why(self) -> str:
        return " ".join((self.check.__doc__ or "").split())


RULES: dict[str, Rule] = {}
"""Every rule by its code, filled by importing `headrace.lint.rules`."""


def rule(code: str, severity: Severity, title: str, evidence: str) -> Callable[[Check], Check]:
    """Enter a function into the table of rules."""

    def enter(check: Check) -> Check:
        assert code not in RULES, code
        RULES[code] = Rule(code, severity, title, evidence, check)
        return check

    return enter


def position(at: At) -> tuple[int, int]:
    """Line and column of a value, or of what it would be in."""
    path = at.path
    while path:
        span = span_of(At(None, at.file, at.lines, path))
        if span is not None:
            return span.line, span.column
        path = path[:-1]
    span = span_of(At(None, at.file, at.lines, ()))
    return (span.line, span.column) if span is not None else (at.line, 1)
