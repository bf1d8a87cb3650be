"""Whether a process is at work is told by its threads, whatever the machine does besides."""

import subprocess
import sys
import time

from headrace.runners.child import at_work

TWO_THREADS = """
import sys, threading
def spin():
    while True: pass
if sys.argv[1] == "spins":
    threading.Thread(target=spin, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


def seen(how: str, wanted: bool) -> bool:
    """Whether it was ever seen as `wanted` within seconds."""
    with subprocess.Popen([sys.executable, "-c", TWO_THREADS, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        until = time.monotonic() + 20
        while (found := at_work(child.pid)) is not wanted and time.monotonic() < until:
            pass
        child.kill()
    return found is wanted


def test_a_thread_that_computes_is_seen_behind_one_that_waits() -> None:
    assert seen("spins", True)


def test_a_process_that_waits_is_at_rest() -> None:
    assert seen("waits", False)


def test_a_process_that_is_gone_is_at_rest() -> None:
    assert at_work(2**22 + 1) is False
