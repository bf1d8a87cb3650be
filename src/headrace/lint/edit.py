"""Edits of YAML that keep everything else as it was written: comments, order, quotes. What cannot be done safely is not done."""

import copy
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace.importing.base import At
from headrace.lint.base import Edit
from headrace.lint.parse import Marks, Span, parse, span_of
from headrace.lint.scalars import plain


class Splice(NamedTuple):
    """Characters of a text from `start` to `end`, and what stands there instead."""

    start: int
    end: int
    text: str


def edited(text: str, changes: Sequence[Sequence[Edit]]) -> tuple[str, list[int]]:
    """`text` with those changes that can be made and do not touch each other, and which these are. A change is made whole."""
    taken: list[Splice] = []
    made: list[int] = []
    for place, edits in enumerate(changes):
        splices = [_splice(text, edit) for edit in edits]
        whole = [splice for splice in splices if splice is not None]
        if not edits or len(whole) < len(splices) or any(_touch(a, b) for a in whole for b in taken):
            continue
        taken += whole
        made.append(place)
    for splice in sorted(taken, reverse=True):
        text = text[: splice.start] + splice.text + text[splice.end :]
    return text, made


def as_meant(before: str, after: str, edits: Sequence[Edit]) -> bool:
    """Whether `after` reads as `before` with the edits made in its values, and nothing else changed."""
    old, new = parse(before, ""), parse(after, "")
    if len(old.troubles) != len(new.troubles) or len(old.documents) != len(new.documents):
        return False
    roots = {_root(each): copy.deepcopy(each.value) for each in old.documents}
    for edit in sorted(edits, key=lambda edit: (edit.how != "add", [str(part).zfill(6) for part in edit.at.path]), reverse=True):
        root = roots.get(_root(edit.at))
        if root is None:  # inside of a literal block: that the rest is the same is all that can be said
            return True
        if not _applied(root, edit):
            return False
    return list(roots.values()) == [each.value for each in new.documents]


def _root(at: At) -> int:
    spans = at.lines.spans if isinstance(at.lines, Marks) else {}
    return spans[()].start if () in spans else -1


def _touch(one: Splice, other: Splice) -> bool:
    return one.start <= other.end and other.start <= one.end


def _splice(text: str, edit: Edit) -> Splice | None:
    span = span_of(edit.at)
    if span is None or span.style == "alias":
        return None
    if edit.how == "replace":
        raw = text[span.start : span.end]
        return Splice(span.start, span.end, raw.replace(edit.old, str(edit.new))) if edit.old in raw else None
    if edit.how == "set":
        return _set(text, span, edit.new)
    if edit.how == "delete":
        return _delete(text, edit.at, span, edit.count)
    return _add(text, edit, span)


def _set(text: str, span: Span, new: object) -> Splice | None:
    if span.style not in ("plain", "single", "double") or span.end <= span.start:
        return None
    return Splice(span.start, span.end, flow(new, as_json=_json(text, span)))


def flow(value: object, *, as_json: bool = False) -> str:
    """A value on one line, with quotes only where YAML needs them."""
    if isinstance(value, dict):
        inside = ", ".join(f"{flow(key, as_json=as_json)}: {flow(each, as_json=as_json)}" for key, each in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(flow(each, as_json=as_json) for each in value)}]"
    if isinstance(value, str) and not as_json and re.fullmatch(r"[A-Za-z/][\w./-]*", value) and plain(value) == value:
        return value
    return json.dumps(value)


def _json(text: str, span: Span) -> bool:
    """Whether it stands in JSON: keys in quotes."""
    return span.key >= 0 and text[span.key : span.key + 1] == '"'


def _siblings(at: At) -> list[tuple[Any, Span]]:
    """The keys or items beside `at` and itself, as they stand in the file."""
    spans = at.lines.spans if isinstance(at.lines, Marks) else {}
    length, above = len(at.path), at.path[:-1]
    found = [(path[-1], span) for path, span in spans.items() if len(path) == length and path[:-1] == above]
    return sorted(found, key=lambda each: each[1].start)


def _begin(span: Span) -> int:
    return span.key if span.key >= 0 else span.start


def _delete(text: str, at: At, span: Span, count: int) -> Splice | None:
    if not at.path:
        return None
    parent = span_of(At(None, at.file, at.lines, at.path[:-1]))
    beside = _siblings(at)
    if parent is None or parent.style == "alias" or len(beside) <= count:
        return None
    place = next(i for i, (name, _) in enumerate(beside) if name == at.path[-1])
    after = beside[place + count][1] if place + count < len(beside) else None
    last = beside[min(place + count, len(beside)) - 1][1]
    if parent.style in ("{}", "[]"):
        if after is not None:
            return Splice(_begin(span), _begin(after), "")
        return Splice(beside[place - 1][1].end, last.end, "") if place else None
    return _delete_lines(text, span, last, after)


def _delete_lines(text: str, span: Span, last: Span, after: Span | None) -> Splice | None:
    """A key or item of a block: its lines; the first key of an item gives its place to the next."""
    begin = _begin(span)
    start = text.rfind("\n", 0, begin) + 1
    end = _line_end(text, last)
    before = text[start:begin]
    if not before.strip() or (before.strip() == "-" and span.key < 0):
        return Splice(start, end, "")
    if after is not None and before.strip(" -") == "" and text[end : _begin(after)].strip() == "" and span.key >= 0:
        return Splice(begin, _begin(after), "")
    return None


def _line_end(text: str, span: Span) -> int:
    """The end of the line that a value ends on, its line break included."""
    if span.style in ("literal", "folded") and text[span.end - 1 : span.end] == "\n":
        return span.end
    end = text.find("\n", span.end)
    return end + 1 if end >= 0 else len(text)


def _add(text: str, edit: Edit, span: Span) -> Splice | None:
    spans = edit.at.lines.spans if isinstance(edit.at.lines, Marks) else {}
    length = len(edit.at.path)
    keys = sorted(
        (each for path, each in spans.items() if len(path) == length + 1 and path[:-1] == edit.at.path and each.key >= 0),
        key=lambda each: each.start,
    )
    if span.style == "{}":
        return _add_flow(text, edit, span, keys)
    if span.style != "map" or not keys:
        return None
    last = keys[-1]
    start = text.rfind("\n", 0, last.key) + 1
    indent = "".join(" " if char != "\t" else char for char in text[start : last.key])
    newline = "\r\n" if "\r\n" in text[: start + 2000] else "\n"
    end = _line_end(text, last)
    lead = "" if text[end - 1 : end] == "\n" else newline
    return Splice(end, end, f"{lead}{indent}{edit.old}: {flow(edit.new)}{newline if not lead else ''}")


def _add_flow(text: str, edit: Edit, span: Span, keys: Sequence[Span]) -> Splice:
    if not keys:
        return Splice(span.start + 1, span.start + 1, f"{edit.old}: {flow(edit.new)}")
    as_json = _json(text, keys[0])
    name = json.dumps(edit.old) if as_json else edit.old
    end = keys[-1].end
    return Splice(end, end, f", {name}: {flow(edit.new, as_json=as_json)}")


def _applied(value: Any, edit: Edit) -> bool:
    """Make the edit in plain values. False where it cannot be."""
    path = edit.at.path if edit.how == "add" else edit.at.path[:-1]
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    last: Any = edit.old if edit.how == "add" else edit.at.path[-1]
    if edit.how == "delete" and isinstance(value, list):
        del value[last : last + edit.count]
    elif edit.how == "delete":
        del value[last]
    elif edit.how == "replace":
        value[last] = str(value[last]).replace(edit.old, str(edit.new))
    else:
        value[last] = edit.new
    return True
