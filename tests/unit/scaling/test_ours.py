"""Our policy: what it promises of every load, and what it does with the loads that matter."""

import itertools
from dataclasses import replace
from math import ceil, pi, sin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.scaling.base import Decision, Policy, Sample, State
from headrace.scaling.ours import decide

POLICY = Policy(least=0, most=12, slots=10, cold_start_seconds=60, utilisation=0.8, margin=0.1)

counts = st.integers(0, 2000)
seconds = st.floats(0.01, 600, allow_nan=False)
policies = st.builds(
    Policy,
    least=st.integers(0, 3),
    most=st.integers(3, 40),
    slots=st.floats(0.5, 300),
    queue=st.integers(0, 50),
    idle_seconds=st.floats(1, 900),
    cold_start_seconds=st.floats(0, 900),
    utilisation=st.floats(0.3, 1),
)


@st.composite
def samples(draw: st.DrawFn, known: bool = True) -> Sample:
    def number(values: st.SearchStrategy[object]) -> object:
        return draw(values if known else st.none() | values)

    return Sample(
        now=draw(st.floats(0, 50)),
        waiting=number(counts),
        running=number(counts),
        arrivals=number(counts),
        service_seconds=draw(st.none() | seconds),
        ready=number(st.integers(0, 40)),
        starting=number(st.integers(0, 40)),
    )


def after(policy: Policy, history: list[Sample]) -> tuple[float, State | None]:
    """The state after samples whose `now` are the gaps between them."""
    now, state = 0.0, None
    for sample in history:
        now += sample.now
        _, state = decide(policy, replace(sample, now=now), state)
    return now, state


histories = st.lists(samples(known=False), max_size=8)


@given(policies, histories, samples(), counts, counts, counts, st.floats(0, 60))
def test_more_load_never_means_fewer_replicas(policy, history, sample, waiting, running, arrivals, service):
    now, state = after(policy, history)
    less = replace(sample, now=now + sample.now)
    more = replace(
        less,
        waiting=less.waiting + waiting,
        running=less.running + running,
        arrivals=less.arrivals + arrivals,
        service_seconds=less.service_seconds and less.service_seconds + service,
    )
    assert decide(policy, less, state)[0].replicas <= decide(policy, more, state)[0].replicas


@given(policies, histories, samples(), st.integers(0, 40), st.integers(0, 40))
def test_replicas_that_start_count_as_coming(policy, history, sample, ready, starting):
    now, state = after(policy, [*history, sample])
    few = replace(sample, now=now + 1)
    many = replace(few, ready=few.ready + ready, starting=few.starting + starting)
    assert decide(policy, many, state)[0].replicas <= decide(policy, few, state)[0].replicas


@given(policies, histories, samples(known=False))
def test_replicas_stay_within_their_range(policy, history, sample):
    now, state = after(policy, history)
    assert policy.least <= decide(policy, replace(sample, now=now), state)[0].replicas <= policy.most


@given(policies, histories, samples(), st.sampled_from(["waiting", "running", "arrivals", "ready"]))
def test_what_is_unknown_never_takes_a_replica_away(policy, history, sample, missing):
    now, state = after(policy, [sample, *history])
    decision, following = decide(policy, replace(sample, now=now + 5, **{missing: None}), state)
    assert decision.replicas >= state.replicas == min(policy.most, max(policy.least, state.replicas))
    assert following.replicas == decision.replicas


@given(policies, histories, samples(known=False), st.floats(0.001, 1e6))
def test_a_clock_that_goes_back_changes_nothing(policy, history, sample, back):
    now, state = after(policy, [sample, *history])
    decision, following = decide(policy, replace(sample, now=now - back), state)
    assert (decision.move, decision.replicas) == ("hold", state.replicas)
    assert following.now == now - back


@given(policies, histories)
def test_what_is_remembered_is_bounded(policy, history):
    _, state = after(policy, history * 12)
    assert state is None or len(state.peaks) <= 18


class Fluid:
    """Replicas that serve `slots` requests at once for `service` seconds each; new ones are ready after `cold` seconds."""

    def __init__(self, policy: Policy, service: float, replicas: int = 0) -> None:
        self.policy, self.service = policy, service
        self.now, self.backlog = 0.0, 0.0
        self.ready, self.starting = replicas, list[float]()
        self.state: State | None = None
        self.decisions: list[Decision] = []

    def run(self, load, until: float, tick: float = 5.0) -> list[int]:
        """Replicas after each decision under `load(now)` requests per second."""
        while self.now < until:
            self._tick(load(self.now), tick)
        return [decision.replicas for decision in self.decisions]

    def _tick(self, rate: float, tick: float) -> None:
        self.now += tick
        self.ready += sum(when <= self.now for when in self.starting)
        self.starting = [when for when in self.starting if when > self.now]
        capacity = self.ready * self.policy.slots / self.service
        self.backlog = max(0.0, self.backlog + (rate - capacity) * tick)
        running = min(self.ready * self.policy.slots, rate * self.service + self.backlog)
        sample = Sample(
            self.now,
            waiting=round(self.backlog),
            running=round(running),
            arrivals=round(rate * tick),
            service_seconds=self.service,
            ready=self.ready,
            starting=len(self.starting),
        )
        decision, self.state = decide(self.policy, sample, self.state)
        self.decisions.append(decision)
        missing = decision.replicas - self.ready - len(self.starting)
        self.starting += [self.now + self.policy.cold_start_seconds] * max(0, missing)
        while missing < 0:
            missing += 1
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1


@settings(max_examples=30)
@given(
    rate=st.floats(0.4, 8).map(lambda value: round(value * 5) / 5),
    service=st.floats(0.5, 8),
    cold=st.sampled_from([5, 60, 360]),
    replicas=st.integers(0, 12),
)
def test_a_constant_load_settles_at_what_it_needs(rate, service, cold, replicas):
    fluid = Fluid(replace(POLICY, cold_start_seconds=cold), service, replicas)
    path = fluid.run(lambda now: rate, 7200)
    least = min(12, max(1, ceil(round(rate * service) / 8)))
    most = min(12, max(1, ceil(rate * service / 8 * 1.1 + 0.1)))
    assert len(set(path[-200:])) == 1
    assert least <= path[-1] <= most


@pytest.mark.parametrize("cold", [10, 60, 360])
@pytest.mark.parametrize("period", [20, 60, 120, 600, 3600])
def test_a_sine_makes_no_more_turns_than_it_has(period, cold):
    fluid = Fluid(replace(POLICY, cold_start_seconds=cold), 8.0, 6)
    path = fluid.run(lambda now: 6 + 4 * sin(2 * pi * now / period), 6 * period + 3600)
    changes = [b - a for a, b in itertools.pairwise(path) if a != b]
    turns = sum(a * b < 0 for a, b in itertools.pairwise(changes))
    assert turns <= 2 * (6 + 3600 / period) + 1
    if period <= 60:
        assert len(set(path[-len(path) // 3 :])) == 1  # the memory of peaks is longer than that


def test_a_sleeping_model_is_woken_by_one_request_and_sleeps_again_when_unused():
    decision, state = decide(POLICY, Sample(0, waiting=0, running=0, arrivals=0, ready=0, starting=0), None)
    assert (decision.move, decision.replicas) == ("hold", 0)
    decision, state = decide(POLICY, Sample(1, waiting=1, running=0, arrivals=1, ready=0, starting=0), state)
    assert (decision.move, decision.replicas) == ("wake", 1)
    for now in range(2, 632, 30):
        assert decision.replicas == 1
        decision, state = decide(POLICY, Sample(now, waiting=0, running=0, arrivals=0, ready=1, starting=0), state)
    assert (decision.move, decision.replicas) == ("sleep", 0)
    assert decision.reason == "unused for 600 s"


def test_one_step_up_at_most_doubles():
    _, state = decide(POLICY, Sample(0, waiting=0, running=0, arrivals=0, ready=1, starting=0), None)
    flood = Sample(1, waiting=500, running=10, arrivals=500, ready=1, starting=0)
    decision, state = decide(POLICY, flood, state)
    assert decision.replicas == 5  # 1 + 4
    decision, state = decide(POLICY, replace(flood, now=2), state)
    assert decision.replicas == 5  # still the same 15 seconds
    decision, state = decide(POLICY, replace(flood, now=17), state)
    assert decision.replicas == 10


def test_the_reason_has_the_numbers():
    _, state = decide(POLICY, Sample(0, waiting=0, running=0, arrivals=0, ready=1, starting=0), None)
    decision, _ = decide(POLICY, Sample(5, waiting=25, running=10, arrivals=35, service_seconds=2.0, ready=1), state)
    assert decision.reason.startswith("25 waiting, 10 running, a backlog of ")
    assert "8 in flight per replica" in decision.reason


def test_after_a_long_silence_nothing_falls_at_once():
    """A laptop that slept: the arrivals of an hour in one sample are no rate, and an empty queue no sign of a lull."""
    _, state = decide(POLICY, Sample(0, waiting=0, running=48, arrivals=0, ready=6, starting=0), None)
    decision, state = decide(POLICY, Sample(3600, waiting=0, running=0, arrivals=9000, ready=6, starting=0), state)
    assert (decision.move, decision.replicas) == ("hold", 6)
    decision, _ = decide(POLICY, Sample(3605, waiting=0, running=0, arrivals=0, ready=6, starting=0), state)
    assert decision.replicas == 6


@pytest.mark.parametrize("wrong", [{"least": 3, "most": 2}, {"least": 0, "most": 0}, {"slots": 0}, {"utilisation": 0}])
def test_policies_that_cannot_be_are_refused(wrong):
    with pytest.raises(PlanError):
        replace(POLICY, **wrong)
