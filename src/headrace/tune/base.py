"""What is tried and what came of it: values that the rest of the room passes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.simulate.traces import Trace

Goal = Literal["throughput", "ttft", "tpot"]
End = Literal["whole", "stopped", "failed", "refused"]
"""`stopped`: clearly worse after a part of its run; `refused`: not tried, because the plan or the engine cannot take it."""

PRESENT = "planned now"
"""What the next serve would run, were nothing tuned."""
OWN_DEFAULTS = "llama.cpp as it comes"
"""The server with its own defaults, whatever Headrace plans: what a user has who starts it by hand."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings by the subject of their decision (engine, slots, threads, …) in a fixed order; with `source` other weights."""

    settings: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> "Candidate":
        """The engine first, the rest by name."""
        return cls(tuple(sorted(settings.items(), key=lambda pair: (pair[0] != "engine", pair[0]))))

    @property
    def values(self) -> dict[str, str]:
        return dict(self.settings)

    def __str__(self) -> str:
        engine, *rest = self.settings
        return " ".join([engine[1], *(f"{name}={value}" for name, value in rest)])


@dataclass(frozen=True, slots=True)
class Mix:
    """The load: `users` at once, each asks again when it is answered; lengths are drawn from `lengths`. `said` says whence."""

    users: int
    lengths: Trace
    said: str

    @property
    def prompt(self) -> float:
        """Tokens of a prompt, the mean."""
        return sum(self.lengths.prompt) / len(self.lengths)

    @property
    def output(self) -> float:
        return sum(self.lengths.output) / len(self.lengths)

    @property
    def longest(self) -> int:
        """The most tokens that one request takes."""
        return max(prompt + output for prompt, output in zip(self.lengths.prompt, self.lengths.output, strict=True))


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the winner has to keep: to the first token for 9 of 10, per output token on average; None: no limit."""

    ttft: float | None = None
    tpot: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What one run measured. `rate`: output tokens a second of all together, with the 95 % interval of its seconds; latencies in
    seconds, None where nothing was answered in the time.
    """

    rate: float
    low: float
    high: float
    ttft: float | None
    ttft_p90: float | None
    tpot: float | None
    answered: int
    failed: int = 0
    seconds: float = 0.0

    def misses(self, limits: Limits) -> tuple[str, ...]:
        """Which limits it does not keep."""
        found = (("ttft", self.ttft_p90, limits.ttft), ("tpot", self.tpot, limits.tpot))
        return tuple(name for name, value, limit in found if limit is not None and (value is None or value > limit))


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a candidate. `name` is empty for what the search proposes, else what it stands for."""

    candidate: Candidate
    end: End
    score: Score | None = None
    why: str = ""
    name: str = ""
    turn: int = 0
    """0 in the search; from 1 on the round of the final turns."""
    at: str = ""
    seconds: float = 0.0
    """All that it took, its start included."""
    memory_bytes: int = 0
    """As planned."""

    @property
    def label(self) -> str:
        return self.name or str(self.candidate)


@dataclass(frozen=True, slots=True)
class Finalist:
    """A candidate over the final turns: medians, the range of the rates, and what each turn measured."""

    candidate: Candidate
    name: str
    rates: tuple[float, ...]
    rate: float
    ttft: float | None
    ttft_p90: float | None
    tpot: float | None
    memory_bytes: int = 0
    turns: tuple[Score, ...] = ()

    @property
    def low(self) -> float:
        return min(self.rates)

    @property
    def high(self) -> float:
        return max(self.rates)

    @property
    def label(self) -> str:
        return self.name or str(self.candidate)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who won, against what, and whether that is more than noise; `evidence` is the sentence that the lock keeps."""

    winner: Finalist | None
    evidence: str


@dataclass(frozen=True, slots=True)
class Study:
    """All of one tune, for tables, pages and machines."""

    model: str
    machine: str
    load: str
    goal: Goal
    limits: Limits
    trials: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]
    verdict: Verdict
    remarks: tuple[str, ...] = ()
    version: str = ""
    when: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the engines that are here."""
    facts: Mapping[str, Any] = field(default_factory=dict)
