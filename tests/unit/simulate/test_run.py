"""The simulation: against queueing theory, against the books, and with the policies that production has."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.scaling.base import Decision, Policy, Sample
from headrace.scaling.names import Scaler, fixed, names, scaler
from headrace.simulate.clairvoyant import clairvoyant, floor_hours, following, schedule
from headrace.simulate.replica import Rates
from headrace.simulate.run import Setting, first_replicas, run
from headrace.simulate.suggest import suggest
from headrace.simulate.traces import Trace

ONE = Rates(slots=1, prefill_tokens_per_second=1000, step_seconds=1, each_seconds=0)


def trace(rows) -> Trace:
    made = Trace()
    for at, prompt, output in rows:
        made.at.append(at)
        made.prompt.append(prompt)
        made.output.append(output)
    return made


def poisson(rate: float, count: int, prompt, output=lambda: 1, seed: int = 1) -> Trace:
    random, at, rows = Random(seed), 0.0, []
    for _ in range(count):
        at += random.expovariate(rate)
        rows.append((at, prompt(), output()))
    return trace(rows)


@pytest.mark.parametrize(("servers", "waits"), [(1, 2.0), (2, 0.90)])
def test_waiting_is_that_of_a_queue_with_constant_service(servers, waits):
    """At 80 %, for 1 s of service: M/D/1 is rho / (2 (1 - rho)), M/D/2 by Cosmetatos half of M/M/2's 1.778 and 1.4 % more."""
    load = poisson(0.8 * servers, 30_000, lambda: 1000)
    outcome = run(load, Setting(ONE, initial=servers), fixed(servers))
    assert outcome.wait.mean == pytest.approx(waits, rel=0.1)
    assert outcome.replica_seconds == pytest.approx(servers * outcome.seconds)
    assert outcome.over == 0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 2000), st.integers(1, 5000), st.integers(1, 60)), min_size=1, max_size=60).map(sorted),
    st.sampled_from([*names(), "fixed:2"]),
    st.sampled_from([0.0, 30.0, 300.0]),
    st.integers(0, 3),
    st.integers(0, 20),
)
def test_every_request_is_served_or_refused_and_replica_time_adds_up(rows, name, cold, least, limit):
    policy = Policy(least, 6, slots=2, cold_start_seconds=cold)
    setting = Setting(replace(ONE, slots=2), cold, queue_limit=limit, wait_seconds=120, initial=least)
    outcome = run(trace(rows), setting, scaler(name, policy))
    served = outcome.requests - outcome.full - outcome.expired
    assert outcome.over == outcome.full + outcome.expired  # without a limit only refusals count
    assert 0 <= served <= outcome.requests
    assert outcome.wait.most <= 120 + 1e-6  # a difference of two times, which are rounded
    assert outcome.most <= max(6, least)
    assert outcome.replica_seconds <= outcome.most * outcome.seconds + 1e-6
    work = sum(setting.rates.work(prompt, output) for _, prompt, output in rows)
    if not outcome.full + outcome.expired:
        assert outcome.replica_seconds >= work - 1e-6  # nobody can do it in less


def test_the_same_trace_gives_the_same_outcome():
    load, policy = poisson(2, 3000, lambda: 400), Policy(1, 6, slots=1, cold_start_seconds=20)
    assert run(load, Setting(ONE, 20, initial=1), scaler("headrace", policy)) == run(
        load, Setting(ONE, 20, initial=1), scaler("headrace", policy)
    )


def test_a_cold_start_is_waited_for():
    policy = Policy(0, 1, slots=1, cold_start_seconds=45)
    outcome = run(trace([(100.0, 1000, 1)]), Setting(ONE, 45), scaler("headrace", policy))
    assert outcome.wait.most == pytest.approx(45, abs=1.01)  # the policy looks every second
    assert outcome.starts == 1


def test_replicas_that_are_let_go_finish_what_they_have():
    """Two long requests at two replicas, one of which is let go after 10 s: its request still takes its 100 s."""
    steps = {0.0: 2, 10.0: 1}

    def follow(sample, state):
        return Decision(max((at, count) for at, count in steps.items() if at <= sample.now)[1], "hold", ""), None

    outcome = run(trace([(1.0, 1, 100), (1.0, 1, 100)]), Setting(ONE, initial=2), Scaler("steps", 1.0, follow))
    assert outcome.full + outcome.expired == 0
    assert outcome.seconds == pytest.approx(100, abs=0.1)
    assert outcome.replica_seconds == pytest.approx(200, abs=1)


def test_what_nobody_serves_is_counted_and_ends():
    outcome = run(trace([(0.0, 1, 1), (5.0, 1, 1)]), Setting(ONE), fixed(0))
    assert (outcome.expired, outcome.over) == (2, 2)
    assert outcome.wait.most > 80_000


def test_the_first_minutes_say_with_how_many_it_begins():
    load = poisson(4, 4000, lambda: 500)  # 2 replicas' work, at 80 % of one slot
    assert first_replicas(load, ONE, 1, 10) in (2, 3)
    assert first_replicas(load, ONE, 0, 1) == 1


def test_who_knows_the_trace_waits_less_for_no_more():
    """A burst after silence: ours has to see it first."""
    load = trace(sorted([(at * 1.0, 500, 1) for at in range(0, 300, 5)] + [(300 + at * 0.1, 500, 1) for at in range(900)]))
    policy = Policy(1, 12, slots=1, cold_start_seconds=60)
    setting = Setting(ONE, 60, initial=1)
    ours = run(load, setting, scaler("headrace", policy))
    known = clairvoyant(load, setting, policy, ours.wait.p99)
    assert known.wait.p99 <= ours.wait.p99
    assert floor_hours(load, ONE) <= known.gpu_hours <= ours.gpu_hours


def test_a_lull_shorter_than_a_start_is_bridged():
    rows = [(at * 1.0, 1000, 1) for at in [*range(0, 20), *range(60, 80), *range(300, 320)]]
    steps = schedule(trace(rows), Setting(ONE, 60), Policy(0, 4, slots=1, cold_start_seconds=60), 1.0, 10.0)
    assert [count for _, count in steps].count(0) >= 1
    changes = [(at, count) for at, count in steps if at > 0]
    assert changes[0][1] == 0  # after the second busy time, not after the first
    assert 80 <= changes[0][0] <= 110
    assert following(steps).decide(Sample(30.0, waiting=0, ready=1, starting=0), None)[0].replicas >= 1


def test_the_suggestion_is_the_cheapest_that_keeps_the_limit():
    load = poisson(1.5, 600, lambda: 500)
    policy, setting = Policy(0, 4, slots=1, cold_start_seconds=30), Setting(ONE, 30, limit_seconds=10, initial=1)
    seen = []
    found = suggest(load, setting, policy, 0.9, seen.append)
    assert found.meets
    assert found.outcome.met >= 0.9
    assert found.of == len(seen) == 10  # the fewest from 0 to 4, a queue of 0 or 1
    assert all(outcome.gpu_hours >= found.outcome.gpu_hours for outcome in seen if outcome.met >= 0.9)
    mine = replace(policy, least=8, most=12, queue=9)
    tried = suggest(load, setting, mine, 0.9, seen.append)
    assert (tried.of, len(seen)) == (24, 34)  # the fewest from 0 to 6 or 8, a queue of 0, 1 or 9
    assert tried.meets
    nothing = suggest(load, replace(setting, limit_seconds=0.001), policy, 0.9)
    assert not nothing.meets


def test_on_a_cpu_the_cheapest_is_that_of_the_fewest_replica_hours():
    """It has no GPU-hours: all runs would cost the same, and the one that waits least would be taken."""
    load = poisson(0.5, 400, lambda: 1000, seed=3)
    policy = Policy(0, 3, slots=1, queue=0, cold_start_seconds=5)
    on_gpu, on_cpu = (
        suggest(load, Setting(replace(ONE, gpus=gpus), 5.0, limit_seconds=60, initial=1), policy, 0.9) for gpus in (1, 0)
    )
    assert on_cpu.policy == on_gpu.policy
    assert on_cpu.outcome.replica_seconds == on_gpu.outcome.replica_seconds
    known = [clairvoyant(load, Setting(replace(ONE, gpus=gpus), 5.0, initial=1), policy, 60.0) for gpus in (1, 0)]
    assert known[0].replica_seconds == known[1].replica_seconds
