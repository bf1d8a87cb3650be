"""A candidate becomes what serving would start, on every engine; llama.cpp as it comes has its own queue and memory counted."""

import pytest

from headrace.engines import engines
from headrace.engines.base import Installed, Placement
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.here import Here
from headrace.spec.load import loads
from headrace.tune.base import Candidate
from headrace.tune.planner import Known, Planner
from tests.known_models import LLAMA_8B, SMOLLM2

LARGE = Machine(cores=8, memory_bytes=256 << 30, memory_free_bytes=200 << 30, busy_cores=0.0)
HERE = Here(engines(), {name: Installed("1") for name in ("llamacpp", "openvino", "vllm")})


def planner(facts: ModelFacts = SMOLLM2, more: str = "", weights: dict[str, Known] | None = None) -> Planner:
    spec = loads(f"models: {{chat: {{source: 'pypi:x'{more}}}, other: {{source: 'pypi:y'}}}}")
    known = {"chat": Known(facts, "w"), "other": Known(SMOLLM2, "o.gguf")}
    return Planner(spec, "chat", LARGE, HERE, known, weights or {}, {})


def placed(found: object) -> Placement:
    assert not isinstance(found, str), found
    (placement,) = found.replicas  # type: ignore[attr-defined]
    assert isinstance(placement, Placement)
    return placement


def test_vllm_gets_its_step_and_number_format() -> None:
    candidate = Candidate.of({"engine": "vllm", "slots": "16", "batch": "2048", "dtype": "float32"})
    narrow = Candidate.of({"engine": "vllm", "slots": "16", "batch": "2048", "dtype": "auto"})
    made = planner(LLAMA_8B)
    found = placed(made.planned(candidate, LARGE.memory_free_bytes))
    assert found.options["args"] == ("--max-num-batched-tokens", "2048")
    assert (found.engine, found.slots, found.options["dtype"]) == ("vllm", 16, "float32")
    assert found.memory_bytes > placed(made.planned(narrow, LARGE.memory_free_bytes)).memory_bytes


def test_openvino_gets_its_step_and_threads() -> None:
    candidate = Candidate.of({"engine": "openvino", "slots": "16", "threads": "3", "batch": "128"})
    found = placed(planner().planned(candidate, LARGE.memory_free_bytes))
    assert (found.engine, found.slots, found.threads, found.options["batch"]) == ("openvino", 16, 3, 128)


def test_other_weights_are_planned_with_their_own_facts_and_path() -> None:
    made = planner(weights={"file:./llama": Known(LLAMA_8B, "/llama")})
    found = placed(
        made.planned(Candidate.of({"engine": "vllm", "slots": "4", "source": "file:./llama"}), LARGE.memory_free_bytes)
    )
    assert found.weights == "/llama"
    assert (
        made.filled(Candidate.of({"engine": "vllm", "slots": "4", "source": "file:./llama"})).models["chat"].source
        == "file:./llama"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "openvino", "slots": "4"}, "safetensors"),  # the engine refuses the weights
        ({"engine": "vllm", "slots": "nine"}, "settings do not allow it"),
        ({"engine": "vllm", "slots": "4", "batch": "1"}, "settings do not allow it"),
        ({"engine": "vllm", "slots": "4096"}, ""),  # more than the memory holds
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, str], words: str) -> None:
    found = planner(LLAMA_8B).planned(Candidate.of(settings), 40 << 30)
    assert isinstance(found, str)
    assert words in found


def test_a_model_that_follows_its_load_is_measured_as_one_replica() -> None:
    made = planner(more=", replicas: 0..3")
    found = made.planned(Candidate.of({"engine": "llamacpp", "slots": "4"}), LARGE.memory_free_bytes)
    assert not isinstance(found, str)
    assert (len(found.replicas), found.scale) == (1, None)


def test_llama_cpp_as_it_comes_takes_everybody_and_the_longest_context() -> None:
    made = planner()
    assert made.comes_as_is()
    found = placed(made.as_it_comes(50, LARGE.memory_free_bytes))
    assert found.slots == 50
    assert found.memory_bytes > SMOLLM2.weight_bytes + 8192 * SMOLLM2.cache_bytes_per_token
    assert not planner(LLAMA_8B).comes_as_is()  # no GGUF
