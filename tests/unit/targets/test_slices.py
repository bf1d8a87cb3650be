"""EndpointSlices → pods: conditions, families, ports, duplicates; whatever the API may say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.targets.pods.slices import Pod, Slice, Standing, parse, pods
from headrace.testing.api_server import endpoint_slice

READY, STARTING, DRAINING = Standing.READY, Standing.STARTING, Standing.DRAINING


def parsed(*endpoints: tuple[str, str, dict[str, Any]], **more: Any) -> Slice:
    name = more.pop("name", "chat-abc")
    return parse(json.dumps(endpoint_slice(name, more.pop("service", "chat"), endpoints, **more)).encode())


@pytest.mark.parametrize(
    ("conditions", "standing"),
    [
        ({}, READY),  # the API: unknown is ready
        ({"ready": None}, READY),
        ({"ready": True}, READY),
        ({"ready": False}, STARTING),
        ({"ready": True, "serving": True, "terminating": False}, READY),
        ({"ready": False, "serving": True, "terminating": True}, DRAINING),
        ({"ready": False, "serving": False, "terminating": True}, DRAINING),
        ({"ready": True, "serving": True, "terminating": True}, DRAINING),  # publishNotReadyAddresses
        ({"ready": True, "serving": False}, STARTING),
    ],
)
def test_conditions_say_how_a_pod_stands(conditions: dict[str, Any], standing: Standing) -> None:
    found = pods([parsed(("chat-1", "10.0.0.1", conditions))], "chat", "http")
    assert found == {"chat-1": Pod("chat-1", "10.0.0.1", 8000, standing)}


def test_a_pod_is_reached_by_its_own_address_of_either_family() -> None:
    four, six = Pod("a", "10.0.0.1", 80, READY), Pod("a", "fd00::1", 80, READY)
    assert (four.address, six.address) == ("http://10.0.0.1:80", "http://[fd00::1]:80")


def test_a_pod_in_slices_of_both_families_is_one() -> None:
    both = [parsed(("a", "fd00::1", {}), name="six", family="IPv6"), parsed(("a", "10.0.0.1", {}), name="zfour")]
    assert [pod.host for pod in pods(both, "chat", "http").values()] == ["10.0.0.1"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_pod_that_ends_in_one_slice_ends(order: tuple[int, int]) -> None:
    """It moves between slices, and for a moment both have it."""
    told = [parsed(("a", "10.0.0.1", {"ready": True}), name="x"), parsed(("a", "10.0.0.1", {"terminating": True}), name="y")]
    assert pods([told[place] for place in order], "chat", "http")["a"].standing is DRAINING


def test_the_port_is_the_named_one_or_the_only_one() -> None:
    assert pods([parsed(("a", "10.0.0.1", {}), port=5000)], "chat", "http")["a"].port == 5000
    assert pods([parsed(("a", "10.0.0.1", {}), port=5000, port_name="")], "chat", "http")["a"].port == 5000
    two = endpoint_slice("x", "chat", [("a", "10.0.0.1", {})])
    two["ports"] = [{"name": "metrics", "port": 1}, {"name": "grpc", "port": 2}]
    assert pods([parse(json.dumps(two).encode())], "chat", "http") == {}
    two["ports"] = None  # every port, says the API: none that could be known
    assert pods([parse(json.dumps(two).encode())], "chat", "http") == {}


def test_other_services_and_names_are_not_ours() -> None:
    assert pods([parsed(("a", "10.0.0.1", {}), service="other")], "chat", "http") == {}
    assert pods([parsed(("a", "example.com", {}), family="FQDN")], "chat", "http") == {}


def test_an_endpoint_that_is_no_pod_is_known_by_its_address() -> None:
    told = endpoint_slice("x", "chat", [("a", "10.0.0.1", {})])
    del told["endpoints"][0]["targetRef"]
    assert list(pods([parse(json.dumps(told).encode())], "chat", "http")) == ["10.0.0.1:8000"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"metadata": {}}', b'{"metadata": {"name": 3}}', b"\xff"])
def test_what_is_no_slice_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not an EndpointSlice"):
        parse(raw)


CONDITION = st.sampled_from((None, True, False))
ENDPOINT = st.tuples(
    st.sampled_from(("a", "b", "c", "d")),
    st.sampled_from(("10.0.0.1", "10.0.0.2", "fd00::1")),
    st.fixed_dictionaries({}, optional={"ready": CONDITION, "serving": CONDITION, "terminating": CONDITION}),
)
SLICES = st.lists(st.tuples(st.sampled_from(("chat", "embed")), st.lists(ENDPOINT, max_size=5)), max_size=5)


@given(SLICES, st.randoms())
def test_whatever_slices_say_each_pod_is_there_once_and_in_any_order_the_same(told: Any, random: Any) -> None:
    made = [parsed(*endpoints, name=f"s{number}", service=service) for number, (service, endpoints) in enumerate(told)]
    found = pods(made, "chat", "http")
    shuffled = list(made)
    random.shuffle(shuffled)
    assert pods(shuffled, "chat", "http") == found
    ours = [each for service, endpoints in told if service == "chat" for each in endpoints]
    assert set(found) == {pod for pod, _, _ in ours}
    for name, pod in found.items():
        of = [conditions for each, _, conditions in ours if each == name]
        assert pod.host in {host for each, host, _ in ours if each == name}
        assert (pod.standing is DRAINING) == any(each.get("terminating") for each in of)
        usable = any(each.get("ready") is not False and each.get("serving") is not False for each in of)
        assert pod.standing is not READY or usable
