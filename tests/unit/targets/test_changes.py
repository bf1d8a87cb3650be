"""changes(): one table of single steps, and a proof that steps lead to the plan."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Drain, Replica, Start, State, Stop
from headrace.targets.changes import changes
from headrace.traffic import Load

OLD = Placement("chat", "fake", "generate", "old.gguf", 1024, 2, 1, 0)
NEW = replace(OLD, weights="new.gguf")
URL = "http://127.0.0.1:9000"
NOW = 100.0


def plan(*runs, slots=2):
    return Plan((PlannedModel("chat", "generate", None, runs, slots, ()),))


def replica(name, state=State.READY, runs=OLD, **more):
    return Replica(name, "chat", runs, state, slots=2, **more)


def load(**running):
    return {"chat": Load("chat", 0, {name.replace("_", "-"): n for name, n in running.items()}, 0, 0, 0, 0, 0, None, None)}


def kinds(found):
    return [(type(change), change.replica) for change in found]


@pytest.mark.parametrize(
    ("wanted", "observed", "loads", "expected"),
    [
        # nothing to do
        (plan(OLD), [replica("chat-1")], {}, []),
        (plan(OLD), [replica("chat-1", State.STARTING)], {}, []),
        (plan(OLD), [replica("chat-1", State.LOADING)], {}, []),
        # missing replicas get the lowest free numbers
        (plan(OLD, OLD), [], {}, [(Start, "chat-1"), (Start, "chat-2")]),
        (plan(OLD, OLD), [replica("chat-2")], {}, [(Start, "chat-1")]),
        # a name is not used again while its last owner is still leaving
        (plan(OLD), [replica("chat-1", State.STOPPED)], {}, [(Start, "chat-2")]),
        (plan(OLD), [replica("chat-1", State.DRAINING, since=NOW)], {}, [(Start, "chat-2")]),
        # one that closed its door is ended once nothing runs there; until it has failed, nothing is started in its place
        (plan(OLD), [replica("chat-1", State.DRAINING, since=NOW, shut=True)], load(chat_1=1), []),
        (plan(OLD), [replica("chat-1", State.DRAINING, since=NOW, shut=True)], load(), [(Stop, "chat-1")]),
        (plan(OLD), [replica("chat-1", State.STOPPED, shut=True)], load(), []),
        (plan(NEW), [replica("chat-1", State.DRAINING, since=NOW, shut=True)], load(chat_1=1), [(Start, "chat-2")]),
        # a failed one is started again when its time has come, under its name; not before, not when it gave up
        (plan(OLD), [replica("chat-1", State.FAILED, retry_at=NOW)], {}, [(Start, "chat-1")]),
        (plan(OLD), [replica("chat-1", State.FAILED, retry_at=NOW + 1)], {}, []),
        (plan(OLD), [replica("chat-1", State.FAILED)], {}, []),
        # fewer wanted: the highest number drains
        (plan(OLD), [replica("chat-1"), replica("chat-2")], {}, [(Drain, "chat-2")]),
        # ... unless it has more to lose: requests in flight, then a cache that took longer to fill
        (plan(OLD), [replica("chat-1"), replica("chat-2")], load(chat_1=1, chat_2=2), [(Drain, "chat-1")]),
        (plan(OLD), [replica("chat-1", since=9.0), replica("chat-2", since=1.0)], load(chat_1=1, chat_2=1), [(Drain, "chat-1")]),
        # ... unless another is of no use anyway
        (plan(OLD), [replica("chat-1", State.LOADING), replica("chat-2")], {}, [(Stop, "chat-1")]),
        # another placement: the old one serves until the new one is ready
        (plan(NEW), [replica("chat-1")], {}, [(Start, "chat-2")]),
        (plan(NEW), [replica("chat-1"), replica("chat-2", State.LOADING, NEW)], {}, []),
        (plan(NEW), [replica("chat-1"), replica("chat-2", State.FAILED, NEW)], {}, []),
        (plan(NEW), [replica("chat-1"), replica("chat-2", State.READY, NEW)], {}, [(Drain, "chat-1")]),
        # ... but one that serves nobody makes room at once
        (plan(NEW), [replica("chat-1", State.FAILED)], {}, [(Start, "chat-2"), (Stop, "chat-1")]),
        # a drained one is stopped when nothing runs there, or its time is over
        (plan(), [replica("chat-1", State.DRAINING, since=NOW)], load(chat_1=1), []),
        (plan(), [replica("chat-1", State.DRAINING, since=NOW)], load(chat_1=0), [(Stop, "chat-1")]),
        (plan(), [replica("chat-1", State.DRAINING, since=NOW)], load(), [(Stop, "chat-1")]),
        (plan(), [replica("chat-1", State.DRAINING, since=NOW - 30)], load(chat_1=1), [(Stop, "chat-1")]),
        # unread is not zero: without a load it is taken as busy
        (plan(), [replica("chat-1", State.DRAINING, since=NOW)], {}, []),
        # a model that left the plan
        (Plan(()), [replica("chat-1"), replica("chat-2", State.LOADING)], {}, [(Stop, "chat-2"), (Drain, "chat-1")]),
        # servers that are not ours
        (plan(URL), [], {}, [(Start, "chat-1")]),
        (plan(URL), [replica("chat-1", State.FAILED, URL)], {}, []),
        (plan(URL, slots=8), [replica("chat-1", State.READY, URL)], {}, [(Start, "chat-2")]),
    ],
)
def test_one_step(wanted, observed, loads, expected):
    assert kinds(changes(wanted, observed, loads, NOW)) == expected


def test_slots_come_from_the_placement_or_for_an_address_from_the_plan():
    assert [change.slots for change in changes(plan(OLD, URL, slots=64), [], {}, NOW)] == [2, 64]


def test_a_restart_says_what_it_follows():
    failed = replica("chat-1", State.FAILED, retry_at=NOW, reason="exited with code 3")
    (again,) = changes(plan(OLD), [failed], {}, NOW)
    assert again.reason == "again after: exited with code 3"


RUNS = st.sampled_from([OLD, NEW, URL])
LIVE = st.sampled_from([State.STARTING, State.LOADING, State.READY, State.DRAINING, State.STOPPED, State.FAILED])
OBSERVED = st.lists(st.tuples(LIVE, RUNS), max_size=6).map(
    lambda found: [
        replica(f"chat-{number}", state, runs, retry_at=NOW if state is State.FAILED and runs != URL else None, since=NOW)
        for number, (state, runs) in enumerate(found, 1)
    ]
)


def applied(observed, found):
    """What a target would make of the changes, with everything going well."""
    after = {each.name: each for each in observed if each.state is not State.STOPPED}
    for change in found:
        match change:
            case Start():
                after[change.replica] = Replica(change.replica, change.model, change.runs, State.STARTING, slots=change.slots)
            case Drain():
                after[change.replica] = after[change.replica].entered(State.DRAINING, NOW, "")
            case Stop():
                after[change.replica] = after[change.replica].entered(State.STOPPED, NOW, "")
    moved = {State.STARTING: State.LOADING, State.LOADING: State.READY}
    well = {each.name for each in observed}
    for name, each in after.items():
        if name in well and each.state in moved:
            after[name] = replace(each, state=moved[each.state])
        if each.state is State.FAILED and each.placement == URL:
            after[name] = replace(each, state=State.READY)
    return list(after.values())


@given(st.lists(RUNS, max_size=4), OBSERVED)
def test_changes_lead_to_the_plan_and_then_cease(runs, observed):
    wanted = plan(*runs)
    serving = sum(each.state is State.READY for each in observed)
    for _ in range(40):
        found = changes(wanted, observed, load(), NOW)
        observed = applied(observed, found)
        ready = sum(each.state is State.READY for each in observed)
        assert ready >= min(serving, len(runs)), "a change of the plan took away capacity that it wants"
        serving = ready
        names = [each.name for each in observed]
        assert len(names) == len(set(names))
    assert not found
    assert sorted(str(each.placement) for each in observed) == sorted(map(str, runs))
    assert all(each.state is State.READY for each in observed)
