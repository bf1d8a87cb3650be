"""What a newcomer does wrong, and what they are told."""

import socket
from pathlib import Path

import pytest

from headrace.cli import main


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG = [
    # a file that is not there: how to get one
    (["serve", "chat.yaml"], 78, ["chat.yaml:1:1", "no such file", "headrace init"]),
    # a folder
    (["serve", "."], 78, ["is a folder"]),
    # a model file that is not there
    (["serve", "./model.gguf"], 69, ["model.gguf", "does not exist"]),
    # a bare name: what is legal is said
    (["serve", "llama3"], 64, ["llama3", "hf:"]),
    # pickle is refused before anything is fetched
    (["serve", "./model.bin"], 64, ["pickle"]),
    # a name for a file of models
    (["serve", "chat.yaml", "--name", "chat"], 64, ["--name"]),
    # an address that is none
    (["serve", "./model.gguf", "--listen", "8000"], 64, ["--listen"]),
    # beyond loopback without keys
    (["serve", "./model.gguf", "--listen", "0.0.0.0:8000"], 64, ["0.0.0.0:8000", "--insecure"]),
    # nothing runs there
    (["status", "--url", "http://127.0.0.1:9"], 69, ["127.0.0.1:9", "headrace serve"]),
    (["logs", "chat", "--url", "http://127.0.0.1:9"], 69, ["127.0.0.1:9"]),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_told_with_a_way_out(
    arguments: list[str], code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    said = capsys.readouterr().err
    for word in words:
        assert word.lower() in said.lower()
    assert "Traceback" not in said


def test_every_mistake_in_a_file_is_told_at_once(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folder / "chat.yaml").write_text(
        "models:\n  chat:\n    sorce: pypi:x\n    replicas: 8..0\n    engine: vlm\naliases: {a: chatt}\n"
    )
    assert main(["serve", "chat.yaml"]) == 78
    said = capsys.readouterr().err
    assert "chat.yaml:3:5: models.chat.sorce" in said
    assert "source" in said
    assert "chat.yaml:4:15: models.chat.replicas" in said
    assert "chat.yaml:5:13: models.chat.engine" in said
    assert "chat.yaml:6:" in said


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    (empty_folder / "model.gguf").write_bytes(b"GGUF")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "./model.gguf", "--listen", f"127.0.0.1:{port}"]) == 69
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_file_that_is_no_model_is_told(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    (empty_folder / "model.gguf").write_bytes(b"<html>not a model</html>")
    assert main(["serve", "./model.gguf", "--listen", "127.0.0.1:0"]) in (65, 69)
    assert "model.gguf" in capsys.readouterr().err


def test_a_key_that_is_not_in_the_environment_is_told(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    (empty_folder / "far.yaml").write_text("models: {far: {url: 'http://127.0.0.1:9', key: 'env:HEADRACE_TEST_NO_SUCH'}}")
    assert main(["serve", "far.yaml", "--listen", "127.0.0.1:0"]) == 64
    assert "HEADRACE_TEST_NO_SUCH" in capsys.readouterr().err


def test_init_writes_a_file_that_serves_and_overwrites_none(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from headrace.spec.load import load

    assert main(["init"]) == 0
    assert "headrace serve headrace.yaml" in capsys.readouterr().out
    assert list(load("headrace.yaml").models) == ["smollm2"]
    (empty_folder / "headrace.yaml").write_text("mine")
    assert main(["init"]) == 64
    assert (empty_folder / "headrace.yaml").read_text() == "mine"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("headrace 0.")
