"""What differs between two states of an object, field by field, without what only the server sets."""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_SERVER_SET = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_KEYS = ("name", "mountPath", "containerPort", "key", "port", "topologyKey", "type")
"""What entries of lists are known by, tried in this order; entries of other lists are known by their place."""

_LONGEST = 160
_ABSENT: Any = object()

Sign = Literal["+", "-", "~"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One field. `before` or `after` is missing where the sign says that it is added or removed."""

    path: str
    sign: Sign
    before: Any = None
    after: Any = None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What becomes of an object's fields, in the order in which they stand; nothing of status and what the server counts."""
    return list(_walk(_shown(before), _shown(after), ""))


def text(found: list[Difference]) -> str:
    """A line for each, and of long texts only the lines that differ."""
    return "\n".join(line for each in found for line in _lines(each))


def _shown(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in manifest.items() if key not in ("status", "apiVersion", "kind")}
    about = {key: value for key, value in (manifest.get("metadata") or {}).items() if key not in _SERVER_SET}
    return {**kept, "metadata": about}


def _walk(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _walk(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(before, after, path)
    elif before is _ABSENT:
        yield Difference(path, "+", after=after)
    elif after is _ABSENT:
        yield Difference(path, "-", before=before)
    else:
        yield Difference(path, "~", before, after)


def _lists(before: list[Any], after: list[Any], path: str) -> Iterator[Difference]:
    if key := _key(before, after):
        old, new = ({each[key]: each for each in entries} for entries in (before, after))
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _walk(old.get(name, _ABSENT), new.get(name, _ABSENT), f"{path}[{name}]")
    elif any(isinstance(each, dict | list) for each in [*before, *after]):
        for place in range(max(len(before), len(after))):
            old_entry, new_entry = (entries[place] if place < len(entries) else _ABSENT for entries in (before, after))
            yield from _walk(old_entry, new_entry, f"{path}[{place}]")
    else:
        yield from _words(before, after, path)


def _key(before: list[Any], after: list[Any]) -> str | None:
    """What tells the entries apart: a field that each has, with a value of its own within its list."""
    if not all(isinstance(each, dict) for each in [*before, *after]):
        return None
    return next((key for key in _KEYS if all(_unique([each.get(key) for each in entries]) for entries in (before, after))), None)


def _unique(values: list[Any]) -> bool:
    return all(isinstance(value, str | int) for value in values) and len(set(values)) == len(values)


def _words(before: list[Any], after: list[Any], path: str) -> Iterator[Difference]:
    """Of arguments and the like only what went and what came."""
    for sign, start, end, new_start, new_end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if sign == "replace" and end - start == new_end - new_start:
            for old, new in zip(before[start:end], after[new_start:new_end], strict=True):
                yield Difference(f"{path}[]", "~", old, new)
        elif sign != "equal":
            yield from (Difference(f"{path}[]", "-", before=each) for each in before[start:end])
            yield from (Difference(f"{path}[]", "+", after=each) for each in after[new_start:new_end])


def _lines(each: Difference) -> Iterator[str]:
    both = isinstance(each.before, str) and isinstance(each.after, str)
    if both and "\n" in each.before + each.after:
        yield f"~ {each.path}:"
        changed = difflib.unified_diff(each.before.splitlines(), each.after.splitlines(), lineterm="", n=1)
        yield from (f"    {line}" for line in list(changed)[2:])
    elif each.sign == "~":
        yield f"~ {each.path}: {_value(each.before)} → {_value(each.after)}"
    else:
        yield f"{each.sign} {each.path}: {_value(each.after if each.sign == '+' else each.before)}"


def _value(value: Any) -> str:
    """As YAML would have it in one line, cut where it is long."""
    if isinstance(value, dict):
        said = "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    elif isinstance(value, list):
        said = "[" + ", ".join(map(_value, value)) + "]"
    elif isinstance(value, str):
        said = (f'"{value}"' if not value or value != value.strip() or value[0] in "{[" else value).replace("\n", "⏎")
    else:
        said = json.dumps(value)
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"
