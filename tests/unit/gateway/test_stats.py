"""Histograms put values into their buckets later, and nobody can tell."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.stats import MILLISECONDS, SECONDS, Histogram, Stats

values = st.one_of(st.sampled_from((0.0, *SECONDS)), st.floats(0, 400))
"""What is observed, often exactly a bound; None: somebody looks, or time passes."""


@given(st.lists(st.one_of(values, st.none()), max_size=60), st.sampled_from((SECONDS, MILLISECONDS)))
def test_values_are_counted_once_up_to_their_bound_whenever_somebody_looks(events: list[float | None], bounds) -> None:
    histogram, seen = Histogram(bounds), []
    for event in events:
        if event is None:
            histogram.fold()
        else:
            histogram.observe(event)
            seen.append(event)
    counts = [
        sum(low < value <= high for value in seen) for low, high in zip((-1.0, *bounds), (*bounds, float("inf")), strict=False)
    ]
    assert histogram.buckets() == list(zip((*map(str, bounds), "+Inf"), map(float, accumulate(counts)), strict=True))
    assert histogram.sum == pytest.approx(sum(seen))


def test_a_gateway_that_nobody_scrapes_keeps_no_values() -> None:
    stats = Stats()
    for _ in range(1000):
        stats.finished(200, 0.1)
        stats.first_token(0.1)
    stats.tick()
    assert not stats.duration._new
    assert not stats.ttft._new
    assert stats.duration.buckets()[-1] == ("+Inf", 1000.0)
