"""Runs over files: what is said, skipped, silenced; the same sentence in every output; nothing breaks it."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.lint.base import RULES, Finding
from headrace.lint.checker import File, check, fixed
from headrace.lint.output import as_github, as_json, as_sarif, baseline, lines, summary, without
from headrace.lint.parse import parse
from headrace.lint.texts import examples, explanation, page

BAD = examples()["HR101"].bad
POD = """apiVersion: v1
kind: Pod
metadata: {name: chat}
spec:
  containers: [{name: engine, image: "example/engine:1", resources: {limits: {nvidia.com/gpu: 0.5}}}]
"""


def codes(text: str, name: str = "x.yaml") -> set[str]:
    return {each.code for each in check([File(name, text)]).findings}


def test_objects_of_different_files_are_looked_at_together() -> None:
    deployment, hpa = examples()["HR113"].bad.split("---\n")
    found = check([File("a/deployment.yaml", deployment), File("b/hpa.yaml", hpa)]).findings
    assert [(each.file, each.line) for each in found if each.code == "HR113"] == [("a/deployment.yaml", 5)]


def test_another_namespace_is_another_object() -> None:
    deployment, hpa = (
        examples()["HR113"]
        .bad.replace("{name: chat}\nspec:\n  replicas", "{name: chat, namespace: a}\nspec:\n  replicas")
        .split("---\n")
    )
    assert "HR113" in codes(f"{deployment}---\n{hpa}")
    assert "HR113" not in codes(
        f"{deployment}---\n{hpa.replace('metadata: {name: chat}', 'metadata: {name: chat, namespace: b}')}"
    )


def test_an_object_belongs_to_its_neighbours() -> None:
    """A folder of examples has many of one name: the ones of its own folder count, and with several elsewhere none does."""
    deployment, hpa = examples()["HR113"].bad.split("---\n")
    files = [File("a/deployment.yaml", deployment), File("b/deployment.yaml", deployment)]
    found = check([*files, File("b/hpa.yaml", hpa)]).findings
    assert {each.file for each in found if each.code == "HR113"} == {"b/deployment.yaml"}
    assert "HR113" not in {each.code for each in check([*files, File("c/hpa.yaml", hpa)]).findings}


def test_items_of_a_list_are_objects() -> None:
    container = {"name": "engine", "image": "example/engine:1", "resources": {"limits": {"nvidia.com/gpu": 0.5}}}
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": n}, "spec": {"containers": [container]}} for n in "ab"]
    result = check([File("x.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}, indent=1))])
    assert [each.code for each in result.findings] == ["HR401", "HR401"]
    assert result.findings[0].line < result.findings[1].line
    assert result.objects == 2


SKIPPED = [
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Release.Name }}}\n", "is a template (line 3)"),
    ("{{- if .Values.x }}\napiVersion: v1\n{{- end }}\n", "is a template: line 1"),
    ("apiVersion: v1\nkind: {% if a %}Pod{% endif %}\n", "is a template (line 2)"),
    ("apiVersion: v1\nkind: Pod\nspec:\n  {{ range }}\n  x: 1\n", "is a template"),
]


@pytest.mark.parametrize(("text", "why"), SKIPPED, ids=lambda value: value[:30])
def test_templates_are_skipped_and_that_is_said(text: str, why: str) -> None:
    result = check([File("x.yaml", text)])
    assert result.findings == []
    assert why in result.skipped[0].why


def test_a_document_beyond_a_limit_is_said_and_the_others_are_checked() -> None:
    bomb = "apiVersion: v1\nkind: ConfigMap\na0: &a0 [x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    result = check([File("x.yaml", f"{bomb}---\n{POD}")])
    assert [each.code for each in result.findings] == ["HR401"]
    assert "the document of line 1 was not checked: it holds more than 200000 values" in result.skipped[0].why


NOT_TEMPLATES = [
    # braces inside of texts of alerts, chat templates and KServe's runtimes
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: '{{ $labels.pod }} is down'\n",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  template: |\n    {{ bos_token }}{{ messages[0] }}\n",
    "apiVersion: serving.kserve.io/v1alpha1\nkind: ServingRuntime\nmetadata: {name: a}\nspec:\n  x: '{{.Name}}'\n",
]


@pytest.mark.parametrize("text", NOT_TEMPLATES)
def test_braces_in_texts_are_no_templates(text: str) -> None:
    result = check([File("x.yaml", text)])
    assert (result.findings, result.skipped, result.objects) == ([], [], 1)


NOT_OURS = [
    "name: CI\non: [push]\njobs: {build: {steps: [{run: make}]}}\n",
    '{"compilerOptions": {"strict": true}}',
    "- just\n- a list\n",
    "replicas: 3\nimage: {tag: latest}\n",
    "not: [valid\n",  # nothing in it says that it is about serving
]


@pytest.mark.parametrize("text", NOT_OURS)
def test_files_about_something_else_are_left_alone(text: str) -> None:
    assert codes(text) == set()


SILENCED = [
    # on the line, on the line above, for the file, with others
    POD.replace("0.5}}}]", "0.5}}}] # headrace: ignore HR401"),
    POD.replace("  containers", "  # headrace: ignore HR401\n  containers"),
    "# headrace: ignore-file HR401\n" + POD,
    POD.replace("0.5}}}]", "0.5}}}] # headrace: ignore HR301, HR401"),
]


@pytest.mark.parametrize("text", SILENCED)
def test_a_comment_silences_a_rule(text: str) -> None:
    assert codes(text) == set()


NOT_SILENCED = [
    POD.replace("0.5}}}]", "0.5}}}] # headrace: ignore HR402"),
    POD.replace("metadata", "# headrace: ignore HR401\nmetadata"),
    POD.replace("  containers", "  x: 1 # headrace: ignore HR401\n  containers"),
]


@pytest.mark.parametrize("text", NOT_SILENCED)
def test_a_comment_elsewhere_silences_nothing(text: str) -> None:
    assert "HR401" in codes(text)


def test_rules_and_severities_can_be_left_out() -> None:
    found = check([File("x.yaml", BAD)], ignored=["HR101"], least="error").findings
    assert {each.severity for each in found} == {"error"}
    assert "HR101" not in {each.code for each in found}


def test_a_rule_that_fails_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def broken(context: object) -> list[object]:
        raise ZeroDivisionError("no")

    monkeypatch.setitem(RULES, "HR101", replace(RULES["HR101"], check=broken))  # type: ignore[arg-type]
    result = check([File("x.yaml", BAD)])
    assert "HR103" in {each.code for each in result.findings}
    assert "rule HR101 failed (ZeroDivisionError: no)" in result.skipped[0].why


def test_every_output_has_the_same_sentence() -> None:
    result = check([File("a b.yaml", BAD)])
    text = "\n".join(lines(result))
    messages = [each["message"] for each in json.loads(as_json(result))["findings"]]
    sarif = json.loads(as_sarif(result, "1"))["runs"][0]["results"]
    assert messages == [each["message"]["text"] for each in sarif] == [each.sentence for each in result.findings]
    assert all(message in text for message in messages)
    assert all(each.sentence.replace("%", "%25") in "\n".join(as_github(result)) for each in result.findings)
    assert sarif[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.yaml"


def test_annotations_escape_what_github_would_read() -> None:
    one = Finding("a,b:c.yaml", 1, 2, "HR101", "error", "100 % of it.", "", "https://x")
    result = check([])
    result.findings = [one]
    assert list(as_github(result)) == ["::error file=a%2Cb%3Ac.yaml,line=1,col=2,title=HR101::100 %25 of it."]


def test_a_baseline_leaves_out_what_it_knows_as_often_as_it_knows_it() -> None:
    first = check([File("x.yaml", BAD)]).findings
    known = json.loads(baseline(first))["findings"]
    moved = check([File("x.yaml", "# a line\n" + BAD)]).findings
    assert without(moved, known) == []
    twice = check([File("x.yaml", BAD + "---\n" + BAD)]).findings
    assert {each.code for each in without(twice, known)} == {each.code for each in first}


def test_the_summary_counts() -> None:
    result = check([File("x.yaml", POD)])
    assert summary(result) == "1 error in 1 file. headrace explain HR401 says why."
    assert summary(check([File("x.yaml", "a: 1\n")])) == "No findings in 1 file, nothing in them to check."


@pytest.mark.parametrize("code", sorted(RULES))
def test_explain_prints_reason_evidence_and_both_examples(code: str) -> None:
    text = "\n".join(explanation(code))
    assert RULES[code].why in text
    assert RULES[code].evidence in text
    assert "\nBad:\n" in text
    assert "\nGood:\n" in text


def test_the_page_has_every_rule() -> None:
    text = "\n".join(page())
    assert all(f"## {code}\n" in text for code in RULES)


def mutated(text: str, seed: int) -> str:
    """The text with something in it replaced by what nobody expects there."""
    choose = random.Random(seed)
    words = text.split(" ")
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(len(words))
        words[place] = choose.choice(
            ["[]", "{}", "null", "true", "-1", "1e9", "[[x]]", "{a: {b: c}}", '""', "0x10", "~\n", "99999999999"]
        )
    return " ".join(words)


@settings(max_examples=300)
@given(st.sampled_from(sorted(RULES)), st.integers(0, 10**6))
def test_no_rule_breaks_on_values_of_another_kind(code: str, seed: int) -> None:
    example = examples()[code]
    result = check([File(example.name, mutated(example.bad + "\n---\n" + example.good, seed))])
    assert not [each for each in result.skipped if "failed" in each.why]


@settings(max_examples=100)
@given(st.sampled_from(sorted(RULES)), st.integers(0, 10**6))
def test_fixing_never_breaks_a_file(code: str, seed: int) -> None:
    example = examples()[code]
    before = File(example.name, mutated(example.bad, seed))
    (after,), _, _ = fixed([before])
    old, new = parse(before.text, ""), parse(after.text, "")
    assert len(new.documents) == len(old.documents)
    assert len(new.troubles) == len(old.troubles)
