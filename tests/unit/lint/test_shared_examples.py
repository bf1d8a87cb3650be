"""Examples that others have measured against real components: the common snippets, valid objects, and what servers refuse."""

import json

import kubernetes_validate
import pytest
import yaml

from headrace.lint.checker import File, check, fixed
from tests.unit.manifests.crds import FOLDER, needs_crds

EXAMPLES = FOLDER / "examples"
SNIPPETS = ("snippet-device-plugin.yaml", "snippet-keda-so.yaml", "snippet-vllm.yaml")

MISTAKES = {
    # the ten of facts/keda-hpa.md, section 7; its sixth, minReplicaCount: 1, is a choice: HR107 speaks of the keys that it voids
    "snippet-keda-so.yaml": {"HR101", "HR103", "HR104", "HR105", "HR106", "HR109", "HR110", "HR115"},
    # the rows of facts/kubernetes.md, section 1
    "snippet-vllm.yaml": {
        *("HR113", "HR201", "HR202", "HR203", "HR205", "HR207", "HR301", "HR302", "HR304", "HR305", "HR309", "HR312", "HR318"),
        *("HR411", "HR602", "HR607", "HR608"),
    },
    # facts/kubernetes.md, section 5
    "snippet-device-plugin.yaml": {"HR501", "HR503", "HR504"},
}

TRUE_OF_GOOD = {
    # valid everywhere, and these are true of them: facts/lint-evidence.md has no exception for examples
    "good-vllm.yaml": {"HR205", "HR207", "HR302", "HR318", "HR411"},
    "good-keda-so.yaml": {"HR106", "HR107"},
    "good-kaito-ws-template.yaml": {"HR431"},
}


def snippets() -> list[File]:
    return [File(name, (EXAMPLES / name).read_text()) for name in SNIPPETS]


@needs_crds
def test_every_known_mistake_of_the_common_snippets_is_found() -> None:
    found = check(snippets()).findings
    for name, codes in MISTAKES.items():
        assert codes <= {each.code for each in found if each.file == name}


@needs_crds
def test_the_snippets_break_more_than_twenty_five_rules() -> None:
    assert len({each.code for each in check(snippets()).findings}) > 25


@needs_crds
def test_fixed_snippets_have_nothing_left_that_can_be_fixed_and_are_valid() -> None:
    files, done, after = fixed(snippets())
    assert {
        "HR101",
        "HR103",
        "HR105",
        "HR111",
        "HR201",
        "HR202",
        "HR205",
        "HR304",
        "HR309",
        "HR318",
        "HR503",
        "HR602",
        "HR608",
    } == {each.code for each in done}
    assert not [each for each in after.findings if each.edits]
    assert fixed(files)[0] == files
    for file in files:
        for manifest in yaml.safe_load_all(file.text):
            if manifest["kind"] != "ScaledObject":
                kubernetes_validate.validate(json.loads(json.dumps(manifest)), "1.37", strict=True)


@needs_crds
def test_a_fixed_scaled_object_passes_its_definition() -> None:
    from tests.unit.manifests.crds import problems

    files, _, _ = fixed(snippets())
    scaled = yaml.safe_load(next(file.text for file in files if file.name == "snippet-keda-so.yaml"))
    assert problems(scaled) == []


@needs_crds
@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("good-*.yaml")) if EXAMPLES.is_dir() else [], ids=lambda file: file.stem)
def test_there_is_no_false_alarm_about_good_examples(file) -> None:  # type: ignore[no-untyped-def]
    findings = check([File(file.name, file.read_text())]).findings
    assert {each.code for each in findings} == TRUE_OF_GOOD.get(file.name, set())
    assert not [each for each in findings if each.severity == "error"]


@needs_crds
@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("bad*.yaml")) if EXAMPLES.is_dir() else [], ids=lambda file: file.stem)
def test_what_a_server_refuses_is_an_error(file) -> None:  # type: ignore[no-untyped-def]
    assert [each for each in check([File(file.name, file.read_text())]).findings if each.severity == "error"]
