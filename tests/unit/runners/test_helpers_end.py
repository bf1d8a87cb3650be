"""Whatever kills a runner, no process survives it that it started to help it: what ties it to Headrace is not inherited."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headrace.runners.triton_environment import Unusable, asked

LONG = """#!/bin/sh
echo $$ > {pid}.new
mv {pid}.new {pid}
exec sleep 600
"""
RUNNERS = {
    "asks": "from headrace.runners.triton_environment import asked; asked('{helper}', Path(), 'python', 'model.py', 1, {{}})",
    "controls": """
import asyncio
from headrace.runners.triton_environment import control

async def main():
    await (await asyncio.create_subprocess_exec(*control('{helper}', Path(), 'unload', 'unix:x', 'model'))).wait()

asyncio.run(main())
""",
    "converts": """
from headrace.runners import openvino_weights as weights

weights.CONVERTER = ("-c", "import os, sys; os.execv('{helper}', ['{helper}'])")
weights._make(Path("model.gguf"), Path("made"))
""",
}


def eventually(true, what):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("what", RUNNERS)
def test_a_helper_ends_with_a_runner_that_is_killed(what, tmp_path):
    helper, written = tmp_path / "helper", tmp_path / "pid"
    helper.write_text(LONG.format(pid=written), "utf-8")
    helper.chmod(0o755)
    code = "from pathlib import Path\n" + RUNNERS[what].format(helper=helper)
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.DEVNULL) as runner:
        eventually(written.exists, "the helper runs")
        pid = int(written.read_text("utf-8"))
        assert not gone(pid)
        os.kill(runner.pid, signal.SIGKILL)
    eventually(lambda: gone(pid), f"{pid} survived")


def test_a_python_that_is_not_there_is_named():
    with pytest.raises(
        Unusable, match=r"^cannot run /no/such/python: No such file or directory\. `headrace engines install triton`"
    ):
        asked("/no/such/python", Path(), "python", "model.py", 1, {})
