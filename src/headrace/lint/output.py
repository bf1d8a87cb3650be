"""Findings as text, JSON, SARIF and GitHub's annotations: the same sentence in each."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from headrace.lint.base import RULES, SEVERITIES, Finding
from headrace.lint.checker import Result

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def lines(result: Result) -> Iterator[str]:
    """For people: a line for each finding and each file that was skipped, then the summary."""
    for each in result.findings:
        yield f"{each.file}:{each.line}:{each.column} {each.code} {each.severity}: {each.sentence}"
    for skipped in result.skipped:
        said = skipped.why if skipped.part or not skipped.file else f"not checked: it {skipped.why}"
        yield f"{skipped.file or 'headrace'}: {said}."
    yield summary(result)


def summary(result: Result) -> str:
    """`3 errors, 2 warnings in 4 files (2 can be fixed with --fix). headrace explain HR101 says why.`"""
    counts = Counter(each.severity for each in result.findings)
    files = f"{result.files} file{'s' if result.files != 1 else ''}"
    if not result.findings:
        read = (
            f", {result.objects} object{'s' if result.objects != 1 else ''}" if result.objects else ", nothing in them to check"
        )
        return f"No findings in {files}{read}."
    said = ", ".join(_count(counts[each], each) for each in SEVERITIES if counts[each])
    able = sum(bool(each.edits) for each in result.findings)
    fix = f" {able} can be fixed with --fix." if able else ""
    return f"{said} in {files}.{fix} headrace explain {result.findings[0].code} says why."


def _count(number: int, word: str) -> str:
    plural = {"error": "errors", "warning": "warnings", "info": "remarks"}
    single = {"error": "error", "warning": "warning", "info": "remark"}
    return f"{number} {(single if number == 1 else plural)[word]}"


def as_json(result: Result) -> str:
    """For programs; its keys do not change their meaning."""
    found = [
        {
            "code": each.code,
            "severity": each.severity,
            "file": each.file,
            "line": each.line,
            "column": each.column,
            "object": each.about,
            "message": each.sentence,
            "what": each.what,
            "fix": each.fix,
            "fixable": bool(each.edits),
            "evidence": each.evidence,
        }
        for each in result.findings
    ]
    skipped = [{"file": each.file, "why": each.why} for each in result.skipped]
    return json.dumps({"findings": found, "skipped": skipped, "files": result.files, "objects": result.objects}, indent=2)


def as_github(result: Result) -> Iterator[str]:
    """Commands that GitHub Actions shows beside the lines of a pull request."""
    for each in result.findings:
        title = _property(f"{each.code} {each.about}".strip())
        place = f"file={_property(each.file)},line={each.line},col={each.column},title={title}"
        yield f"::{_COMMANDS[each.severity]} {place}::{_data(each.sentence)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_sarif(result: Result, version: str) -> str:
    """SARIF 2.1.0, which code scanning of GitHub and others reads."""
    codes = sorted({each.code for each in result.findings})
    rules = [_rule(code) for code in codes]
    found = [_result(each, codes.index(each.code)) for each in result.findings]
    driver = {"name": "headrace", "version": version, "rules": rules}
    run = {"tool": {"driver": driver}, "results": found, "columnKind": "unicodeCodePoints"}
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(code: str) -> dict[str, Any]:
    rule = RULES[code]
    return {
        "id": code,
        "shortDescription": {"text": f"{rule.title[:1].upper()}{rule.title[1:]}."},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} Evidence: {rule.evidence}"},
        **({"helpUri": rule.evidence} if rule.evidence.startswith("http") else {}),
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(each: Finding, index: int) -> dict[str, Any]:
    region = {"startLine": each.line, "startColumn": each.column}
    place = {"artifactLocation": {"uri": _uri(each.file)}, "region": region}
    return {
        "ruleId": each.code,
        "ruleIndex": index,
        "level": _LEVELS[each.severity],
        "message": {"text": each.sentence},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"headrace/v1": fingerprint(each)},
    }


def _uri(name: str) -> str:
    return "".join(
        char if char.isalnum() or char in "/._-~" else "".join(f"%{byte:02X}" for byte in char.encode()) for char in name
    )


def fingerprint(each: Finding) -> str:
    """What stays the same when lines are added above: file, code, object and sentence."""
    return "|".join((each.file.replace("\\", "/"), each.code, each.about, each.what))


def baseline(findings: Sequence[Finding]) -> str:
    """The findings that are known and accepted, each with how often it is there."""
    counts = Counter(map(fingerprint, findings))
    return json.dumps({"headrace baseline": 1, "findings": dict(sorted(counts.items()))}, indent=2) + "\n"


def without(findings: Sequence[Finding], known: dict[str, int]) -> list[Finding]:
    """Those that a baseline does not have, or has less often."""
    left = Counter(known)
    new: list[Finding] = []
    for each in findings:
        mark = fingerprint(each)
        if left[mark] > 0:
            left[mark] -= 1
        else:
            new.append(each)
    return new
