"""What open pages are told while they are open: one look a second at what is served, for all of them; none without any."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec

from headrace.dashboard.deltas import Budget, Shown, due, shown
from headrace.dashboard.rows import Row, row, totals
from headrace.dashboard.sight import Sight

TICK_SECONDS = 1.0
"""Between two looks."""
RATE_SECONDS = 15.0
"""Tokens per second are counted over so long: answers are counted when they are complete."""
ERROR_SECONDS = 60.0
"""Errors are counted over so long."""
MOST_PAGES = 64
"""Open at once; more are refused."""
QUIET_TICKS = 15
"""After so many looks without anything to say a page is told that it is still connected."""
_MOST_UNREAD = 8


@dataclass(eq=False, slots=True)
class _Page:
    model: str | None
    budget: Budget
    has: Shown = field(default_factory=dict)
    told: float = 0.0
    """Monotonic seconds of the last decision that it was told."""
    quiet: int = 0
    messages: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_MOST_UNREAD))


class Feed:
    """Server-sent events for pages. `sight` is what may be seen."""

    def __init__(self, sight: Sight, now: Callable[[], float] = monotonic) -> None:
        self._sight, self._now = sight, now
        self._pages: set[_Page] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._counted: deque[tuple[float, dict[str, tuple[int, int]]]] = deque(maxlen=int(ERROR_SECONDS / TICK_SECONDS) + 1)
        """Looks of late: when, and tokens out and errors of each model."""

    @property
    def full(self) -> bool:
        """Whether as many pages are open as may be."""
        return len(self._pages) >= MOST_PAGES

    @property
    def pages(self) -> int:
        """How many are open."""
        return len(self._pages)

    def rows(self) -> tuple[list[Row], dict[str, str]]:
        """Every model as it is now, and all of them together."""
        sight, now = self._sight, self._now()
        replicas, wanted, wishes = sight.by_model(), sight.wanted, sight.control.wishes
        (rates, errors), models = self._lately(now), sight.models
        loads = {name: one.load() for name, one in models.items()}
        rows = [
            row(
                one.status, loads[name], one.queue.capacity, replicas.get(name, ()), wanted.get(name), rates.get(name),
                errors.get(name), now, wishes.get(name, ""),
            )
            for name, one in models.items()
        ]  # fmt: skip
        stopped = {name for name, one in models.items() if one.status.reason == wishes.get(name)}  # by hand: that is no failure
        phases = ["stopped" if name in stopped else one.status.phase for name, one in models.items()]
        return rows, totals(phases, list(loads.values()), list(rates.values()), list(errors.values()))

    async def follow(self, model: str | None) -> AsyncIterator[bytes]:
        """Events for a page about one model, or all: what it shows now, then what changes, until the page or the gateway goes."""
        now = self._now()
        page = _Page(model, Budget(now), told=now)
        self._pages.add(page)
        if self._ticking is None:
            self._counted.clear()
            self._ticking = asyncio.create_task(self._tick())
        try:
            self._tell(page, *self.rows(), now)
            while (message := await page.messages.get()) is not None:
                yield message
        finally:
            self._pages.discard(page)
            if not self._pages and self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            (rows, together), now = self.rows(), self._now()
            for page in list(self._pages):
                if self._sight.draining:
                    _end(page)
                elif not page.messages.full():  # who reads slowly is told the sum of it later
                    self._tell(page, rows, together, now)

    def _tell(self, page: _Page, rows: Sequence[Row], together: dict[str, str], now: float) -> None:
        page.budget.fill(now)
        message: dict[str, Any] = {}
        if changed := due(page.has, shown(rows, together, page.model), page.budget):
            message["rows"] = changed
        if decisions := [one for one in self._sight.decisions if one[0] > page.told]:
            page.told = decisions[-1][0]
            mine = [one for one in decisions if page.model in (None, one[1])]
            message["decisions"] = [[round(self._sight.wall(at), 1), model, said] for at, model, said in mine[-20:]]
        page.quiet = 0 if message else page.quiet + 1
        if message or page.quiet >= QUIET_TICKS:
            page.quiet = 0
            page.messages.put_nowait(b"data: " + msgspec.json.encode(message) + b"\n\n")

    def _lately(self, now: float) -> tuple[dict[str, float], dict[str, int]]:
        """Tokens out per second, and errors, by model, of late or since the first look that there was; nothing before one."""
        counts = {name: (one.stats.tokens_out, one.stats.failed + one.stats.refused) for name, one in self._sight.models.items()}
        if self._pages and (not self._counted or now - self._counted[-1][0] >= TICK_SECONDS / 2):
            self._counted.append((now, counts))
        looks = [look for look in self._counted if now - look[0] >= TICK_SECONDS / 2]
        if not looks:
            return {}, {}
        then, before = next((look for look in looks if now - look[0] <= RATE_SECONDS), looks[-1])
        rates = {name: max(0, tokens - before.get(name, (0, 0))[0]) / (now - then) for name, (tokens, _) in counts.items()}
        _, first = looks[0]
        return rates, {name: max(0, errors - first.get(name, (0, 0))[1]) for name, (_, errors) in counts.items()}


def _end(page: _Page) -> None:
    with contextlib.suppress(asyncio.QueueFull):
        page.messages.put_nowait(None)
