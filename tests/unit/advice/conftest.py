"""A real Prometheus with an hour of our choice, where the machine has one."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openmetrics import Row, text

Start = Callable[[list[Row]], str]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _ready(url: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise AssertionError("Prometheus is not ready")


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Start]:
    """Starts one with these series, and gives its address."""
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip("needs Prometheus: apt-get install prometheus")
    processes: list[subprocess.Popen[bytes]] = []

    def start(rows: list[Row]) -> str:
        source, data, config = tmp_path / "series.txt", tmp_path / "data", tmp_path / "prometheus.yml"
        source.write_text(text(rows))
        config.write_text("global: {}\n")
        subprocess.run(
            ["promtool", "tsdb", "create-blocks-from", "openmetrics", source, data], check=True, capture_output=True, timeout=60
        )
        url = f"http://127.0.0.1:{_free_port()}"
        argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", "--storage.tsdb.retention.time=100y"]
        argv += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=error"]
        processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, env={**os.environ, "GOMAXPROCS": "1"}))
        _ready(url)
        return url

    yield start
    for one in processes:
        one.terminate()
        one.wait(20)
