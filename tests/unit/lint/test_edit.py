"""Edits change what they are about and nothing else: comments, order, quotes, line ends."""

import json

import pytest
import yaml

from headrace.lint.base import Edit
from headrace.lint.edit import as_meant, edited
from headrace.lint.parse import parse

CASES = [
    # (text, path, how, old, new, result)
    ("a: 1 # one\nb: 2\n", ("a",), "set", "", "x", "a: x # one\nb: 2\n"),
    ("a: 1\n", ("a",), "set", "", "1", 'a: "1"\n'),
    ("a: 1\nb: 2 # two\nc: 3\n", ("b",), "delete", "", None, "a: 1\nc: 3\n"),
    # the first key of an item gives its place to the next
    ("- a: 1\n  b: 2\n", (0, "a"), "delete", "", None, "- b: 2\n"),
    # flows keep their commas right
    ("x: {a: 1, b: 2, c: 3}\n", ("x", "a"), "delete", "", None, "x: {b: 2, c: 3}\n"),
    ("x: {a: 1, b: 2, c: 3}\n", ("x", "c"), "delete", "", None, "x: {a: 1, b: 2}\n"),
    ("x: [1, 2, 3]\n", ("x", 1), "delete", "", None, "x: [1, 3]\n"),
    ("x:\n- 1\n- 2 # two\n- 3\n", ("x", 1), "delete", "", None, "x:\n- 1\n- 3\n"),
    # a block that ends in a literal, in a comment, without a line break
    ("x:\n  a: |\n    one\n    two\ny: 1\n", ("x",), "add", "b", "c", "x:\n  a: |\n    one\n    two\n  b: c\ny: 1\n"),
    ("x:\n  a: 1 # one\n\n# y\ny: 1\n", ("x",), "add", "b", {"c": ["1"]}, 'x:\n  a: 1 # one\n  b: {c: ["1"]}\n\n# y\ny: 1\n'),
    ("x:\n  a: 1", ("x",), "add", "b", True, "x:\n  a: 1\n  b: true"),
    ("- a: 1\n", (0,), "add", "b", 2, "- a: 1\n  b: 2\n"),
    ("x: {}\n", ("x",), "add", "b", 2, "x: {b: 2}\n"),
    # carriage returns stay
    ("a: 1\r\nb: 2\r\n", (), "add", "c", 3, "a: 1\r\nb: 2\r\nc: 3\r\n"),
    ("a: 1\r\nb: 2\r\n", ("a",), "delete", "", None, "b: 2\r\n"),
    # JSON stays JSON
    ('{"a": 1, "b": {"c": 2}}', ("b",), "add", "d", "x", '{"a": 1, "b": {"c": 2, "d": "x"}}'),
    ('{"a": 1, "b": 2}', ("a",), "set", "", "x", '{"a": "x", "b": 2}'),
    # inside of folded and quoted text
    ("q: >-\n  sum(old)\n  + old\n", ("q",), "replace", "old", "new", "q: >-\n  sum(new)\n  + new\n"),
    ("q: 'é old'\n", ("q",), "replace", "old", "new", "q: 'é new'\n"),
]


@pytest.mark.parametrize(("text", "path", "how", "old", "new", "result"), CASES, ids=lambda value: repr(value)[:24])
def test_an_edit(text: str, path: tuple[str | int, ...], how, old: str, new: object, result: str) -> None:  # type: ignore[no-untyped-def]
    (document,) = parse(text, "x").documents
    at = document
    for part in path:
        at = list(at.each())[part] if isinstance(part, int) else at.get(part)
    edit = Edit(how, at, old, new)
    made, which = edited(text, [[edit]])
    assert made == result
    assert which == [0]
    assert as_meant(text, made, [edit])
    if text.startswith("{"):
        json.loads(made)


NOT_DONE = [
    # what came in through an anchor stands elsewhere
    ("x: &x {a: 1, b: 2}\ny: *x\n", ("y", "a"), "delete"),
    ("x: &x {a: 1, b: 2}\ny: *x\n", ("y",), "set"),
    # what is not there
    ("a: 1\n", ("b",), "set"),
    # the only key of a mapping would leave nothing
    ("x:\n  a: 1\n", ("x", "a"), "delete"),
    # a literal block is no scalar on a line
    ("a: |\n  x\n", ("a",), "set"),
]


@pytest.mark.parametrize(("text", "path", "how"), NOT_DONE, ids=lambda value: repr(value)[:24])
def test_what_cannot_be_done_safely_is_not_done(text: str, path: tuple[str, ...], how) -> None:  # type: ignore[no-untyped-def]
    (document,) = parse(text, "x").documents
    assert edited(text, [[Edit(how, document.get(*path), "", "z")]]) == (text, [])


def test_edits_that_touch_each_other_are_not_made_together() -> None:
    text = "x: {a: 1}\n"
    (document,) = parse(text, "x").documents
    changes = [[Edit("add", document.get("x"), "b", 2)], [Edit("add", document.get("x"), "c", 3)]]
    made, which = edited(text, changes)
    assert which == [0]
    assert yaml.safe_load(made) == {"x": {"a": 1, "b": 2}}


def test_several_items_are_taken_out_together_at_the_end_of_a_list() -> None:
    text = "x: [model, --size, 1]\n"
    (document,) = parse(text, "x").documents
    item = list(document.get("x").each())[1]
    edit = Edit("delete", item, count=2)
    assert edited(text, [[edit]])[0] == "x: [model]\n"
    assert as_meant(text, "x: [model]\n", [edit])


def test_a_result_that_is_not_what_was_meant_is_seen() -> None:
    text = "a: 1\nb: 2\n"
    (document,) = parse(text, "x").documents
    assert not as_meant(text, "a: 1\n", [Edit("set", document.get("a"), "", 3)])
    assert not as_meant(text, "a: [", [Edit("set", document.get("a"), "", 3)])
