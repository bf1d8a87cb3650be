"""changes() in a memory that does not hold everything at once, and adapters that need no restart."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.base import Bed, Placement
from headrace.facts import catalogue
from headrace.facts.hardware import Card
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Adapt, Drain, Replica, Sleep, Start, State, Stop, Wake
from headrace.targets.changes import changes, in_memory
from headrace.traffic import Load

NOW = 100.0


def runs(model, size, version=1):
    return Placement(model, "fake", "generate", f"{model}-{version}.gguf", 1024, 2, 1, size)


def plan(capacity, *wanted):
    models = {}
    for placement in wanted:
        models.setdefault(placement.model, []).append(placement)
    return Plan(tuple(PlannedModel(name, "generate", None, tuple(each), 2, ()) for name, each in models.items()), capacity)


def replica(placement, number=1, state=State.READY, **more):
    return Replica(f"{placement.model}-{number}", placement.model, placement, state, slots=2, since=NOW, **more)


def idle(*models):
    return {name: Load(name, 0, {}, 0, 0, 0, 0, 0, None, None) for name in models}


def kinds(found):
    return [(type(change), change.replica) for change in found]


A, A2, B, B2, C = runs("a", 4), runs("a", 5, 2), runs("b", 3), runs("b", 3, 2), runs("c", 2)


@pytest.mark.parametrize(
    ("wanted", "observed", "expected"),
    [
        # room for both: the new one starts beside the old
        (plan(9, A2), [replica(A)], [(Start, "a-2")]),
        # none, and nothing else that will make it: the old one drains
        (plan(8, A2), [replica(A)], [(Drain, "a-1")]),
        # it is in memory until it is gone
        (plan(8, A2), [replica(A, state=State.DRAINING)], [(Stop, "a-1")]),
        (plan(8, A2), [replica(A, state=State.STOPPED)], []),
        (plan(8, A2), [], [(Start, "a-1")]),
        # a model that is served no more makes room: nobody else drains meanwhile
        (plan(9, A2), [replica(A), replica(B)], [(Drain, "b-1")]),
        (plan(9, A2), [replica(A), replica(B, state=State.STOPPED)], []),
        # a new model waits for it as well
        (plan(9, A, B), [replica(A), replica(C, state=State.STOPPED)], [(Start, "b-1")]),
        (plan(8, A, B), [replica(A), replica(C, state=State.STOPPED)], []),
        # of two that change one has room, and gives it back: the other waits for that
        (plan(10, A2, B2), [replica(A), replica(B)], [(Start, "b-2")]),
        (plan(10, A2, B2), [replica(A), replica(B), replica(B2, 2, State.LOADING)], []),
        # of several replicas one after the other
        (plan(9, B2, B2), [replica(B), replica(B, 2)], [(Start, "b-3")]),
        (plan(6, B2, B2), [replica(B), replica(B, 2)], [(Drain, "b-2")]),
        # one that failed and is started again keeps its place; one that is given up takes none
        (plan(8, A, B), [replica(A, state=State.FAILED, retry_at=NOW + 1), replica(C)], [(Drain, "c-1")]),
        (plan(8, A, B), [replica(A, state=State.FAILED)], [(Start, "b-1")]),
    ],
)
def test_one_step(wanted, observed, expected):
    assert kinds(changes(wanted, observed, idle("a", "b", "c"), NOW)) == expected


def test_why_one_drains_first_is_said():
    (drain,) = changes(plan(8 * 2**20, runs("a", 5 * 2**20, 2)), [replica(runs("a", 4 * 2**20))], idle("a"), NOW)
    assert drain.reason == "the plan wants another, and 4 MiB are free to have both at once"


def applied(observed, found):
    after = {each.name: each for each in observed if each.state is not State.STOPPED}
    for change in found:
        match change:
            case Start():
                after[change.replica] = replica(change.runs, change.replica.rpartition("-")[2], State.STARTING)
            case Drain():
                after[change.replica] = after[change.replica].entered(State.DRAINING, NOW, "")
            case Stop():
                after[change.replica] = after[change.replica].entered(State.STOPPED, NOW, "")
    moved = {State.STARTING: State.LOADING, State.LOADING: State.READY}
    seen = {each.name for each in observed}
    return [
        replace(each, state=moved.get(each.state, each.state) if name in seen else each.state) for name, each in after.items()
    ]


MODELS = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)), max_size=4)


def of(models):
    return [runs(name, size, version) for name, (size, count, version) in models.items() for _ in range(count)]


@given(MODELS, MODELS, st.integers(0, 12))
def test_any_plan_that_fits_comes_true_in_a_memory_that_is_never_overcommitted(before, after, spare):
    old, new = of(before), of(after)
    capacity = max(sum(each.memory_bytes for each in old), sum(each.memory_bytes for each in new)) + spare
    numbered = [(placement, old[:place].count(placement) + 1) for place, placement in enumerate(old)]
    observed, wanted = [replica(placement, number) for placement, number in numbered], plan(capacity, *new)
    for _ in range(120):
        found = changes(wanted, observed, idle(*"abcd"), NOW)
        observed = applied(observed, found)
        assert in_memory(observed) <= capacity
    assert not found
    assert sorted(each.placement.weights for each in observed) == sorted(each.weights for each in new)
    assert all(each.state is State.READY for each in observed)


# ---- adapters

POET = replace(A, adapters={"poet": "/poet"}, also=("poet",))
BOTH = replace(A, adapters={"poet": "/poet", "cook": "/cook"}, also=("poet", "cook"))


def can(running, wanted):
    return True


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        (BOTH, replica(POET), [(Adapt, "a-1")]),
        # while it loads it is waited for, and not started anew
        (BOTH, replica(POET, state=State.LOADING), []),
        # it is at it; it has refused; that is long ago
        (BOTH, replica(POET, adapting=BOTH), []),
        (BOTH, replica(POET, adapting=BOTH, retry_at=NOW + 1), []),
        (BOTH, replica(POET, adapting=BOTH, retry_at=NOW), [(Adapt, "a-1")]),
        # the plan wants something else by now
        (POET, replica(BOTH, adapting=replace(BOTH, adapters={})), [(Adapt, "a-1")]),
        # more than adapters
        (replace(BOTH, context=2048), replica(POET), [(Start, "a-2")]),
    ],
)
def test_adapters_are_changed_without_a_restart(wanted, found, expected):
    assert kinds(changes(plan(None, wanted), [found], idle("a"), NOW, adapts=can)) == expected


def test_where_the_engine_cannot_the_replica_is_replaced():
    assert kinds(changes(plan(None, BOTH), [replica(POET)], idle("a"), NOW)) == [(Start, "a-2")]


def test_what_is_changed_is_said():
    (adapt,) = changes(plan(None, replace(BOTH, adapters={"cook": "/cook"})), [replica(POET)], idle("a"), NOW, adapts=can)
    assert adapt.reason == "adapters +cook -poet, without a restart"


def on(placement, **devices):
    return replace(placement, devices=devices)


@pytest.mark.parametrize(
    ("wanted", "observed", "expected"),
    [
        # both fit on the card: the new one starts beside the old
        (on(A2, gpu0=4), on(A, gpu0=6), [(Start, "a-2")]),
        # they do not, though RAM has room: the old one drains first
        (on(A2, gpu0=7), on(A, gpu0=6), [(Drain, "a-1")]),
        # the other card is free
        (on(A2, gpu1=7), on(A, gpu0=6), [(Start, "a-2")]),
        # a replica over both needs room on both
        (on(A2, gpu0=7, gpu1=7), on(A, gpu0=6), [(Drain, "a-1")]),
        # a card that is not there any more has no room
        (on(A2, gpu9=1), on(A, gpu0=6), [(Drain, "a-1")]),
    ],
)
def test_cards_are_memories_of_their_own(wanted, observed, expected):
    cards = tuple(Card(name, name, catalogue.gpus()["T4"], 10) for name in ("gpu0", "gpu1"))
    made = replace(plan(100, wanted), cards=cards)
    assert kinds(changes(made, [replica(observed)], idle("a"), NOW)) == expected


def test_a_plan_that_does_not_say_what_its_cards_have_limits_nothing():
    """A trial of `headrace tune` plans one model, and knows no cards."""
    assert kinds(changes(plan(None, on(A, gpu0=7)), [], idle("a"), NOW)) == [(Start, "a-1")]


CARD = Card("GPU-a", "0", catalogue.gpus()["L4"], 10)
NAPS = replace(runs("a", 3), devices={"GPU-a": 8}, beds=(Bed(1, 7, {"GPU-a": 1}), Bed(2, 3, {"GPU-a": 1})))
OTHER = replace(runs("b", 3), devices={"GPU-a": 9})


def sleeping(level=1):
    return replica(NAPS, state=State.ASLEEP, level=level)


@pytest.mark.parametrize(
    ("wanted", "observed", "level", "expected"),
    [
        # drained, and it may sleep: it does
        ([], [replica(NAPS, state=State.DRAINING)], 1, [(Sleep, "a-1")]),
        # or may not
        ([], [replica(NAPS, state=State.DRAINING)], None, [(Stop, "a-1")]),
        # it sleeps on as long as it may
        ([], [sleeping()], 1, []),
        ([], [sleeping()], None, [(Stop, "a-1")]),
        # wanted again: it wakes, and no other is started
        ([NAPS], [sleeping()], 1, [(Wake, "a-1")]),
        ([NAPS], [sleeping()], None, [(Wake, "a-1")]),
        # not before there is room on its GPU
        ([NAPS], [sleeping(), replica(OTHER, state=State.STOPPED)], 1, []),
        # another one starts beside what is kept of the GPU
        ([OTHER], [sleeping()], 1, [(Start, "b-1")]),
        # though not while the GPU is still full, nor while weights are on their way to RAM
        ([OTHER], [replica(NAPS, state=State.DRAINING, level=1)], 1, [(Sleep, "a-1")]),
    ],
)
def test_replicas_that_sleep_in_place(wanted, observed, level, expected):
    models = {"a": [], "b": []} | {one.model: [one] for one in wanted}
    made = Plan(tuple(PlannedModel(name, "generate", None, tuple(each), 2, ()) for name, each in models.items()), 10, (CARD,))
    found = changes(made, observed, idle("a", "b"), NOW, rests=lambda replica: level)
    assert kinds(found) == expected
