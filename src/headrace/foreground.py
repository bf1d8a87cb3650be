"""A program that serves in the foreground: its event loop, its log, its descriptors, and the signals that stop it."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from headrace.errors import UsageError
from headrace.spec.addresses import LOOPBACK, host_port
from headrace.terminal import Terminal

T = TypeVar("T")

LONGEST_ANSWER = 600.0
"""Seconds that a replica which is not needed any more, or a gateway whose place another one took, stays for what it answers:
nobody is in a hurry to cut an answer off.
"""
_OTHER_FILES = 64
_MOST_FILES = 1_000_000


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on the fastest event loop there is."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("headrace").setLevel(logging.INFO)  # every change of control, with its reason
    try:
        import uvloop
    except ImportError:  # Windows, and platforms without a wheel
        asyncio.run(main)
    else:
        uvloop.run(main)


def guarded(listen: str, way: str, *, keys: bool, insecure: bool) -> tuple[str, int]:
    """The host and port to listen on. Raises UsageError, with `way` out, for one beyond loopback that nothing guards."""
    try:
        host, port = host_port(listen)
    except ValueError as error:
        raise UsageError(f"--listen: {error}") from None
    if host not in LOOPBACK and not insecure and not keys:
        raise UsageError(
            f"The gateway should listen on {listen}: anybody who reaches it could use the models, for there are no keys.", way
        )
    return host, port


def connections() -> int:
    """How many clients may be connected: each may need a second descriptor at an engine, and some are for everything else.

    The usual soft limit of files is 1,024: it is raised to all that the system allows.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 500
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, _MOST_FILES)
    return max(8, (files - _OTHER_FILES) // 2)


@contextlib.contextmanager
def signalled(call: Callable[[], None], *numbers: int) -> Iterator[None]:
    """While inside, each of these signals is a call on the running loop; afterwards it does what it did before.

    On Windows, and where this is not the main thread, it does so all the time.
    """
    loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            loop.add_signal_handler(number, call)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number] or signal.SIG_DFL)  # the loop leaves the system's own


class Stop:
    """SIGINT, SIGTERM and SIGHUP as events: the first asks to drain, the second to stop at once."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)

    @property
    def asked(self) -> bool:
        return self._first.is_set()

    def _signalled(self) -> None:
        if self._first.is_set():
            self._terminal.say("Stopping at once.")
            self._second.set()
        self._first.set()

    async def first(self, task: asyncio.Task[None], *others: asyncio.Event) -> None:
        """Return when asked to stop or when one of the others is set; raises what `task` failed with."""
        waits = [asyncio.create_task(each.wait()) for each in (self._first, *others)]
        done, _ = await asyncio.wait((task, *waits), return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if task in done:
            task.result()

    async def unless(self, work: Awaitable[T], *, again: bool = False) -> T | None:
        """What `work` gives, or None when asked to stop before (with `again`: asked a second time)."""
        task = asyncio.ensure_future(work)
        asked = asyncio.create_task((self._second if again else self._first).wait())
        await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return None
