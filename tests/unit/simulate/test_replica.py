"""A simulated replica: its events are those of arithmetic done by hand."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.simulate.replica import Rates, SimulatedReplica

RATES = Rates(slots=4, prefill_tokens_per_second=100, step_seconds=0.1, each_seconds=0.05)


def ran(requests, rates=RATES):
    """(first token, end) of each (arrival, prompt, output)."""
    replica, out, coming = SimulatedReplica("r", rates, 0, 0), {}, list(enumerate(requests))
    while coming or replica.next < inf:
        if coming and coming[0][1][0] <= replica.next:
            ticket, (at, prompt, output) = coming.pop(0)
            replica.begin(ticket, prompt, output, at)
            continue
        now = replica.next
        first, done = replica.advance(now)
        if first is not None:
            out[first] = [now, None]
        for ticket in done:
            out[ticket][1] = now
    return [tuple(out[ticket]) for ticket in sorted(out)]


def test_one_request_reads_its_prompt_and_then_writes():
    assert ran([(0, 100, 11)]) == [(1.0, pytest.approx(2.0))]


def test_two_read_one_after_another_and_write_together():
    """Prompts until 1 and 2, both write from then on at 0.15 s a step; when the short one is done the other has 0.1 s a step."""
    (first, one), (second, two) = ran([(0, 100, 5), (0, 100, 15)])
    assert (first, second) == (1.0, 2.0)
    assert one == pytest.approx(2 + 4 * 0.15)
    assert two == pytest.approx(2 + 4 * 0.15 + 10 * 0.1)


def test_a_prompt_stops_what_is_being_written():
    """10 of 20 steps are done when a prompt of 1 s comes; then 0.15 s a step until its short answer is complete."""
    (_, one), (second, two) = ran([(0, 0, 21), (1, 100, 3)])
    assert second == 2.0
    assert two == pytest.approx(2 + 2 * 0.15)
    assert one == pytest.approx(2 + 2 * 0.15 + 8 * 0.1)


def test_an_answer_of_one_token_is_over_with_its_prompt():
    assert ran([(0, 50, 1)]) == [(0.5, 0.5)]


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=12).map(
        lambda requests: sorted(requests)
    )
)
def test_work_is_neither_lost_nor_made(requests):
    """Everything ends, no sooner than alone, and the last one no later than one after another."""
    ends = ran(requests)
    assert len(ends) == len(requests)
    for (at, prompt, output), (first, end) in zip(requests, ends, strict=True):
        alone = at + prompt / 100
        assert first >= alone - 1e-6
        assert end >= alone + (output - 1) * 0.1 - 1e-5
    alone = [prompt / 100 + (output - 1) * RATES.step(len(requests)) for _, prompt, output in requests]
    assert max(end for _, end in ends) <= requests[-1][0] + sum(alone) + 1e-5


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"prefill_tokens_per_second": 0}, {"step_seconds": 0}, {"each_seconds": -1}])
def test_rates_that_serve_nobody_are_refused(wrong):
    with pytest.raises(PlanError):
        Rates(**({"slots": 1, "prefill_tokens_per_second": 1, "step_seconds": 1, "each_seconds": 0} | wrong))
