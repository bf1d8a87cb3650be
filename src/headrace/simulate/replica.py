"""One replica as a fluid of tokens: prompts are read one after another, and meanwhile nobody decodes; then all decode together.

No event per token: progress is measured in tokens that each decoding request has got since the replica started, so that the next
event is the end of a prompt or of the answer with the fewest tokens left.
"""

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from headrace.errors import PlanError

_ALMOST = 1e-6
"""Of a token: what rounding may leave of an answer."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast one replica is, and how many requests it takes at once.

    A decode step takes `step_seconds` with one request and `each_seconds` more with every further one. `gpus` is what a replica
    takes, for the sum.
    """

    slots: int
    prefill_tokens_per_second: float
    step_seconds: float
    each_seconds: float
    gpus: int = 1

    def __post_init__(self) -> None:
        if self.slots < 1 or min(self.prefill_tokens_per_second, self.step_seconds) <= 0 or self.each_seconds < 0:
            raise PlanError("A simulated replica needs at least 1 slot, and rates above 0.")

    def step(self, batch: float) -> float:
        """Seconds of a decode step."""
        return self.step_seconds + self.each_seconds * max(0.0, batch - 1)

    def work(self, prompt: float, output: float, batch: float | None = None) -> float:
        """Seconds of one replica that a request takes when `batch` (all slots) run together."""
        batch = float(self.slots) if batch is None else max(1.0, batch)
        return prompt / self.prefill_tokens_per_second + max(0.0, output - 1) * self.step(batch) / batch


class SimulatedReplica:
    """What runs there. Times are seconds since the start of the trace."""

    __slots__ = ("_at", "_ends", "_progress", "_rates", "_reading", "drains", "name", "next", "ready_at", "started_at")

    def __init__(self, name: str, rates: Rates, started_at: float, ready_at: float) -> None:
        self.name = name
        self.started_at = started_at
        self.ready_at = ready_at
        self.drains = False
        self.next = inf
        """When something happens here next."""
        self._rates = rates
        self._reading: deque[tuple[int, float, int]] = deque()  # ticket, seconds of its prompt, its output tokens
        self._ends: list[tuple[float, int]] = []  # progress at which an answer is complete, ticket
        self._progress = 0.0
        self._at = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request is here."""
        return bool(self._reading or self._ends)

    def begin(self, ticket: int, prompt: int, output: int, now: float) -> bool:
        """A request comes; whether `next` has changed by it."""
        seconds = prompt / self._rates.prefill_tokens_per_second
        first = not self._reading
        self._reading.append((ticket, seconds, output))
        if first:
            self._decode(now)
            self.next = now + seconds
        return first

    def advance(self, now: float) -> tuple[int | None, list[int]]:
        """What happens at `next`: the request that has its first token, if one has, and those that are complete."""
        done: list[int] = []
        first = self._read(now, done) if self._reading else None
        if first is None:
            self._decode(now)
            while self._ends and self._ends[0][0] <= self._progress + _ALMOST:
                done.append(heappop(self._ends)[1])
        self._schedule(now)
        return first, done

    def _read(self, now: float, done: list[int]) -> int:
        ticket, _, output = self._reading.popleft()
        self._at = now
        if output > 1:
            heappush(self._ends, (self._progress + output - 1, ticket))
        else:
            done.append(ticket)
        return ticket

    def _decode(self, now: float) -> None:
        if self._ends:
            self._progress += (now - self._at) / self._rates.step(len(self._ends))
        self._at = now

    def _schedule(self, now: float) -> None:
        if self._reading:
            self.next = now + self._reading[0][1]
        elif self._ends:
            self.next = now + max(0.0, self._ends[0][0] - self._progress) * self._rates.step(len(self._ends))
        else:
            self.next = inf
