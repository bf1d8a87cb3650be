"""YAML of anybody: values, places, bounds; a mistake in one document does not hide the others."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.lint.parse import DEEPEST, embedded, parse, span_of

texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\u0085\u2028\u2029\ufeff"), max_size=8
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), texts)
values = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(texts.filter(lambda t: t != "<<"), below, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts.filter(lambda t: t != "<<"), values, min_size=1, max_size=4), st.booleans())
def test_values_are_those_of_pyyaml_wherever_they_stand(value: object, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    (document,) = parse(text, "x").documents
    assert document.value == yaml.safe_load(text)


@given(st.dictionaries(texts.filter(lambda t: t != "<<"), values, min_size=1, max_size=4), st.booleans())
def test_a_span_holds_the_value_that_it_is_of(value: object, flow: bool) -> None:
    text = "# first\n" + yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    (document,) = parse(text, "x").documents
    for key, at in document.items():
        span = span_of(at)
        assert span is not None
        if span.style in ("plain", "single", "double", "{}", "[]"):
            assert yaml.safe_load(text[span.start : span.end] or "~") == at.value
        assert yaml.safe_load(text[span.key : span.start].rstrip().removesuffix(":")) is not None or key in ("", "null", "~")


DOCUMENTS = [
    # the mistake is in the first, the middle, the last document
    ("a: [\n---\nb: 1\n---\nc: 2\n", [{"b": 1}, {"c": 2}], [2]),
    ("a: 1\n---\nb: {\n---\nc: 2\n", [{"a": 1}, {"c": 2}], [4]),
    ("a: 1\n---\nb: 'x\n", [{"a": 1}], [3]),
    # comments and empty documents are none
    ("# only a comment\n---\n---\na: 1\n...\n", [{"a": 1}], []),
    # directives belong to what follows
    ("%YAML 1.1\n---\na: 1\n", [{"a": 1}], []),
    # carriage returns
    ("a: 1\r\n---\r\nb: |\r\n  x\r\n", [{"a": 1}, {"b": "x\n"}], []),
    # halves of a far character, as JSON writes it
    ('{"a": "\\ud83d\\ude00"}', [{"a": "\ud83d\ude00"}], []),
    # merge keys
    ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n", [{"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}], []),
    # an anchor inside of itself
    ("a: &a [*a]\n", [], [1]),
    # tags of others
    ("a: !Ref x\nb: !!python/object:os.system {c: 1}\n", [{"a": "x", "b": {"c": 1}}], []),
]


@pytest.mark.parametrize(("text", "found", "wrong"), DOCUMENTS, ids=lambda value: repr(value)[:30])
def test_documents(text: str, found: list[object], wrong: list[int]) -> None:
    made = parse(text, "x")
    assert [document.value for document in made.documents] == found
    assert [trouble.line for trouble in made.troubles] == wrong


def test_an_alias_bomb_is_bounded() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    made = parse(text, "x")
    assert made.documents == []
    assert "values" in made.troubles[0].what


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 50_000, "- " * 30_000 + "x", "".join(" " * i + "a:\n" for i in range(300))]
)
def test_deep_nesting_is_bounded(text: str) -> None:
    made = parse(text, "x")
    assert made.documents == []
    assert made.troubles
    assert DEEPEST < 200


def test_many_values_are_bounded() -> None:
    made = parse("a: 1\n---\n" + "".join(f"k{i}: v\n" for i in range(400_000)), "x")
    assert [document.value for document in made.documents] == [{"a": 1}]
    assert (made.troubles[0].line, made.troubles[0].bound) == (2, True)


def test_a_repeated_key_is_noted_with_its_first_line() -> None:
    (document,) = parse("a: 1\nb: 2\na: 3\n", "x").documents
    assert [(path, line, first) for path, line, _, first in document.lines.repeated] == [(("a",), 3, 1)]  # type: ignore[attr-defined]


def test_yaml_in_a_literal_block_has_places_in_the_file() -> None:
    text = "data:\n  config.yaml: |\n    version: v1\n    sharing:\n      mps: {a: 1}\n"
    (document,) = parse(text, "x").documents
    inner = embedded(document.get("data", "config.yaml"), text)
    assert inner is not None
    span = span_of(inner.get("sharing", "mps"))
    assert span is not None
    assert (span.line, span.column, text[span.start : span.end]) == (5, 7, "{a: 1}")


@given(st.text(max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    parse(text, "x")


@given(st.text("[]{}:,-&*!|>'\"%@` \n\tab#?<", max_size=40))
def test_no_punctuation_breaks_it(text: str) -> None:
    parse(text, "x")
