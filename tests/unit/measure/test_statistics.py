"""Percentiles, intervals and ratios: by hand, by properties, and by how often an interval holds the truth."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.measure.statistics import Estimate, mean, neighbours, percentile, ratio, share, spread

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("values", "of", "expected"),
    [
        ([5.0], 0.99, 5.0),  # of one value: that
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),  # nearest rank, no interpolation
        ([1.0, 2.0, 3.0, 4.0], 0.51, 3.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),  # 0.99 * 100 is 99.00000000000001 in floats
        ([float(n) for n in range(1, 101)], 1.0, 100.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_percentiles_are_nearest_ranks(values: list[float], of: float, expected: float) -> None:
    assert percentile(values, of) == expected


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    assert spread([], Random(1).random) is None


@settings(max_examples=20)
@given(VALUES)
def test_a_spread_is_in_order_and_its_intervals_hold_its_values(values: list[float]) -> None:
    found = spread(values, Random(1).random)
    assert found
    assert found.p50.value <= found.p90.value <= found.p95.value <= found.p99.value <= found.most == max(values)
    assert list(found.curve) == sorted(found.curve)
    assert (found.curve[0], found.curve[-1]) == (min(values), max(values))
    for one in (found.mean, found.p50, found.p90, found.p95, found.p99):
        assert one.low <= one.value <= one.high


@settings(max_examples=20)
@given(VALUES)
def test_the_same_seed_gives_the_same_intervals(values: list[float]) -> None:
    assert spread(values, Random(7).random) == spread(values, Random(7).random)


def test_intervals_of_the_median_hold_the_truth_as_often_as_they_say() -> None:
    """Of 100 samples from an exponential distribution, about 95 % of the intervals; from 86 on passes."""
    hits = 0
    for seed in range(100):
        random = Random(seed)
        found = spread([random.expovariate(1.0) for _ in range(40)], random.random)
        assert found
        hits += found.p50.low <= math.log(2) <= found.p50.high
    assert 86 <= hits <= 99


def test_values_of_one_block_are_drawn_together() -> None:
    """Two blocks that differ: the interval of the median has to reach from one to the other."""
    found = spread([1.0] * 50 + [9.0] * 50, Random(1).random, [0] * 50 + [1] * 50)
    assert found
    assert (found.p50.low, found.p50.high) == (1.0, 9.0)


def test_blocks_grow_with_the_cube_root() -> None:
    assert neighbours(3) == [0, 1, 2]
    assert max(neighbours(1000)) == 99


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 0, 0.0, 1.0), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962)],  # Wilson 1927, by hand
)
def test_shares_have_wilsons_interval(hits: int, count: int, low: float, high: float) -> None:
    found = share(hits, count)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_ratios_are_as_unsure_as_both_together() -> None:
    sure, unsure = Estimate(100.0, 100.0, 100.0), Estimate(100.0, 90.0, 110.0)
    assert ratio(Estimate(110.0, 110.0, 110.0), sure) == Estimate(1.1, 1.1, 1.1)
    found = ratio(unsure, unsure)
    assert found
    assert found.low < 0.9 < 1.1 < found.high
    assert ratio(sure, Estimate(0.0, 0.0, 0.0)) is None


def test_a_mean_of_nothing_is_nothing() -> None:
    assert mean([], Random(1).random) == Estimate(0.0, 0.0, 0.0)
    assert mean([2.0, 2.0], Random(1).random) == Estimate(2.0, 2.0, 2.0)
