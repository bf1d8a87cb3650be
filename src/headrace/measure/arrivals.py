"""When each request is meant to be sent: a schedule that never waits for answers."""

from collections.abc import Iterator
from math import log
from typing import Literal

from headrace.measure.statistics import Uniform
from headrace.simulate.traces import Trace

Process = Literal["poisson", "constant"]


def times(rate: float, process: Process, uniform: Uniform) -> Iterator[float]:
    """Seconds from the start, without end, `rate` a second on average. A Poisson process begins with a gap."""
    at = 0.0
    while True:
        yield at if process == "constant" else (at := at - log(1 - uniform()) / rate)
        if process == "constant":
            at += 1 / rate


def replayed(trace: Trace, speed: float) -> Iterator[tuple[float, int, int]]:
    """(seconds from the start, prompt tokens, output tokens) of each request of a trace, `speed` times as fast as it was."""
    for at, prompt, output in zip(trace.at, trace.prompt, trace.output, strict=True):
        yield at / speed, prompt, output


def lasting(trace: Trace) -> float:
    """Seconds that a trace takes: to its last request, and a mean gap more, so that this one is in them as well."""
    count, seconds = len(trace), trace.seconds
    return seconds * count / (count - 1) if seconds else 1.0
