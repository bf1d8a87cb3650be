"""The numbers of a ScaledObject come from the policy, within what the API takes."""

import pytest

from headrace.scaling.base import Policy
from headrace.scaling.fields import fields


def test_a_model_that_may_sleep_is_polled_and_cooled():
    numbers = fields(Policy(0, 8, slots=10, queue=2, idle_seconds=900, utilisation=0.8))
    assert (numbers.least, numbers.most, numbers.polling_seconds, numbers.cooldown_seconds) == (0, 8, 5, 900)
    assert numbers.threshold == 8 + 2
    assert numbers.fallback == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}


def test_a_model_that_never_sleeps_has_no_fields_that_mean_nothing():
    numbers = fields(Policy(2, 8, slots=10))
    assert numbers.polling_seconds is None
    assert numbers.cooldown_seconds is None
    assert numbers.fallback["replicas"] == 2


@pytest.mark.parametrize("cold", [0, 30, 120, 360, 100_000])
def test_periods_and_windows_are_those_the_api_takes(cold):
    behaviour = fields(Policy(0, 8, slots=0.5, cold_start_seconds=cold)).behaviour
    for direction in behaviour.values():
        assert 0 <= direction["stabilizationWindowSeconds"] <= 3600
        for policy in direction["policies"]:
            assert 0 < policy["periodSeconds"] <= 1800
            assert policy["value"] > 0
    assert fields(Policy(0, 8, slots=0.5)).threshold == 1
