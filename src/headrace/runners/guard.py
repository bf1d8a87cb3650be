"""Runs a program that the kernel kills when its parent dies: `python -I -S guard.py PARENT_PID PROGRAM ARGUMENT…`.

Linux only. Elsewhere it just becomes the program, and the program has to notice the end of its stdin.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Arm the kernel, then become the program. Exits with 127 if the program cannot be run."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        _die_with_parent(parent)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"cannot run {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


def _die_with_parent(parent: int) -> None:
    """Survives execve. The signal comes when the parent's *thread* that forked us ends: Headrace must start its
    children from the thread that lives as long as itself, the one of the event loop, as asyncio and uvloop do.
    """
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above, and nobody will tell us
        sys.exit(1)


main()
