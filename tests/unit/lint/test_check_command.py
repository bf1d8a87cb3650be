"""`headrace check` and `headrace explain` as they are called: files of all kinds, fixes, baselines, exit codes."""

import json
from pathlib import Path

import pytest

from headrace import checking
from headrace.cli import main
from headrace.lint.texts import examples

BAD, GOOD = examples()["HR101"].bad, examples()["HR103"].good


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["check", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


EXITS = [
    # an error or a warning is 1, remarks alone and nothing are 0
    (BAD, 1),
    (GOOD, 0),
    (examples()["HR107"].bad, 0),
    (examples()["HR311"].bad, 1),
]


@pytest.mark.parametrize(("text", "code"), EXITS)
def test_the_exit_code(text: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert run(capsys, tmp_path)[0] == code


def test_folders_are_searched_and_hidden_ones_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/x.yaml", "a/b/y.yml", ".git/z.yaml", "node_modules/z.yaml", "a/notes.txt", ".hidden.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(BAD)
    _, out, _ = run(capsys, tmp_path, "--json")
    assert {Path(each["file"]).name for each in json.loads(out)["findings"]} == {"x.yaml", "y.yml"}


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(BAD)
    assert json.loads(run(capsys, tmp_path / "x.yaml", tmp_path / "x.yaml", "--json")[1])["files"] == 1


SKIPPED = [
    # binary, other encodings, too large
    (b"kind\0\1\2", "is binary"),
    (b"\xff\xfek\0i\0n\0d\0", "is UTF-16"),
    (b"kind: x\nname: caf\xe9\n", "is not UTF-8 (line 2)"),
]


@pytest.mark.parametrize(("raw", "why"), SKIPPED)
def test_what_cannot_be_read_is_said(raw: bytes, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_bytes(raw)
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert why in out


def test_a_large_file_is_said_and_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(100_000_000)
    assert "is larger than 10 MB" in run(capsys, tmp_path)[1]


def test_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path / "none.yaml")
    assert code == 64
    assert "There is no file or folder" in err


def test_an_unknown_rule_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path, "--ignore", "HR1O1")
    assert code == 64
    assert "HR1O1 is no rule. Did you mean HR101?" in err


def test_fix_writes_what_is_safe_and_keeps_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbf# mine\r\n" + BAD.replace("\n", "\r\n").encode())
    file.chmod(0o640)
    _, out, _ = run(capsys, file, "--fix")
    raw = file.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf# mine\r\n")
    assert b"sum(vllm:num_requests_waiting" in raw
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert "HR101 fixed" in out
    assert [each.name for each in tmp_path.iterdir()] == ["x.yaml"]


def test_fix_leaves_files_alone_that_have_nothing_to_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    before = (tmp_path / "x.yaml").stat().st_mtime_ns
    run(capsys, tmp_path, "--fix")
    assert (tmp_path / "x.yaml").stat().st_mtime_ns == before


def test_a_baseline_hides_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(BAD)
    known = tmp_path / "known.json"
    assert run(capsys, tmp_path / "x.yaml", "--write-baseline", known)[0] == 0
    assert run(capsys, tmp_path / "x.yaml", "--baseline", known)[0] == 0
    (tmp_path / "y.yaml").write_text(BAD)
    code, out, _ = run(capsys, tmp_path / "x.yaml", tmp_path / "y.yaml", "--baseline", known, "--json")
    assert code == 1
    assert {Path(each["file"]).name for each in json.loads(out)["findings"]} == {"y.yaml"}


@pytest.mark.parametrize("text", [None, "[]", "{}", '{"findings": 3}', "not json"])
def test_a_file_that_is_no_baseline_is_refused(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (tmp_path / "known.json").write_text(text)
    code, _, err = run(capsys, tmp_path, "--baseline", tmp_path / "known.json")
    assert code == 64
    assert "baseline" in err


def test_standard_input_is_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checking, "_bytes", lambda place: BAD.encode())
    code, out, _ = run(capsys, "-")
    assert code == 1
    assert out.startswith("<stdin>:")
    code, _, err = run(capsys, "-", "--fix")
    assert code == 64
    assert "standard input" in err


def test_explain_takes_any_case_and_refuses_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "hr101"]) == 0
    assert "volcano-sh/kthena" in capsys.readouterr().out
    assert main(["explain", "HR999"]) == 64
    assert "HR999 is no rule." in capsys.readouterr().err
