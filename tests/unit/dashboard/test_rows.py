"""Numbers as pages show them."""

import pytest

from headrace.dashboard.rows import ago, number, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0471, "0.047"), (0.999, "1.0"), (3.21, "3.2"), (9.96, "10"), (47.4, "47"), (476, "480"), (1234567, "1200000")],
)
def test_numbers_have_two_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (12.3, "12 s"), (7200, "2 h")])
def test_seconds_are_in_their_unit(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(4.9, "4 s"), (60, "1 min"), (12_000, "3 h 20 min"), (5e5, "5 d")])
def test_spans_have_two_units_at_most(value: float, text: str) -> None:
    assert ago(value) == text
