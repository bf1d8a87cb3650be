"""Replicas that follow the load: what has to fit, how many there may be, and which models fit together."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from headrace.engines.base import Installed, Placement
from headrace.engines.llamacpp import ENGINE
from headrace.errors import PlanError
from headrace.facts.hardware import Machine
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.explain import explain
from headrace.plan.here import Here
from headrace.plan.plan import plan
from headrace.plan.ranges import sharing
from headrace.spec.model import ModelSpec, Spec
from headrace.units import show_bytes
from tests.known_models import SMOLLM2

MIB = 2**20
HERE = Machine(cores=4, memory_bytes=16 * 1024 * MIB, memory_free_bytes=8 * 1024 * MIB, busy_cores=0.2)


def planned(models: Mapping[str, Any], machine: Machine = HERE) -> Plan:
    spec = Spec.model_validate({"models": models})
    known = {name: SMOLLM2 for name, each in spec.models.items() if each.source}
    here = Here({ENGINE.name: ENGINE}, {ENGINE.name: Installed("1.0")})
    return plan(spec, known, {name: f"/w/{name}" for name in known}, machine, here)


def placement(model: PlannedModel) -> Placement:
    assert isinstance(model.replicas[0], Placement)
    return model.replicas[0]


def why(model: PlannedModel, subject: str) -> str:
    return next(str(decision) for decision in model.decisions if decision.subject == subject)


def model(replicas: str | int = 1, **more: Any) -> dict[str, Any]:
    scale = {"scale": {"replicas": replicas}} if isinstance(replicas, str) else {"replicas": replicas}
    return {"source": "pypi:x", "context": 512, **scale, **more}


EACH = placement(planned({"chat": model()}).models[0]).memory_bytes
"""Bytes of a replica of 512 tokens."""


def room(replicas: float) -> Any:
    return replace(HERE, memory_free_bytes=int(EACH * replicas))


def named(models: dict[str, Any], replicas: float) -> dict[str, PlannedModel]:
    return {each.name: each for each in planned(models, room(replicas)).models}


@pytest.mark.parametrize(
    ("asked", "free", "count", "words"),
    [
        ("0..3", 9, 3, "0..3: follow the load; asleep until somebody asks, and again when unused for 10m"),
        ("1..3", 9, 3, "1..3: follow the load; never fewer than 1"),
        ("0..3", 2.5, 2, f"0..2: 3 would take {show_bytes(3 * EACH)}, 2 fit; follow the load"),
        ("1..3", 1.2, 1, f"1..1: 3 would take {show_bytes(3 * EACH)}, 1 fit"),
    ],
)
def test_as_many_as_fit(asked: str, free: float, count: int, words: str) -> None:
    found = named({"chat": model(asked)}, free)["chat"]
    assert len(found.replicas) == count
    assert why(found, "replicas").startswith(f"replicas {words}")
    assert found.scale is not None
    assert found.sleeps == asked.startswith("0")


def test_the_plan_says_what_all_replicas_may_take() -> None:
    assert planned({"chat": model("0..2")}, room(3)).memory_bytes == int(EACH * 3)
    assert planned({"far": {"url": "http://127.0.0.1:9"}}).memory_bytes is None


def test_six_models_on_a_machine_that_holds_two() -> None:
    found = named({f"m{n}": model("0..1") for n in range(6)}, 2.1)
    assert all(len(each.replicas) == 1 for each in found.values())
    sizes = f"all take {show_bytes(6 * EACH)} of {show_bytes(int(EACH * 2.1))} free"
    assert f"6 models take turns: {sizes}, and any 2 of them fit at once" in why(found["m0"], "turns")


def test_what_never_sleeps_is_kept_out_of_the_turns() -> None:
    found = named({"always": model(), "a": model("0..1"), "b": model("0..4")}, 2.1)
    assert len(found["b"].replicas) == 1, "one fits beside the one that never sleeps"
    assert f"any 1 of them fit at once beside {show_bytes(EACH)} that never sleep" in why(found["a"], "turns")
    assert "turns" not in {decision.subject for decision in found["always"].decisions}


def test_models_that_all_fit_do_not_take_turns() -> None:
    assert "none: all fit at once" in why(named({"a": model("0..1"), "b": model("0..1")}, 3)["a"], "turns")


def test_swap_is_a_model_that_sleeps_only_to_make_room() -> None:
    found = named({"a": model(share="swap"), "b": model("0..2", share="swap")}, 3)
    assert found["a"].scale is not None
    assert (found["a"].scale.least, found["a"].scale.idle_seconds) == (0, None)
    assert found["b"].scale is not None
    assert found["b"].scale.idle_seconds == 600
    assert "then there until another needs the memory" in why(found["a"], "replicas")


def test_one_that_can_never_be_woken_is_refused_alone() -> None:
    found = named({"small": model("0..1"), "huge": model("0..1", slots=64)}, 1.5)
    assert found["huge"].replicas == ()
    assert "one replica takes" in found["huge"].refused
    assert "Use a smaller or more quantized model" in found["huge"].refused
    assert len(found["small"].replicas) == 1
    assert "huge: generate, cannot be served here" in explain(
        planned({"huge": model("0..1", slots=64), "b": model("0..1")}, room(1.5))
    )


def test_a_file_of_which_nothing_fits_is_refused() -> None:
    with pytest.raises(PlanError, match="short"):
        named({"chat": model("0..3")}, 0.5)
    with pytest.raises(PlanError, match=r"models\.a") as caught:
        named({"a": model("2..3"), "b": model("0..1")}, 1.5)
    assert "models.b" not in str(caught.value), "it is not b that does not fit"


def test_a_context_gives_way_so_that_each_fits_alone() -> None:
    whole = {"source": "pypi:x", "scale": {"replicas": "0..1"}}
    machine = replace(HERE, memory_free_bytes=EACH + 100 * MIB)
    models = planned({"a": whole, "b": whole}, machine).models
    assert [placement(each).context for each in models] == [1024, 1024]


def test_cores_are_shared_by_what_computes_at_once() -> None:
    def shared(*models: dict[str, Any]) -> int:
        return sharing(ModelSpec.model_validate(each) for each in models)

    assert shared(model(), model(2)) == 3
    assert shared(*[model("0..1")] * 6) == 1
    assert shared(model(), model("0..1")) == 2
    assert shared(model("0..4")) == 4
    assert shared() == 1


def test_a_range_is_not_for_servers_that_run_already() -> None:
    with pytest.raises(ValueError, match="each address there is one replica"):
        Spec.model_validate({"models": {"far": {"url": "http://127.0.0.1:9", "scale": {"replicas": "0..2"}}}})


def test_memory_may_be_limited_in_the_file() -> None:
    spec = Spec.model_validate({"models": {"chat": "pypi:x"}, "machine": {"memory": "700MB"}} | {"models": {"chat": model()}})
    assert (spec.memory_limit, spec.elsewhere) == (700_000_000, None)
    with pytest.raises(ValueError, match="one of"):
        Spec.model_validate({"models": {"chat": model()}, "machine": {"memory": "1GB", "gpus": "a100"}})


def test_llamacpp_unloads_a_model_that_may_sleep_before_its_process_is_stopped() -> None:
    assert placement(named({"a": model("0..1", scale={"replicas": "0..1", "idle": "60s"})}, 3)["a"]).options["sleep"] == 30
    for asked in (model("1..2"), model(2)):
        assert "sleep" not in placement(named({"a": asked}, 3)["a"]).options
