"""tritonserver as a child: started, listened to, its models' processes watched, drained, ended. Linux only, as the wheel is."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.runners.child import at_work
from headrace.runners.triton_log import Log

GUARD = Path(__file__).parent / "guard.py"
_LAST_WORDS_SECONDS = 0.5
STILL_SECONDS = 10.0
_LOOK_SECONDS, _LOOKS = 0.05, 5
_LONGEST_LINE = 1024 * 1024


@dataclass(slots=True)
class Stub:
    """A process of the python backend. One of a model that is unloaded leaves, and its end is no news."""

    pid: int
    descriptor: int
    model: str
    leaves: bool = False


class Server:
    """A running tritonserver, which the kernel kills when we die; models' processes notice that and end within seconds.

    Its owner calls `end` whatever happens. `ended` is set when it is gone, `opened` when it serves or has said that a model
    cannot be loaded; `deaths` gets the name of a model for each process of its that died.
    """

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.log = Log()
        self.ended, self.opened = asyncio.Event(), asyncio.Event()
        self.deaths: asyncio.Queue[str] = asyncio.Queue()
        self._child = child
        self._stubs: dict[int, Stub] = {}
        self._stubs_gone = asyncio.Event()
        self._silent = asyncio.Event()
        self._watch(child.pid, self.ended.set)

    @classmethod
    async def started(cls, argv: Sequence[str], environment: Mapping[str, str]) -> "Server":
        """The server, starting. Call it from the main thread (see guard.py)."""
        child, reader = _child(argv, environment)
        server = cls(child)
        pipe = os.fdopen(reader, "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: _Lines(server._hear, server._silent.set), pipe)
        return server

    @property
    def crashed(self) -> bool:
        """It has ended, and not by itself."""
        return self.ended.is_set() and self._child.wait() < 0

    async def how_it_ended(self) -> str:
        """How, in words, with the last error that it logged; once it has."""
        await self.ended.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._silent.wait(), _LAST_WORDS_SECONDS)
        code = self._child.wait()
        how = f"ended with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        return f"{how}: {self.log.cause}" if self.log.cause else how

    def look(self) -> None:
        """Find the processes of models that were loaded since it was last called."""
        for process in psutil.Process(self._child.pid).children():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                model = _model(process.cmdline())
                if model and process.pid not in self._stubs:
                    descriptor = self._watch(process.pid, functools.partial(self._stub_ended, process.pid))
                    self._stubs[process.pid] = Stub(process.pid, descriptor, model)

    def leaves(self, model: str) -> None:
        """The processes that the model has now will end, as they should."""
        for stub in self._stubs.values():
            stub.leaves |= stub.model == model

    def close_doors(self) -> None:
        """No new requests from now on; what runs goes on. The server ends when its connections do, idle ones too."""
        for stub in self._stubs.values():
            stub.leaves = True
        if not self._stubs:
            self._stubs_gone.set()
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()

    async def unloaded(self) -> None:
        """Until no model has a process: those that were told to unload answer what they have, and end."""
        await first(self.ended, self._stubs_gone)

    async def still(self) -> None:
        """Until nothing of it has anything to do, or for STILL_SECONDS: what was answered is on its way then, and what came is
        being computed. By its threads and not by time: where the machine is busy, they wait for a core with answers in hand.
        """
        until, quiet = time.monotonic() + STILL_SECONDS, 0
        while quiet < _LOOKS and not self.ended.is_set() and time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), _LOOK_SECONDS)
            pids = [self._child.pid, *(stub.pid for stub in self._stubs.values())]
            quiet = 0 if any(map(at_work, pids)) else quiet + 1

    def end(self) -> None:
        """Kill what is left of it and of its models' processes."""
        if not self.ended.is_set():
            self._child.kill()
        for stub in list(self._stubs.values()):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(stub.descriptor, signal.SIGKILL)
        self._child.wait()

    def _watch(self, pid: int, gone: Callable[[], None]) -> int:
        """A descriptor of the process, which calls `gone` once when it has ended."""
        descriptor, loop = os.pidfd_open(pid), asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            gone()

        loop.add_reader(descriptor, ended)
        return descriptor

    def _stub_ended(self, pid: int) -> None:
        stub = self._stubs.pop(pid)
        if not stub.leaves:
            self.deaths.put_nowait(stub.model)
        if not self._stubs:
            self._stubs_gone.set()

    def _hear(self, line: str) -> None:
        if self.log.hear(line):
            print(line, flush=True)
        if self.log.open or self.log.broken:
            self.opened.set()


class _Lines(asyncio.Protocol):
    """Calls `hear` with each line of a pipe, and `silent` at its end. A line that never ends is cut."""

    def __init__(self, hear: Callable[[str], None], silent: Callable[[], None]) -> None:
        self._hear, self._silent, self._rest = hear, silent, b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._hear(line.decode(errors="replace"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._silent()


def _child(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """(the process under the guard, the end of the pipe that it writes to). The pipe is ours and not asyncio's, which would
    wait for models' processes to close it before it said that the server is gone.
    """
    guarded = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), *argv]
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=dict(environment))
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return child, reader


def _model(argv: Sequence[str]) -> str | None:
    """Whose process it is: `…/triton_python_backend_stub REPOSITORY/NAME/VERSION/model.py …`."""
    if len(argv) < 2 or not argv[0].endswith("triton_python_backend_stub"):
        return None
    parts = argv[1].split("/")
    return parts[-3] if len(parts) > 2 else None


async def first(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
