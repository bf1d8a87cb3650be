"""What the gateway counts of one model: plain numbers on the hot path, shaped for Prometheus in metrics.py."""

from bisect import bisect_left
from itertools import accumulate

_RECENT = 0.1  # weight of the newest sample in a running mean

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
MILLISECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Histogram:
    """Counts in buckets with upper `bounds` in seconds, as Prometheus understands them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, cumulative count), the last one `+Inf`."""
        return list(zip((*map(str, self.bounds), "+Inf"), map(float, accumulate(self.counts)), strict=True))


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
        self.requests: dict[int, int] = {}
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

    def finished(self, status: int, seconds: float) -> None:
        """A request ended with `status`, `seconds` after it had arrived."""
        self.requests[status] = self.requests.get(status, 0) + 1
        self.duration.observe(seconds)
        if status == 429:
            self.refused += 1
        elif status >= 500:
            self.failed += 1

    def first_token(self, seconds: float) -> None:
        """The first token left the gateway, `seconds` after the request had arrived."""
        self.ttft.observe(seconds)
        self.ttft_seconds = _recent(self.ttft_seconds, seconds)

    def tokens(self, tokens_in: int, tokens_out: int, first_to_last_seconds: float) -> None:
        """An answer is complete; the time per output token counts those after the first."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if tokens_out > 1 and first_to_last_seconds > 0:
            seconds = first_to_last_seconds / (tokens_out - 1)
            self.tpot.observe(seconds)
            self.tpot_seconds = _recent(self.tpot_seconds, seconds)


def _recent(mean: float | None, seconds: float) -> float:
    return seconds if mean is None else mean + _RECENT * (seconds - mean)
