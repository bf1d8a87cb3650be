"""Counts → active models, and the bytes of our messages."""

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.keda import messages
from headrace.keda.activity import LINGER_SECONDS, Activity, Count


def test_a_model_is_active_while_it_has_requests_and_a_while_after() -> None:
    activity = Activity()
    assert activity.look({"chat": Count(0, 0)}, 0.0) == set()
    assert activity.look({"chat": Count(1, 1)}, 1.0) == {"chat"}
    assert activity.look({"chat": Count(0, 1)}, 1.0 + LINGER_SECONDS / 2) == {"chat"}
    assert activity.look({"chat": Count(0, 1)}, 1.0 + LINGER_SECONDS) == set()


def test_a_request_that_came_and_went_between_two_looks_was_there() -> None:
    activity = Activity()
    activity.look({"chat": Count(0, 5)}, 0.0)
    activity.look({"chat": Count(0, 5)}, LINGER_SECONDS)
    assert activity.active == set()
    assert activity.look({"chat": Count(0, 6)}, LINGER_SECONDS + 1) == {"chat"}


def test_a_model_that_is_no_more_is_forgotten() -> None:
    activity = Activity()
    activity.look({"chat": Count(1, 1)}, 0.0)
    assert activity.look({}, 0.1) == set()
    assert activity.look({"chat": Count(0, 0)}, 0.2) == set()


TEXT = st.text(max_size=20)


@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=4), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
def test_our_messages_are_those_that_protoc_makes(
    made: tuple[ModuleType, ModuleType], name: str, namespace: str, metadata: dict[str, str], whole: int, real: float
) -> None:
    theirs = made[0]
    ref = messages.ScaledObjectRef(name=name, namespace=namespace, scalerMetadata=metadata)
    assert theirs.ScaledObjectRef.FromString(ref.SerializeToString()) == theirs.ScaledObjectRef(
        name=name, namespace=namespace, scalerMetadata=metadata
    )
    request = theirs.GetMetricsRequest(scaledObjectRef=theirs.ScaledObjectRef(name=name), metricName=namespace)
    read = messages.GetMetricsRequest.FromString(request.SerializeToString())
    assert (read.scaledObjectRef.name, read.metricName) == (name, namespace)
    spec = messages.GetMetricSpecResponse(
        metricSpecs=[messages.MetricSpec(metricName=name, targetSize=whole, targetSizeFloat=real)]
    )
    (told,) = theirs.GetMetricSpecResponse.FromString(spec.SerializeToString()).metricSpecs
    assert (told.metricName, told.targetSize, told.targetSizeFloat) == (name, whole, real)
    value = messages.GetMetricsResponse(
        metricValues=[messages.MetricValue(metricName=name, metricValue=whole, metricValueFloat=real)]
    )
    (told,) = theirs.GetMetricsResponse.FromString(value.SerializeToString()).metricValues
    assert (told.metricName, told.metricValue, told.metricValueFloat) == (name, whole, real)


@pytest.mark.parametrize("result", [True, False])
def test_an_answer_is_the_bytes_that_it_has_to_be(result: bool) -> None:
    assert messages.IsActiveResponse(result=result).SerializeToString() == (b"\x08\x01" if result else b"")
