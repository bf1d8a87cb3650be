"""Child processes of a benchmark: pinned to a core, ended with us whatever happens; their CPU time and memory."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1  # linux/prctl.h
TERM_SECONDS = 5.0
FIRST = "HEADRACE_BENCH_FIRST"
"""A variable; where it is set, what is measured goes before everything else on the machine (root only)."""

_libc = ctypes.CDLL(None)


class Failed(Exception):
    """Something could not be started or measured; says what."""


@contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    core: int | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int = subprocess.DEVNULL,
    errors: IO[bytes] | int = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended with all its descendants on leaving."""
    process = subprocess.Popen(
        [str(word) for word in argv],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
        preexec_fn=lambda: _prepare(core),
    )
    try:
        yield process
    finally:
        _end(process)


def _prepare(core: int | None) -> None:
    """In the child: die with the parent, stay on `core`, and have the files that thousands of connections need."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if core is not None:
        os.sched_setaffinity(0, {core})
    if os.environ.get(FIRST):
        go_first()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def go_first() -> None:
    """Before everything else on the machine: this process, and its session, for sessions share cores where the kernel says so."""
    os.nice(-19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-19")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERM_SECONDS)
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def exit_on_term() -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing started is left behind."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(done: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes], what: str) -> None:
    """Return as soon as `done()`. Raises Failed when `process` ends or the time is over before."""
    end = time.monotonic() + seconds
    while not done():
        if process.poll() is not None:
            raise Failed(f"{what} ended with {process.returncode}")
        if time.monotonic() > end:
            raise Failed(f"{what} is not ready after {seconds:.0f} s")
        time.sleep(0.02)


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for parent in found:  # grows while it is read
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of the process and its descendants have used, to the nanosecond (schedstat)."""
    nanoseconds = 0
    for process in family(pid):
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                nanoseconds += int(thread.read_text().split()[0])
    return nanoseconds / 1e9


def memory_bytes(pid: int) -> int:
    """Proportional set size of the process and its descendants: what they share is counted once."""
    kilobytes = 0
    for process in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024
