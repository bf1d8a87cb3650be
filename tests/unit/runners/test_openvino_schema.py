"""JSON schemas: what may reach the engine, whose pipeline breaks on what it cannot use."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runners.openvino_schema import BYTES, DEPTH, Unsupported, check

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": ["integer", "null"], "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        PERSON,
        TREE,
        {"type": "array", "items": PERSON, "minItems": 1, "maxItems": 2},
        {"anyOf": [{"type": "string"}, {"const": None}], "title": "t", "description": "d", "default": 1},
        {"enum": ["a", 1, None, True]},
        {"type": "string", "pattern": "^a+$"},
        {"type": "string", "format": "date-time"},
    ],
)
def test_the_usual_passes_as_it_is(schema):
    assert json.loads(check(schema)) == schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("a string", "# must be an object"),
        ({"type": "nonsense"}, "#/type must be one of"),
        ({"type": []}, "#/type must be one of"),
        ({"type": "array", "uniqueItems": True}, "# has 'uniqueItems', which this engine cannot enforce"),
        ({"properties": {"a": {"format": "star-date"}}}, "#/properties/a/format must be one of date,"),
        ({"pattern": 1}, "#/pattern must be text"),
        ({"properties": {'a"': {}}}, "#/properties has a name that it cannot write"),
        ({"properties": {"a\n": {}}}, "#/properties has a name that it cannot write"),
        ({"type": "integer", "minimum": 1.5}, "#/minimum must be a whole number"),
        ({"type": "integer", "maximum": 1e30}, "#/maximum must be a whole number"),
        ({"allOf": [{}]}, "'allOf'"),
        ({"enum": []}, "#/enum must be a list"),
        ({"enum": [{}]}, "#/enum must be text"),
        ({"minLength": 2, "maxLength": 1}, "# has minLength above maxLength"),
        ({"minimum": 2, "maximum": 1}, "minimum above maximum"),
        ({"maxItems": 10**9}, "#/maxItems must be a number from 0 to 1,000"),
        ({"minItems": True}, "#/minItems must be a number"),
        ({"$ref": "https://example.com/x"}, "must be '#' or '#/$defs/NAME'"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "leads to another $ref"),
        ({"required": ["a"]}, "requires what is not in its properties"),
        ({"const": float("nan")}, "it is not JSON"),
        ({"description": "x" * BYTES}, "bytes, of at most"),
    ],
)
def test_what_the_engine_may_choke_on_is_refused_with_its_place(schema, why):
    with pytest.raises(Unsupported) as caught:
        check(schema)
    assert why in str(caught.value)


def test_depth_is_bounded():
    schema = {}
    for _ in range(DEPTH + 1):
        schema = {"items": schema}
    with pytest.raises(Unsupported, match="deeper"):
        check(schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "$ref", "items", "a"]), inner),
    max_leaves=10,
)


@given(JSON)
def test_whatever_comes_is_refused_or_passed_and_never_crashes(schema):
    with contextlib.suppress(Unsupported):
        assert json.loads(check(schema)) == schema
