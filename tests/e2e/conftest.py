"""A real `headrace serve` on a free port, ended by its process id."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_LISTENING = re.compile(r"Listening on (https?://\S+)/v1")


class Served:
    """`headrace serve ARGUMENTS` as a child process; `output` is what it said so far."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "serve", *arguments],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.output = ""
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._said:
                self.output += line
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def wait_for(self, pattern: str | re.Pattern[str], seconds: float = 180) -> re.Match[str]:
        """The first match of `pattern` in the output; fails when it does not come or the process ends before."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.output)

        with self._said:
            self._said.wait_for(lambda: found() or not self._reader.is_alive(), seconds)
            match = found()
        assert match, f"no {pattern!r} in:\n{self.output}"
        return match

    @property
    def url(self) -> str:
        """The gateway's address, once it serves."""
        return self.wait_for(_LISTENING)[1]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if answer.headers["Content-Type"].startswith("application/json") else body.decode()

    def status(self, model: str) -> dict[str, Any]:
        return next(row for row in self.get("/admin/status")["models"] if row["name"] == model)

    def pids(self) -> list[int]:
        """The engines' process ids."""
        models = self.get("/admin/status")["models"]
        return [replica["pid"] for model in models for replica in model["replicas"] if replica["pid"]]

    def end(self, seconds: float = 60) -> int:
        """Wait for the process to end by itself; its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10)
        self._reader.join(5)
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`headrace serve` with the `YAML` of the test's module, for all of its tests."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "headrace.yaml").write_text(request.module.YAML)
    served = Served(["headrace.yaml", "--listen", "127.0.0.1:0"], folder)
    yield served
    served.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start `headrace serve` with a YAML text or with arguments; ended with the test."""
    running: list[Served] = []

    def start(*arguments: str, yaml: str = "", environment: dict[str, str] | None = None) -> Served:
        if yaml:
            file = tmp_path / "headrace.yaml"
            file.write_text(yaml)
            arguments = (str(file), *arguments)
        served = Served([*arguments, "--listen", "127.0.0.1:0"], tmp_path, environment)
        running.append(served)
        return served

    yield start
    for served in running:
        served.close()


def eventually(check: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true value of `check`, asked again and again; fails after `seconds`."""
    until = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := check()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        pause.wait(0.05)
    return value


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
