"""HR0xx: files as such, and our own file."""

import re
from collections.abc import Iterator

from headrace.errors import SpecError
from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context
from headrace.lint.parse import Marks, Span
from headrace.spec.load import loads
from headrace.weights.source import parse

_SPEC = "docs/reference/spec.md"


@rule("HR001", "error", "a file that cannot be read", "https://yaml.org/spec/1.2.2/")
def unreadable(context: Context) -> Iterator[Say]:
    """It is not valid YAML, so nothing in it is applied. Other documents of the same file are checked."""
    for one in context.of("trouble"):
        yield Say(one.at, f"It is not valid YAML: {one.at.text}.", "Nothing of this document was checked.")


@rule("HR002", "error", "a key that stands twice", "https://yaml.org/spec/1.2.2/#nodes")
def twice(context: Context) -> Iterator[Say]:
    """Of two equal keys in one mapping most readers take the last without a word, and strict ones refuse the file."""
    for one in context.objects:
        for path, line, column, first in one.at.lines.repeated if isinstance(one.at.lines, Marks) else ():
            marks = Marks()
            marks.spans[()] = Span(line, column, 0, 0, -1, "alias")
            at = At(None, one.at.file, marks)
            yield Say(at, f"{path[-1]} stands twice here, first in line {first}; the last one wins.", "Keep one of them.")


@rule("HR003", "error", "a mistake in headrace.yaml", _SPEC)
def mistakes(context: Context) -> Iterator[Say]:
    """What `headrace serve` and `headrace plan` would refuse as well, all mistakes at once."""
    for one in context.of("headrace"):
        try:
            loads(context.texts[one.at.file], one.at.file, parse)
        except SpecError as error:
            for mistake in error.mistakes:
                if "$" in context.line(one.at.file, mistake.line):  # filled in later, by a shell or a template
                    continue
                marks = Marks()
                marks.spans[()] = Span(mistake.line, mistake.column, 0, 0, -1, "alias")
                path = f"{mistake.path}: " if mistake.path else ""
                yield Say(At(None, one.at.file, marks), f"{path}{mistake.what}", mistake.fix)


@rule("HR004", "warning", "code from the hub in our own file", "https://docs.vllm.ai/en/latest/usage/security/")
def our_arguments(context: Context) -> Iterator[Say]:
    """Arguments in headrace.yaml are passed on as they are: --trust-remote-code runs Python from the model's repository."""
    for one in context.of("headrace"):
        for _, model in one.at.get("models").items():  # noqa: PERF102 (At, not a dict)
            source = model.get("source").text
            for _, options in model.get("engine").items():  # noqa: PERF102 (At, not a dict)  # noqa: PERF102 (At, not a dict)
                for item in options.get("args").each():
                    if re.match(r"--trust[-_]remote[-_]code", item.text) and "@" not in source:
                        what = "It runs Python code from the model's repository, whatever is there."
                        yield Say(item, what, "Leave it out, or pin the source with @REVISION.")
