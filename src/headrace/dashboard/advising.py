"""The process that judges what was recorded, for the pages and the log: one question at a time, within limits."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import msgspec

PROGRAM = ("-m", "headrace.advice.program")
ANSWER_SECONDS = 120.0
FRESH_SECONDS = 60.0
"""How long an answer is shown again before the next look."""
LOG_SECONDS = 3600.0
"""How often the log is told what began to hold."""

log = logging.getLogger("headrace")


class Told(msgspec.Struct, frozen=True):
    """One signal in the words of `headrace advise`: what was seen, what to change, the command; all of it in `sentence`."""

    name: str
    holds: str
    said: str
    advice: str
    command: str
    sentence: str


class Advice(msgspec.Struct, frozen=True):
    """The signals by model and what they come to, over a window of so many seconds; `error` says why there are none."""

    models: dict[str, list[Told]] = {}
    verdicts: dict[str, str] = {}
    seconds: float = 0.0
    error: str = ""


class Advisor:
    """`status` is what /admin/status says, from which it is known what to read."""

    def __init__(self, status: Callable[[], Mapping[str, Any]], program: tuple[str, ...] = PROGRAM) -> None:
        self._status, self._program = status, program
        self._turn = asyncio.Lock()
        self._known: tuple[float, Advice] | None = None

    async def advice(self) -> Advice:
        """The newest advice, at most a minute old."""
        async with self._turn:
            if self._known is None or monotonic() - self._known[0] > FRESH_SECONDS:
                self._known = monotonic(), await self._asked()
            return self._known[1]

    async def _asked(self) -> Advice:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *self._program,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            return Advice(error=f"Nobody could look: {error}.")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                said, _ = await process.communicate(msgspec.json.encode(self._status()))
            return msgspec.json.decode(said, type=Advice)
        except TimeoutError:
            return Advice(error=f"Looking took longer than {ANSWER_SECONDS:g} s and was ended.")
        except (OSError, msgspec.MsgspecError):
            return Advice(error="The process that looks has ended without an answer.")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def logged(advice: Callable[[], Awaitable[Advice]], every: float = LOG_SECONDS) -> None:
    """Log what begins to hold and what ceases to, until it is cancelled."""
    before = Advice()
    while True:
        await asyncio.sleep(every)
        now = await advice()
        for line in news(before, now):
            log.info("%s", line)
        before = before if now.error else now


def news(before: Advice, now: Advice) -> Sequence[str]:
    """What is said when one advice follows another: nothing twice, and nothing of what is unknown."""
    held = {(model, one.name) for model, rows in before.models.items() for one in rows if one.holds == "holds"}
    said = []
    for model, rows in now.models.items():
        for one in rows:
            if one.holds == "holds" and (model, one.name) not in held:
                said.append(f"{model}: {one.sentence}")
            elif one.holds == "holds not" and (model, one.name) in held:
                said.append(f"{model}: holds no more: {one.sentence}")
    return said
