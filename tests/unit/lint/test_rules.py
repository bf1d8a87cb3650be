"""Every rule speaks of its bad example and keeps silent about its good one; what --fix makes of the bad one is right."""

import pytest
import yaml

from headrace.lint.base import RULES, SEVERITIES
from headrace.lint.checker import File, check, fixed
from headrace.lint.texts import examples

CODES = sorted(RULES)


def test_every_rule_has_an_example_and_no_example_is_left_over() -> None:
    assert set(examples()) == set(RULES)


@pytest.mark.parametrize("code", CODES)
def test_a_rule_speaks_of_its_bad_example(code: str) -> None:
    example = examples()[code]
    result = check([File(example.name, example.bad)])
    assert code in {each.code for each in result.findings}
    assert not result.skipped


@pytest.mark.parametrize("code", CODES)
def test_a_rule_is_silent_about_its_good_example(code: str) -> None:
    example = examples()[code]
    result = check([File(example.name, example.good)])
    assert code not in {each.code for each in result.findings}
    assert not result.skipped


@pytest.mark.parametrize("code", CODES)
def test_findings_say_where_what_and_what_to_do(code: str) -> None:
    example = examples()[code]
    lines = example.bad.split("\n")
    for each in check([File(example.name, example.bad)]).findings:
        assert each.severity in SEVERITIES
        assert 1 <= each.line <= len(lines)
        assert 1 <= each.column <= len(lines[each.line - 1]) + 1
        assert each.what.endswith((".", "?")) or code == "HR003"
        assert each.what == each.what.strip()


@pytest.mark.parametrize("code", CODES)
def test_a_fix_answers_what_it_fixes_and_fixing_again_changes_nothing(code: str) -> None:
    example = examples()[code]
    files, done, after = fixed([File(example.name, example.bad)])
    again, more, _ = fixed(files)
    assert again == files
    assert more == []
    left = {(each.code, each.what) for each in after.findings}
    assert all((each.code, each.what) not in left for each in done)
    assert all(not each.edits for each in after.findings)
    if example.name.endswith(".yaml") and code != "HR001":
        assert list(yaml.safe_load_all(files[0].text))


@pytest.mark.parametrize("code", CODES)
def test_a_rule_has_a_reason_and_evidence(code: str) -> None:
    rule = RULES[code]
    assert len(rule.why) > 40
    assert rule.evidence.startswith(("https://", "docs/"))
    assert rule.title[0].islower() or rule.title.split()[0][0].isupper()
