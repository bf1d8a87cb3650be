"""What is counted while others decide stays counted: a gateway that is alone again has let in no more than its limit."""

import pytest

from headrace.gateway.buckets import Buckets


@pytest.mark.parametrize("idle", [0.0, 1.0, 60.0, 3600.0])
def test_what_was_counted_is_not_forgotten_by_the_time_before_it(idle: float) -> None:
    buckets, now = Buckets(), 1000.0
    buckets.resize({"requests": 10})
    assert buckets.take(0, now) is None
    now += idle
    for _ in range(4):
        buckets.count(0, now)
    left = 0
    while buckets.take(0, now) is None:
        left += 1
    assert left == min(10, 9 + idle * 10 / 60) // 1 - 4


def test_the_first_that_is_counted_is_not_forgotten() -> None:
    buckets = Buckets()
    buckets.resize({"requests": 10})
    buckets.count(0, 1000.0)
    assert [buckets.take(0, 1000.0) is None for _ in range(10)] == [True] * 9 + [False]
