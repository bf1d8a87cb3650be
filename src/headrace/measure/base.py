"""What is asked of a server and what was measured: values that the rest of the room passes on."""

from array import array
from dataclasses import dataclass, field
from typing import Literal

from headrace.measure.arrivals import Process
from headrace.measure.statistics import Estimate, Spread
from headrace.simulate.traces import Trace

Kind = Literal[
    "ok",
    "refused",  # no connection
    "429",
    "4xx",
    "5xx",
    "redirect",
    "not an API",  # HTML, or nothing that OpenAI's API would answer
    "error event",  # an error inside a stream that began well
    "stalled",  # silence for longer than the limit
    "broken",  # cut: neither [DONE] nor a finish reason
    "empty",  # complete, without a word
    "unfinished",  # given up by us, when the stage was over for long or at Ctrl-C
]


@dataclass(frozen=True, slots=True)
class Load:
    """How requests come. `closed`: so many at once, each asks again as soon as it is answered. `open`: so many a second, whatever
    is answered. `trace`: as in the trace, so many times as fast.
    """

    kind: Literal["closed", "open", "trace"]
    level: float
    process: Process = "poisson"
    trace: Trace | None = None

    @property
    def label(self) -> str:
        """As it stands in tables."""
        if self.kind == "closed":
            return f"{self.level:g} at once"
        return (
            f"{self.level:g}/s" + (" even" if self.process == "constant" else "")
            if self.kind == "open"
            else f"trace × {self.level:g}"
        )


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds that a request meets or not; None: no limit. `share` of the requests have to."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    share: float = 0.95


@dataclass(slots=True, eq=False)
class Outcome:
    """One request. Times are seconds of one monotonic clock; `stamps` has one for each event with content, as it arrived.

    `intended` is when the schedule meant it to be sent, which latencies are counted from, and `sent` when the client came to it.
    """

    intended: float
    sent: float
    asked: int
    stamps: "array[float]" = field(default_factory=lambda: array("d"))
    ended: float = 0.0
    kind: Kind = "ok"
    detail: str = ""
    status: int = 0
    streamed: bool = True
    done: bool = False
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    finish: str = ""

    @property
    def tokens(self) -> int:
        """Output tokens by the server's usage, else the events with content."""
        return self.output_tokens if self.output_tokens is not None else len(self.stamps)

    @property
    def ttft(self) -> float | None:
        """Seconds from the intended time to the first content."""
        return self.stamps[0] - self.intended if self.stamps and self.streamed else None

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first; None with fewer than two."""
        if not self.streamed or self.tokens < 2 or len(self.stamps) < 2:
            return None
        return (self.stamps[-1] - self.stamps[0]) / (self.tokens - 1)

    @property
    def e2e(self) -> float:
        """Seconds from the intended time to the end of the answer."""
        return self.ended - self.intended


@dataclass(frozen=True, slots=True)
class Row:
    """One measured request as it is kept: seconds from the stage's start; None where there is nothing."""

    intended: float
    sent: float
    first: float | None
    last: float | None
    ended: float
    prompt: int | None
    output: int | None
    events: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a stage's time: `at` seconds from its start; tokens and finished requests a second, requests in flight."""

    at: float
    tokens: float
    requests: float
    in_flight: float


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that met all limits, among all that were measured, failed ones included; and how many of them a second."""

    share: Estimate
    rate: float
    met: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """One load, measured. Latencies are of requests that were answered; failed ones are counted by kind."""

    label: str
    kind: str
    level: float
    started: float
    """Seconds from the stage's start to where measuring begins: the warm-up."""
    seconds: float
    """From there to where it ends."""
    requests: int
    errors: dict[str, int]
    examples: dict[str, str]
    """What one error of each kind said."""
    ttft: Spread | None
    tpot: Spread | None
    itl: Spread | None
    e2e: Spread | None
    output_rate: Estimate
    """Output tokens a second that arrived in the measured time."""
    request_rate: Estimate
    """Requests a second whose answers ended in it."""
    prompt_rate: float
    in_flight: float
    goodput: Goodput | None
    prompt_tokens: float
    """The mean of a request."""
    output_tokens: float
    events: int
    tokens: int | None
    """Of measured requests by usage; None when no usage came."""
    cached: float
    """Share of the prompts that came out of a prefix cache, as the server says."""
    late: int
    late_most: float
    cpu: float
    """What the client itself took, of one core."""
    steady: bool
    """Whether the server kept pace with a load that does not wait for it."""
    remarks: tuple[str, ...]
    slices: tuple[Slice, ...]
    rows: tuple[Row, ...]

    @property
    def ok(self) -> int:
        """Requests that were answered."""
        return self.requests - sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured in one run. `url` never has credentials in it."""

    version: str
    when: str
    """Date and time in UTC."""
    url: str
    model: str
    settings: dict[str, str]
    slo: Slo | None
    stages: tuple[Stage, ...]
    found: str = ""
    """What --find-rate found, in one sentence."""
    found_rate: float | None = None
    remarks: tuple[str, ...] = ()
    interrupted: bool = False
