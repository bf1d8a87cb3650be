"""YAML of anybody → documents whose values know their line, column and offsets, within bounds. Read by libyaml, so it is fast.

Documents are parsed one by one: a mistake in one does not hide the others. Anchors are expanded with a limit on their number.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from headrace.importing.base import At, Path
from headrace.lint.scalars import scalar
from headrace.spec.document import one_line

MOST_VALUES = 200_000
DEEPEST = 80
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DOCUMENT = re.compile(r"^---(?=\s|$)", re.M)


class Span(NamedTuple):
    """Where a value stands, in characters of the file's text: of its key too, where it has one (else -1)."""

    line: int
    """Of the key, where there is one; both count from 1."""
    column: int
    start: int
    end: int
    key: int
    style: str
    """plain, single, double, literal, folded; map and list for blocks, {} and [] for flows; alias."""


class Marks(Mapping[Path, int]):
    """The spans of a document by path; as a mapping the lines, which is what `At` asks for."""

    def __init__(self) -> None:
        self.spans: dict[Path, Span] = {}
        self.repeated: list[tuple[Path, int, int, int]] = []
        """Keys that stand twice: path, line, column, line of the first."""

    def __getitem__(self, path: Path) -> int:
        return self.spans[path].line

    def __iter__(self) -> Iterator[Path]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a document from being read."""

    line: int
    column: int
    what: str
    bound: bool = False
    """Whether it is a limit of ours, and no mistake."""


@dataclass(slots=True)
class Parsed:
    """The documents of a text that could be read, and what is wrong with the others."""

    documents: list[At] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)


def parse(text: str, file: str) -> Parsed:
    """Every document in `text` that holds anything. Offsets are into `text` as it is given."""
    made = Parsed()
    line = last = 0
    for start, end in _chunks(text):
        line, last = line + text.count("\n", last, start), start
        try:
            for root, marks in _roots(text[start:end], start, line):
                made.documents.append(At(root, file, marks))
        except yaml.YAMLError as error:
            made.troubles.append(_trouble(error, line, text.rstrip().count("\n") + 1))
        except _Bound as error:
            made.troubles.append(Trouble(line + 1, 1, str(error), bound=True))
        except (ValueError, OverflowError):
            made.troubles.append(Trouble(line + 1, 1, "an escape or a number in it is out of range"))
    return made


def embedded(outer: At, text: str) -> At | None:
    """The first document inside a literal block (`|`) at `outer`, with places in the file; None when it cannot be read."""
    span = span_of(outer)
    inner = parse(outer.text, outer.file)
    if inner.troubles or not inner.documents:
        return None
    found = inner.documents[0]
    marks = Marks()
    if span is not None and span.style == "literal":
        lines = _literal_lines(text, span, outer.text)
        if lines:
            marks.spans = _moved(_spans(found), lines, outer.text, span.line)
    else:
        marks.spans = {(): Span(outer.line, 1, 0, 0, -1, "alias")}
    return At(found.value, outer.file, marks)


def span_of(at: At) -> Span | None:
    """Where `at` stands; None for what is not there, or came in through an anchor."""
    return at.lines.spans.get(at.path) if isinstance(at.lines, Marks) else None


def _spans(at: At) -> dict[Path, Span]:
    return at.lines.spans if isinstance(at.lines, Marks) else {}


def _literal_lines(text: str, span: Span, content: str) -> list[tuple[int, int]]:
    """Offset and indentation of each line of a literal block's content, by its number; empty when they do not agree."""
    begin = text.find("\n", span.start) + 1
    raw = text[begin : span.end].split("\n")
    wanted = content.split("\n")
    first = next((line for line in raw if line.strip()), "")
    indent = len(first) - len(first.lstrip(" "))
    found: list[tuple[int, int]] = []
    offset = begin
    for line in raw[: len(wanted)]:
        found.append((offset, indent))
        offset += len(line) + 1
    same = all(have[indent:].rstrip("\r") == want for have, want in zip(raw, wanted, strict=False) if have.strip())
    return found if same and len(raw) >= len(wanted) - 1 else []


def _moved(spans: Mapping[Path, Span], lines: list[tuple[int, int]], content: str, first: int) -> dict[Path, Span]:
    starts = [0, *(match.end() for match in re.finditer("\n", content))]

    def outside(offset: int) -> int:
        number = min(bisect_right(starts, offset) - 1, len(lines) - 1)
        return lines[number][0] + lines[number][1] + offset - starts[number]

    return {
        path: Span(
            first + span.line,
            span.column + lines[0][1],
            outside(span.start),
            outside(span.end),
            outside(span.key) if span.key >= 0 else -1,
            span.style,
        )
        for path, span in spans.items()
    }


def _chunks(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each document: a line that begins with `---` ends the one before, wherever it stands."""
    starts = [0, *(match.start() for match in _DOCUMENT.finditer(text) if match.start())]
    begin = 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if text.startswith("%", start) and all(line[:1] in ("", "#", "%") for line in text[start:end].split("\n")):
            begin = start + 1  # directives belong to the document after them
            continue
        yield begin - 1 if begin else start, end
        begin = 0


class _Bound(Exception):
    """A limit of ours was met."""


def _roots(text: str, offset: int, line: int) -> Iterator[tuple[Any, Marks]]:
    try:
        events = list(_bounded(yaml.parse(text, Loader=_LOADER)))
    except yaml.YAMLError as error:
        if "Unicode character escape" not in str(error):  # halves of far characters in JSON: only libyaml minds
            raise
        events = list(_bounded(yaml.parse(text, Loader=yaml.SafeLoader)))
    reader = _Reader(events, offset, line)
    while (found := reader.document()) is not None:
        if found[0] is not None:
            yield found


def _bounded(events: Iterable[Any]) -> Iterator[Any]:
    """As many as MOST_VALUES values can have, keys and ends of collections included."""
    for number, event in enumerate(events):
        if number > 3 * MOST_VALUES:
            raise _Bound(f"it holds more than {MOST_VALUES} values")
        yield event


class _Reader:
    """Builds plain values from events, and notes where each stands."""

    def __init__(self, events: list[Any], offset: int, line: int) -> None:
        self.events = events
        self.place = 0
        self.offset, self.line = offset, line
        self.count = 0
        self.anchors: dict[str, tuple[int, int]] = {}
        """The events of each anchor's value: from, to."""
        self.open: set[str] = set()
        self.quiet = 0
        """Above 0 inside of an alias: what is there stands elsewhere."""
        self.marks = Marks()

    def document(self) -> tuple[Any, Marks] | None:
        while self.place < len(self.events):
            event = self.events[self.place]
            self.place += 1
            if isinstance(event, yaml.DocumentStartEvent):
                self.marks, self.anchors, self.count = Marks(), {}, 0
                return self.value((), -1, 0)[0], self.marks
        return None

    def value(self, path: Path, key: int, depth: int, mark: Any = None) -> tuple[Any, int]:
        """The next value and the offset of its end."""
        event = self.events[self.place]
        self.place += 1
        self.count += 1
        if self.count > MOST_VALUES:
            raise _Bound(f"it holds more than {MOST_VALUES} values, with its anchors expanded")
        if depth > DEEPEST:
            raise _Bound(f"it is nested deeper than {DEEPEST} levels")
        begin = self.place - 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, key, depth, mark)
        value, end, style = self._whole(event, path, depth)
        if event.anchor:
            self.anchors[event.anchor] = (begin, self.place)
        self._note(path, event, end, key, style, mark)
        return value, end

    def _whole(self, event: Any, path: Path, depth: int) -> tuple[Any, int, str]:
        end: int
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            given: Any = event
            style = {"'": "single", '"': "double", "|": "literal", ">": "folded"}.get(given.style or "", "plain")
            return scalar(given), given.end_mark.index + self.offset, style
        anchor = event.anchor
        if anchor:
            self.open.add(anchor)
        mapping = isinstance(event, yaml.MappingStartEvent)
        value, end = self._mapping(event, path, depth) if mapping else self._sequence(event, path, depth)
        self.open.discard(anchor)
        flow, block = ("{}", "map") if mapping else ("[]", "list")
        return value, end, flow if event.flow_style else block

    def _alias(self, event: Any, path: Path, key: int, depth: int, mark: Any) -> tuple[Any, int]:
        end = event.end_mark.index + self.offset
        if event.anchor not in self.anchors or event.anchor in self.open:
            raise yaml.YAMLError(f"*{event.anchor} is not defined before it is used")
        back, self.place = self.place, self.anchors[event.anchor][0]
        self.quiet += 1
        value = self.value(path, key, depth + 1)[0]
        self.quiet -= 1
        self.place = back
        self._note(path, event, end, key, "alias", mark)
        return value, end

    def _note(self, path: Path, event: Any, end: int, key: int, style: str, mark: Any) -> None:
        if not self.quiet:
            at = mark or event.start_mark
            start = event.start_mark.index + self.offset
            self.marks.spans[path] = Span(at.line + 1 + self.line, at.column + 1, start, end, key, style)

    def _mapping(self, event: Any, path: Path, depth: int) -> tuple[dict[str, Any], int]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        end = event.end_mark.index + self.offset
        while not isinstance(self.events[self.place], yaml.MappingEndEvent):
            name, at = self._key(depth), self.events[self.place - 1].start_mark
            if name == "<<":
                self.quiet += 1
                value, end = self.value(path, -1, depth + 1)
                self.quiet -= 1
                for part in value if isinstance(value, list) else [value]:
                    merged = (part if isinstance(part, dict) else {}) | merged
                continue
            if name in first and not self.quiet:
                self.marks.repeated.append(((*path, name), at.line + 1 + self.line, at.column + 1, first[name]))
            first.setdefault(name, at.line + 1 + self.line)
            own[name], end = self.value((*path, name), at.index + self.offset, depth + 1, at)
        close = self.events[self.place]
        self.place += 1
        return merged | own, close.end_mark.index + self.offset if event.flow_style else end

    def _key(self, depth: int) -> str:
        event = self.events[self.place]
        if isinstance(event, yaml.ScalarEvent):
            self.place += 1
            if event.anchor:
                self.anchors[event.anchor] = (self.place - 1, self.place)
            return str(event.value)
        # A key that is itself a mapping, as in `{{ template }}`: it has no name.
        self.quiet += 1
        self.value((), -1, depth + 1)
        self.quiet -= 1
        return "{{}}"

    def _sequence(self, event: Any, path: Path, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        end = event.end_mark.index + self.offset
        while not isinstance(self.events[self.place], yaml.SequenceEndEvent):
            item, end = self.value((*path, len(items)), -1, depth + 1)
            items.append(item)
        close = self.events[self.place]
        self.place += 1
        return items, close.end_mark.index + self.offset if event.flow_style else end


def _trouble(error: yaml.YAMLError, line: int, last: int) -> Trouble:
    """What libyaml says, at a line of the file: the end of it may be beyond the last one."""
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = str(getattr(error, "problem", None) or error).split("\n")[0]
    return Trouble(min((mark.line if mark else 0) + 1 + line, last), (mark.column if mark else 0) + 1, one_line(said))
