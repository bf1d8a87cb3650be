"""What every child of ours shares, whatever serves in it: its spec, its parent's life, how it says that it cannot load.

Imports next to nothing: llama.cpp's process is as small as it can be.
"""

import contextlib
import json
import os
import signal
import stat
import sys
import threading
from typing import Any, NoReturn

CANNOT_LOAD = 3
"""Exit code when the model cannot be loaded."""
_GUARD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard.py")


def spec() -> dict[str, Any]:
    """The one argument, a JSON object. Exits with 2 when there is none."""
    try:
        return dict(json.loads(sys.argv[1]))
    except (IndexError, ValueError, TypeError) as error:
        print(f"usage: python -m {sys.modules['__main__'].__spec__.name} JSON ({error})", file=sys.stderr)  # type: ignore[union-attr]
        sys.exit(2)


def begin() -> dict[str, Any]:
    """The spec, once the process is tied to its parent's life and deaf to Ctrl-C, which is for Headrace: it drains first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = spec()
    leave_with_parent()
    return given


def leave_with_parent() -> None:
    """Exit at the end of stdin, a pipe whose other end our parent holds: however it died, on any system."""
    kind = os.fstat(0).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):  # started by hand, stdin is a terminal or /dev/null
        threading.Thread(target=_await_end_of_stdin, daemon=True).start()


def _await_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def guarded(*argv: str) -> tuple[str, ...]:
    """What runs `argv` as a child of this process that ends with it: what ties us to Headrace is not inherited. Start it from the
    main thread (see guard.py).
    """
    return (sys.executable, "-I", "-S", _GUARD, str(os.getpid()), *argv)


def at_work(pid: int, but: int = 0) -> bool:
    """Whether a thread of the process, other than `but`, computes, or waits for a core or a disk: it may have an answer in hand,
    for as long as the machine is busy with others. By the states in /proc/PID/task/TID/stat (proc(5)); never where there is none.
    """
    threads = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for thread in os.listdir(threads):
            with contextlib.suppress(OSError), open(f"{threads}/{thread}/stat", "rb") as file:
                if int(thread) != but and file.read().rpartition(b")")[2].split()[0] in (b"R", b"D"):
                    return True
    return False


def fail(message: str) -> NoReturn:
    """Say in one line why the model cannot be loaded, and exit."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(CANNOT_LOAD)  # not os._exit, which would lose what a native library has not written yet


def cause(error: Exception) -> str:
    """What went wrong, in one line: native libraries say where in the lines before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
