"""Policies by name: the rules of KPA, KEDA as rendered, and mistakes."""

import pytest

from headrace.errors import UsageError
from headrace.scaling.base import Policy, Sample, moved
from headrace.scaling.kpa import kpa
from headrace.scaling.names import names, scaler

POLICY = Policy(0, 20, slots=10, cold_start_seconds=60, utilisation=0.9)


def looks(name, loads, seconds=600.0):
    """(time, replicas) after each look, with `loads(now)` requests in flight; what is wanted is ready at once."""
    made, state, replicas, out, now = scaler(name, POLICY), None, 1, [], 0.0
    while now <= seconds:
        waiting = max(0, loads(now) - 10 * replicas)
        sample = Sample(now, waiting, loads(now) - waiting, 0, 1.0, replicas, 0, 0)
        decision, state = made.decide(sample, state)
        replicas = decision.replicas
        out.append((now, replicas))
        now += made.every_seconds
    return out


def test_kpa_sizes_by_the_mean_of_a_minute():
    """28 in flight at 7 per replica (70 % of 10) are 4 replicas, steadily."""
    assert looks("kpa", lambda now: 28)[-1][1] == 4


def test_kpa_panics_at_twice_the_ready_replicas_and_only_rises_for_a_minute():
    """40 for 10 s, then 7: the panic wants 6 and keeps them until a minute after it last held."""
    counts = dict(looks("kpa", lambda now: 40 if 100 <= now < 110 else 7))
    assert counts[98] == 1
    assert counts[104] >= 4
    most = max(counts.values())
    assert all(counts[now] == most for now in range(110, 160, 2))
    assert counts[240] == 1


def test_kpa_sleeps_after_its_window_and_a_grace():
    counts = dict(looks("kpa", lambda now: 7 if now < 100 else 0))
    first_zero = min(now for now, count in counts.items() if count == 0)
    assert 100 + 60 + 28 <= first_zero <= 100 + 60 + 34


def test_kpa_holds_without_numbers():
    _, state = kpa(POLICY, Sample(0, 0, 70, 0, 1.0, 10, 0), None)
    assert kpa(POLICY, Sample(2), state)[0].replicas == state.replicas


def test_plain_keda_saw_tooths():
    """Mistake 5 of the facts: what waits is fewer with each replica. 40 wait at 2: it asks for 4; 20 wait at 4: for 2.
    60 in flight need 6 of 10 slots, and never get them.
    """
    counts = [count for _, count in looks("keda", lambda now: 60, 3600)]
    assert set(counts[len(counts) // 2 :]) == {2, 4}


def test_keda_as_rendered_keeps_what_is_busy():
    counts = [count for _, count in looks("keda-rendered", lambda now: 60, 1800)]
    assert set(counts[-100:]) == {7}  # 60 at 9 per replica


def test_keda_told_by_our_policy_has_as_many():
    ours, its = (dict(looks(name, lambda now: 60, 900)) for name in ("headrace", "keda-by-headrace"))
    assert its[900] == ours[900]


def test_fixed_is_fixed():
    assert {count for _, count in looks("fixed:3", lambda now: 1000)} == {3}


@pytest.mark.parametrize("name", ["nope", "fixed:", "fixed:-1", "fixed:x", ""])
def test_a_name_that_is_none_is_told_with_those_that_are(name):
    with pytest.raises(UsageError, match=f"There are {', '.join(names())} and fixed:N"):
        scaler(name, POLICY)


@pytest.mark.parametrize(
    ("before", "after", "move"), [(0, 0, "hold"), (0, 2, "wake"), (2, 3, "up"), (3, 2, "down"), (2, 0, "sleep")]
)
def test_moves_have_names(before, after, move):
    assert moved(before, after) == move
