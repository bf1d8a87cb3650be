"""`headrace plan` asked in other ways: a log to learn from, the table of engines, data for machines, pulling ahead."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.errors import WeightsError
from headrace.testing.hub import FakeHub
from headrace.weights.cache import Cache
from headrace.weights.model import Progress
from headrace.weights.source import parse
from tests.contract import onnx_writer

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


def test_what_a_log_taught_is_kept_until_it_is_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vllm.log").write_text(LOG)
    asked = ["plan", LLAMA, "--offline", "--machine", "H100-80GB"]

    def say(*more: str) -> str:
        assert main([*asked, *more]) == 0
        return capsys.readouterr().out

    before, taught = say(), say("--learn", "vllm.log")
    kept = (tmp_path / "cache" / "learned" / "vllm.yaml").read_bytes()
    assert say() == taught == say("--learn", "vllm.log")
    assert (tmp_path / "cache" / "learned" / "vllm.yaml").read_bytes() == kept
    assert "vLLM 0.11.0 (its start on H100-80GB was learned)" in taught
    assert "corrected by vllm.log (weights 14.99 GiB, cache 50.00 GiB, tensor parallel 1)" in taught
    assert "vLLM 0.33.0" in (other := say("--machine", "A100-80GB"))
    assert "vllm.log" not in other
    assert main(["plan", LLAMA, "--forget"]) == 0
    assert "Forgotten" in capsys.readouterr().out
    assert say() == before
    assert main(["plan", LLAMA, "--forget"]) == 0
    assert "Nothing was learned" in capsys.readouterr().out


ENTRY = "{version: 0.11.0, card: h100, source: x, sampler_bytes: [1, 2], runtime_bytes: [1, 2], graph_bytes: [1, 2]"


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("a: [", "cannot be read"),
        ("a: 1", "not a list of starts"),
        ("- 5", "Start 1 in it"),
        (f"- {ENTRY}}}", "runtime_parallel_bytes"),  # one is missing
        (f"- {ENTRY}, runtime_parallel_bytes: [2, 1]}}", "runtime_parallel_bytes 2 to 1"),  # the worst is less than expected
        (f"- {ENTRY}, runtime_parallel_bytes: [1, .inf]}}", "1 to inf"),
        ("[" * 1500, "cannot be read"),
    ],
)
def test_a_spoilt_file_of_what_was_learned_is_told(
    kept: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache" / "learned").mkdir(parents=True)
    (tmp_path / "cache" / "learned" / "vllm.yaml").write_text(kept)
    assert main(["plan", LLAMA, "--offline", "--machine", "H100-80GB"]) == 64
    said = capsys.readouterr().err
    assert words in said
    assert "headrace plan --forget removes it" in said


def test_what_is_missed_is_the_last_line_and_strict_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", LLAMA, "--offline", "--machine", "H100-80GB", "--for", "users=8,tpot=1ms"]
    assert main(asked) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Missed: ")
    assert "ms per token, 1 asked for" in last
    assert "times what was asked for" in last
    assert main([*asked, "--strict"]) == 1
    capsys.readouterr()
    assert main([*asked, "--strict", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["best"][0]["problems"]
    assert "Missed: " in said.err
    assert main(["plan", LLAMA, "--offline", "--machine", "H100-80GB", "--strict"]) == 0
    assert "Missed" not in capsys.readouterr().out


def test_a_fleet_without_room_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text(f"models: {{a: '{LLAMA}', b: 'hf:Qwen/Qwen3-32B'}}")
    assert main(["plan", "two.yaml", "--offline", "--machine", "A10", "--strict"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Missed: b finds no place."


NVIDIA = """\
from types import SimpleNamespace

def cli_estimate(model, system, *, tp_size, pp_size, **load):
    print("chatter")
    if system != "h100_sxm":
        raise ValueError("No database")
    return SimpleNamespace(ttft=100.0, tpot=10.0, tokens_per_second=500.0)
"""
LLAMA_CONFIG = (
    '{"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}'
)


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small aiconfigurator that knows one card and one model, by another name."""
    (tmp_path / "there" / "aiconfigurator" / "cli").mkdir(parents=True)
    (tmp_path / "there" / "aiconfigurator" / "cli" / "api.py").write_text(NVIDIA)
    (tmp_path / "there" / "aiconfigurator_core" / "model_configs").mkdir(parents=True)
    (tmp_path / "there" / "aiconfigurator_core" / "__init__.py").touch()
    (tmp_path / "there" / "aiconfigurator_core" / "model_configs" / "meta-llama--Other_config.json").write_text(LLAMA_CONFIG)
    monkeypatch.syspath_prepend(tmp_path / "there")
    yield
    for name in [name for name in sys.modules if name.startswith("aiconfigurator")]:
        del sys.modules[name]


@pytest.fixture
def without_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiconfigurator", None)
    monkeypatch.setitem(sys.modules, "aiconfigurator.cli.api", None)


@pytest.mark.usefixtures("nvidia")
def test_a_second_opinion_stands_beside_ours_with_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", LLAMA, "--offline", "--second-opinion", "--machine"]
    assert main([*asked, "H100-80GB"]) == 0
    said = capsys.readouterr().out
    assert "chatter" not in said
    assert "asked about meta-llama/Other on h100_sxm" in said
    assert re.search(r"per token, ms +\d+\.\d +10\.0 +\d\.\d\d\n", said)
    assert main([*asked, "H100-80GB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["second_opinion"]["tpot_seconds"][1] == 0.01
    for machine, words in (("L4", "no answer for meta-llama/Other on l4: No database"), ("T4", "has no data for T4")):
        assert main([*asked, machine]) == 0
        assert words in capsys.readouterr().out
    assert main(["plan", "hf:Qwen/Qwen3-8B", *asked[2:], "H100-80GB"]) == 0
    assert "ships no model of this shape" in capsys.readouterr().out


@pytest.mark.usefixtures("without_nvidia")
def test_where_it_is_not_installed_the_command_that_installs_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", LLAMA, "--offline", "--second-opinion", "--machine", "H100-80GB"]) == 0
    assert "pip install 'headrace[aiconfigurator]'" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--learn", "vllm.log"], ["--second-opinion"]])
def test_what_is_about_gpus_needs_a_machine(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", LLAMA, "--offline", *option]) == 64
    assert f"{option[0]} needs --machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "arguments", "words"),
    [
        (LOG.replace("size=1", "size=1, pipeline_parallel_size=2"), ["--machine", "H100-80GB"], "is of a pipeline"),
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


def test_pulling_counts_what_is_to_be_fetched_and_leaves_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, data = onnx_writer.outside("model.onnx_data")
    (tmp_path / "own.onnx").write_bytes(onnx_writer.linear())
    (tmp_path / "own.py").write_text("class Own:\n    def predict(self, batch):\n        return batch\n")
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("org/m", {"onnx/model.onnx": graph, "onnx/model.onnx_data": data})
        hub.files["/m.onnx"] = ("application/octet-stream", onnx_writer.linear())
        (tmp_path / "headrace.yaml").write_text(
            f"models: {{a: file:./own.onnx, b: file:./own.py, c: {{source: 'hf:org/m', engine: triton}}, d: '{hub.url}/m.onnx'}}"
        )
        assert main(["pull", "headrace.yaml"]) == 0
        said = capsys.readouterr().err
        sizes = [len(graph) + len(data), len(onnx_writer.linear())]
        assert f"c: hf:org/m: {sizes[0]} B to fetch\nd: {hub.url}/m.onnx: {sizes[1]} B to fetch\n{sum(sizes)} B to fetch" in said
        assert not re.search("^[ab]:", said, re.MULTILINE)
        downloads = hub.downloads()
        assert main(["pull", "headrace.yaml"]) == 0
        assert capsys.readouterr().err.count(": in the cache") == 2
        assert hub.downloads() == downloads


def test_pulling_again_after_a_break_counts_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [safetensors(name) for name in ("a", "b")]
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add(
            "org/m", {f"model-0000{n}-of-00002.safetensors": data for n, data in enumerate(shards, 1)} | {"config.json": b"{}"}
        )

        def gone(seconds: float) -> None:
            hub.failures.append(404)

        def cut(progress: Progress) -> None:
            if progress.what.startswith("model-00001"):
                hub.cut_after = 700

        broken = Cache(str(tmp_path / "cache"), environment={}, endpoint=hub.url, pause=gone)
        with pytest.raises(WeightsError, match="is not there"):
            broken.fetch(parse("hf:org/m"), cut, formats=("safetensors",))
        hub.failures.clear()
        (tmp_path / "headrace.yaml").write_text("models: {m: {source: 'hf:org/m', engine: vllm}}")
        assert main(["pull", "headrace.yaml"]) == 0
        assert f"{len(shards[1]) - 700 + len(b'{}')} B to fetch, " in capsys.readouterr().err


def safetensors(name: str) -> bytes:
    header = json.dumps({name: {"dtype": "U8", "shape": [1200], "data_offsets": [0, 1200]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(1200)


def test_pulling_says_of_safetensors_that_are_here_that_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(8)
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("org/m", {"model.safetensors": tensors, "config.json": b"{}"})
        (tmp_path / "headrace.yaml").write_text("models: {m: {source: 'hf:org/m', engine: vllm}}")
        assert main(["pull", "headrace.yaml"]) == 0
        assert "to fetch" in capsys.readouterr().err
        assert main(["pull", "headrace.yaml"]) == 0
        assert "hf:org/m: in the cache" in capsys.readouterr().err
