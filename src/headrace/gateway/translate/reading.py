"""What reading another protocol's request has in common: its values checked, their places named, the rest passed on."""

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from headrace.gateway.openai import Refusal

T = TypeVar("T")

_NOTHING = (b"null", b"false", b"[]", b"{}", b'""', b"0")
"""Values that ask for nothing."""
_PLACE = re.compile(r"(?: -|:)? ?at `\$([^`]*)`$")

_INDEX = re.compile(r"\[(\d+)\]")


def decoded(body: bytes, kind: type[T]) -> T:
    """`body` as `kind`. Raises Refusal, which names the place."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise misread(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"The body is not JSON: {error}.", "invalid_json") from None


def converted(value: Any, kind: type[T], where: str) -> T:
    """`value`, which stands at `where`, as `kind`. Raises Refusal, which names the place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise misread(error, where) from None


def misread(error: msgspec.ValidationError, where: str = "") -> Refusal:
    """A value of the wrong kind, or one that is not translated, at its place in the user's words."""
    text = str(error)
    place = _PLACE.search(text)
    inside = _INDEX.sub(r".\1", place[1]).strip(".") if place else ""
    param = ".".join(part for part in (where, inside) if part)
    said = _PLACE.sub("", text)
    known = not said.startswith("Invalid ")  # msgspec's word where a value is none of those that are listed
    said += "" if known else ", which cannot be said in a chat"
    message = f'"{param}": {said}.' if param else f"{said}."
    return Refusal(400, message, "invalid_type" if known else "unsupported_parameter", param=param or None)


def refuse_given(fields: Mapping[str, msgspec.Raw], names: Collection[str], path: str) -> None:
    """Refuse the request when it asks for one of these, which cannot be had here."""
    given = [name for name in names if name in fields and bytes(fields[name]) not in _NOTHING]
    given = [name for name in given if name != "n" or bytes(fields[name]) != b"1"]
    if given:
        listed = ", ".join(f'"{name}"' for name in given)
        message = f"{listed} cannot be had from {path} here: the models that answer it know nothing like it."
        raise Refusal(400, message, "unsupported_parameter", param=given[0])


def rest(fields: Mapping[str, msgspec.Raw], known: Collection[str]) -> dict[str, Any]:
    """The fields that are none of the protocol's, for the engine; null is left out."""
    return {name: value for name, value in fields.items() if name not in known and bytes(value) != b"null"}
