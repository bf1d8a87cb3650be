"""What differs between two objects, and how it reads."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.targets.kubernetes.difference import differences, text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(["name", "a", "b", "key"]), below, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(["spec", "data", "rules"]), JSON, max_size=3)


def container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"a": 1}, {"a": 2}, "~ a: 1 → 2"),
        ({"a": 1}, {}, "- a: 1"),
        ({}, {"a": {"b": True}}, "+ a: {b: true}"),
        # containers, by name and not by place
        (
            {"c": [container("x", image="i:1"), container("y")]},
            {"c": [container("y"), container("x", image="i:2")]},
            "~ c[x].image: i:1 → i:2",
        ),
        ({"c": [container("x")]}, {"c": [container("x"), container("y")]}, "+ c[y]: {name: y}"),
        # arguments: what came and went, not all that moved
        ({"args": ["serve", "--a", "1"]}, {"args": ["serve", "--new", "--a", "1"]}, "+ args[]: --new"),
        ({"args": ["--ctx=1", "--b"]}, {"args": ["--ctx=2", "--b"]}, "~ args[]: --ctx=1 → --ctx=2"),
        # two of one name: by place
        ({"c": [container("x", v=1), container("x", v=2)]}, {"c": [container("x", v=1), container("x", v=3)]}, "~ c[1].v: 2 → 3"),
        ({"a": ""}, {"a": None}, '~ a: "" → null'),
    ],
)
def test_each_field_that_differs_is_a_line(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    assert text(differences(before, after)) == said


def test_of_a_long_text_only_the_lines_that_differ() -> None:
    found = differences({"data": {"f": "a\nb\nc\nd\n"}}, {"data": {"f": "a\nb\nC\nd\n"}})
    assert text(found).splitlines() == ["~ data.f:", "    @@ -2,3 +2,3 @@", "     b", "    -c", "    +C", "     d"]


def test_what_only_the_server_sets_is_no_difference() -> None:
    live = {
        "metadata": {"name": "x", "resourceVersion": "7", "uid": "u", "managedFields": [1], "generation": 2},
        "status": {"a": 1},
    }
    assert differences(live, {"metadata": {"name": "x", "resourceVersion": "8"}, "status": {"a": 2}}) == []


@given(OBJECTS)
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert differences(value, value) == []


@given(OBJECTS, OBJECTS)
def test_there_are_differences_exactly_where_two_are_not_the_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """But for the order of entries that have names."""
    found = differences(before, after)
    assert text(found) or not found
    if before == after:
        assert not found
    elif not _reordered(before, after):
        assert found


def _reordered(before: Any, after: Any) -> bool:
    return _sorted(before) == _sorted(after)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    return sorted(repr(_sorted(each)) for each in value) if isinstance(value, list) else value
