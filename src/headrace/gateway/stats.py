"""What the gateway counts of one model: plain numbers on the hot path, shaped for Prometheus in metrics.py."""

from bisect import bisect_right
from collections import defaultdict

_RECENT = 0.1  # weight of the newest sample in a running mean

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
MILLISECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Histogram:
    """Counts in buckets with upper `bounds` in seconds, as Prometheus understands them.

    A value is put into its bucket when somebody looks, or with the next `fold`: many together cost less than half of one by one.
    """

    __slots__ = ("_new", "_sum", "_up_to", "bounds", "observe")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._up_to = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._new: list[float] = []
        self.observe = self._new.append
        """Count one value."""

    def fold(self) -> None:
        """Put what was observed into its buckets: whoever observes much calls this now and then."""
        values = self._new
        if not values:
            return
        values.sort()
        for place, bound in enumerate(self.bounds):
            self._up_to[place] += bisect_right(values, bound)
        self._up_to[-1] += len(values)
        self._sum += sum(values)
        values.clear()

    @property
    def sum(self) -> float:
        """Of all values."""
        self.fold()
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, cumulative count), the last one `+Inf`."""
        self.fold()
        return list(zip((*map(str, self.bounds), "+Inf"), map(float, self._up_to), strict=True))


class Stats:
    """Everything counted of one model since the gateway started."""

    __slots__ = (
        "disconnects",
        "duration",
        "failed",
        "overhead",
        "refused",
        "requests",
        "resumed",
        "retries",
        "tokens_in",
        "tokens_out",
        "tpot",
        "tpot_seconds",
        "ttft",
        "ttft_seconds",
        "wait",
    )

    def __init__(self) -> None:
        self.requests: defaultdict[int, int] = defaultdict(int)
        """Finished requests by the status they ended with; 499 for clients that left, after nginx's usage."""
        self.refused = 0
        self.failed = 0
        self.retries = 0
        self.resumed = 0
        self.disconnects = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.wait = Histogram(SECONDS)
        self.ttft = Histogram(SECONDS)
        self.tpot = Histogram(SECONDS)
        self.duration = Histogram(SECONDS)
        self.overhead = Histogram(MILLISECONDS)
        self.ttft_seconds: float | None = None
        self.tpot_seconds: float | None = None

    def tick(self) -> None:
        """Time passed."""
        for histogram in (self.wait, self.ttft, self.tpot, self.duration, self.overhead):
            histogram.fold()

    def finished(self, status: int, seconds: float) -> None:
        """A request ended with `status`, `seconds` after it had arrived."""
        self.requests[status] += 1
        self.duration.observe(seconds)
        if status == 429:
            self.refused += 1
        elif status >= 500:
            self.failed += 1

    def first_token(self, seconds: float) -> None:
        """The first token left the gateway, `seconds` after the request had arrived."""
        self.ttft.observe(seconds)
        mean = self.ttft_seconds
        self.ttft_seconds = seconds if mean is None else mean + _RECENT * (seconds - mean)

    def tokens(self, tokens_in: int, tokens_out: int, first_to_last_seconds: float) -> None:
        """An answer is complete; the time per output token counts those after the first."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if tokens_out > 1 and first_to_last_seconds > 0:
            seconds = first_to_last_seconds / (tokens_out - 1)
            self.tpot.observe(seconds)
            mean = self.tpot_seconds
            self.tpot_seconds = seconds if mean is None else mean + _RECENT * (seconds - mean)
