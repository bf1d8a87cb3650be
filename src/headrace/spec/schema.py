"""The spec as a JSON Schema, for editors: completion, hover texts and red lines while typing."""

from typing import Any

from headrace.spec.model import NAME_PATTERN, Spec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KEPT = frozenset({"$defs", "properties"})
"""Keywords whose mappings are keyed by names, where `title` could be one of them."""

_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "le": "maximum"}


def json_schema() -> dict[str, Any]:
    """The schema of a whole file, shorthand included; unknown keys are refused as `load` refuses them."""
    schema: dict[str, Any] = _untitled(Spec.model_json_schema())
    schema |= {"$schema": _DIALECT, "title": "headrace.yaml"}
    names = {"type": "object", "propertyNames": {"pattern": NAME_PATTERN}}
    fields = schema["properties"]
    fields["models"] = {
        **names,
        "description": fields["models"]["description"],
        "minProperties": 1,
        "additionalProperties": {"anyOf": [_shorthand(), {"$ref": "#/$defs/ModelSpec"}]},
    }
    fields["aliases"] = {
        **names,
        "description": fields["aliases"]["description"],
        "additionalProperties": {"type": "string"},
    }
    _loosen(schema["$defs"])
    return schema


def _shorthand() -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "description": "Short for a mapping with this `source`."}


def _loosen(definitions: dict[str, Any]) -> None:
    """Say what the validators accept besides the type that they make of it."""
    model = definitions["ModelSpec"]["properties"]
    text = {"type": "string"}
    model["url"]["anyOf"] = [text, {"type": "array", "items": text, "minItems": 1}]
    for keyword in ("type", "items"):
        model["url"].pop(keyword, None)
    model["replicas"] |= {"type": ["integer", "string"], "pattern": r"^[0-9]+(\.\.[0-9]+)?$"}
    definitions["ScaleSpec"]["properties"]["replicas"] = {
        "description": definitions["ScaleSpec"]["properties"]["replicas"]["description"],
        "type": ["integer", "string"],
        "pattern": r"^[0-9]+(\.\.[0-9]+)?$",
    }
    model["key"] |= {"pattern": "^env:[A-Za-z_][A-Za-z0-9_]*$"}
    definitions["ModelSpec"]["oneOf"] = [{"required": ["source"]}, {"required": ["url"]}, _commanded()]
    for name, key in (("CustomOptions", "command"), *((f"{kind}Options", "args") for kind in ("Vllm", "Sglang", "Tgi"))):
        words = definitions[name]["properties"][key]
        words["anyOf"] = [text, {"type": "array", "items": text}]
        for keyword in ("type", "items"):
            words.pop(keyword, None)
    definitions["MachineSpec"]["oneOf"] = [{"required": ["gpus"]}, {"required": ["azure"]}]
    definitions["EngineOptions"] |= {"minProperties": 1, "maxProperties": 1}


def _commanded() -> dict[str, Any]:
    """A model that is a command: it has neither source nor url."""
    custom = {"type": "object", "required": ["command"]}
    engine = {"type": "object", "required": ["custom"], "properties": {"custom": custom}}
    return {"required": ["engine"], "properties": {"engine": engine, "source": False, "url": False}}


def _untitled(value: Any) -> Any:
    """`value` without the titles that pydantic makes of field names: editors show them in place of the description.

    Bounds on a field whose type was written out by hand keep pydantic's names, which are translated here.
    """
    if isinstance(value, list):
        return [_untitled(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        _BOUNDS.get(key, key): {name: _untitled(below) for name, below in part.items()} if key in _KEPT else _untitled(part)
        for key, part in value.items()
        if key != "title"
    }
