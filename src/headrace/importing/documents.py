"""YAML of other people's → its documents, with the line of every value. Lists of objects are taken apart."""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from headrace.errors import Mistake
from headrace.importing.base import At, Path
from headrace.spec.document import one_line

MOST_VALUES = 200_000
DEEPEST = 60
_SLOW = 2_000_000
"""Characters that Python's own reader may be given: it takes 20 s for them."""
_TAG = "tag:yaml.org,2002:"
_KINDS = {"bool": "construct_yaml_bool", "int": "construct_yaml_int", "float": "construct_yaml_float"}
# Jinja (chat templates) has double braces as well: these are what only Go templates have in them.
_HELM = re.compile(
    r"\{\{-?\s*(?:\.(?:Values|Release|Chart|Capabilities|Files|Template|Subcharts)\b|\$\.?|"
    r"(?:include|template|tpl|toYaml|toJson|range|with|define|required|lookup|printf)\b|if\b[^}]*\.(?:Values|Release|Chart)|"
    r"end\s*-?\}\}|else\s*-?\}\})"
)


def documents(text: str, file: str) -> tuple[list[At], list[Mistake]]:
    """The documents in `text` that hold anything, items of Lists on their own; and what is wrong with it."""
    if template := _HELM.search(text):
        what = "is a template of Helm, not an object."
        return [], [_mistake(text, file, template.start(), what, "Render it first: helm template CHART | headrace import -")]
    found: list[At] = []
    try:
        for root in yaml.compose_all(text, Loader=_loader(text)):
            if root is not None:
                found += _objects(_Walk(file).document(root))
    except yaml.YAMLError as error:
        return [], [_syntax(text, file, error)]
    except _TooMuch as error:
        return [], [Mistake(file, 1, 1, "", str(error), "Is this the right file?")]
    except (ValueError, OverflowError):
        return [], [Mistake(file, 1, 1, "", "is not valid YAML: an escape or number in it is out of range.")]
    except RecursionError:
        return [], [Mistake(file, 1, 1, "", f"is nested deeper than {DEEPEST} levels.", "Is this the right file?")]
    return found, [mistake for one in found if (mistake := _no_mapping(one))]


def _loader(text: str) -> Any:
    """What reads `text`: libyaml, ten times as fast, once it is known to be bounded; else Python's own, which reads halves of
    characters as well (JSON has them). Raises _TooMuch, RecursionError, and YAMLError for what is too large to be read slowly."""
    fast = getattr(yaml, "CSafeLoader", None)
    count = depth = 0
    try:
        for event in yaml.parse(text, Loader=fast) if fast else ():
            count += 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if count > 3 * MOST_VALUES:
                raise _TooMuch(f"holds more than {MOST_VALUES} values.")
            if depth > DEEPEST:
                raise RecursionError
    except yaml.YAMLError:
        if len(text) > _SLOW:
            raise
        fast = None
    return fast or yaml.SafeLoader


def _objects(document: At) -> Iterator[At]:
    """The object, or those in a List (what `kubectl get -o yaml` prints)."""
    kind = document.get("kind").text
    if kind.endswith("List") and isinstance(document.get("items").value, list):
        yield from document.get("items").each()
    elif document.value is not None:
        yield document


def _no_mapping(document: At) -> Mistake | None:
    if isinstance(document.value, dict):
        return None
    return Mistake(document.file, document.line, 1, "", "is no object: a mapping with apiVersion and kind is needed.")


class _TooMuch(Exception):
    pass


class _Walk:
    """One pass over the nodes of a document: plain values, and the line of each."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.construct = SafeConstructor()
        self.visited = 0

    def document(self, root: yaml.Node) -> At:
        return At(self.value(root, (), 0), self.file, self.lines)

    def value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        self.visited += 1
        if self.visited > MOST_VALUES:
            raise _TooMuch(f"holds more than {MOST_VALUES} values, with its anchors expanded.")
        if depth > DEEPEST:  # an anchor inside of itself as well
            raise RecursionError
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, place), depth + 1) for place, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, below in node.value:
            name = _whole(key.value) if isinstance(key, yaml.ScalarNode) else ""
            if key.tag == f"{_TAG}merge":
                for part in below.value if isinstance(below, yaml.SequenceNode) else [below]:
                    value = self.value(part, path, depth + 1)
                    merged = (value if isinstance(value, dict) else {}) | merged
            elif name:
                self.lines[(*path, name)] = key.start_mark.line + 1
                own[name] = self.value(below, (*path, name), depth + 1)
        return merged | own

    def _scalar(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        build = getattr(self.construct, _KINDS[kind]) if kind in _KINDS else None
        try:
            return build(node) if build else _whole(node.value)
        except (ValueError, KeyError, IndexError, OverflowError):
            return _whole(node.value)


def _whole(text: str) -> str:
    """`text` with the halves that JSON writes far characters in put together, as in \\ud83d\\ude00."""
    return (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if any("\ud800" <= c < "\ue000" for c in text)
        else text
    )


def _syntax(text: str, file: str, error: yaml.YAMLError) -> Mistake:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = str(getattr(error, "problem", None) or error).split("\n")[0]
    what = f"is not valid YAML: {one_line(said)}."
    fix = "Template braces ({{ }}) have to be rendered first." if "{{" in text else ""
    return Mistake(file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, "", what, fix)


def _mistake(text: str, file: str, offset: int, what: str, fix: str) -> Mistake:
    return Mistake(file, text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1, "", what, fix)
