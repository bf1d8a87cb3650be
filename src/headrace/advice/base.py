"""What advice is made of: what was observed of one model, and how a value by slices of the window becomes a verdict.

A signal is judged slice by slice and has two thresholds: it begins to hold at `enter` and ceases at `leave`, so that a value
between them changes nothing. Slices without enough data say nothing; with too few of the others it is unknown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar


class Dated(Protocol):
    """What was at a time, in seconds since 1970."""

    @property
    def at(self) -> float: ...


Row = TypeVar("Row", bound=Dated)
Holds = Literal["holds", "holds not", "unknown"]
SLICES = 12
LEAST_SLICES = 3
"""Slices with data that a verdict takes."""
LEAST_SURE = 0.25
"""The part of the slices with data that must agree before a signal holds: what began a moment ago may pass."""
LEAST_REQUESTS, LEAST_SAMPLES = 10, 5
"""What makes up a slice's data."""


@dataclass(frozen=True, slots=True)
class Request:
    """One that is over, or `count` alike, as a histogram knows them; `at` in seconds since 1970."""

    at: float
    status: int
    tokens_in: int | None
    tokens_out: int | None
    waited: float
    count: float = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a model. None is unknown: a series that is missing is not zero."""

    at: float
    waiting: float | None
    running: float | None
    ready: float | None
    tokens: float | None = None
    """Output tokens of the requests that ended since the look before."""


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Of the prompts since the look before: the share that replicas had been sent before, and the share found in a cache."""

    at: float
    repeated: float
    cached: float


@dataclass(frozen=True, slots=True)
class Kaito:
    """A model that KAITO runs, or shall run. `preset` is None where its list has none; `version` is KAITO's, "" unknown."""

    source: str
    preset: str | None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Gain:
    """What the planner expects of a change, as a range in a sentence, and the command that shows or makes it."""

    said: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of one model from `since` until `until` (seconds since 1970). None is unknown."""

    model: str
    engine: str
    since: float
    until: float
    slots: int | None
    """Of one replica."""
    most: int | None
    """The most replicas that there may be."""
    context: int | None = None
    sleeps: bool = False
    swaps: bool = False
    """Whether it makes room for others: no number of replicas then keeps it there."""
    models: int = 1
    """Served beside each other, itself included."""
    idle: int | None = None
    """Of these, those that leave three quarters of their slots free in 9 of 10 looks."""
    addresses: int = 1
    """Addresses that clients have to know for these models: 1 behind one gateway."""
    here: bool = True
    """On this machine, where `headrace graduate` can move it; else in a cluster."""
    file: str = ""
    """The served file as an argument of a command, with a space before it; "" where a command finds it by itself."""
    importing: str = ""
    """The command that makes this file, where there is none yet."""
    at: str = ""
    """The gateway's address, likewise."""
    fixed: frozenset[str] = frozenset()
    """Keys of the model that the file sets: what it says wins over what is in the lock."""
    requests: Sequence[Request] = ()
    samples: Sequence[Sample] = ()
    short_of_memory: Sequence[float] | None = ()
    """Looks in which memory was too small: fewer replicas than wanted, or a full cache that requests wait for. None: unknown."""
    prefixes: Sequence[Prefixes] = ()
    kaito: Kaito | None = None
    rates: dict[str, Callable[[int], float | None]] = field(default_factory=dict)
    """Tokens per second of one replica at so many requests at once, by engine: as measured on a machine like this, or planned."""
    gains: dict[str, Gain] = field(default_factory=dict)
    """What the planner expects, by the name of the signal."""

    @property
    def used(self) -> list[Sample]:
        """The looks in which it had requests."""
        return [one for one in self.samples if one.running or one.waiting]


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal: whether it holds, how sure (0 to 1: the part of the slices that say so), and what to do about it."""

    name: str
    holds: Holds
    numbers: str
    confidence: float = 0.0
    change: str = ""
    gain: str = ""
    command: str = ""

    @property
    def said(self) -> str:
        """What was seen, and how sure it is."""
        short = "not enough data: " if self.holds == "unknown" and not self.numbers.startswith("not enough data") else ""
        return f"{self.name}: {short}{self.numbers}" + (f" (sure {self.confidence:.1f})" if self.confidence else "")

    @property
    def advice(self) -> str:
        """What to change, and what to expect of it."""
        return self.change + (f"; expect {self.gain}" if self.gain else "")

    @property
    def sentence(self) -> str:
        """All of it in a line: the same words in the terminal, for machines, in the log and on the dashboard."""
        if self.holds != "holds":
            return self.said
        return f"{self.said} → {self.advice}" + (f": {self.command}" if self.command else "")


def steadied(values: Sequence[float | None], enter: float, leave: float) -> tuple[Holds, float]:
    """What a value by slices comes to, and how sure that is. It holds from `enter` on until it is below `leave`."""
    holds, said = False, []
    for value in values:
        if value is not None:
            holds = value >= (leave if holds else enter)
            said.append(holds)
    if len(said) < LEAST_SLICES:
        return "unknown", 0.0
    sure = sum(one is holds for one in said) / len(said)
    return ("holds not" if not holds else "holds" if sure >= LEAST_SURE else "unknown"), sure


def by_samples(seen: Observed, value: Callable[[Sequence[Sample]], float]) -> list[float | None]:
    """A value of each slice, of the looks in which the model was used or waited for."""
    used = [one for one in seen.samples if one.running or one.waiting or (one.ready or 0) >= 2]
    return [value(one) if len(one) >= LEAST_SAMPLES else None for one in slices(used, seen)]


def by_requests(seen: Observed, value: Callable[[Sequence[Request]], float], least: int = LEAST_REQUESTS) -> list[float | None]:
    """A value of each slice, of its requests."""
    return [value(one) if counted(one) >= least else None for one in slices(seen.requests, seen)]


def slices(rows: Sequence[Row], seen: Observed) -> list[list[Row]]:
    """The rows of each part of the window."""
    found: list[list[Row]] = [[] for _ in range(SLICES)]
    step = max(1e-9, (seen.until - seen.since) / SLICES)
    for row in rows:
        if seen.since <= row.at <= seen.until:
            found[min(SLICES - 1, int((row.at - seen.since) / step))].append(row)
    return found


def counted(requests: Sequence[Request]) -> float:
    """How many they are."""
    return sum(one.count for one in requests)


def peak(seen: Observed) -> float:
    """Requests at once that 9 of 10 looks do not exceed, of those in which it was used."""
    return ninth(seen.used) if seen.used else 0.0


def ninth(samples: Sequence[Sample]) -> float:
    """Requests at once that 9 of 10 looks do not exceed."""
    return ranked([((one.running or 0) + (one.waiting or 0), 1.0) for one in samples], 0.9)


def ranked(values: Sequence[tuple[float, float]], share: float) -> float:
    """The value that so large a share does not exceed, of (value, how many)."""
    ordered, seen = sorted(values), 0.0
    target = share * sum(count for _, count in ordered)
    for value, count in ordered:
        seen += count
        if seen > target:
            return value
    return ordered[-1][0]


def percent(value: float | None) -> str:
    """As text."""
    return "an unknown part" if value is None else f"{100 * value:.0f} %"
