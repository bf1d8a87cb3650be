"""Sizes, durations and counts: what people write is what they get, and what is printed can be read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.units import parse_bytes, parse_cost, parse_count, parse_duration, parse_range, show_bytes, show_duration


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100", 100),  # a bare number is bytes
        ("16GB", 16 * 10**9),  # decimal, as disks are sold
        ("16GiB", 16 * 2**30),  # binary, as memory is
        ("16Gi", 16 * 2**30),  # as Kubernetes writes it
        ("16G", 16 * 10**9),  # as Kubernetes writes it
        ("1.5 kB", 1500),  # a fraction and a space
        ("512b", 512),  # lower case
    ],
)
def test_a_size_is_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",  # nothing
        "GB",  # no number
        "-1GB",  # nothing is smaller than nothing
        "1e9",  # not how people write sizes
        "16iB",  # binary of what?
        "1PB",  # no machine has that
        "١GB",  # digits that only look like ours to Python
        "9" * 400,  # would overflow a float
    ],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 16GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("50", 50),
        ("8k", 8192),  # as tokens are counted
        ("1.5 K", 1536),  # a fraction, a space, upper case
        ("1m", 2**20),  # a million-token context
    ],
)
def test_a_count_is_read(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "0.2", "-1", "many", "8g", "1e3", "9" * 400])
def test_what_is_no_count_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number above 0; write 50, or 8k"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),  # ms is not m and s
        ("60s", 60),
        ("10m", 600),
        ("1h30m", 5400),  # two units
        ("7d", 604_800),
        ("0.1s", 0.1),  # exactly, no sum of parts that rounds
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",  # nothing
        "60",  # of what?
        "1h 30",  # a number without a unit at the end
        "s10",  # the wrong way round
        "10m!",  # something after it
        "1:30",  # base 60 is YAML's, not ours
        "9" * 400 + "s",  # would overflow a float
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 500ms"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "usd"), [("3.67 USD/h", 3.67), ("2USD / h", 2.0), ("0.5 USD/h ", 0.5)])
def test_a_price_is_in_dollars_an_hour(text: str, usd: float) -> None:
    assert parse_cost(text) == usd


@pytest.mark.parametrize("text", ["", "3.67", "3.67 EUR/h", "$3.67/h", "3.67 USD/d", "-1 USD/h", "9" * 40 + " USD/h"])
def test_what_is_no_price_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"write 3\.67 USD/h"):
        parse_cost(text)


@pytest.mark.parametrize(("text", "pair"), [("2", (2, 2)), ("0..8", (0, 8)), (" 1..1 ", (1, 1))])
def test_a_range_is_read(text: str, pair: tuple[int, int]) -> None:
    assert parse_range(text) == pair


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("8..1", "write 1..8"),  # turned round: the fix is known
        ("..8", "is not a count"),  # no start
        ("1-8", "is not a count"),  # not our way to write it
        ("9" * 50, "is not a count"),  # no machine runs that many
    ],
)
def test_what_is_no_range_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_range(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),  # below the first unit
        (1024, "1 KiB"),
        (1023.9 * 1024, "1 MiB"),  # rounds up into the next unit, never "1024 KiB"
        (98_362_432, "93.8 MiB"),  # three digits
        (360 * 2**20, "360 MiB"),  # no decimals from 100 on
        (5.25 * 2**30, "5.25 GiB"),
        (3 * 2**50, "3072 TiB"),  # the last unit goes on
    ],
)
def test_bytes_print_with_three_digits(count: float, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.35, "350ms"),
        (0.9999, "1s"),  # never 1000ms
        (12, "12s"),
        (59.99, "1m"),  # never 60s
        (90, "1m30s"),
        (3599.9, "1h"),  # never 60m
        (5400, "1h30m"),
        (90_000, "1d1h"),
    ],
)
def test_a_duration_prints_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.integers(0, 2**45))
def test_a_printed_size_reads_back_within_a_percent(count: int) -> None:
    assert parse_bytes(show_bytes(count)) == pytest.approx(count, rel=0.006)


@given(st.floats(0.01, 604_800))
def test_a_printed_duration_reads_back_within_five_percent(seconds: float) -> None:
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, rel=0.05)
