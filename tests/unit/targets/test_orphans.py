"""Whatever kills Headrace, no engine survives it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from headrace.targets.process import GUARD

PARENT = """
import asyncio, sys
from pathlib import Path
import uvloop
from headrace.engines.base import Placement
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.testing.engine import fake_engine

async def main():
    target = LocalTarget({"fake": fake_engine("--ignore-sigterm")}, Path(sys.argv[2]))
    placement = Placement("chat", "fake", "generate", "none.gguf", 1024, 2, 1, 0)
    await target.apply([Start(f"chat-{n}", "chat", placement, 2, "test") for n in (1, 2)])
    while not all(each.state is State.READY for each in await target.observe()):
        await target.changed(0.1)
    print(*(each.pid for each in await target.observe()), flush=True)
    await asyncio.sleep(600)

(uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


def wait_until_gone(pids, seconds=20.0):
    """Poll until no process of `pids` runs; they may stay as zombies where nobody reaps."""
    end = time.monotonic() + seconds
    while running := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
        assert time.monotonic() < end, f"{running} survived"
        time.sleep(0.02)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_no_engine_survives_its_headrace(run_dir, loop, number):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, loop, str(run_dir)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(psutil.Process(pid).is_running() for pid in pids)
        parent.send_signal(number)
        parent.wait(timeout=20)
    wait_until_gone(pids)


def test_the_guard_leaves_when_its_parent_is_gone_already():
    started = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid() + 1), "echo", "started anyway"]
    done = subprocess.run(started, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, b"")


def test_the_guard_becomes_the_program():
    started = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), "sh", "-c", "echo $$"]
    with subprocess.Popen(started, stdout=subprocess.PIPE) as child:
        assert int(child.stdout.read()) == child.pid
