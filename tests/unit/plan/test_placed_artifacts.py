"""The placement of what is no language model: engine, task, batching, memory, each with its reason."""

from typing import Any

import pytest

from headrace.engines import engines
from headrace.engines.base import Installed, Placement
from headrace.errors import PlanError
from headrace.facts.artifact import Artifact
from headrace.facts.hardware import Machine
from headrace.plan.base import PlannedModel
from headrace.plan.here import Here
from headrace.plan.plan import plan
from headrace.spec.load import loads
from tests.known_models import SMOLLM2

MIB = 2**20
HERE = Here(engines(), {name: Installed("1.0") for name in engines()})
MACHINE = Machine(cores=4, memory_bytes=8192 * MIB, memory_free_bytes=4096 * MIB, busy_cores=0.0)
CODE = Artifact("/w/fraud.py", "python", 1000, ("infer",))
ONNX = Artifact("/w/fraud.onnx", "onnx", 10 * MIB)


def one(text: str, artifact: Artifact = CODE, here: Here = HERE) -> PlannedModel:
    return plan(loads(f"models: {{a: {text}}}"), {}, {}, MACHINE, here, {"a": artifact}).models[0]


def placement(model: PlannedModel) -> Placement:
    assert isinstance(model.replicas[0], Placement)
    return model.replicas[0]


def said(model: PlannedModel, subject: str) -> str:
    return next(f"{decision.value}: {decision.reason}" for decision in model.decisions if decision.subject == subject)


@pytest.mark.parametrize(
    ("artifact", "engine", "kind"),
    [
        (CODE, "custom", None),
        (ONNX, "triton", "onnx"),
        (Artifact("/w/a.skops", "skops", 1), "triton", "sklearn"),
        (Artifact("/w/a.pt2", "torch", 1), "triton", "torch"),
        (Artifact("/w/repo", "repository", 1, also=("x", "y")), "triton", "repository"),
    ],
)
def test_a_file_goes_to_the_engine_for_its_kind(artifact: Artifact, engine: str, kind: str | None) -> None:
    model = one("file:/w/x", artifact)
    assert placement(model).engine == engine
    assert placement(model).options.get("kind") == kind
    assert (model.task, model.also, placement(model).also) == ("infer", artifact.also, artifact.also)


def test_slots_hold_two_batches_so_that_one_fills_while_the_other_is_computed() -> None:
    assert one("{source: 'file:/w/x', engine: {triton: {batch: 16, instances: 2}}}", ONNX).slots == 64
    assert one("{source: 'file:/w/x', slots: 3}").slots == 3


def test_memory_is_estimated_by_the_file_unless_it_is_said() -> None:
    estimated = one("file:/w/x", ONNX)
    assert placement(estimated).memory_bytes > 2 * ONNX.bytes
    assert "an estimate: 2 x the file's 10 MiB" in said(estimated, "memory")
    assert placement(one("{source: 'file:/w/x', memory: 300MiB}", ONNX)).memory_bytes == 300 * MIB


def test_language_models_get_what_is_left() -> None:
    spec = loads("models: {a: {source: 'file:/w/x', memory: 3.5GiB}, chat: 'pypi:x'}")
    together = plan(spec, {"chat": SMOLLM2}, {"chat": "/w/chat"}, MACHINE, HERE, {"a": CODE})
    taken = sum(placement(model).memory_bytes for model in together.models)
    assert taken <= MACHINE.memory_free_bytes
    assert placement(together.models[1]).threads == MACHINE.cores  # the small one does not halve them


def test_what_takes_more_than_there_is_is_refused_with_numbers() -> None:
    with pytest.raises(PlanError, match=r"models\.a: 5 GiB\n5 GiB needed, 4 GiB free: 1 GiB short\. Set `memory`"):
        one("{source: 'file:/w/x', memory: 5GiB}")


@pytest.mark.parametrize(
    ("text", "artifact", "why"),
    [
        ("{source: 'file:/w/x', engine: llamacpp}", ONNX, "Write engine: triton."),
        ("{source: 'file:/w/x', engine: custom}", ONNX, "Write engine: triton."),
        ("{source: 'file:/w/x', task: embed}", CODE, "the class in /w/fraud.py can infer. Add the method"),
        ("file:/w/x", Artifact("/w/a.joblib", "pickle", 1), "Save it with skops, or write engine: {triton: {pickle: true}}"),
    ],
)
def test_what_cannot_be_says_what_can(text: str, artifact: Artifact, why: str) -> None:
    with pytest.raises(PlanError) as caught:
        one(text, artifact)
    assert why in str(caught.value)


def test_an_engine_that_is_not_installed_says_the_command_that_installs_it() -> None:
    with pytest.raises(PlanError, match="Run: headrace engines install triton"):
        one("file:/w/x", ONNX, Here(engines(), {}))


def test_a_command_is_started_as_it_is() -> None:
    options: dict[str, Any] = dict(
        placement(
            one(
                "{engine: {custom: {command: 'serve --port {port}', speaks: v2, ready: /up, folder: /w}}}",
                Artifact("serve", "command", 0, ("infer",)),
            )
        ).options
    )
    assert options == {"command": ("serve", "--port", "{port}"), "ready": "/up", "speaks": "v2", "folder": "/w"}
