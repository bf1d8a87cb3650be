"""What `headrace status` prints."""

from typing import Any

from headrace.report import status_text


def status(**replica: Any) -> dict[str, Any]:
    one = {
        "name": "chat-1",
        "state": "ready",
        "reason": "",
        "address": None,
        "in_flight": 1,
        "slots": 4,
        "pid": 7,
        "restarts": 0,
        "memory_bytes": 2**20,
        "seconds_in_state": 61.0,
    }
    load = {"running": {"chat-1": 1}, "waiting": 2, "requests": 3, "tokens_out": 40}
    model = {
        "name": "chat",
        "phase": "ready",
        "reason": "1 of 1 replicas ready",
        "task": "generate",
        "slots": 4,
        "aliases": ["gpt"],
        "load": load,
        "replicas": [one | replica],
    }
    return {"draining": False, "models": [model]}


def test_a_model_and_its_replicas_are_rows_with_their_numbers() -> None:
    head, model, replica, _, aliases = status_text(status()).splitlines()
    assert head.split()[:3] == ["MODEL", "STATE", "TASK"]
    assert model.split()[:4] == ["chat", "ready", "generate", "1/4"]
    assert "1.00 MiB" in model or "1 MiB" in model
    assert "pid 7, 1m1s" in replica
    assert aliases == "Aliases: gpt = chat"


def test_a_long_reason_of_several_lines_leaves_the_table_a_table() -> None:
    text = status_text(status(reason="x" * 500 + "\nanother line", restarts=1))
    assert all(len(line) < 300 for line in text.splitlines())
    assert "another line" not in text
    assert "1 restart;" in text


def test_what_is_not_known_is_a_dash_and_not_a_zero() -> None:
    replica = status_text(status(memory_bytes=None, pid=None)).splitlines()[2]
    assert " - " in replica
    assert "no process" in replica
