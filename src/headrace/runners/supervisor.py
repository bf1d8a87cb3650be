"""Stays beside a program that starts processes of its own, and leaves none of them behind:
`python -I -S supervisor.py PARENT_PID PROGRAM ARGUMENT…`, with a pipe for stdin whose other end Headrace holds.

They all end when the program does, whatever ended it, and when the pipe does, which is the end of Headrace. SIGTERM is for
the program alone: vLLM's workers obey it at once, and the requests in flight would end with them. On Linux nothing escapes,
not even into a session of its own; elsewhere what leaves the program's group does.
"""

import contextlib
import os
import resource
import select
import signal
import stat
import sys

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
GUARD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard.py")
LINUX = sys.platform == "linux"


def main() -> None:
    """Start the program, wait for its end or Headrace's, kill what is left, end as the program did."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    if LINUX:
        _adopt_orphans()
    if os.getppid() != parent:  # it died before we were here
        sys.exit(1)
    news = _news()
    program = _start(argv)
    status = _until_over(program, news)
    _end_as(_killed_the_rest(program, status))


def _adopt_orphans() -> None:
    """Whose parent dies becomes our child, and not that of process 1: so none can hide."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _news() -> int:
    """A descriptor that can be read when a child has ended or a signal came."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _start(argv: list[str]) -> int:
    """The program, under the guard, so that it does not outlive us either; SIGTERM goes on to it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    program = os.posix_spawn(
        sys.executable,
        (sys.executable, "-I", "-S", GUARD, str(os.getpid()), *argv),
        os.environ,
        file_actions=((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),),
        setsigmask=(),
        setpgroup=os.getpgrp() if LINUX else 0,
    )
    signal.signal(signal.SIGTERM, lambda *_: _kill(program, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return program


def _until_over(program: int, news: int) -> int | None:
    """How the program ended, as waitpid says it; None when Headrace did first."""
    poll = select.poll()
    poll.register(news, select.POLLIN)
    if _is_leash():
        poll.register(0, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if 0 in ready and not os.read(0, 4096):
            return None
        if news in ready:
            os.read(news, 4096)
            if program in (ended := _ended()):
                return ended[program]


def _is_leash() -> bool:
    kind = os.fstat(0).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)  # started by hand, stdin is a terminal or /dev/null


def _ended() -> dict[int, int]:
    """Children that have ended, adopted ones too, with how, as waitpid says it."""
    found = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = ended[1]
    return found


def _killed_the_rest(program: int, status: int | None) -> int:
    """How the program ended, once nobody is left. Whose parent we kill becomes our child: none is missed for good."""
    while True:
        _kill_children(program)
        try:
            ended, how = os.waitpid(-1, 0)
        except ChildProcessError:
            return status or 0
        status = how if ended == program else status


def _kill_children(program: int) -> None:
    if LINUX:
        for child in _children():
            _kill(child, signal.SIGKILL)
    else:
        with contextlib.suppress(OSError):
            os.killpg(program, signal.SIGKILL)


def _children() -> list[int]:
    """Our children, by the field after the state in /proc/PID/stat (proc(5)); a name may have spaces and parentheses."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(pid))
    return found


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _end_as(status: int) -> None:
    """The same exit code, or the same signal; a dump of its memory would be ours, of no use."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


main()
