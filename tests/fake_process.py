"""The fake engine as a process of its own, for tests whose clients block or would hold its loop."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fake_engine(*flags: str) -> Iterator[str]:
    """The address of one on a free port, http://127.0.0.1:PORT; ended with the block."""
    command = [sys.executable, "-m", "headrace.testing.engine", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    try:
        line = next(line for line in process.stdout if "http://" in line)
        yield "http://" + line.partition("http://")[2].strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
