"""Numbers as pages show them."""

import pytest

from headrace.dashboard.rows import ago, number, row, seconds, totals
from headrace.traffic import Load, ModelStatus


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


def load(**counts: int | float) -> Load:
    fields = {"waiting": 0, "running": {}, "requests": 0, "refused": 0, "failed": 0, "tokens_in": 0, "tokens_out": 0}
    return Load("chat", **{**fields, **counts}, service_seconds=None, ttft_seconds=None)  # type: ignore[arg-type]


def test_what_was_stopped_by_hand_says_so_once() -> None:
    wish = "stopped by ops until it is started again"
    cells = row(ModelStatus("chat", "generate", "failed", wish), load(), 0, (), 0, None, 2, 0.0, wish).cells
    assert (cells["phase"], cells["reason"], cells["wish"], cells["errors"]) == ("failed", "", wish, "2")


def test_all_models_together_tell_the_oldest_wait_and_the_errors() -> None:
    loads = [load(waiting=2, oldest_seconds=4.0), load(waiting=1, oldest_seconds=45.0), load()]
    found = totals(["ready", "failed", "stopped"], loads, [1.0], [0, 3, 1])
    assert (found["ready"], found["failed"], found["waiting"], found["oldest"], found["errors"]) == (
        "1 / 3",
        "1",
        "3",
        "45 s",
        "4",
    )
    assert totals(["ready"], [load()], [], [])["errors"] == "–"
