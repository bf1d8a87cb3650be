"""Files of anybody → what the rules find in them: the entry of this room."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import headrace.lint.rules  # noqa: F401 (fills the table)
from headrace.importing.base import At
from headrace.lint.base import RULES, SEVERITIES, Finding, Rule, Say, Severity, position
from headrace.lint.context import Context, Object
from headrace.lint.edit import as_meant, edited
from headrace.lint.parse import Marks, Parsed, Span, Trouble, parse, span_of
from headrace.spec.document import one_line

SCRIPTS = (".sh", ".bash")
_ROUNDS = 12
"""Of fixing and looking again: a fix may make another one possible, and all of a file's are done long before this."""
_TEMPLATE = re.compile(
    r"\{\{-?\s*(?:\.(?:Values|Release|Chart|Capabilities)\b|include\s+\"|tpl\s|toYaml\s)|\{%-?\s*(?:if|for|set|include|block)\b"
)
_IGNORE = re.compile(r"#\s*headrace:\s*ignore(?P<file>-file)?\s+(?P<codes>HR\d{3}(?:\s*,\s*HR\d{3})*)")
_SERVING = re.compile(r"^[\s-]*\"?(?:apiVersion|kind|services|models|servingEngineSpec|mig-configs)\"?\s*:", re.M)
"""What is in a file that is worth a word when it is no YAML."""
_VALUES = (
    *(("config", "map"), ("config", "name"), ("devicePlugin", "config", "name"), ("devicePlugin", "config", "data")),
    ("migManager", "config", "data"),
)
"""What values of NVIDIA's charts have: the device plugin's own, and the GPU Operator's."""
_CONFLICT = re.compile(r"^<{7} ", re.M)
_OURS = ("models", "aliases", "gateway", "weights", "machine", "kubernetes")


@dataclass(frozen=True, slots=True)
class File:
    """A file's name, as findings say it, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not checked, or not all of it, and why."""

    file: str
    why: str
    part: bool = False


@dataclass(slots=True)
class Result:
    """What a run found, in the order of the files."""

    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    files: int = 0
    objects: int = 0
    """Documents that rules looked at."""


def check(files: Sequence[File], *, ignored: Collection[str] = (), least: Severity = "info") -> Result:
    """Everything the rules find in `files`, which are looked at together; without the codes in `ignored`, and those below
    `least`."""
    result = Result(files=len(files))
    objects: list[Object] = []
    for file in files:
        objects += _objects(file, result)
    context = Context(objects, {file.name: file.text for file in files})
    result.objects = sum(one.kind != "trouble" for one in objects)
    shown = SEVERITIES[: SEVERITIES.index(least) + 1]
    places = _Places(context)
    for code, rule in sorted(RULES.items()):
        if code not in ignored:
            found = (places.finding(rule, said) for said in _said(rule, context, result))
            result.findings += [each for each in found if each.severity in shown and not places.silenced(each)]
    once = {each.order: each for each in result.findings}
    result.findings = [once[order] for order in sorted(once)]
    return result


def _said(rule: Rule, context: Context, result: Result) -> list[Say]:
    """What a rule says. One that fails is our bug, and is no reason to keep the others from the user."""
    try:
        return list(rule.check(context))
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(str(error))}"
        why = f"rule {rule.code} failed ({said}); the other rules were checked. Please report it"
        result.skipped.append(Skipped("", why))
        return []


class _Places:
    """Where findings are: which object they are about, and whether a comment there silences them."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.owners: dict[int, str] = {}
        for one in context.objects:
            if one.kind not in ("trouble", "values", "headrace", "script", "device-plugin", "mig-parted"):
                self.owners[id(one.at.lines)] = one.title

    def finding(self, rule: Rule, said: Say) -> Finding:
        line, column = position(said.at)
        return Finding(
            file=said.at.file,
            line=line,
            column=column,
            code=rule.code,
            severity=said.severity or rule.severity,
            what=one_line(said.what),
            fix=one_line(said.fix),
            evidence=rule.evidence,
            about=self.owners.get(id(said.at.lines), ""),
            edits=said.edits if all(edit.at.file == said.at.file and span_of(edit.at) for edit in said.edits) else (),
        )

    def silenced(self, finding: Finding) -> bool:
        """By a comment on its line, alone on the line above, or for the whole file."""
        if "headrace:" not in self.context.texts.get(finding.file, ""):
            return False
        above = self.context.line(finding.file, finding.line - 1).strip()
        here = self.context.line(finding.file, finding.line)
        near = [here, above if above.startswith("#") else ""]
        if any((match := _IGNORE.search(line)) and finding.code in match["codes"] for line in near):
            return True
        whole = self.context.once(f"ignored in {finding.file}", lambda: self._whole(finding.file))
        return finding.code in whole

    def _whole(self, file: str) -> str:
        """The codes that are silenced for a whole file."""
        found = (_IGNORE.search(line) for line in self.context.lines(file))
        return " ".join(match["codes"] for match in found if match is not None and match["file"])


def _objects(file: File, result: Result) -> Iterator[Object]:
    if file.name.endswith((*SCRIPTS, ".pbtxt")):
        kind = "config.pbtxt" if file.name.endswith(".pbtxt") else "script"
        yield Object(At(file.text, file.name, {(): 1}), kind, "", "", "ours")
        return
    if match := _TEMPLATE.search(file.text):
        line = file.text.count("\n", 0, match.start()) + 1
        why = f"is a template (line {line}); render it first, such as: helm template CHART | headrace check -"
        result.skipped.append(Skipped(file.name, why))
        return
    read = parse(file.text, file.name)
    if any(not trouble.bound for trouble in read.troubles) and re.search(r"\{\{|\{%|<%|^@\w|\$\{\w+", file.text, re.M):
        why = f"is a template: line {read.troubles[0].line} is no YAML before it is rendered"
        result.skipped.append(Skipped(file.name, why))
        return
    for bound in (trouble for trouble in read.troubles if trouble.bound):
        result.skipped.append(Skipped(file.name, f"the document of line {bound.line} was not checked: {bound.what}", part=True))
    for trouble in _mistakes(read, file):
        marks = Marks()
        marks.spans[()] = Span(trouble.line, trouble.column, 0, 0, -1, "alias")
        yield Object(At(trouble.what, file.name, marks), "trouble", "", "", "ours")
    for document in read.documents:
        yield from _each(document, file)


def _mistakes(read: Parsed, file: File) -> list[Trouble]:
    """What is wrong with a file that is about serving; others are none of our business."""
    found = [trouble for trouble in read.troubles if not trouble.bound] if _SERVING.search(file.text) else []
    if found and (match := _CONFLICT.search(file.text)) is not None and "\n=======" in file.text[match.end() :]:
        return [Trouble(file.text.count("\n", 0, match.start()) + 1, 1, "a merge was not resolved here")]
    return found


def _each(document: At, file: File) -> Iterator[Object]:
    """The object, or those of a List."""
    kind = document.get("kind").text
    if kind.endswith("List") and isinstance(document.get("items").value, list):
        for item in document.get("items").each():
            yield from _each(item, file)
    elif kind and document.get("apiVersion").text:
        meta = document.get("metadata")
        version = document.get("apiVersion").text
        group = version.partition("/")[0] if "/" in version else ""
        yield Object(document, kind, meta.get("name").text, meta.get("namespace").text, group)
    elif (ours := _without_kind(document, file)) is not None:
        yield Object(document, ours, "", "", "ours")


def _without_kind(document: At, file: File) -> str | None:
    """What a document without a kind is, where it is something that rules know."""
    value = document.value
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("services"), dict):
        return "compose"
    if document.get("servingEngineSpec", "modelSpec"):
        return "production-stack"
    if isinstance(value.get("mig-configs"), dict):
        return "mig-parted"
    if document.get("sharing", "timeSlicing") or document.get("sharing", "mps"):
        return "device-plugin"
    if any(document.get(*path) for path in _VALUES):
        return "values"
    name = re.split(r"[/\\]", file.name)[-1]
    if name in ("headrace.yaml", "headrace.yml") or (isinstance(value.get("models"), dict) and set(value) <= set(_OURS)):
        return "headrace"
    return None


def fixed(
    files: Sequence[File], *, ignored: Collection[str] = (), least: Severity = "info"
) -> tuple[list[File], list[Finding], Result]:
    """The files with every safe fix made, the findings that this answered, and what is found now."""
    current = list(files)
    done: list[Finding] = []
    result = check(current, ignored=ignored, least=least)
    for _ in range(_ROUNDS):
        changed = False
        for place, file in enumerate(current):
            mine = [each for each in result.findings if each.file == file.name and each.edits]
            text, made = _fixed(file, mine)
            if text != file.text:
                current[place], changed = File(file.name, text), True
                done += made
        if not changed:
            break
        result = check(current, ignored=ignored, least=least)
    return current, done, result


def _fixed(file: File, findings: Sequence[Finding]) -> tuple[str, list[Finding]]:
    """The text with those fixes that can be made together, else with the first that reads back as it was meant."""
    tries: list[Sequence[Finding]] = [findings, *([finding] for finding in findings)]
    for some in tries:
        text, made = edited(file.text, [each.edits for each in some])
        done = [some[place] for place in made]
        if done and as_meant(file.text, text, [edit for each in done for edit in each.edits]):
            return text, done
    return file.text, []
