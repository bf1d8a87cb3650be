"""Pydantic's errors → sentences of our own, at the key of the user's file that they are about."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from headrace.spec.document import Path
from headrace.units import show_bytes, show_duration

Sentence = tuple[str, str]
"""What is wrong, and what to do."""


def sentences(errors: Iterable[ErrorDetails], root: Any) -> list[tuple[Path, str, str]]:
    """(path, what, fix) for each place in `root` that `errors` are about; the branches of a union count as one."""
    places: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        places.setdefault(_place(error, root), []).append(error)
    return [(path, *_sentence(path, group)) for path, group in places.items()]


def nearest(word: str, choices: Iterable[str]) -> str:
    """`Did you mean X?` for the choice most like `word`, or nothing."""
    close = difflib.get_close_matches(word.lower(), list(choices), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else ""


def kind(value: Any) -> str:
    """A value in words: `the text "8k"`, `the number 3`, `a list`, `empty`."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value:g}" if isinstance(value, float) else f"the number {_cut(str(value))}"
    if isinstance(value, str):
        return f'the text "{_cut(value)}"'
    return "a mapping" if isinstance(value, dict) else "a list"


def _place(error: ErrorDetails, root: Any) -> Path:
    """The error's location without the names of union branches, which stand in no file."""
    path: Path = ()
    value = root
    for part in error["loc"]:
        if _holds(value, part):
            value = value[part]
            path = (*path, part)
    return (*path, error["loc"][-1]) if error["type"] == "missing" else path


def _holds(value: Any, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _sentence(path: Path, errors: list[ErrorDetails]) -> Sentence:
    """One sentence for all that is wrong with one value."""
    for error in errors:
        if (say := _SAID.get(error["type"])) is not None:
            return say(error)
    value = errors[0]["input"]
    choices = [choice for error in errors for choice in _choices(error)]
    expected = [*choices, *(_EXPECTED[error["type"]] for error in errors if error["type"] in _EXPECTED)]
    if not expected:
        return "is not something that can be read here.", "See `headrace init` for an example."
    if path[2:] == ("engine",) and isinstance(value, str):
        return f'"{_cut(value)}" is not an engine.', nearest(value, choices) or f"Write one of {', '.join(choices)}."
    fix = nearest(value, choices) if isinstance(value, str) else ""
    return f"must be {_listed(expected)}, not {kind(value)}.", fix or _unquote(value, expected)


def _unquote(value: Any, expected: list[str]) -> str:
    if "text" in expected and isinstance(value, int | float):
        return f'Write "{_cut(str(value))}" in quotes.'
    if "a whole number" in expected and isinstance(value, str) and value.replace("_", "").isdigit():
        return "Write it without quotes and leading zeros."
    return ""


def _choices(error: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _limit(compared: str) -> Callable[[ErrorDetails], Sentence]:
    def say(error: ErrorDetails) -> Sentence:
        (limit,) = error.get("ctx", {}).values()
        number = _with_unit(error["loc"], error["input"])
        return f"{number} is {compared} {_with_unit(error['loc'], limit)}.", ""

    return say


def _with_unit(location: tuple[int | str, ...], value: Any) -> str:
    key = location[-1]
    if key == "body" and isinstance(value, int) and value >= 1024:
        return show_bytes(value)
    if key in ("wait", "drain", "ttft", "tpot") and isinstance(value, int | float) and 0 < value < 1e12:
        return show_duration(value)
    return _cut(str(value))


def _own(error: ErrorDetails) -> Sentence:
    """A message of our own validators: `what; fix`."""
    what, _, fix = str(error["ctx"]["error"]).partition("; ")
    return f"{what}.", f"{fix[0].upper()}{fix[1:]}." if fix else ""


def _name(error: ErrorDetails) -> Sentence:
    return (
        f'"{_cut(str(error["input"]))}" is not a name that a client can ask for.',
        "Begin with a letter or digit; use letters, digits and . _ / : - up to 128.",
    )


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "dict_type": "a mapping of names",
    "model_type": "a mapping",
    "tuple_type": "text or a list of it",
}

_SAID: Mapping[str, Callable[[ErrorDetails], Sentence]] = {
    "value_error": _own,
    "string_pattern_mismatch": _name,
    "missing": lambda _: ("is missing.", "`headrace init` writes an example."),
    "too_short": lambda _: ("names no model.", "Write `models: {chat: hf:org/name}`."),
    "string_too_short": lambda _: ("is empty.", "Write a value, or leave the key out."),
    "greater_than": _limit("not above"),
    "greater_than_equal": _limit("below the least,"),
    "less_than_equal": _limit("above the most,"),
}
