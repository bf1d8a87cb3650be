"""What a drill is asked, and what came of it: every request with its end, every disturbance with its time."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from headrace.units import show_duration

End = Literal["whole", "told", "dropped"]
"""A complete answer; a clear error, as a status or as the last event of a stream; neither."""
ENDS: tuple[End, ...] = ("whole", "told", "dropped")
Kind = Literal["kill", "scale", "roll", "swap", "reload", "graduate"]
PATIENCE_SECONDS = 1800.0
"""Weights may have to be fetched, and a start alone may take 15 minutes."""
_MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class Wish:
    """What to do: `requests` at least, from `clients` at once; kill so often, hold other numbers, and the rest where asked."""

    model: str
    requests: int = 200
    clients: int = 4
    tokens: int = 32
    kills: int = 2
    scale: bool = True
    roll: bool = False
    """Replace every replica by one with a shorter context, and back."""
    swap: str | None = None
    """A model that sleeps and takes this one's place in memory for a while."""
    reload: str | None = None
    """Another version of the served file: read, and the served one again."""
    graduate: str | None = None
    """The engine to move to, and back."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long a reload, a move, or the next end of a request may take."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it began (seconds since the drill did), how long it took, how it ended and in which words."""

    at: float
    seconds: float
    end: End
    words: str = ""
    """Empty for one that is whole."""
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """What was done, or seen to have happened, in a sentence; `at` in seconds since the beginning."""

    at: float
    kind: Kind
    said: str


@dataclass(slots=True)
class Report:
    """What a drill came to. `resumed` and `retried` are the gateway's own counts, None where it did not say."""

    model: str
    asked: list[Asked] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    """Disturbances that could not be made, with the reason: of these nothing is proven."""
    seconds: float = 0.0
    resumed: int | None = None
    retried: int | None = None

    @property
    def ends(self) -> Counter[End]:
        return Counter(one.end for one in self.asked)

    @property
    def words(self) -> Counter[str]:
        """Of those that are not whole."""
        return Counter(f"{one.end}: {one.words}" for one in self.asked if one.words)

    @property
    def line(self) -> str:
        """What it comes to, in a sentence."""
        ends = self.ends
        return (
            f"{len(self.asked)} requests in {show_duration(self.seconds)}: {ends['whole']} whole, "
            f"{ends['told']} ended in a clear error, {ends['dropped']} dropped."
        )

    def summary(self) -> str:
        """For people: what was done was said as it was done."""
        lines = [self.line, *(f"  {count} x {words}" for words, count in self.words.most_common(_MOST_TOLD))]
        return "\n".join([*lines, *self.remarks()])

    def remarks(self) -> Sequence[str]:
        """What else is to be known of it."""
        said = []
        if self.resumed is not None:
            said.append(f"Broken streams that another replica went on with: {self.resumed}.")
        if self.retried is not None:
            said.append(f"Sent to another replica before their first byte: {self.retried}.")
        if self.asked:
            slowest = max(self.asked, key=lambda one: one.seconds)
            said.append(f"The longest took {show_duration(slowest.seconds)}, from second {slowest.at:.0f} on.")
        return [*said, *(f"Not done, so not proven: {one}" for one in self.undone)]

    def data(self) -> str:
        """For machines."""
        events = [{"at_seconds": round(one.at, 3), "kind": one.kind, "did": one.said} for one in self.events]
        ends = {end: self.ends[end] for end in ENDS}
        asked = [[round(one.at, 2), round(one.seconds, 2), one.end] for one in self.asked]
        counted = {"resumed": self.resumed, "retried": self.retried, "undone": self.undone}
        found = {"model": self.model, "ends": ends, "words": self.words, **counted, "done": events}
        return json.dumps({**found, "seconds": round(self.seconds, 3), "requests": asked}, indent=None)
