"""YAML text → plain values that remember where they stand; what YAML itself makes easy to get wrong is found here."""

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from headrace.errors import Mistake

Path = tuple[str | int, ...]

MOST_VALUES = 50_000
"""Values in a document with its anchors expanded: far more than any spec, far less than an alias bomb."""
DEEPEST = 40

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_LOST_BOOLEANS = ("yes", "no", "on", "off")
_SYNTAX = (
    ("mapping values are not allowed", 'has a second ": " where only one can stand.', "Put the value in quotes."),
    ("could not find expected ':'", 'has a key without ": " after it.', "Write `key: value`."),
    ("expected <block end>", "is not indented like the lines it belongs to.", "Align it with them."),
    ("while scanning a quoted scalar", "has a quote that is never closed.", "Close it."),
    ("expected ',' or", "has a bracket that is never closed, or a comma missing.", "Close it."),
    ("undefined alias", "uses an anchor (*name) that is not defined before.", "Define it with &name, or use quotes."),
    ("another document", "begins a second document.", "Keep one; a spec is a single document."),
    ("cannot start any token", "begins with a character that YAML reserves.", "Put the value in quotes."),
    ("special characters are not allowed", "holds a control character.", "Remove it."),
)


class Lines:
    """Positions in a text: offset → line and column, both counted from 1 and always inside the text."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text) if match.end() < len(text))]
        self._last = max(len(text) - 1, 0)

    def position(self, offset: int) -> tuple[int, int]:
        offset = min(max(offset, 0), self._last)
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value begin, as offsets into the text; `raw` is the text of an unquoted value."""

    key: int
    value: int
    raw: str | None = None


@dataclass(slots=True)
class Document:
    """A document's plain value, the place of everything in it, and the mistakes found so far."""

    file: str
    lines: Lines
    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    wrong: set[Path] = field(default_factory=set)
    """Paths whose value is not what was written: nothing more is said about them or what is below."""

    def report(self, path: Path, what: str, fix: str = "", *, at_key: bool = False) -> None:
        """Note a mistake at `path`, or nothing when the value there is known to be wrong."""
        if any(path[:length] in self.wrong for length in range(len(path) + (not at_key))):
            return
        place = self._nearest(path)
        self.report_at(place.key if at_key else place.value, path, what, fix)

    def report_at(self, offset: int, path: Path, what: str, fix: str = "") -> None:
        line, column = self.lines.position(offset)
        dotted = ".".join(str(part) for part in path)
        self.mistakes.append(Mistake(self.file, line, column, one_line(dotted), one_line(what), one_line(fix)))

    def _nearest(self, path: Path) -> Place:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(0, 0))


def read(text: str, file: str) -> Document:
    """The document in `text`, whose lines end in \\n. Raises nothing for what is in it: mistakes are in the answer."""
    document = Document(file, Lines(text))
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            document.value = _Walk(document).value(root, (), (), root.start_mark.index)
    except yaml.YAMLError as error:
        _report_syntax(document, text, error)
    except _TooMuch as error:
        document.report_at(0, (), str(error), "A spec is a few lines; is this the right file?")
    except (ValueError, OverflowError):  # escapes such as "\\UFFFFFFFF", directives with giant numbers
        document.report_at(0, (), "is not valid YAML: an escape or number in it is out of range.")
    except RecursionError:
        document.report_at(0, (), f"is nested deeper than {DEEPEST} levels.", "A spec needs five.")
    return document


def one_line(text: str) -> str:
    """`text` fit for one line of a terminal: control characters escaped, never longer than a screen line or three."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown if len(shown) <= 300 else f"{shown[:297]}..."


class _TooMuch(Exception):
    pass


class _Walk:
    """One pass over the nodes: values out, places and mistakes into the document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.construct = SafeConstructor()
        self.visited = 0

    def value(self, node: yaml.Node, path: Path, above: tuple[int, ...], key: int) -> Any:
        self._bound(node, above)
        here = node.start_mark.index
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        self.document.places[path] = Place(key, here, node.value if plain else None)
        if id(node) in above:
            self.document.report_at(key, path, "contains itself through an anchor.", "Write it out.")
            self.document.wrong.add(path)
            return None
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, (*above, id(node)))
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(n, (*path, i), (*above, id(node)), n.start_mark.index) for i, n in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return self._wrong(node, path, f"has the tag {node.tag}, which a spec does not know.", "Remove it.")

    def _bound(self, node: yaml.Node, above: tuple[int, ...]) -> None:
        self.visited += 1
        if self.visited > MOST_VALUES:
            raise _TooMuch(f"holds more than {MOST_VALUES} values, with its anchors expanded.")
        if len(above) > DEEPEST:
            raise RecursionError

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[int, ...]) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            start = key_node.start_mark.index
            if key_node.tag == _MERGE:
                merged = self._merged(value_node, path, above) | merged
                continue
            name = self._key(key_node, path)
            if name in first:
                self._twice(start, (*path, name), first[name])
            elif name is not None:
                first[name] = start
                own[name] = self.value(value_node, (*path, name), above, start)
        return merged | own

    def _merged(self, node: yaml.Node, path: Path, above: tuple[int, ...]) -> dict[str, Any]:
        """What `<<: *anchor` brings in; of several, earlier ones win, as YAML's merge type says."""
        result: dict[str, Any] = {}
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            self._bound(part, above)
            if id(part) in above or not isinstance(part, yaml.MappingNode):
                self._report(part, path, "merges (<<) something that is not another mapping.", "Write the keys out.")
            else:
                result = self._mapping(part, path, (*above, id(part))) | result
        return result

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag == f"{_TAG}null":
            self._report(node, path, "has a key that is not text.", "Write `key: value`.")
            return None
        text = str(node.value)
        if node.tag not in (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value"):
            kind = {"bool": "a boolean", "int": "a number", "float": "a number"}.get(node.tag.removeprefix(_TAG), "no text")
            self._report(node, (*path, text), f"YAML reads the name {text} as {kind}.", f'Write "{text}" in quotes.')
        return text

    def _twice(self, start: int, path: Path, first: int) -> None:
        line, column = self.document.lines.position(first)
        self.document.report_at(start, path, f"appears twice; first in line {line}, column {column}.", "Keep one of them.")

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value", "merge"):
            return text
        if kind == "null":
            return None
        build = {
            "bool": self.construct.construct_yaml_bool,
            "int": self.construct.construct_yaml_int,
            "float": self.construct.construct_yaml_float,
        }.get(kind)
        try:
            value = build(node) if build else None
        except (ValueError, KeyError, IndexError, OverflowError):
            return self._wrong(node, path, f'"{text[:40]}" is not a number or boolean that can be read.', "Use quotes.")
        if build is None:
            return self._wrong(node, path, f"has the tag {node.tag}, which a spec does not know.", "Remove it.")
        return self._unless_mangled(node, path, text, value)

    def _unless_mangled(self, node: yaml.ScalarNode, path: Path, text: str, value: Any) -> Any:
        """`value`, unless YAML 1.1 makes something of `text` that nobody means."""
        if text.lower() in _LOST_BOOLEANS:
            self._wrong(node, path, f"YAML reads {text} as the boolean {str(value).lower()}.", f'Write "{text}" in quotes.')
        elif ":" in text:
            self._wrong(node, path, f"YAML reads {text} as {value} (base 60).", f'Write 90s or 10m, or "{text}" in quotes.')
        elif isinstance(value, int) and re.fullmatch(r"[-+]?0[0-7_]+", text):
            self._wrong(node, path, f"YAML reads {text} as {value} (octal).", "Write it without the leading zero.")
        return value

    def _report(self, node: yaml.Node, path: Path, what: str, fix: str) -> None:
        self.document.report_at(node.start_mark.index, path, what, fix)

    def _wrong(self, node: yaml.Node, path: Path, what: str, fix: str) -> Any:
        """Report the value of `node`; None, to stand in for it."""
        self._report(node, path, what, fix)
        self.document.wrong.add(path)
        return None


def _report_syntax(document: Document, text: str, error: yaml.YAMLError) -> None:
    offset = _offset(error, len(text.rstrip()))
    if text[offset : offset + 1] == "\t":
        document.report_at(offset, (), "has a tab.", "YAML is indented with spaces.")
        return
    problem = " ".join(str(error).split())
    for part, what, fix in _SYNTAX:
        if part in problem:
            document.report_at(offset, (), what, fix)
            return
    short = str(getattr(error, "problem", None) or problem).split("\n")[0]
    document.report_at(offset, (), f"is not valid YAML: {short}.")


def _offset(error: yaml.YAMLError, end: int) -> int:
    """Where to look: at the problem, or at what was opened and never closed when all of the text was read for it."""
    problem, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    mark = context if context and (problem is None or problem.index >= end) else problem
    offset: int = mark.index if mark else getattr(error, "position", 0)
    return offset
