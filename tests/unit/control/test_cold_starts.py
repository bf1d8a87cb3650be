"""How long a start takes: what is on record, then what this run sees."""

from headrace.control.starts import ColdStarts
from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import StartTimes


class Records:
    def __init__(self, **known: tuple[float, int]) -> None:
        self.known, self.kept = known, []

    def expected(self, *, awake: bool = False) -> dict[tuple[str, str], tuple[float, int]]:
        return {} if awake else {("llamacpp", name): value for name, value in self.known.items()}

    def keep(self, times: StartTimes) -> None:
        self.kept.append(times)


def planned(name: str, weights: str) -> PlannedModel:
    placement = Placement(name, "llamacpp", "generate", weights, 512, 2, 1, 1)
    return PlannedModel(name, "generate", None, (placement,), 2, ())


PLAN = Plan(
    (planned("a", "w"), planned("b", "w"), planned("c", "other"), PlannedModel("far", "generate", None, ("http://h:1",), 2, ()))
)


def test_what_is_on_record_is_expected_of_models_with_the_same_weights() -> None:
    assert ColdStarts(PLAN, Records(w=(4.0, 3))).seconds == {"a": 4.0, "b": 4.0}


def test_a_start_moves_what_is_expected_and_is_kept() -> None:
    records = Records(w=(4.0, 3))
    starts = ColdStarts(PLAN, records)
    times = StartTimes("llamacpp", "w", 1.5, 0.5)
    starts.learned(times)
    assert starts.seconds == {"a": 3.0, "b": 3.0}
    assert records.kept == [times]


def test_the_first_start_is_all_that_is_known() -> None:
    starts = ColdStarts(PLAN, Records())
    starts.learned(StartTimes("llamacpp", "other", 1.5, 0.5))
    starts.learned(StartTimes("vllm", "w", 60.0, 0.5))
    assert starts.seconds == {"c": 2.0}


def test_waking_one_that_slept_in_place_is_learned_apart_from_starts() -> None:
    starts = ColdStarts(PLAN, Records(w=(60.0, 3)))
    starts.learned(StartTimes("llamacpp", "w", 0.5, 0.5, level=1))
    assert starts.wakes == {"a": 1.0, "b": 1.0}
    assert starts.seconds == {"a": 60.0, "b": 60.0}
