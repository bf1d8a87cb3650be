"""The queue against a simple model of it, over any sequence of events; routing by table."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.gateway.admission import Queue, Reject, Serve
from headrace.gateway.routing import pick

LIMIT = 3
WAIT = 10.0
NAMES = ("a", "b", "c")
none = frozenset()


class Queueing(RuleBasedStateMachine):
    """Requests are numbers. The model keeps who waits in order, who runs where, and until when each may wait."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue[int] = Queue(LIMIT, WAIT)
        self.now = 100.0
        self.slots: dict[str, int] = {}
        self.waiting: list[int] = []
        self.until: dict[int, float] = {}
        self.running: dict[int, str] = {}
        self.since: dict[int, float] = {}
        self.over: set[int] = set()
        self.means: float | None = None
        self.next = 0

    # ---- what the model expects

    def free(self) -> int:
        used = {name: sum(where == name for where in self.running.values()) for name in self.slots}
        return sum(max(0, limit - used[name]) for name, limit in self.slots.items())

    def take(self, effects: list, *, avoid: dict[int, frozenset[str]] | None = None) -> None:
        """Carry the effects out in the model: served in order, only where there is room, as many as there is room for."""
        expected = self.waiting[: self.free()]
        assert [effect.ticket for effect in effects] == expected, "first come first served, while there is room"
        for effect in effects:
            assert isinstance(effect, Serve)
            busy = [name for name in self.running.values() if name == effect.replica]
            assert len(busy) < self.slots[effect.replica], "never more than its slots"
            shunned = (avoid or {}).get(effect.ticket, none)
            others = [
                name
                for name, limit in self.slots.items()
                if name not in shunned and list(self.running.values()).count(name) < limit
            ]
            assert effect.replica not in shunned or not others, "what just failed it is the last choice"
            self.waiting.remove(effect.ticket)
            self.running[effect.ticket] = effect.replica
            self.since[effect.ticket] = self.now

    # ---- events

    @rule()
    def arrives(self) -> None:
        ticket, self.next = self.next, self.next + 1
        room = not self.waiting and self.free() > 0
        effects = self.queue.arrived(ticket, self.now)
        if not room and len(self.waiting) >= LIMIT:
            assert effects == [Reject(ticket, "full", self.queue.retry_after())]
            self.over.add(ticket)
            return
        self.waiting.append(ticket)
        self.until[ticket] = self.now + WAIT
        self.take(effects)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), shun_all=st.booleans())
    def is_retried(self, data: st.DataObject, shun_all: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        avoid = frozenset(NAMES) if shun_all else frozenset({self.running[ticket]})
        del self.running[ticket]
        left = self.until[ticket] - self.since[ticket]  # time with an engine is no waiting
        self.until[ticket] = self.now + left
        self.waiting.insert(0, ticket)
        self.take(self.queue.retried(ticket, avoid, self.now), avoid={ticket: avoid})

    @precondition(lambda self: self.running)
    @rule(data=st.data(), served=st.booleans())
    def is_done(self, data: st.DataObject, served: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[ticket]
        self.over.add(ticket)
        if served:
            seconds = self.now - self.since[ticket]
            self.means = seconds if self.means is None else 0.9 * self.means + 0.1 * seconds
        self.take(self.queue.left(ticket, self.now, served=served))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.over.add(ticket)
        assert self.queue.left(ticket, self.now) == []

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def leaves_again(self, data: st.DataObject) -> None:
        """What is over holds nothing: leaving once more frees nobody's slot."""
        ticket = data.draw(st.sampled_from(sorted(self.over)))
        assert self.queue.left(ticket, self.now) == []

    @rule(slots=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)))
    def is_resized(self, slots: dict[str, int]) -> None:
        self.slots = slots
        self.take(self.queue.resized(slots, self.now))

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, WAIT / 2, WAIT]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        expired = [ticket for ticket in self.waiting if self.until[ticket] <= self.now]
        effects = self.queue.tick(self.now)
        assert {effect.ticket for effect in effects} == set(expired), "expired at exactly its time, neither before nor after"
        for effect in effects:
            assert isinstance(effect, Reject)
            assert effect.cause == "expired"
            self.waiting.remove(effect.ticket)
            self.over.add(effect.ticket)

    # ---- what is always true

    @invariant()
    def the_order_is_as_expected(self) -> None:
        assert self.queue.waiting() == self.waiting
        assert len(self.queue) == len(self.waiting)

    @invariant()
    def no_slot_is_free_while_one_waits(self) -> None:
        assert not (self.waiting and self.free())

    @invariant()
    def every_running_request_is_counted_where_it_runs(self) -> None:
        counted = {name: count for name, count in self.queue.running.items() if count}
        expected = {name: list(self.running.values()).count(name) for name in self.running.values()}
        assert counted == expected
        assert set(self.queue.running) == set(self.slots) | set(expected), "what is gone is forgotten when its last request left"
        assert self.queue.capacity == sum(self.slots.values())

    @invariant()
    def the_time_to_come_back_follows_the_measured_rate(self) -> None:
        after = self.queue.retry_after()
        assert 1 <= after <= 600
        assert (self.queue.service_seconds is None) == (self.means is None)
        if self.means is not None:
            assert self.queue.service_seconds == pytest.approx(self.means)
        if self.means is None or not self.queue.capacity:
            assert after == WAIT
        else:
            seconds = (len(self.waiting) + 1) * self.queue.service_seconds / self.queue.capacity
            assert after == min(600, max(1, math.ceil(seconds)))

    @invariant()
    def nothing_is_kept_of_what_is_over(self) -> None:
        kept = set(self.queue._waiting) | set(self.queue._avoid) | set(self.queue._served)
        assert kept == set(self.waiting) | set(self.running)


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# ---- single claims, where the model above would hide them


def served(*slots: int, limit: int = 8) -> Queue[str]:
    queue: Queue[str] = Queue(limit, WAIT)
    queue.resized({NAMES[number]: count for number, count in enumerate(slots)}, 0)
    return queue


def test_a_retried_request_goes_first_and_past_the_limit():
    queue = served(1, limit=1)
    queue.arrived("first", 0)
    queue.arrived("second", 0)
    queue.resized({}, 0)
    assert queue.retried("first", none, 1) == []
    assert queue.waiting() == ["first", "second"]


def test_a_request_expires_at_exactly_its_time():
    queue = served(0)
    queue.arrived("first", 0)
    assert queue.tick(WAIT - 0.001) == []
    assert queue.tick(WAIT) == [Reject("first", "expired", 10)]
    assert queue.tick(WAIT) == []


def test_a_retried_request_may_wait_for_what_is_left_of_its_time():
    queue = served(0)
    queue.arrived("first", 0)
    assert queue.resized({"a": 1}, 4) == [Serve("first", "a")]
    queue.resized({}, 50)
    assert queue.retried("first", none, 50) == []
    assert queue.tick(55.9) == []
    assert [effect.ticket for effect in queue.tick(56)] == ["first"]


def test_a_replica_that_shrinks_serves_again_when_it_has_fewer_than_its_slots():
    queue = served(3)
    for name in ("1", "2", "3", "4"):
        queue.arrived(name, 0)
    assert queue.resized({"a": 1}, 0) == []
    assert queue.running == {"a": 3}
    assert queue.left("1", 1) == []
    assert queue.left("2", 1) == []
    assert queue.left("3", 1) == [Serve("4", "a")]


def test_a_replica_that_comes_back_still_counts_what_runs_there():
    queue = served(1)
    queue.arrived("1", 0)
    queue.resized({}, 0)
    queue.arrived("2", 0)
    assert queue.resized({"a": 1}, 0) == [], "its slot is still held"
    assert queue.left("1", 1) == [Serve("2", "a")]


def test_times_of_requests_that_were_not_served_say_nothing_of_the_rate():
    queue = served(1)
    queue.arrived("1", 0)
    queue.left("1", 100, served=False)
    assert queue.service_seconds is None
    queue.arrived("2", 100)
    queue.left("2", 103)
    assert queue.service_seconds == 3


@pytest.mark.parametrize(
    ("seconds", "slots", "waiting", "after"),
    [
        (None, 1, 0, 10),  # nothing measured: as long as a request may wait
        (2.0, 1, 0, 2),  # one slot, its present request
        (2.0, 1, 3, 8),  # and three before the next
        (2.0, 4, 3, 2),  # four slots work at once
        (0.001, 1, 0, 1),  # never 0: clients would come back at once
        (10_000.0, 1, 0, 600),  # never longer than ten minutes
        (2.0, 0, 0, 10),  # without a replica the rate says nothing
    ],
)
def test_the_time_to_come_back_is_the_queue_at_the_measured_rate(seconds, slots, waiting, after):
    queue = served(max(slots, 1))
    if seconds is not None:
        queue.arrived("measured", 0)
        queue.left("measured", seconds)
    for number in range(slots + waiting if waiting else 0):
        queue.arrived(str(number), 0)
    queue.resized({"a": slots}, 0)
    assert queue.retry_after() == after


@pytest.mark.parametrize("other", [WAIT * 10, WAIT / 10])
def test_other_limits_change_nothing_of_those_that_are_here(other):
    queue = served(2)
    queue.arrived("retried", 0)
    queue.arrived("runs", 0)
    queue.arrived("waits", 3)
    queue.limited(8, other)
    queue.arrived("new", 4)
    assert queue.oldest() == 3
    queue.resized({}, 5)
    queue.retried("retried", none, 5)
    assert queue.oldest() == 5, "it runs no more, and never waited before"
    times = sorted((3.9 + other, 4 + other, 2.9 + WAIT, 3 + WAIT, 4.9 + WAIT, 5 + WAIT))
    given_up = {effect.ticket: now for now in times for effect in queue.tick(now)}
    assert given_up == {"new": 4 + other, "waits": 3 + WAIT, "retried": 5 + WAIT}


# ---- routing


@pytest.mark.parametrize(
    ("slots", "running", "last", "avoid", "picked"),
    [
        ({}, {}, {}, none, None),  # no replica
        ({"a": 0}, {}, {}, none, None),  # it drains
        ({"a": 1}, {"a": 1}, {}, none, None),  # it is full
        ({"a": 1}, {"a": 2}, {}, none, None),  # it was shrunk and is more than full
        ({"a": 1}, {}, {}, none, "a"),  # a free one
        ({"a": 4, "b": 4}, {"a": 2, "b": 1}, {}, none, "b"),  # the least outstanding work
        ({"a": 4, "b": 4}, {"a": 1, "b": 1}, {"a": 9, "b": 3}, none, "b"),  # on a tie, served longest ago
        ({"a": 4, "b": 4}, {"a": 0, "b": 3}, {}, {"a"}, "b"),  # not where it just failed, whatever the load
        ({"a": 4, "b": 4}, {"a": 0, "b": 4}, {}, {"a"}, "a"),  # unless no other is free: better than to wait
        ({"a": 4, "b": 4}, {"a": 1, "b": 2}, {}, {"a", "b"}, "a"),  # where all failed, one of them
    ],
)
def test_a_request_goes_to_the_best_replica_with_a_free_slot(slots, running, last, avoid, picked):
    unknown = dict.fromkeys(slots, 0)
    assert pick(slots, unknown | running, unknown | last, frozenset(avoid)) == picked


def test_knocking_at_a_replica_that_does_not_accept_takes_from_the_time_to_wait():
    queue = Queue(8, 10.0)
    queue.resized({"a": 1}, 0.0)
    assert queue.arrived("x", 0.0) == [Serve("x", "a")]
    assert queue.retried("x", frozenset({"a"}), 4.0, reached=False) == [Serve("x", "a")]  # 6 s are left
    assert queue.retried("x", frozenset({"a"}), 11.0, reached=False)[0] == Reject("x", "expired", queue.retry_after())
    assert queue.running["a"] == 0


def test_time_at_an_engine_that_then_failed_does_not_count_as_waiting():
    queue = Queue(8, 10.0)
    queue.resized({"a": 1}, 0.0)
    queue.arrived("x", 0.0)
    assert queue.retried("x", frozenset({"a"}), 300.0) == [Serve("x", "a")]
