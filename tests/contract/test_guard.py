"""A tree of processes ends whole, whichever of them is killed: the supervisor with a program that hides what it starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from headrace.runners import __file__ as runners

SUPERVISOR = Path(runners).with_name("supervisor.py")

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a process its orphans")

TREE = """
import os, signal, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
children = [
    subprocess.Popen(sleep),
    subprocess.Popen(sleep, start_new_session=True),
    subprocess.Popen(["sh", "-c", f"trap '' TERM; setsid {sys.executable} -c 'import time; time.sleep(600)' & sleep 600"]),
]
subprocess.Popen(["sh", "-c", f"setsid {sys.executable} -c 'import time; time.sleep(600)' &"]).wait()  # an orphan from the start
if sys.argv[1] == "drain":
    def drained(*_):
        print("drained", [child.poll() for child in children], flush=True)
        sys.exit(7)
    signal.signal(signal.SIGTERM, drained)
print("up", os.getpid(), flush=True)
time.sleep(600)
"""


class Tree:
    """The supervisor with a program under it; `leash` is the end of the pipe that Headrace holds."""

    def __init__(self, *argv: str) -> None:
        theirs, self.leash = os.pipe()
        command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(os.getpid()), *argv]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True, start_new_session=True)
        os.close(theirs)
        self.descendants: list[psutil.Process] = []
        self.program = 0

    def up(self) -> None:
        """Wait until the program says so and all that it starts is there."""
        self.program = int(self.process.stdout.readline().split()[1])
        until(lambda: len(self._there()) >= 6)
        self.descendants = self._there()

    def _there(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def running(self) -> list[psutil.Process]:
        return [each for each in self.descendants if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        for each in self.running():
            each.kill()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.drop()

    def drop(self) -> None:
        if self.leash is not None:
            os.close(self.leash)
            self.leash = None


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def supervised():
    """`supervised(*argv)` runs a program under the supervisor, and ends it after the test."""
    trees = []

    def start(*argv):
        trees.append(Tree(*argv))
        return trees[-1]

    yield start
    for tree in trees:
        tree.close()


@pytest.fixture
def tree(supervised):
    """`tree(mode)`: a program that hides what it starts in sessions of their own, all there."""

    def start(mode):
        started = supervised(sys.executable, "-c", TREE, mode)
        started.up()
        return started

    return start


def killed_itself(tree):
    os.kill(tree.program, signal.SIGKILL)


def headrace_gone(tree):
    tree.drop()


def terminated(tree):
    tree.process.terminate()


@linux
@pytest.mark.parametrize(("end", "code"), [(killed_itself, -9), (headrace_gone, -9), (terminated, -15)])
def test_nobody_is_left_and_the_end_is_the_programs(tree, end, code):
    started = tree("plain")
    end(started)
    assert started.process.wait(timeout=20) == code
    assert started.running() == []


@linux
def test_sigterm_is_for_the_program_alone_which_drains(tree):
    started = tree("drain")
    started.process.terminate()
    assert started.process.stdout.readline() == "drained [None, None, None]\n"
    assert started.process.wait(timeout=20) == 7
    assert started.running() == []


@linux
def test_whoever_kills_the_supervisor_ends_the_program(tree):
    """The rest stays in its group, for the target to kill; what hid in a session of its own is lost then, and only then."""
    started = tree("plain")
    started.process.kill()
    started.process.wait()
    until(lambda: started.program not in {each.pid for each in started.running()})
    os.killpg(started.process.pid, signal.SIGKILL)
    until(lambda: all(os.getsid(each.pid) != started.process.pid for each in started.running()))


@linux
def test_a_child_that_ends_is_no_reason_to_end(supervised):
    program = "(exit 3) & wait; sleep 0 & wait; echo up $$; read line; exit 5"
    started = supervised("sh", "-c", program)
    assert started.process.stdout.readline().startswith("up")
    assert started.process.wait(timeout=20) == 5  # it read /dev/null: the leash is not for the program


@pytest.mark.parametrize(("program", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -SEGV $$", -11), ("kill -TERM $$", -15)])
def test_it_ends_as_the_program_does(supervised, program, code):
    assert supervised("sh", "-c", program).process.wait(timeout=20) == code


def test_a_program_that_is_not_there_is_127(supervised):
    assert supervised("there-is-no-such-program").process.wait(timeout=20) == 127


def test_it_starts_nothing_for_a_parent_that_is_gone():
    started = [sys.executable, "-I", "-S", str(SUPERVISOR), str(os.getpid() + 1), "echo", "started anyway"]
    done = subprocess.run(started, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, b"")


def test_started_by_hand_it_needs_no_leash():
    started = [sys.executable, "-I", "-S", str(SUPERVISOR), str(os.getpid()), "echo", "hello"]
    done = subprocess.run(started, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"hello\n")


@linux
def test_it_costs_little(supervised):
    started = supervised("sh", "-c", "echo up $$; sleep 600")
    started.process.stdout.readline()
    assert psutil.Process(started.process.pid).memory_full_info().uss < 8_000_000  # 4.3 MB
