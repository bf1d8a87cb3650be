"""`headrace bench` as a newcomer types it."""

import io
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.measure.progress import Progress
from headrace.measure.record import encoded

from .test_reports import report, stage


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG = [
    (["--url", "http://127.0.0.1:9"], 69, ["127.0.0.1:9", "headrace serve"]),  # nothing runs there
    (["--key", "sk-secret"], 64, ["--key env:NAME"]),  # a key on the command line
    (["--key", "env:NOT_SET_ANYWHERE"], 64, ["NOT_SET_ANYWHERE", "export"]),
    (["--trace", "none.csv"], 64, ["none.csv", "No such file"]),
    (["--messages", "none.jsonl"], 64, ["none.jsonl"]),
    (["--json", "no/such/folder.json"], 64, ["no/such/folder.json"]),  # told before measuring
    (["--find-rate"], 64, ["--slo"]),
    (["--find-rate", "--concurrency", "8"], 64, ["--find-rate", "--concurrency"]),
    (["--duration", "30"], 64, ["--duration", "60s"]),  # no unit
    (["--prompt", "many"], 64, ["--prompt"]),
    (["--requests", "0"], 64, ["--requests"]),
    (["--compare", "a.json", "b.json"], 64, ["a.json"]),
    (["--compare", "a.json", "b.json", "--strict"], 64, ["--compare", "--strict"]),  # a gate that nothing could fail
    (["--strict"], 64, ["--strict", "--slo"]),  # the same
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=[" ".join(arguments) for arguments, _, _ in WRONG])
def test_a_mistake_is_told_with_a_way_out(
    arguments: list[str], code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "sk-secret" not in said
    assert "Traceback" not in said


def test_two_files_are_compared(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scale in (("a.json", 1.0), ("b.json", 2.0)):
        (empty_folder / name).write_bytes(encoded(report(stage(8, scale=scale))))
    assert main(["bench", "--compare", "a.json", "b.json"]) == 0
    assert "worse" in capsys.readouterr().out


def test_progress_leaves_a_log_readable() -> None:
    """Elsewhere than on a terminal nothing is redrawn, and a line comes only now and then."""

    class Going:
        seconds = (1.0, 10.0)
        outcomes = ()
        in_flight = 3

    out = io.StringIO()
    progress = Progress(out)
    progress.say("8 at once")
    for _ in range(5):
        progress.tick("8 at once", Going())  # type: ignore[arg-type]
    progress.end()
    assert out.getvalue() == "8 at once\n"
