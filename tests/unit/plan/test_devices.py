"""Models on the GPUs of this machine: which go there, on which cards, with how much of each, and how vLLM is told."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.engines import engines, vllm
from headrace.engines.base import Installed, Placement
from headrace.errors import PlanError
from headrace.facts import catalogue
from headrace.facts.hardware import Card, Machine
from headrace.learned import knowledge
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.devices import HOST_BYTES
from headrace.plan.explain import explain
from headrace.plan.fleet import UTILIZATION
from headrace.plan.here import Here
from headrace.plan.plan import plan
from headrace.spec.load import loads
from tests.known_models import SMOLLM2
from tests.unit.plan.vllm_models import LLAMA_8B, QWEN3_32B

GIB = 2**30
TINY = replace(LLAMA_8B, parameters=300_000_000, weight_bytes=600_000_000, layers=12, hidden=1024, intermediate=3000)
MODELS = {"llama": LLAMA_8B, "qwen": QWEN3_32B, "tiny": TINY, "gguf": SMOLLM2}
KNOWN = replace(knowledge("/nowhere"), version=vllm.VERSION)


def cards(count: int, kind: str, *free_gib: float) -> tuple[Card, ...]:
    gpu = catalogue.gpus()[kind]
    free = [*free_gib, *[gpu.memory_bytes / GIB] * (count - len(free_gib))]
    return tuple(Card(f"GPU-{n}", str(n), gpu, int(each * GIB)) for n, each in enumerate(free))


def machine(there: tuple[Card, ...], memory_gib: int = 256) -> Machine:
    return Machine(16, memory_gib * GIB, memory_gib * GIB, gpus=tuple(card.gpu for card in there), cards=there)


def here(*, gpus: bool = True, also: tuple[str, ...] = ("llamacpp",)) -> Here:
    installed = {name: Installed("1.0") for name in also} | ({"vllm": Installed(vllm.VERSION, "/env/bin/python")} if gpus else {})
    return Here(engines(), installed, knowledge=KNOWN if gpus else None)


def planned(models: dict[str, Any], there: tuple[Card, ...], at: Here | None = None, memory_gib: int = 256) -> Plan:
    """`models` are keys by name; a name begins with that of its facts."""
    spec = loads(str({"models": {name: {"source": "hf:org/name", **keys} for name, keys in models.items()}}))
    facts = {name: MODELS[name.partition("-")[0]] for name in models}
    return plan(spec, facts, {name: f"/weights/{name}" for name in models}, machine(there, memory_gib), at or here())


def only(made: Plan) -> PlannedModel:
    (model,) = made.models
    return model


def placements(made: Plan) -> list[Placement]:
    return [one for model in made.models for one in model.replicas if isinstance(one, Placement)]


def where(made: Plan) -> dict[str, list[tuple[str, ...]]]:
    return {model.name: [tuple(one.devices) for one in model.replicas if isinstance(one, Placement)] for model in made.models}


@pytest.mark.parametrize(
    ("models", "there", "wanted"),
    [
        # one model, one card
        ({"llama": {}}, cards(1, "RTX-4090"), {"llama": [("GPU-0",)]}),
        # the card that others use least
        ({"llama": {}}, cards(2, "RTX-4090", 6.0), {"llama": [("GPU-1",)]}),
        # too large for one card: two of them together
        ({"llama": {}}, cards(2, "RTX-4090", 13.0, 13.0), {"llama": [("GPU-0", "GPU-1")]}),
        # cards are here already: replicas and models have one each while there are enough
        ({"llama": {"replicas": 2}}, cards(2, "RTX-4090"), {"llama": [("GPU-1",), ("GPU-0",)]}),
        ({"llama": {}, "tiny": {}}, cards(2, "RTX-4090"), {"llama": [("GPU-1",)], "tiny": [("GPU-0",)]}),
        # two on one card where there is no other
        ({"llama": {}, "tiny": {}}, cards(1, "RTX-4090"), {"llama": [("GPU-0",)], "tiny": [("GPU-0",)]}),
        # what the file says of the split
        ({"tiny": {"tensor_parallel": 2}}, cards(2, "L4"), {"tiny": [("GPU-0", "GPU-1")]}),
        # GGUF and llama.cpp stay on the CPU beside
        ({"llama": {}, "gguf": {}}, cards(1, "RTX-4090"), {"llama": [("GPU-0",)], "gguf": [()]}),
        ({"gguf": {"engine": {"llamacpp": {"threads": 2}}}}, cards(1, "RTX-4090"), {"gguf": [()]}),
        # every replica of a range has its place, also while it sleeps
        ({"tiny": {"scale": {"replicas": "0..2"}}}, cards(2, "T4"), {"tiny": [("GPU-1",), ("GPU-0",)]}),
        # models that would take turns need not, where both fit
        (
            {"tiny-a": {"share": "swap"}, "tiny-b": {"share": "swap"}},
            cards(1, "L4"),
            {"tiny-a": [("GPU-0",)], "tiny-b": [("GPU-0",)]},
        ),
    ],
)
def test_who_sits_where(models: dict[str, Any], there: tuple[Card, ...], wanted: dict[str, list[tuple[str, ...]]]) -> None:
    found = where(planned(models, there))
    assert {name: sorted(each) for name, each in found.items()} == {name: sorted(each) for name, each in wanted.items()}


@pytest.mark.parametrize(
    "models",
    [
        {"llama": {}},
        {"llama": {}, "tiny-a": {}, "tiny-b": {}, "tiny-c": {}},
        {"tiny": {"replicas": 4}},
        {"qwen": {}, "llama": {"scale": {"replicas": "0..2"}}},
    ],
)
@pytest.mark.parametrize("there", [cards(4, "L40S"), cards(4, "A100-80GB", 30.0, 50.0), cards(2, "H100-80GB")])
def test_no_card_is_asked_for_more_than_is_free(models: dict[str, Any], there: tuple[Card, ...]) -> None:
    made = planned(models, there)
    for card in there:
        on = [one for one in placements(made) if card.uuid in one.devices]
        assert sum(one.devices[card.uuid] for one in on) <= card.free_bytes * UTILIZATION
        parts = [float(one.options["args"][one.options["args"].index("--gpu-memory-utilization") + 1]) for one in on]
        assert sum(parts) * card.gpu.memory_bytes <= card.free_bytes
        assert all(one.options["cache_bytes"] < one.devices[card.uuid] for one in on)


def test_what_a_card_has_left_is_cache() -> None:
    alone, beside = planned({"tiny": {}}, cards(1, "L4")), planned({"tiny": {}, "llama": {}}, cards(1, "L40S"))
    (one,) = placements(alone)
    assert one.devices["GPU-0"] == pytest.approx(catalogue.gpus()["L4"].memory_bytes * UTILIZATION, rel=0.01)
    assert sum(each.devices["GPU-0"] for each in placements(beside)) == pytest.approx(
        catalogue.gpus()["L40S"].memory_bytes * UTILIZATION, rel=0.01
    )


TURNS = {"share": "swap", "engine": "vllm"}


def test_models_that_sleep_take_turns_where_there_is_no_room_for_all_of_them() -> None:
    made = planned({"llama-a": TURNS, "llama-b": TURNS, "tiny": {}}, cards(1, "RTX-4090"))
    assert where(made) == {"llama-a": [("GPU-0",)], "llama-b": [("GPU-0",)], "tiny": [("GPU-0",)]}
    taken = {one.model: one.devices["GPU-0"] for one in placements(made)}
    room = made.cards[0].free_bytes * UTILIZATION
    assert taken["llama-a"] + taken["tiny"] <= room < taken["llama-a"] + taken["llama-b"] + taken["tiny"]
    said = {model.name: [d.value for d in model.decisions if d.subject == "GPU turns"] for model in made.models}
    assert said == {"llama-a": ["llama-b"], "llama-b": ["llama-a"], "tiny": []}


def test_with_room_for_each_nobody_takes_turns() -> None:
    made = planned({"llama-a": TURNS, "llama-b": TURNS}, cards(2, "RTX-4090"))
    assert sorted(where(made).values()) == [[("GPU-0",)], [("GPU-1",)]]
    assert "GPU turns" not in [d.subject for model in made.models for d in model.decisions]


def test_whatever_else_is_awake_one_that_sleeps_in_place_leaves_its_cards_to_the_others() -> None:
    """What its process keeps of them was left out of the others' caches."""
    made = planned(dict.fromkeys(("llama-a", "llama-b", "llama-c"), TURNS), cards(1, "RTX-4090"))
    one, *others = placements(made)
    assert [bed.level for bed in one.beds] == [1, 2]
    kept, thrown = one.beds
    assert (kept.memory_bytes - thrown.memory_bytes, thrown.memory_bytes) == (LLAMA_8B.weight_bytes, HOST_BYTES)
    asleep = sum(other.beds[0].devices["GPU-0"] for other in others)
    assert one.devices["GPU-0"] + asleep <= made.cards[0].free_bytes


@pytest.mark.parametrize(
    ("keys", "levels"),
    [
        # one that never sleeps needs no bed
        ({}, []),
        # the file says no
        ({"share": "swap", "engine": {"vllm": {"sleep": False}}}, []),
        # weights that vLLM made smaller are kept, for they cannot be read again so
        ({"share": "swap", "quantization": "fp8"}, [1]),
    ],
)
def test_who_can_sleep_in_place(keys: dict[str, Any], levels: list[int]) -> None:
    (one,) = placements(planned({"tiny": keys}, cards(1, "L4")))
    assert [bed.level for bed in one.beds] == levels


def test_dev_mode_is_on_for_those_that_sleep_in_place_and_only_behind_a_socket() -> None:
    (one,) = placements(planned({"tiny": TURNS}, cards(1, "L4")))
    inside, outside = vllm.launch(one, "unix:/x.sock"), vllm.launch(one, "http://127.0.0.1:9000")
    assert ("--enable-sleep-mode" in inside.argv, inside.environment["VLLM_SERVER_DEV_MODE"]) == (True, "1")
    assert ("--enable-sleep-mode" in outside.argv, outside.environment["VLLM_SERVER_DEV_MODE"]) == (False, None)
    awake = vllm.launch(replace(one, beds=()), "unix:/x.sock")
    assert ("--enable-sleep-mode" in awake.argv, awake.environment["VLLM_SERVER_DEV_MODE"]) == (False, None)


def test_vllm_is_told_the_cards_and_absolute_sizes() -> None:
    (one,) = placements(planned({"qwen": {}}, cards(2, "A100-80GB", 60.0, 60.0)))
    launch = vllm.launch(one, "unix:/x.sock")
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in launch.environment
    assert launch.argv[0] == "/env/bin/python"
    said = dict(zip(launch.argv, launch.argv[1:], strict=False))
    assert said["--tensor-parallel-size"] == "2"
    assert int(said["--kv-cache-memory-bytes"]) == one.options["cache_bytes"]
    assert float(said["--gpu-memory-utilization"]) < 60 * GIB / catalogue.gpus()["A100-80GB"].memory_bytes
    assert "--enforce-eager" not in launch.argv  # which is for CPUs
    assert one.memory_bytes == 2 * HOST_BYTES  # RAM


def test_a_mig_instance_is_given_by_its_uuid_and_sized_by_its_memory() -> None:
    whole = catalogue.gpus()["H100-80GB"]
    part = replace(whole, name="H100-80GB-1g.10gb", memory_bytes=9729 * 2**20, link_kind="none", link=0.0, mig=())
    (one,) = placements(planned({"tiny": {}}, (Card("MIG-1", "0:0", part, 9 * GIB),)))
    assert one.devices.keys() == {"MIG-1"}
    assert one.devices["MIG-1"] <= 9 * GIB * UTILIZATION
    assert one.options["args"][:2] == ("--max-num-batched-tokens", "2048")  # as on a small card


@pytest.mark.parametrize(
    ("models", "there", "said"),
    [
        ({"qwen": {"engine": "vllm"}}, cards(1, "T4"), "models.qwen: no GPU here can serve it: it does not fit"),
        ({"qwen": {}}, cards(1, "T4"), "No GPU here can serve it either: it does not fit"),
        ({"llama": {"quantization": "awq"}}, cards(1, "L4"), "a checkpoint that was made with AWQ"),
        ({"llama": {"tensor_parallel": 4}}, cards(2, "L4"), "tensor_parallel 4 takes as many GPUs, and there are 2"),
        ({"llama": {"share": "mig"}}, cards(1, "L4"), "share mig is not done on the GPUs of this machine"),
        ({"llama": {"scale": {"replicas": "0..3"}}}, cards(2, "L4"), "Every replica that there may be keeps its place on a card"),
        # who never sleeps leaves no room for the other
        (
            {"llama-a": {"engine": "vllm"}, "llama-b": {"share": "swap", "engine": "vllm"}},
            cards(1, "RTX-4090"),
            "models.llama-b: no GPU here can serve it: it",
        ),
        ({"llama": {"engine": "vllm", "context": 200_000}}, cards(1, "H100-80GB"), "made for 131,072 tokens"),
    ],
)
def test_what_has_no_place_says_why(models: dict[str, Any], there: tuple[Card, ...], said: str) -> None:
    with pytest.raises(PlanError) as refused:
        planned(models, there)
    assert said in str(refused.value)


def test_one_that_finds_no_place_takes_none_from_the_others() -> None:
    models = {name: {"engine": "vllm"} for name in ("llama-a", "llama-b", "llama-c")}
    with pytest.raises(PlanError) as refused:
        planned(models, cards(2, "RTX-4090"))
    assert str(refused.value).count("finds no place") == 1


def test_a_model_that_finds_no_place_on_a_gpu_is_served_on_the_cpu_and_says_so() -> None:
    at = here(also=("llamacpp", "openvino"))
    able = replace(at.engines["openvino"], refuse=lambda facts, task: None)
    model = only(planned({"qwen": {}}, cards(1, "T4"), replace(at, engines={**at.engines, "openvino": able})))
    (one,) = model.replicas
    assert isinstance(one, Placement)
    assert (one.engine, dict(one.devices)) == ("openvino", {})
    assert [d.value for d in model.decisions if d.subject == "GPU"] == ["not used"]


def test_a_gpu_without_a_vllm_for_it_is_told_with_the_command() -> None:
    made = planned({"gguf": {}}, cards(2, "RTX-4090"), here(gpus=False))
    assert where(made) == {"gguf": [()]}
    (remark,) = made.remarks
    assert remark.startswith("2 x RTX-4090 are here and not used: vLLM is not installed. Run: headrace engines install vllm")
    assert explain(made).endswith(f"{remark}\n")


def test_a_vllm_for_cpus_leaves_gpus_idle_and_that_is_told() -> None:
    at = here(gpus=False)
    made = planned({"gguf": {}}, cards(1, "T4"), replace(at, installed={**at.installed, "vllm": Installed("0.32.0+cpu")}))
    assert made.remarks[0].startswith("1 x T4 is here and not used: the vLLM that is installed is for CPUs.")


def test_without_gpus_nothing_is_said() -> None:
    made = planned({"gguf": {}}, (), here(gpus=False))
    assert (made.remarks, made.cards) == ((), ())
    assert "GPU" not in explain(made)


def test_models_on_gpus_leave_the_cores_to_the_others() -> None:
    made = planned({"llama": {}, "gguf": {}}, cards(1, "RTX-4090"))
    threads = [one.threads for one in placements(made) if one.engine == "llamacpp"]
    assert threads == [16]


def test_ram_is_counted_for_models_on_gpus_too() -> None:
    with pytest.raises(PlanError):
        planned({"llama": {}}, cards(1, "RTX-4090"), memory_gib=2)


def test_the_speed_of_a_card_that_nobody_knows_is_unknown() -> None:
    gpu = replace(catalogue.gpus()["T4"], name="RTX-9999", memory_bytes=40 * GIB, compute_capability=12.0, source="")
    model = only(planned({"llama": {}}, (Card("GPU-0", "0", gpu, 40 * GIB),)))
    assert [d.value for d in model.decisions if d.subject == "speed"] == ["unknown"]


def test_the_plan_says_what_is_on_each_card() -> None:
    text = explain(planned({"llama": {}}, cards(2, "RTX-4090", 4.0)))
    assert "GPU 0 (RTX-4090): nothing, 0 B of 4 GiB free\n" in text
    assert "GPU 1 (RTX-4090): llama, 21.6 GiB of 23.5 GiB free\n" in text
