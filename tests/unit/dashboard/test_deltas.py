"""What a page is sent: everything that changed in the end, within a budget of bytes, states at once."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.dashboard.deltas import BURST_BYTES, BYTES_PER_SECOND, FIRST, Budget, Shown, due, size

CELLS = st.dictionaries(st.sampled_from(["phase", "reason", "waiting", "ttft"]), st.text(max_size=5), min_size=1)
SHOWN = st.dictionaries(st.sampled_from(["", "a", "b", "a\ta-1"]), CELLS, max_size=4)


@given(st.lists(SHOWN, min_size=1, max_size=6))
def test_a_page_that_takes_every_change_shows_what_is(steps: list[Shown]) -> None:
    has: Shown = {}
    for step in steps:
        due(has, step, Budget(0.0))
        assert all(has[name].items() >= cells.items() for name, cells in step.items())
        assert set(has) <= set(step)


def busy(models: int, second: int) -> Shown:
    """Every number of every model is another each second."""
    cells = ("waiting", "oldest", "running", "ttft", "tpot", "rate")
    return {f"model-{one:03}": {"phase": "ready", **dict.fromkeys(cells, f"{second % 997} ms")} for one in range(models)}


def test_an_hour_of_200_busy_models_is_less_than_5_mb() -> None:
    has: Shown = {}
    budget, sent, updated = Budget(0.0), 0, dict.fromkeys(busy(200, 0), 0)
    for second in range(3600):
        budget.fill(float(second))
        found = due(has, busy(200, second), budget)
        sent += sum(size(name, cells) for name, cells in found.items())
        updated |= dict.fromkeys(found, second)
    assert sent < 5_000_000
    assert sent > 0.8 * 3600 * BYTES_PER_SECOND
    assert min(updated.values()) > 3600 - 60  # none is left out


def test_states_are_told_whatever_the_budget() -> None:
    has: Shown = {"chat": {"phase": "ready", "waiting": "1"}}
    found = due(has, {"chat": {"phase": "failed", "waiting": "2"}}, Budget(0.0, left=-BURST_BYTES))
    assert found == {"chat": {"phase": "failed"}}
    assert "phase" in FIRST
    assert due(has, {"chat": {"phase": "failed", "waiting": "2"}}, Budget(0.0)) == {"chat": {"waiting": "2"}}


def test_a_model_that_is_served_no_more_is_told_once_and_its_replicas_with_it():
    has: dict[str, dict[str, str]] = {}
    due(has, {"chat": {"phase": "ready"}, "chat\tchat-1": {"state": "ready"}}, Budget(0.0))
    assert due(has, {}, Budget(0.0)) == {"chat": {"phase": "gone", "replicas": "0"}}
    assert due(has, {}, Budget(0.0)) == {}
