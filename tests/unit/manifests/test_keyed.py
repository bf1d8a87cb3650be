"""What a cluster gets where clients need keys: a monitor that has one too, prices, the password of the Redis that is shared."""

import json
from dataclasses import replace
from typing import Any

import pytest

from headrace.spec.gateway_file import GatewayFile, read
from headrace.targets.manifests.gateway import gateway
from headrace.targets.manifests.manifests import manifests
from tests.unit.manifests.clusters import cluster, with_outside
from tests.unit.manifests.crds import needs_crds, problems

PLACES = {
    "ours": "http://prometheus-operated.monitoring.svc:9090",
    "azure": "https://x-abcd.westeurope.prometheus.monitor.azure.com",
}


def made(prometheus: str, **settings: Any) -> list[dict[str, Any]]:
    plain = cluster({"chat": "llamacpp"}, f"{{scaler: keda, prometheus: '{prometheus}'}}", "", "1..2")
    return gateway(replace(with_outside(plain, url=["http://there:1"], key="env:THERE_KEY"), gateway=settings))


def monitor(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return next(each for each in objects if each["kind"] == "PodMonitor")


@needs_crds
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keys", ["file:keys.json", "env:CLIENT_KEYS"])
def test_prometheus_is_given_a_key_where_clients_need_one(place: str, keys: str) -> None:
    found = monitor(made(PLACES[place], keys=keys))
    assert found["spec"]["podMetricsEndpoints"][0]["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "metrics-key", "key": "key"},
    }
    assert problems(found) == []


def test_prometheus_is_given_none_where_nobody_needs_one_and_for_engines() -> None:
    assert "authorization" not in monitor(made(PLACES["ours"]))["spec"]["podMetricsEndpoints"][0]
    plain = cluster({"vllm": "vllm"}, f"{{scaler: keda, prometheus: '{PLACES['ours']}'}}", ranges="1..2")
    for each in manifests(replace(plain, gateway={"keys": "file:keys.json"})):
        if each["kind"] == "PodMonitor":
            asks = "authorization" in each["spec"]["podMetricsEndpoints"][0]
            assert asks == (each["metadata"]["name"] == "gateway"), each["metadata"]


def test_the_gateway_is_told_of_prices_and_of_the_redis_and_has_its_password_from_a_secret() -> None:
    redis = {"url": "rediss://cache:6380", "password": "env:REDIS_PASSWORD"}
    settings = {"keys": "file:k.json", "currency": "EUR", "redis": redis}
    plain = cluster({"chat": "llamacpp"}, "{scaler: keda}", "", "1..2")
    objects = gateway(replace(plain, gateway=settings, prices={"chat": {"input": 0.15, "output": 0.6}}))
    text = next(each for each in objects if each["kind"] == "ConfigMap")["data"]["gateway.json"]
    file = read(text, "gateway.json")
    assert file.priced["chat"] is not None
    assert file.priced["chat"].price == (0.15, 0.6, 0.15)
    assert file.gateway.currency == "EUR"
    assert file.gateway.redis is not None
    assert "REDIS_PASSWORD" in text
    pod = next(each for each in objects if each["kind"] == "Deployment")["spec"]["template"]["spec"]
    wanted = {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "gateway-keys", "key": "REDIS_PASSWORD"}}}
    assert wanted in pod["containers"][0]["env"]


def test_a_server_elsewhere_brings_its_price() -> None:
    outside = {"gpt": {"url": ["http://there:1"], "price": {"input": 2, "output": 8, "cached": 0.5}}}
    file = GatewayFile.model_validate_json(json.dumps({"namespace": "x", "outside": outside}))
    assert file.priced["gpt"] is not None
    assert file.priced["gpt"].price == (2, 8, 0.5)
