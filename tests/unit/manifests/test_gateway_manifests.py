"""What the gateway's objects say: its file, its rights, who may ask it what."""

import json
from typing import Any

import pytest

from headrace.spec import gateway_file
from headrace.targets.manifests.gateway import settings
from headrace.targets.manifests.manifests import manifests
from tests.unit.manifests.clusters import cluster, with_outside

KEDA = "{scaler: keda}"


def find(made: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in made if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def container(made: list[dict[str, Any]]) -> dict[str, Any]:
    (only,) = find(made, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_the_gateways_settings_are_a_file_that_names_every_service() -> None:
    whole = with_outside(
        cluster({"a": "vllm", "b": "llamacpp"}, KEDA, ranges="1..4"), url=["http://there:1"], key="env:THERE_KEY"
    )
    file = gateway_file.read(json.dumps(settings(whole)), "gateway.json")
    assert (file.models["a"].service, file.models["a"].replicas) == ("a", (1, 4))
    assert file.models["b"].slots == 4  # of one replica: pods are known one by one
    assert file.outside["remote"].url == ("http://there:1",)
    assert file.aliases == {"gpt": "a"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vllm", {"continues": "final_message"}),
        # It notices a lost client only while it streams, and a slot's prompt is nobody else's.
        ("llamacpp", {"folds": True, "continues": "prefill", "caches": "slots"}),
        ("code", {"speaks": "v2"}),
        ("triton", {"speaks": "generate", "folds": True}),
        ("tgi", {"speaks": "tgi"}),
    ],
)
def test_the_gateway_knows_what_an_engine_understands(kind: str, said: dict[str, Any]) -> None:
    model = settings(cluster({"a": kind}))["models"]["a"]
    usual = {"service", "slots", "replicas", "start", "context", "task"}
    assert {key: value for key, value in model.items() if key not in usual} == said


def test_other_models_roll_no_pod_of_the_gateway() -> None:
    """It reloads its file: only what pods are made of makes new ones."""
    one, other = (
        find(manifests(cluster({"a": kind}, KEDA, ranges="1..2")), "Deployment", "gateway") for kind in ("vllm", "llamacpp")
    )
    assert one == other
    (mount,) = [each for each in container([one])["volumeMounts"] if each["name"] == "config"]
    assert "subPath" not in mount  # single files never follow a change


def test_the_gateway_may_read_slices_and_nothing_else() -> None:
    made = manifests(cluster({"a": "vllm"}))
    (rule,) = find(made, "Role", "gateway")["rules"]
    assert rule == {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    tokens = [
        each for each in made if each["kind"] == "Deployment" and each["spec"]["template"]["spec"]["automountServiceAccountToken"]
    ]
    assert [each["metadata"]["name"] for each in tokens] == ["gateway"]


def test_the_load_is_told_to_keda_and_to_other_gateways_only() -> None:
    made = manifests(cluster({"a": "vllm"}, "{scaler: keda, keda: kube-system}", ranges="0..8"))
    clients, scaler = find(made, "NetworkPolicy", "gateway")["spec"]["ingress"]
    assert "from" not in clients
    assert [each["port"] for each in clients["ports"]] == [8000]
    keda, others = scaler["from"]
    assert keda["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}
    assert others["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "gateway"
    assert [each["port"] for each in scaler["ports"]] == [9091]
    (trigger,) = find(made, "ScaledObject", "a")["spec"]["triggers"]
    (port,) = find(made, "Service", "gateway-scaler")["spec"]["ports"]
    assert trigger["metadata"]["scalerAddress"] == f"gateway-scaler.inference.svc:{port['port']}"
    assert {"name": port["targetPort"], "containerPort": 9091, "protocol": "TCP"} in container(made)["ports"]


def test_without_a_scaler_the_load_is_told_to_nobody() -> None:
    made = manifests(cluster({"a": "vllm"}))
    assert "scaler" not in settings(cluster({"a": "vllm"}))
    assert not any(each["metadata"]["name"] == "gateway-scaler" for each in made)
