"""`headrace serve` of a file, as a process of its own, for as long as a benchmark needs it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120.0


@contextmanager
def served(folder: Path, yaml: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The gateway's address, while it serves on loopback. Its file and log are in the folder; `environment` is beside ours."""
    (folder / "headrace.yaml").write_text(yaml)
    argv = [sys.executable, "-m", "headrace.cli", "serve", "headrace.yaml", "--listen", "127.0.0.1:0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not (found := re.search(r"Listening on (http://\S+)/v1", (folder / "log").read_text())):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
