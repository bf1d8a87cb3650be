"""A real redis-server for tests, on a free port of this machine; Debian's package `redis-server` has it."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server here: apt-get install redis-server"
)
_DEADLINE_SECONDS = 30


class Redis:
    """The server; may be stopped and started again on its port, with nothing kept."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder, self._arguments = folder, arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([*command, *self._arguments], stdout=subprocess.DEVNULL)
        until = time.monotonic() + _DEADLINE_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < until, "redis-server does not listen"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Redis]:
    """One that runs until the end of the block."""
    server = Redis(folder, *arguments)
    server.start()
    try:
        yield server
    finally:
        server.stop()
