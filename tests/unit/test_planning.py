"""`headrace plan` asked in other ways: a log to learn from, the table of engines, data for machines, pulling ahead."""

import json
from pathlib import Path

import pytest

from headrace.cli import main

LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct"
LOG = """\
INFO 08-21 10:00:00 [core.py:74] Initializing a V1 LLM engine (v0.11.0) with config: tensor_parallel_size=1
INFO 08-21 10:00:20 [gpu_model_runner.py:2653] Model loading took 14.99 GiB and 5.1 seconds
INFO 08-21 10:00:40 [gpu_worker.py:298] Available KV cache memory: 50.00 GiB
INFO 08-21 10:00:40 [kv_cache_utils.py:1087] GPU KV cache size: 409,600 tokens
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def test_a_log_corrects_the_plan_for_its_version_and_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vllm.log").write_text(LOG)
    assert main(["plan", LLAMA, "--offline", "--machine", "H100-80GB", "--learn", "vllm.log", "--json"]) == 0
    said = capsys.readouterr()
    assert "Corrected for vLLM 0.11.0 on H100-80GB" in said.err
    best = json.loads(said.out)["best"][0]
    assert best["version"] == "0.11.0"


@pytest.mark.parametrize(
    ("log", "arguments", "words"),
    [
        ("nothing of use", ["--machine", "H100-80GB"], "does not say enough"),
        (LOG, ["--machine", "azure"], "one kind of GPU"),  # which of them would the log be of?
        (None, ["--machine", "H100-80GB"], "cannot be read"),
    ],
)
def test_a_log_that_teaches_nothing_is_told(
    log: str | None, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if log is not None:
        (tmp_path / "vllm.log").write_text(log)
    assert main(["plan", LLAMA, "--offline", "--learn", "vllm.log", *arguments]) == 64
    assert words in capsys.readouterr().err


def test_the_table_of_engines_names_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--engines"]) == 0
    said = capsys.readouterr().out
    for engine in ("llamacpp", "vllm", "kaito", "sglang", "tgi", "triton", "custom"):
        assert f"{engine}\n  for " in said


def test_every_term_is_explained_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", LLAMA, "--offline", "--machine", "H100-80GB", "--explain"]) == 0
    said = capsys.readouterr().out
    assert "bytes of the checkpoint" in said
    assert "budget" in said
    assert "one decode step" in said


def test_what_nobody_knows_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "hf:nobody/nothing", "--offline", "--machine", "T4"]) == 69
    assert "not in the cache" in capsys.readouterr().err
    assert main(["plan", LLAMA, "--offline", "--machine", "A1000"]) == 64
    assert "nearest" in capsys.readouterr().err
    assert main(["plan", LLAMA, "--offline", "--machine", "T4", "--for", "user=5"]) == 64
    assert "Did you mean users" in capsys.readouterr().err
