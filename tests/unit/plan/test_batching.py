"""Continuous batching: nothing is lost, nobody starves, a seed decides the result, and it agrees with queueing theory."""

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.plan.batching import Closed, Limits, Outcome, Poisson, Request, simulate

LIMITS = Limits(requests=16, step_tokens=512, pool_tokens=20_000)


def step(batch: int, context: float, tokens: int) -> float:
    """10 ms a step, a little more with load."""
    return 0.010 + 1e-4 * batch + 1e-8 * batch * context + 2e-5 * tokens


def run(requests: list[Request], arrivals: Closed | Poisson, limits: Limits = LIMITS, seed: int = 1) -> Outcome:
    return simulate(requests, arrivals, limits, step, Random(seed).random)


requests = st.lists(st.builds(Request, st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=60)
arrivals = st.one_of(st.builds(Closed, st.integers(1, 100)), st.builds(Poisson, st.floats(0.1, 1000)))
limits = st.builds(Limits, st.integers(1, 40), st.integers(1, 9000), st.integers(3300, 50_000))


@settings(max_examples=150, deadline=None)
@given(requests, arrivals, limits)
def test_every_request_is_served_whole(requests: list[Request], arrivals: Closed | Poisson, limits: Limits) -> None:
    """Conservation, and no starvation: all end, though the queue is served in order."""
    outcome = run(requests, arrivals, limits)
    assert outcome.requests == len(requests)
    assert outcome.prompt_tokens == sum(request.prompt for request in requests)
    assert outcome.output_tokens == sum(request.output for request in requests)
    assert 0 <= outcome.occupancy <= 1 + 1e-9
    assert 0 < outcome.busy <= 1 + 1e-9
    assert outcome.queued.p99 <= outcome.ttft.p99 <= outcome.total.p99


@settings(max_examples=50, deadline=None)
@given(requests, arrivals, st.integers(0, 5))
def test_the_same_seed_gives_the_same_result(requests: list[Request], arrivals: Closed | Poisson, seed: int) -> None:
    assert run(requests, arrivals, Limits(), seed) == run(requests, arrivals, Limits(), seed)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64))
def test_no_faster_than_the_steps_allow(concurrency: int) -> None:
    """A step gives each request one token, so that tokens per second are at most batch / step time."""
    outcome = run([Request(100, 50)] * 200, Closed(concurrency), Limits(64))
    assert outcome.tokens_per_second <= concurrency / step(concurrency, 0, 0) + 1e-6


def test_one_request_alone_takes_its_prompt_and_its_steps() -> None:
    outcome = simulate(
        [Request(100, 11)], Closed(1), LIMITS, lambda batch, context, tokens: 0.5 if tokens else 0.01, Random(1).random, 0.2
    )
    assert outcome.ttft.mean == pytest.approx(0.7)
    assert outcome.tpot.mean == pytest.approx(0.01)
    assert outcome.total.mean == pytest.approx(0.8)


def test_prompts_are_cut_to_the_token_budget() -> None:
    """1,000 tokens in steps of at most 256 are four steps."""
    outcome = simulate([Request(1000, 1)], Closed(1), Limits(1, 256), lambda *_: 1.0, Random(1).random)
    assert outcome.ttft.mean == 4.0


def test_a_pool_for_two_requests_serves_two_at_once() -> None:
    outcome = run([Request(100, 100)] * 20, Closed(20), Limits(16, 512, pool_tokens=400))
    assert outcome.occupancy * 16 == pytest.approx(2, abs=0.1)
    assert outcome.most_waiting == 20


def test_queueing_follows_theory_for_one_server_with_constant_service() -> None:
    """M/D/1 at load 0.7 waits 0.7 / (2 x 0.3) = 1.17 service times (Pollaczek and Khinchine)."""
    outcome = simulate([Request(1, 1)] * 20_000, Poisson(0.7), Limits(1), lambda *_: 1.0, Random(3).random)
    assert outcome.queued.mean == pytest.approx(0.7 / 0.6, rel=0.08)
    assert outcome.busy == pytest.approx(0.7, rel=0.03)


def test_more_load_waits_longer() -> None:
    waits = [run([Request(200, 100)] * 500, Poisson(rate)).ttft.p90 for rate in (1, 8, 16)]
    assert waits == sorted(waits)


def test_ten_thousand_requests_take_less_than_two_seconds() -> None:
    began = time.process_time()
    run([Request(1024, 512)] * 10_000, Closed(64), Limits(64, 8192))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("requests", "arrivals", "limits"),
    [
        ([], Closed(1), LIMITS),  # nothing
        ([Request(0, 1)], Closed(1), LIMITS),  # no prompt
        ([Request(1, 0)], Closed(1), LIMITS),  # no answer
        ([Request(20_000, 1)], Closed(1), LIMITS),  # never fits
        ([Request(1, 1)], Poisson(0), LIMITS),  # never comes
        ([Request(1, 1)], Closed(1), Limits(0)),  # never admitted
    ],
)
def test_what_cannot_be_simulated_is_refused(requests: list[Request], arrivals: Closed | Poisson, limits: Limits) -> None:
    with pytest.raises(PlanError):
        run(requests, arrivals, limits)
