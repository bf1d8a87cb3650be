"""One child process in a group of its own: started under the guard, told to stop, killed, and never left behind."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.targets.logs import Log

GUARD = Path(__file__).parents[1] / "runners" / "guard.py"
SUPERVISOR = GUARD.with_name("supervisor.py")
LAST_WORDS_SECONDS = 0.5
KILL_SECONDS = 5.0
"""How long SIGKILL may take. It takes milliseconds, but for a process that waits in the kernel for a driver or a disk."""
TREE_SECONDS = 5.0
"""How long a supervisor may take to kill what it looks after; it takes milliseconds."""


class Process:
    """A running child. Its owner awaits `end`, whatever happens; `gone` is done when it exits before that."""

    def __init__(
        self, child: asyncio.subprocess.Process, stdin: int, output: asyncio.ReadTransport, log: "_Output", tree: bool = False
    ) -> None:
        self._child = child
        self._stdin: int | None = stdin
        self._tree = tree
        self._output = output
        self._log = log
        self.gone: asyncio.Task[int] = asyncio.create_task(child.wait())

    @property
    def pid(self) -> int:
        """The process, and the group of all its descendants."""
        return self._child.pid

    async def end(self, grace: float) -> int | None:
        """SIGTERM, SIGKILL after `grace` seconds, all it held released. Returns the exit code (negative: a signal); None when
        it is there for KILL_SECONDS after that, and to be ended again.
        """
        if not self.gone.done() and grace > 0:
            self._terminate()
            await asyncio.wait({self.gone}, timeout=grace)
        if self._tree:
            self._let_go()
            await asyncio.wait({self.gone}, timeout=TREE_SECONDS)
        self._kill_group()  # also when it has exited: children of its own may have stayed
        await asyncio.wait({self.gone}, timeout=KILL_SECONDS)
        if not self.gone.done():
            return None
        await asyncio.wait({self._log.ended}, timeout=LAST_WORDS_SECONDS)
        self._output.close()
        self._log.finish()
        self._let_go()
        return self.gone.result()

    def kill(self) -> None:
        """SIGKILL to it and all its descendants, if there are any; those of a tree get it from their supervisor."""
        if self._tree:
            self._let_go()
        else:
            self._kill_group()

    def _terminate(self) -> None:
        """SIGTERM to it alone, as in a container: vLLM's workers would obey it at once, and what runs would end with them."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
            os.killpg(self.pid, signal.SIGKILL)

    def _let_go(self) -> None:
        """End the pipe that is its stdin: to a supervisor that is the end of Headrace."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None


async def started(
    argv: Sequence[str], environment: Mapping[str, str | None], log: Log, folder: str = "", tree: bool = False
) -> Process:
    """A process that runs `argv` ("python" is our interpreter) with `environment` added to ours (None: taken out of it),
    in `folder` (empty: ours), writing to `log`; `tree`: under a supervisor, for it starts processes of its own.

    Raises OSError when there is no process or pipe to be had. Stdin is a pipe that ends when we do: where the kernel
    cannot kill our children with us, they notice. Pipes are ours and not asyncio's, whose `wait` may hang on those
    that a grandchild keeps open. Call it from the thread that lives longest (see guard.py).
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        stdin_theirs, stdin = _pipe(theirs, ours)
        output, output_theirs = _pipe(ours, theirs)
        child = await asyncio.create_subprocess_exec(
            *_guarded(argv, tree),
            stdin=stdin_theirs,
            stdout=output_theirs,
            stderr=output_theirs,
            env=_inherited(environment),
            cwd=folder or None,
            start_new_session=True,
        )
        ours.pop_all()
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(
        lambda: _Output(log), os.fdopen(output, "rb", buffering=0)
    )
    return Process(child, stdin, transport, protocol, tree)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe of which each end is closed with its owner's stack."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _guarded(argv: Sequence[str], tree: bool) -> tuple[str, ...]:
    program = sys.executable if argv[0] == "python" else argv[0]
    return (sys.executable, "-I", "-S", str(SUPERVISOR if tree else GUARD), str(os.getpid()), program, *argv[1:])


def _inherited(environment: Mapping[str, str | None]) -> dict[str, str]:
    """Our own environment without secrets, and with what the launch says."""
    ours = {name: value for name, value in os.environ.items() if not _SECRET.search(name) and name not in environment}
    return ours | {name: value for name, value in environment.items() if value is not None}


_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|(?:^|_)KEYS?(?:$|_)", re.IGNORECASE)
"""Names of variables that engines have no use for: tokens of hubs, keys of other servers."""


class _Output(asyncio.Protocol):
    """Feeds a log with what comes through a pipe, until its last writer is gone."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._log.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def finish(self) -> None:
        self._log.finish()
