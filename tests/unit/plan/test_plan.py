"""Planning: what runs, with what, why, and what to do when it does not fit."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engines.base import Engine, Installation, Installed, Launch, Placement, Reading
from headrace.errors import PlanError
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.explain import explain
from headrace.plan.here import Here
from headrace.plan.memory import cache_bytes, fit
from headrace.plan.plan import Plan, PlannedModel, plan
from headrace.spec.model import Spec
from headrace.traffic import Task
from tests.known_models import SMOLLM2

MIB = 2**20
MINILM = replace(SMOLLM2, architecture="bert", cache_bytes_per_token=0, context=512, quantization="F16", encoder=True)
HERE = Machine(cores=4, memory_bytes=16 * 1024 * MIB, memory_free_bytes=8 * 1024 * MIB, busy_cores=0.2)


def _refuse(facts: ModelFacts, task: Task) -> str | None:
    if facts.format != "gguf":
        return f"needs GGUF, this is {facts.format}."
    return "an encoder cannot generate." if facts.encoder and task == "generate" else None


def _launch(placement: Placement, address: str) -> Launch:
    return Launch((placement.model, address))


def _overhead(facts: ModelFacts, placement: Placement) -> int:
    return 70 * MIB + placement.slots * MIB + int(placement.options["batch"]) * 2048


ENGINE = Engine(
    name="llamacpp",
    title="llama.cpp",
    tasks=("generate", "embed"),
    formats=("gguf",),
    installation=Installation("xllamacpp", "xllamacpp", extra="local"),
    ready_path="/health",
    metrics_path="/metrics",
    folds=True,
    sockets=lambda placement: True,
    refuse=_refuse,
    overhead=_overhead,
    launch=_launch,
    read=lambda page, model: Reading(),
)


def planned(
    models: Mapping[str, Any], machine: Machine = HERE, facts: ModelFacts = SMOLLM2, engines: tuple[Engine, ...] = (ENGINE,)
) -> Plan:
    spec = Spec.model_validate({"models": models})
    known = {name: MINILM if name.startswith("embed") else facts for name, model in spec.models.items() if model.source}
    here = Here({ENGINE.name: ENGINE}, {one.name: Installed("1.0") for one in engines})
    return plan(spec, known, {name: f"/w/{name}" for name in known}, machine, here)


def one(machine: Machine = HERE, facts: ModelFacts = SMOLLM2, **asked: Any) -> PlannedModel:
    return planned({"chat": {"source": "pypi:x", **asked}}, machine, facts).models[0]


def placement(model: PlannedModel) -> Placement:
    assert isinstance(model.replicas[0], Placement)
    return model.replicas[0]


def why(model: PlannedModel, subject: str) -> str:
    return next(str(decision) for decision in model.decisions if decision.subject == subject)


def llamacpp(**options: Any) -> dict[str, Any]:
    return {"engine": {"llamacpp": options}}


def test_a_placement_is_complete() -> None:
    assert placement(one()) == Placement(
        model="chat",
        engine="llamacpp",
        task="generate",
        weights="/w/chat",
        context=4096,
        slots=4,
        threads=4,
        memory_bytes=98_362_432 + 4096 * 4 * 23_040 + 75 * MIB,
        options={"wait": "brief", "batch": 512, "cache_type": "f16"},
    )


def test_the_memory_is_a_sum_with_named_terms() -> None:
    assert str(fit(SMOLLM2, 4096, 4, "f16", 75 * MIB, 22_978_000_000)) == (
        "weights 93.8 MiB + cache 360 MiB + runtime 75 MiB = 529 MiB of 21.4 GiB free"
    )


def test_an_encoder_has_no_cache_in_its_sum() -> None:
    assert str(fit(MINILM, 512, 4, "f16", 75 * MIB)) == "weights 93.8 MiB + runtime 75 MiB = 169 MiB"


@pytest.mark.parametrize(
    ("cache_type", "count"),
    [
        ("f16", 32 * 23_040),  # two bytes a number
        ("q8_0", 32 * 12_240),  # 32 numbers in 34 bytes
        ("q4_0", 32 * 6_480),  # 32 numbers in 18 bytes
    ],
)
def test_the_cache_takes_what_its_number_format_takes(cache_type: str, count: int) -> None:
    assert cache_bytes(SMOLLM2, 16, 2, cache_type) == count


@pytest.mark.parametrize(
    ("limit", "asked", "context", "reason"),
    [
        (8192, {}, 4096, "the most that is taken without asking; the model's limit is 8192"),
        (2048, {}, 2048, "the model's limit"),
        (None, {}, 4096, "the most that is taken without asking; the model does not say its limit"),
        (8192, {"context": 8192}, 8192, "asked for"),  # up to the limit, it is the user's choice
        (None, {"context": 9000}, 9000, "asked for"),  # nothing to hold it against
        (8192, {"task": "embed"}, 512, "the longest input that fits in a batch of 512; the model's limit is 8192"),
        (None, {"task": "embed"}, 512, "the longest input that fits in a batch of 512; the model does not say its limit"),
        (256, {"task": "embed"}, 256, "the model's limit"),
    ],
)
def test_the_context_has_a_reason(limit: int | None, asked: dict[str, Any], context: int, reason: str) -> None:
    model = one(facts=replace(SMOLLM2, context=limit), **asked)
    assert (model.context, why(model, "context")) == (context, f"context {context}: {reason}")


@pytest.mark.parametrize(
    ("machine", "asked", "wait", "reason"),
    [
        (HERE, {}, "brief", "use by others is 0.2 of 4 cores"),  # ours alone
        (replace(HERE, busy_cores=None), {}, "brief", "use by others is unknown"),  # nothing speaks against it
        (replace(HERE, busy_cores=1.0), {}, "brief", "1.0 of 4"),  # a quarter is still fine
        (replace(HERE, busy_cores=1.1), {}, "passive", "others use 1.1 of 4 cores"),  # a laptop in use
        (replace(HERE, quota=True), {}, "passive", "a cgroup limits the CPU to 4 cores"),  # a container
        (HERE, {"replicas": 2}, "passive", "2 replicas share 4 cores"),  # our own replicas are others, too
        (HERE, {"replicas": 2, **llamacpp(wait="active")}, "active", "asked for"),  # the user has measured
    ],
)
def test_threads_sleep_where_cores_are_shared(machine: Machine, asked: dict[str, Any], wait: str, reason: str) -> None:
    model = one(machine, **asked)
    assert placement(model).options["wait"] == wait
    assert reason in why(model, "wait")


@pytest.mark.parametrize(
    ("cores", "asked", "threads", "reason"),
    [
        (4, {}, 4, "usable cores: 4"),
        (4, {"replicas": 3}, 1, "usable cores: 4 shared by 3 replicas"),  # rounded down
        (2, {"replicas": 3}, 1, "usable cores: 2 shared by 3 replicas"),  # never none
        (4, llamacpp(threads=2), 2, "asked for"),
        (2, llamacpp(threads=8), 2, "8 asked for, but more threads than the 2 usable cores stall one another"),
    ],
)
def test_threads_share_the_cores(cores: int, asked: dict[str, Any], threads: int, reason: str) -> None:
    model = one(replace(HERE, cores=cores), **asked)
    assert (placement(model).threads, why(model, "threads")) == (threads, f"threads {threads}: {reason}")


@pytest.mark.parametrize(
    ("asked", "slots", "reason"),
    [
        ({}, 4, "batching more on a CPU gains little"),
        ({"for": {"prompt": 100}}, 4, "batching more on a CPU gains little"),  # users are not said
        ({"for": {"users": 2}}, 2, "as many as the 2 users"),
        ({"for": {"users": 8}}, 8, "as many as the 8 users"),
        ({"for": {"users": 50}}, 8, "fewer than the 50 users, who queue"),  # a CPU does not serve 50 at once
        ({"for": {"users": 7}, "replicas": 2}, 4, "as many as the 4 users of each replica"),  # rounded up
        ({"for": {"users": 50}, "slots": 12}, 12, "asked for"),  # auto only
    ],
)
def test_users_set_the_slots(asked: dict[str, Any], slots: int, reason: str) -> None:
    model = one(**asked)
    assert model.slots == slots
    assert reason in why(model, "slots")


@pytest.mark.parametrize(
    ("limit", "asked", "context", "reason"),
    [
        (8192, {"for": {"prompt": 1500, "output": 300}}, 2048, "the power of two that holds prompt and answer of 1800 tokens"),
        (8192, {"for": {"prompt": 5000}}, 8192, "prompt and answer of 5256 tokens"),  # more than is taken without asking
        (None, {"for": {"output": 3000}}, 4096, "prompt and answer of 3512 tokens"),
        (1900, {"for": {"prompt": 1500, "output": 300}}, 1900, "the model's limit, which holds prompt and answer"),
        (8192, {"for": {"prompt": 10, "output": 10}}, 256, "20 tokens"),  # llama.cpp's least
        (8192, {"for": {"context": 3000}}, 3000, "asked for"),  # the same as `context`
        (8192, {"for": {"prompt": 100}, "context": 3000}, 3000, "asked for"),  # auto only
        (8192, {"for": {"prompt": 1000, "output": 3000}, "task": "embed"}, 1024, "holds a prompt of 1000"),  # no answer
        (8192, {"for": {"users": 2}}, 4096, "the most that is taken without asking"),  # no lengths
    ],
)
def test_lengths_set_the_context(limit: int | None, asked: dict[str, Any], context: int, reason: str) -> None:
    model = one(facts=replace(SMOLLM2, context=limit), **asked)
    assert model.context == context
    assert reason in why(model, "context")


def test_a_context_that_holds_what_is_asked_for_is_not_lowered() -> None:
    small = replace(HERE, memory_free_bytes=400 * MIB)
    assert one(small).context == 2048
    with pytest.raises(PlanError) as caught:
        one(small, **{"for": {"prompt": 3000, "output": 300}})
    assert "models.chat.slots to 2 or less" in caught.value.fix
    assert "context" not in caught.value.fix  # a shorter one would not hold them


def test_latencies_are_said_to_be_unchecked() -> None:
    model = one(**{"for": {"ttft": 0.5, "tpot": 0.05}})
    assert why(model, "latency") == (
        "latency unchecked: first token within 500ms and a token each 50ms asked for, which is not checked on this machine yet"
    )
    assert "latency" not in {decision.subject for decision in one().decisions}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"quantization": "fp8"}, "Write auto, and pick a quantized GGUF by its source"),
        ({"tensor_parallel": 2}, "tensor_parallel 2 is for GPUs"),
        ({"share": "time-slice"}, "Write auto, or swap to take turns."),
        ({"share": "mig", "quantization": "awq"}, "quantization awq is for GPUs"),  # both are told
        ({"share": "mig", "quantization": "awq"}, "share mig is for GPUs"),
        ({"for": {"prompt": 8000, "output": 193}}, "prompt and answer of 8193 tokens are more than the 8192"),
        ({"for": {"context": 9000}}, "context 9000 is more than the 8192"),
    ],
)
def test_what_cannot_be_here_is_refused_with_a_way_out(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=re.escape(words)):
        one(**asked)


def test_what_changes_nothing_here_is_fine() -> None:
    assert placement(one(quantization="none", tensor_parallel=1, share="auto")) == placement(one())


def test_an_encoder_embeds_by_itself() -> None:
    model = one(facts=MINILM)
    assert (model.task, model.context) == ("embed", 512)
    assert "bert is an encoder" in why(model, "task")


def test_the_batch_of_an_embedding_model_holds_its_longest_input() -> None:
    model = one(task="embed", context=2048)
    assert placement(model).options["batch"] == 2048
    assert "raised from 512" in why(model, "batch")


def test_servers_that_run_already_are_taken_as_they_are() -> None:
    model = planned({"far": {"url": ["http://a:1", "http://b:1"], "key": "env:K", "context": 1000}}).models[0]
    assert (model.replicas, model.slots, model.key, model.context) == (("http://a:1", "http://b:1"), 256, "env:K", 1000)
    assert (model.facts, model.task) == (None, "generate")


def test_models_stay_in_the_order_of_the_file() -> None:
    models = {"z": {"source": "pypi:x"}, "a": {"url": "http://a:1"}, "embed": {"source": "pypi:y"}}
    assert [model.name for model in planned(models).models] == list(models)


def test_a_short_memory_shortens_the_context_and_says_so() -> None:
    model = one(replace(HERE, memory_free_bytes=400 * MIB))
    assert model.context == 2048
    assert why(model, "context").startswith("context 2048: lowered from 4096 to fit the memory; the most")
    assert "= 349 MiB of 400 MiB free" in why(model, "memory")


def test_a_context_that_is_no_power_of_two_is_lowered_to_one() -> None:
    model = one(replace(HERE, memory_free_bytes=260 * MIB), facts=replace(SMOLLM2, context=3000))
    assert model.context == 1024


def test_a_context_that_was_asked_for_is_never_lowered() -> None:
    models = {"a": {"source": "pypi:x", "context": 4096}, "b": {"source": "pypi:x"}}
    a, b = planned(models, replace(HERE, memory_free_bytes=800 * MIB)).models
    assert (a.context, b.context) == (4096, 1024)


def test_what_is_missing_is_said_with_what_would_fit() -> None:
    models = {"a": {"source": "pypi:x", "context": 4096}, "b": {"source": "pypi:x", "replicas": 2}}
    with pytest.raises(PlanError) as caught:
        planned(models, replace(HERE, memory_free_bytes=700 * MIB))
    assert str(caught.value) == (
        "models.a: weights 93.8 MiB + cache 360 MiB + runtime 75 MiB = 529 MiB\n"
        "models.b: 2 replicas, each weights 93.8 MiB + cache 45 MiB + runtime 75 MiB = 214 MiB\n"
        "956 MiB needed, 700 MiB free: 256 MiB short. "
        "To fit, set models.a.context to 1024 or less, or models.a.slots to 1 or less."
    )


def test_when_nothing_small_helps_the_weights_are_to_blame() -> None:
    with pytest.raises(PlanError, match="use smaller or more quantized weights"):
        one(replace(HERE, memory_free_bytes=100 * MIB))


def test_every_models_problem_is_told_at_once() -> None:
    models = {
        "a": {"source": "pypi:x", "context": 9000},
        "embed": {"source": "pypi:x", "task": "generate"},
        "c": {"source": "pypi:x"},
    }
    with pytest.raises(PlanError) as caught:
        planned(models)
    assert str(caught.value).splitlines() == [
        "models.a: context 9000 is more than the 8192 tokens that the model was made for. Lower it.",
        "models.embed: no engine here can generate with it (llamacpp: an encoder cannot generate).",
    ]


def test_an_engine_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(PlanError, match=r"llama.cpp is not installed here. Run: pip install 'headrace\[local\]'"):
        planned({"a": {"source": "pypi:x", "engine": "llamacpp"}}, engines=())


def test_a_plan_explains_itself() -> None:
    models = {
        "chat": {"source": "pypi:x", "replicas": 2},
        "far": {"url": "http://a:1"},
    }
    text = explain(planned(models))
    assert text == GOLDEN.read_text("utf-8")
    assert not re.search(r" $", text, re.MULTILINE)


GOLDEN = Path(__file__).with_name("explained.txt")


def _agree(model: dict[str, Any]) -> bool:
    asked = model.get("for", {})
    return model.get("context", 8192) >= asked.get("prompt", 0) + asked.get("output", 0)


ASKED: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"source": st.just("pypi:x")},
    optional={
        "context": st.integers(16, 8192),
        "slots": st.integers(1, 64),
        "for": st.sampled_from([{"users": 6}, {"prompt": 300, "output": 200}, {"users": 1, "prompt": 100}, {"ttft": 1.0}]),
        "replicas": st.integers(1, 3),
        "engine": st.sampled_from([{"llamacpp": {"cache_type": name}} for name in ("f16", "q8_0", "q4_0")]),
    },
)
MODELS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(st.sampled_from(["a", "b", "embed"]), ASKED, min_size=1)
MODELS = MODELS.filter(lambda models: models.get("embed", {}).get("context", 0) <= 512)
MODELS = MODELS.filter(lambda models: all(_agree(model) for model in models.values()))


def tried(models: dict[str, Any], free_bytes: int) -> Plan | None:
    try:
        return planned(models, replace(HERE, memory_free_bytes=free_bytes))
    except PlanError:
        return None


def offer(models: dict[str, Any], free_bytes: int) -> str:
    try:
        planned(models, replace(HERE, memory_free_bytes=free_bytes))
    except PlanError as error:
        return error.fix
    return ""


def taken(found: Plan) -> int:
    return sum(r.memory_bytes for model in found.models for r in model.replicas if isinstance(r, Placement))


@settings(deadline=None)
@given(MODELS, st.integers(0, 8 * 2**30))
def test_a_plan_never_takes_more_memory_than_there_is(models: dict[str, Any], free_bytes: int) -> None:
    found = tried(models, free_bytes)
    assert found is None or taken(found) <= free_bytes


@settings(deadline=None)
@given(MODELS, st.integers(0, 4 * 2**30), st.integers(0, 2**30))
def test_more_memory_never_shortens_a_context(models: dict[str, Any], free_bytes: int, more: int) -> None:
    less, greater = tried(models, free_bytes), tried(models, free_bytes + more)
    if less is not None:
        assert greater is not None
        for before, after in zip(less.models, greater.models, strict=True):
            assert (before.context or 0) <= (after.context or 0)


@settings(deadline=None)
@given(MODELS, st.integers(0, 4 * 2**30))
def test_what_is_offered_fits(models: dict[str, Any], free_bytes: int) -> None:
    for name, key, number in re.findall(r"models\.(\w+)\.(\w+) to (\d+)", offer(models, free_bytes)):
        changed = models | {name: models[name] | {key: int(number)}}
        assert tried(changed, free_bytes) is not None, changed


@settings(deadline=None)
@given(MODELS, st.integers(0, 4 * 2**30))
def test_the_same_question_has_the_same_answer(models: dict[str, Any], free_bytes: int) -> None:
    assert tried(models, free_bytes) == tried(models, free_bytes)
