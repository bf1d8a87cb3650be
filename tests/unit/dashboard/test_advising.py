"""Advice for the pages and the log: in the words of `headrace advise`, by a process of its own that cannot do harm."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import pytest

from headrace.advice.program import advised
from headrace.advice.signals import signals
from headrace.advice.text import data, text
from headrace.control.history import COLUMNS
from headrace.control.recording import opened
from headrace.dashboard.advising import Advice, Advisor, Told, logged, news

ANSWER = '{"models": {"chat": []}, "seconds": 600.0}'
PROGRAMS: list[tuple[str, str, str]] = [
    ("answers", f"import sys; sys.stdin.read(); print({ANSWER!r})", ""),
    ("dies", "import sys; sys.exit(3)", "has ended without an answer"),
    ("says nonsense", "print('[')", "has ended without an answer"),
]


@pytest.mark.parametrize(("program", "error"), [row[1:] for row in PROGRAMS], ids=[row[0] for row in PROGRAMS])
def test_whatever_the_process_does_there_is_an_answer(program: str, error: str) -> None:
    found = asyncio.run(Advisor(dict, ("-c", program)).advice())
    assert error in found.error
    assert bool(found.error) == bool(error)


def test_many_pages_are_one_look(tmp_path: Path) -> None:
    program = f"import sys; sys.stdin.read(); open({str(tmp_path / 'asked')!r}, 'a').write('x'); print({ANSWER!r})"

    async def three() -> list[Advice]:
        advisor = Advisor(dict, ("-c", program))
        return await asyncio.gather(*(advisor.advice() for _ in range(3)))

    assert [found.seconds for found in asyncio.run(three())] == [600.0] * 3
    assert (tmp_path / "asked").read_text() == "x"


def told(holds: str, name: str = "cold starts dominate") -> Told:
    return Told(name, holds, name, "", "", f"{name}: numbers")


def advice(*rows: Told) -> Advice:
    return Advice({"chat": list(rows)}, seconds=600.0)


NEWS: list[tuple[str, Advice, Advice, list[str]]] = [
    ("begins", advice(), advice(told("holds")), ["chat: cold starts dominate: numbers"]),
    ("goes on", advice(told("holds")), advice(told("holds")), []),
    ("ceases", advice(told("holds")), advice(told("holds not")), ["chat: holds no more: cold starts dominate: numbers"]),
    # Without data it is not known to have ceased.
    ("is not known", advice(told("holds")), advice(told("unknown")), []),
    ("never held", advice(), advice(told("holds not")), []),
]


@pytest.mark.parametrize(("before", "now", "said"), [row[1:] for row in NEWS], ids=[row[0] for row in NEWS])
def test_the_log_says_what_changes(before: Advice, now: Advice, said: list[str]) -> None:
    assert list(news(before, now)) == said


def test_a_look_that_failed_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    looks = [advice(told("holds")), Advice(error="busy"), advice(told("holds"))]

    async def some() -> None:
        over = asyncio.Event()

        async def look() -> Advice:
            if len(looks) == 1:
                over.set()
            return looks.pop(0) if looks else advice(told("holds"))

        task = asyncio.create_task(logged(look, 0.001))
        await asyncio.wait_for(over.wait(), 10)
        await asyncio.sleep(0)
        task.cancel()

    with caplog.at_level("INFO", "headrace"):
        asyncio.run(some())
    assert [record.message for record in caplog.records] == ["chat: cold starts dominate: numbers"]


def recorded(folder: Path) -> Path:
    """An hour in which requests waited with every replica serving."""
    file, now = folder / "history" / "history.db", time.time()
    connection = opened(file)
    row = "?, 1, 'chat', 10, 5, 2, NULL, 1, 0, 1, 0, 600, NULL, NULL, NULL, NULL, NULL"
    with connection:
        times = [(now - 3600 + 10 * n,) for n in range(360)]
        connection.executemany(f"INSERT INTO samples ({COLUMNS['samples']}) VALUES ({row})", times)
    connection.close()
    return file


PLANNED = {"engine": "llamacpp", "slots": 2, "most": 1, "sleeps": False}
STATUS = {"served": "", "models": [{"name": "chat", "aliases": [], "planned": PLANNED, "context": 128}]}


def test_the_same_sentence_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    recorded(tmp_path)
    from headrace.advice.history import observed

    seen = observed(STATUS, tmp_path / "history" / "history.db", None, time.time() - 3600, time.time())[0]
    rows = signals(seen)
    (one,) = (row for row in rows if row.name == "throughput insufficient")
    assert one.holds == "holds"
    assert "a replica makes 60 of 60 tokens/s, near its ceiling" in one.said
    assert f"chat, the last 1h: {advised(STATUS).verdicts['chat']}." in text({"chat": rows}, 3600.0)
    page = {each.name: each for each in advised(STATUS).models["chat"]}[one.name]
    assert page.advice == one.advice
    assert page.command == one.command
    terminal = text({"chat": rows}, 3600.0)
    assert all(part in terminal for part in (one.said, one.advice, one.command))
    machines = {each["name"]: each for each in json.loads(data({"chat": rows}, 3600.0))["models"][0]["signals"]}
    assert machines[one.name]["sentence"] == one.sentence == f"{one.said} → {one.advice}: {one.command}"
    assert list(news(Advice(), Advice({"chat": [page]}))) == [f"chat: {page.sentence}"]


def test_without_a_history_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    assert "There is no history" in advised(STATUS).error


def test_a_window_that_nobody_named_is_as_long_as_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    file = recorded(tmp_path)
    assert advised(STATUS).seconds == pytest.approx(3600, abs=60)
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM samples WHERE at < ?", (time.time() - 100,))
    connection.close()
    assert advised(STATUS).seconds == pytest.approx(600, abs=5)


def test_commands_are_for_the_gateway_that_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for whoever is on the usual port."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with sqlite3.connect(recorded(tmp_path)) as connection:
        connection.execute("UPDATE samples SET waiting = 0, running = 0, ready = 2")
    connection.close()
    two = {**STATUS, "url": "http://127.0.0.1:9000", "models": [{**STATUS["models"][0], "planned": {**PLANNED, "most": 2}}]}
    (one,) = (each for each in advised(two).models["chat"] if each.name == "over-provisioned")
    assert (one.holds, one.command) == ("holds", "headrace reload --url http://127.0.0.1:9000")
