"""The chart: with its own values Helm makes of it what render writes; with others, the same for another cluster."""

import copy
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart

from headrace.cli import main
from headrace.targets.manifests.base import Cluster
from headrace.targets.manifests.chart import chart
from headrace.targets.manifests.manifests import manifests
from tests.unit.manifests.clusters import AZURE, MODELS, cluster, sharing, with_outside
from tests.unit.manifests.crds import CUSTOM

KEDA = "scaler: keda, secret: hf-token, images: {command: 'me/serve:1'}"
EXPOSED = "expose: {host: chat.example.com, ingress: nginx, tls: certificate, insecure: true}"
KINDS = {kind: kind for kind in MODELS}

CLUSTERS = {
    "every engine, scaled": lambda: cluster(KINDS, f"{{{KEDA}, storage: {{class: fast}}, {EXPOSED}}}", AZURE, "0..4"),
    "every engine, still": lambda: cluster(KINDS, "{images: {command: 'me/serve:1'}}", AZURE, "2"),
    "prometheus": lambda: cluster(KINDS, f"{{{KEDA}, prometheus: 'http://p.monitoring.svc:9090'}}", AZURE, "1..4"),
    "kaito": lambda: cluster(KINDS, f"{{{KEDA}, target: kaito}}", AZURE, "1..4"),
    "shared": lambda: sharing("mig", "gateways: 3", "1", f"{AZURE} x 4"),
    "split": lambda: cluster({"vllm": "vllm"}, "{split: {vllm: 2}}", "2 x L4"),
    "volumes of pods": lambda: cluster({"a": "vllm"}, "{storage: {access: each, class: local}}"),
}


@pytest.fixture(scope="module", params=CLUSTERS)
def whole(request: pytest.FixtureRequest) -> Cluster:
    return with_outside(CLUSTERS[request.param](), url=["http://there:1"], key="env:THERE_KEY")


def helm(
    whole: Cluster, folder: Path, values: dict[str, Any] | None = None, namespace: str = "inference"
) -> list[dict[str, Any]]:
    """What Helm makes of the chart, without a cluster."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in chart(whole).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    made = Chart.load(folder).render(values, name="models", namespace=namespace)
    return [each for text in made.values() for each in yaml.safe_load_all(text) if each]


def by_name(made: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in made}


def as_helm_has_it(made: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What render writes: without the namespace, which is Helm's to make, and with Helm as who manages it."""
    text = yaml.safe_dump_all([each for each in copy.deepcopy(made) if each["kind"] != "Namespace"])
    ours = "app.kubernetes.io/managed-by: headrace"
    return by_name(list(yaml.safe_load_all(text.replace(ours, "app.kubernetes.io/managed-by: Helm"))))


def test_with_its_own_values_it_is_what_render_writes(whole: Cluster, tmp_path: Path) -> None:
    assert by_name(helm(whole, tmp_path)) == as_helm_has_it(manifests(whole))


def test_with_values_of_another_cluster_it_is_what_render_writes_for_that(tmp_path: Path) -> None:
    def other(namespace: str, image: str, secret: str, storage: str, host: str, gateways: int, ranges: str) -> Cluster:
        exposed = f"expose: {{host: {host}, gateway: public, insecure: true}}"
        words = f"namespace: {namespace}, image: '{image}', {secret}, storage: {{{storage}}}, gateways: {gateways}, {exposed}"
        return cluster({"a": "vllm", "b": "llamacpp"}, f"{{scaler: keda, {words}}}", AZURE, ranges)

    here = other("inference", "here/headrace:1", "cpu: 4", "access: many", "a.here", 2, "0..4")
    there = other("team", "there/headrace:2", "secret: token", "class: fast", "a.there", 3, "2..9")
    values = {
        **{"image": "there/headrace:2", "secret": "token", "storageClass": "fast", "host": "a.there", "gateways": 3},
        "replicas": {"a": {"min": 2, "max": 9}, "b": {"min": 2, "max": 9}},
    }
    made, wanted = by_name(helm(here, tmp_path, values, "team")), as_helm_has_it(manifests(there))
    for each in made.values():  # how long a request may wait is told by whether a model may sleep
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "gateway":
            each["data"]["gateway.json"] = each["data"]["gateway.json"].replace('"queue": {\n      "wait": 562\n    },\n    ', "")
    assert made == wanted


def test_a_job_of_another_image_is_another_job(tmp_path: Path) -> None:
    """A Job cannot be changed: an upgrade of its image would be refused."""
    whole = cluster({"a": "vllm"})
    names = [
        {name for kind, name in by_name(helm(whole, tmp_path, values)) if kind == "Job"} for values in ({}, {"image": "other:1"})
    ]
    assert names[0].isdisjoint(names[1])


def test_a_model_that_may_not_sleep_is_not_polled(tmp_path: Path) -> None:
    whole = cluster({"a": "vllm"}, "{scaler: keda}", ranges="0..4")
    made = by_name(helm(whole, tmp_path, {"replicas": {"a": {"min": 1, "max": 2}}}))
    spec = made["ScaledObject", "a"]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["fallback"]["replicas"]) == (1, 2, 1)
    assert "cooldownPeriod" not in spec


def test_braces_of_the_files_own_are_no_expressions(tmp_path: Path) -> None:
    kind = ("{engine: {custom: {command: [serve, '{{ .Values.image }}', '{{-', --port, '{port}']}}}", "command")
    whole = cluster({"a": kind}, "{images: {a: 'me/serve:1'}}")
    made = by_name(helm(whole, tmp_path))
    assert made == as_helm_has_it(manifests(whole))
    assert "{{ .Values.image }}" in str(made["Deployment", "a"])


def test_what_helm_makes_passes_strictly(whole: Cluster, tmp_path: Path) -> None:
    for each in helm(whole, tmp_path, namespace="other"):
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, "1.33", strict=True)


def test_the_chart_is_written_and_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text("models: {chat: {source: 'hf:meta-llama/Meta-Llama-3.1-8B'}}\nmachine: {azure: Standard_NC24ads_A100_v4}\n")
    arguments = ["render", str(file), "--offline", "--helm", "-o", str(tmp_path / "chart")]
    assert main(arguments) == 0
    assert "helm upgrade --install models" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "0 of" in capsys.readouterr().out
    assert main([*arguments[:-1], "-"]) != 0
    assert "A chart is several files" in capsys.readouterr().err


def test_other_content_is_another_version() -> None:
    versions = {chart(cluster({"a": "vllm"}, f"{{gateways: {count}}}"))["Chart.yaml"] for count in (2, 3)}
    assert len(versions) == 1  # a value alone is none of its content
    other = chart(cluster({"a": "llamacpp"}))["Chart.yaml"]
    assert other not in versions
