"""The process that plans for the what-if page, kept while it is used: one question at a time, few waiting, all in bounds."""

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from time import monotonic

import msgspec

from headrace.dashboard.answers import Answer, wrong

PROGRAM = ("-m", "headrace.what_if")
MOST_WAITING = 4
"""Questions that wait for their turn; more are refused."""
BURST, PER_SECOND = 10.0, 1.0
"""Questions that may come at once, and in the long run."""
ANSWER_SECONDS = 30.0
"""The longest that one takes, the headers of a model elsewhere included."""
START_SECONDS = 60.0
"""What the first answer of a process may take longer: on a busy machine it begins slowly, and ended it would begin anew."""
IDLE_SECONDS = 300.0
"""It ends when nobody asked for so long."""
_LONGEST_ANSWER = 2**20


@dataclass(frozen=True, slots=True)
class Task:
    """A question as `headrace plan` takes it: a file with one model, --machine (None: this one), --for; what serving knows."""

    text: str
    machine: str | None
    wanted: str
    cache: str | None = None
    memory: int | None = None
    """The most bytes that models may take of this machine; None is what is free."""
    usd_per_hour: float | None = None
    """What this machine costs, where the file says so."""
    offline: bool = False


class Worker:
    """Starts with the first question, is ended with `close`, when it takes too long, and when it is idle."""

    def __init__(self, program: tuple[str, ...] = PROGRAM, seconds: float = ANSWER_SECONDS, idle: float = IDLE_SECONDS) -> None:
        self._program, self._seconds, self._idle = program, seconds, idle
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None
        self._running: asyncio.Task[Answer] | None = None
        self._left, self._at = BURST, monotonic()
        self._ends: asyncio.TimerHandle | None = None

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def takes(self) -> bool:
        """Whether another question may be asked now: few wait, and there were not too many of late. It counts as asked."""
        now = monotonic()
        self._left, self._at = min(BURST, self._left + PER_SECOND * (now - self._at)), now
        if self._waiting > MOST_WAITING or self._left < 1:
            return False
        self._left -= 1
        return True

    async def answer(self, task: Task) -> Answer:
        """The answer, or why there is none."""
        self._waiting += 1
        try:
            async with self._turn:
                if self._running is not None:
                    await asyncio.wait({self._running})  # who asked has left: its answer is nobody's
                self._running = asyncio.create_task(self._asked(task))
                return await asyncio.shield(self._running)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the process."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        if self._ends is not None:
            self._ends.cancel()
        await self._kill()

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _asked(self, task: Task) -> Answer:
        try:
            async with asyncio.timeout(self._seconds + (0 if self._alive else START_SECONDS)):
                return msgspec.json.decode(await self._line(task), type=Answer)
        except TimeoutError:
            await self._kill()
            return wrong(f"Planning took longer than {self._seconds:g} s and was ended. Ask for fewer users, or for one machine.")
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            await self._kill()
            return wrong(f"The process that plans has ended: {error or 'without a word'}.")
        finally:
            self._rest()

    async def _line(self, task: Task) -> bytes:
        if not self._alive:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._program, limit=_LONGEST_ANSWER,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        await self._process.stdin.drain()
        return await self._process.stdout.readline()

    def _rest(self) -> None:
        """End it later, unless somebody asks again."""
        if self._ends is not None:
            self._ends.cancel()
        self._ends = asyncio.get_running_loop().call_later(self._idle, self._end)

    def _end(self) -> None:
        process = self._process
        if process is not None and (self._running is None or self._running.done()):
            self._process = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
