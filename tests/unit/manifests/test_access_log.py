"""Where a gateway in a cluster writes its access log."""

from dataclasses import replace

import pytest

from headrace.spec.gateway_file import read
from headrace.targets.manifests.gateway import gateway
from tests.unit.manifests.clusters import cluster


@pytest.mark.parametrize(("written", "there"), [("/home/me/access.jsonl", "stdout"), ("stdout", "stdout"), (None, None)])
def test_a_pod_writes_to_its_output_whatever_file_is_named(written: str | None, there: str | None) -> None:
    plain = cluster({"chat": "llamacpp"}, "{scaler: keda}", "", "1..2")
    objects = gateway(replace(plain, gateway={"log": written} if written else {}))
    text = next(each for each in objects if each["kind"] == "ConfigMap")["data"]["gateway.json"]
    assert read(text, "gateway.json").gateway.log == there
