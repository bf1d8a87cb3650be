"""`headrace history` and `headrace status --decisions` as one types them."""

import sqlite3
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.control.recording import opened
from headrace.report import decisions_text


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    connection = opened(tmp_path / "h.db")
    with connection:
        connection.execute("INSERT INTO requests VALUES (1.5, 'chat', 'chat-1', 200, 10, 20, 0.1, 0.2, 1.0, NULL, NULL)")
    connection.close()
    return tmp_path / "h.db"


def test_requests_are_exported(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "export", tmp_path / "t.csv", "--history", recording) == 0
    assert "1 request written" in capsys.readouterr().out
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "1.500000,chat,10,20,200,0.1,0.2,1.0,,"


def test_a_decision_that_comes_out_otherwise_is_told_and_fails(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "replay", "--history", recording) == 0
    assert "0 decisions made again, all the same." in capsys.readouterr().out
    with sqlite3.connect(recording) as connection:
        policy = '{"least":0,"most":3,"slots":2.0}'
        sample = '{"now":5.0,"waiting":0,"running":0,"arrivals":0,"ready":0,"starting":0}'
        connection.execute("INSERT INTO policies (data) VALUES (?)", (policy,))
        row = (9.0, 1.0, "chat", 0.0, *[0.0] * 5, 2.0, *[0.0] * 4, 1, sample, None)
        connection.execute(f"INSERT INTO samples VALUES ({','.join('?' * 17)})", row)
    connection.close()
    assert run("history", "replay", "chat", "--history", recording) == 1
    said = capsys.readouterr().out
    assert "chat: 2 replicas recorded, 0 now" in said
    assert "1 of them otherwise" in said


def test_without_a_recording_it_says_what_writes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "export", tmp_path / "t.csv", "--history", tmp_path / "none.db") != 0
    assert "headrace serve writes it" in capsys.readouterr().err


def test_decisions_are_a_list_with_their_age() -> None:
    rows = [
        {"ago_seconds": 75.0, "model": "chat", "decision": "chat 0 → 1 replicas: 1 waiting"},
        {"ago_seconds": 2.0, "model": "chat", "decision": "chat 1 → 3 replicas: 9 waiting"},
    ]
    assert decisions_text(rows).splitlines()[1].split("ago")[1].strip() == "chat 1 → 3 replicas: 9 waiting"
    assert "1m15s ago" in decisions_text(rows)
    assert "No number of replicas has changed yet" in decisions_text([])
