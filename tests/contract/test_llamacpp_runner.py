"""The llama.cpp process by itself: how it starts, fails and ends, whoever started it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.real

SPEC = {
    "name": "chat",
    "slots": 1,
    "context": 64,
    "threads": 1,
    "batch": 64,
    "cache_type": "f16",
    "wait": "passive",
    "poll": 50,
    "embedding": False,
}


@pytest.fixture
def run():
    """`run(model, **spec)` starts the process with pipes for stdin and output, and kills it after the test."""
    started = []
    folder = tempfile.TemporaryDirectory(prefix="hr-")

    def ran(model, **more):
        spec = SPEC | {"model": str(model), "address": f"unix:{folder.name}/engine.sock"} | more
        argv = [sys.executable, "-m", "headrace.runners.llamacpp", json.dumps(spec)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(argv, env=os.environ | {"ENGINE_KEY": "s3cret"}, **pipes))
        return started[-1]

    yield ran
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    folder.cleanup()


def said(process, start):
    """Read output up to the line that begins with `start`; everything read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(start):
            return "".join(lines)
    raise AssertionError(f"{start} was not said: {lines}")


def test_it_serves_and_says_where_and_nothing_else(run, weights):
    process = run(weights("generate"))
    assert said(process, "serving").startswith("serving chat at unix://")


def test_sigterm_ends_it_at_once_and_ctrl_c_does_not(run, weights):
    process = run(weights("generate"))
    said(process, "serving")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.2)
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_the_end_of_its_stdin_is_its_end(run, weights):
    process = run(weights("generate"))
    said(process, "serving")
    process.stdin.close()
    assert process.wait(timeout=10) == 0


def test_a_socket_left_behind_is_no_obstacle(run, weights):
    for _ in range(2):
        process = run(weights("generate"))
        said(process, "serving")
        process.kill()
        process.wait()


@pytest.mark.parametrize("cache_type", ["q8_0", "q4_0"])
@pytest.mark.parametrize("wait", ["active", "brief", "passive"])
def test_every_setting_is_accepted(run, weights, cache_type, wait):
    said(run(weights("generate"), cache_type=cache_type, wait=wait), "serving")


@pytest.mark.parametrize(
    ("bytes_kept", "cause"),
    [
        (None, "there is no such file"),
        (0, "failed to load model"),
        (100_000, "failed to load model"),  # a download that broke off
    ],
)
def test_a_model_that_cannot_be_loaded_is_exit_code_3_with_the_cause(run, weights, tmp_path, bytes_kept, cause):
    model = tmp_path / "broken.gguf"
    if bytes_kept is not None:
        model.write_bytes(Path(weights("generate")).read_bytes()[:bytes_kept])
    process = run(model)
    output = process.stdout.read()
    assert process.wait(timeout=30) == 3
    assert cause in output
    assert output.splitlines()[-1].startswith(f"cannot load {model}: ")
    assert "s3cret" not in output


PARENT = """
import asyncio, sys
from pathlib import Path
import uvloop
from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.targets.base import Start
from headrace.targets.local import LocalTarget

async def main():
    target = LocalTarget(engines(), Path(sys.argv[1]))
    placement = Placement("chat", "llamacpp", "generate", sys.argv[2], 64, 1, 1, 0)
    await target.apply([Start("chat-1", "chat", placement, 1, "test")])
    while not (replica := (await target.observe())[0]).pid or (sys.argv[3] == "ready" and not replica.endpoint):
        await target.changed(0.01)
    print(replica.pid, flush=True)
    await asyncio.sleep(600)

uvloop.run(main())
"""


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_it_does_not_survive_its_killed_headrace(weights, moment):
    argv = [sys.executable, "-c", PARENT]
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        argv += [folder, weights("generate"), moment]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
            pid = int(parent.stdout.readline())
            parent.kill()
        end = time.monotonic() + 20
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "the engine survived"
            time.sleep(0.02)


def test_without_a_spec_it_says_how_to_be_called():
    done = subprocess.run([sys.executable, "-m", "headrace.runners.llamacpp"], capture_output=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: ")
