"""Which JSON schemas the engine is given: those whose grammar it is known to make.

OpenVINO makes the grammar in the middle of a step, for the whole batch, and a failure there costs everybody in it (see
`openvino_pipeline.py`). So nothing passes that is not in this subset, which is about OpenAI's for strict schemas; what it
would not enforce is refused as well.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

DEPTH = 32
BYTES = 64 * 1024
"""Nothing deeper or larger is passed on: the grammar's size follows the schema's."""

_LARGEST_COUNT = 1000
_FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


class Unsupported(Exception):
    """The schema is not in the subset; the message says what and where."""


def check(schema: Any) -> str:
    """The schema as JSON text, once it is known to be in the subset. Raises Unsupported."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError) as cause:
        raise Unsupported(f"it is not JSON: {cause}") from cause
    if len(text) > BYTES:
        raise Unsupported(f"it has {len(text):,} bytes, of at most {BYTES:,}")
    _Checker(schema if isinstance(schema, dict) else {}).check(schema, "#", 0)
    return text


class _Checker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._keywords: Mapping[str, Callable[[Any, str, int], None]] = {
            **dict.fromkeys(("title", "description", "default", "examples", "$schema", "$id", "$comment", "strict"), _anything),
            "type": _type,
            "enum": _enum,
            "const": _scalar,
            "properties": self._schemas,
            "$defs": self._schemas,
            "definitions": self._schemas,
            "required": _names,
            "additionalProperties": self._schema_or_bool,
            "items": self.check,
            "prefixItems": self._list,
            "anyOf": self._list,
            "oneOf": self._list,
            "pattern": _text,
            "format": _format,
            "$ref": self._reference,
            **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _count),
            **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
        }

    def check(self, schema: Any, at: str, depth: int) -> None:
        if not isinstance(schema, dict):
            raise Unsupported(f"{at} must be an object")
        if depth > DEPTH:
            raise Unsupported(f"it is deeper than {DEPTH} at {at}")
        for key, value in schema.items():
            if key not in self._keywords:
                raise Unsupported(f"{at} has {key!r}, which this engine cannot enforce")
            self._keywords[key](value, f"{at}/{key}", depth + 1)
        _consistent(schema, at)

    def _schemas(self, value: Any, at: str, depth: int) -> None:
        if not isinstance(value, dict):
            raise Unsupported(f"{at} must be an object")
        for name, schema in value.items():
            if not name.isprintable() or {'"', "\\"} & set(name):
                raise Unsupported(f"{at} has a name that it cannot write: {name!r}")
            self.check(schema, f"{at}/{name}", depth)

    def _list(self, value: Any, at: str, depth: int) -> None:
        if not isinstance(value, list) or not value:
            raise Unsupported(f"{at} must be a list of schemas")
        for index, schema in enumerate(value):
            self.check(schema, f"{at}/{index}", depth)

    def _schema_or_bool(self, value: Any, at: str, depth: int) -> None:
        if not isinstance(value, bool):
            self.check(value, at, depth)

    def _reference(self, value: Any, at: str, depth: int) -> None:
        """To a definition in the schema itself that is an object or a list, so that following it comes to an end."""
        parts = value.split("/") if isinstance(value, str) else []
        found: Any = self._root
        if value != "#":
            if parts[:1] != ["#"] or len(parts) != 3 or parts[1] not in ("$defs", "definitions"):
                raise Unsupported(f"{at} must be '#' or '#/$defs/NAME'")
            found = self._root.get(parts[1], {})
            found = found.get(parts[2]) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise Unsupported(f"{at} names nothing: {value!r}")
        if "$ref" in found:
            raise Unsupported(f"{at} leads to another $ref")


def _consistent(schema: Mapping[str, Any], at: str) -> None:
    """What contradicts itself has no grammar."""
    for low, high in (("minItems", "maxItems"), ("minLength", "maxLength"), ("minimum", "maximum")):
        if low in schema and high in schema and schema[low] > schema[high]:
            raise Unsupported(f"{at} has {low} above {high}")
    if "$ref" in schema and set(schema) - {"$ref", "title", "description", "$defs", "definitions"}:
        raise Unsupported(f"{at} has more than its $ref")
    whole = schema.get("type") == "integer"
    for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if whole and (value := schema.get(bound)) is not None and (value != int(value) or abs(value) >= 2**62):
            raise Unsupported(f"{at}/{bound} must be a whole number below 2^62 for an integer")
    if not set(schema.get("required", ())) <= set(schema.get("properties", ())):
        raise Unsupported(f"{at} requires what is not in its properties")


def _anything(value: Any, at: str, depth: int) -> None:
    pass


def _type(value: Any, at: str, depth: int) -> None:
    names = value if isinstance(value, list) and value else [value]
    if any(name not in _TYPES for name in names):
        raise Unsupported(f"{at} must be one of {', '.join(_TYPES)}")


def _enum(value: Any, at: str, depth: int) -> None:
    if not isinstance(value, list) or not value:
        raise Unsupported(f"{at} must be a list of values")
    for each in value:
        _scalar(each, at, depth)


def _scalar(value: Any, at: str, depth: int) -> None:
    if not isinstance(value, str | int | float | bool | None):
        raise Unsupported(f"{at} must be text, a number, true, false or null")


def _names(value: Any, at: str, depth: int) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Unsupported(f"{at} must be a list of names")


def _text(value: Any, at: str, depth: int) -> None:
    if not isinstance(value, str):
        raise Unsupported(f"{at} must be text")


def _format(value: Any, at: str, depth: int) -> None:
    if value not in _FORMATS:
        raise Unsupported(f"{at} must be one of {', '.join(_FORMATS)}")


def _count(value: Any, at: str, depth: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_COUNT:
        raise Unsupported(f"{at} must be a number from 0 to {_LARGEST_COUNT:,}")


def _number(value: Any, at: str, depth: int) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Unsupported(f"{at} must be a number")
