"""Schedules: their rate, their scatter, and that they are the same each time."""

from array import array
from itertools import islice, pairwise
from random import Random
from statistics import mean, stdev

import pytest

from headrace.measure.arrivals import lasting, replayed, times
from headrace.simulate.traces import Trace


def test_a_constant_rate_is_even() -> None:
    assert list(islice(times(4, "constant", Random(1).random), 4)) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_a_poisson_process_has_its_rate_and_gaps_as_long_as_they_scatter(rate: float) -> None:
    at = list(islice(times(rate, "poisson", Random(1).random), 5000))
    gaps = [after - before for before, after in pairwise(at)]
    assert mean(gaps) == pytest.approx(1 / rate, rel=0.05)
    assert stdev(gaps) / mean(gaps) == pytest.approx(1.0, abs=0.05)


def test_a_trace_is_replayed_faster() -> None:
    trace = Trace(array("d", [0.0, 3.0]), array("l", [10, 20]), array("l", [1, 2]))
    assert list(replayed(trace, 2.0)) == [(0.0, 10, 1), (1.5, 20, 2)]


@pytest.mark.parametrize(("at", "seconds"), [([0.0, 3.0], 6.0), ([0.0, 1.0, 8.0], 12.0), ([0.0], 1.0), ([0.0, 0.0], 1.0)])
def test_the_last_request_of_a_trace_is_in_its_time(at: list[float], seconds: float) -> None:
    trace = Trace(array("d", at), array("l", [10] * len(at)), array("l", [1] * len(at)))
    assert lasting(trace) == seconds > trace.seconds
