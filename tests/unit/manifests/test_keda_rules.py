"""What KEDA would refuse is seen before it is asked; what we render is none of it."""

import copy
from typing import Any

import pytest
import yaml

from headrace.targets.manifests.keda_rules import problems
from headrace.targets.manifests.manifests import manifests
from tests.unit.manifests.clusters import cluster
from tests.unit.manifests.crds import FOLDER, needs_crds


def ours(kubernetes: str = "{scaler: keda, prometheus: 'http://p.monitoring.svc:9090'}", ranges: str = "0..8") -> dict[str, Any]:
    made = manifests(cluster({"a": "vllm"}, kubernetes, ranges=ranges))
    return copy.deepcopy(next(each for each in made if each["kind"] == "ScaledObject"))


CHANGES: dict[str, tuple[Any, str]] = {
    "min above max": (lambda spec: spec.update(minReplicaCount=9), "MinReplicaCount=9 must be less"),
    "idle not below min": (lambda spec: spec.update(idleReplicaCount=0), "IdleReplicaCount=0 must be less"),
    "no triggers": (lambda spec: spec.update(triggers=[]), "no triggers defined"),
    "two of a name": (lambda spec: spec.update(triggers=[{**spec["triggers"][0], "name": "x"}] * 2), "one name"),
    "a number where text is wanted": (lambda spec: spec["triggers"][0]["metadata"].update(threshold=10), "wants text"),
    "a key that is ignored": (lambda spec: spec["triggers"][0]["metadata"].update(metricName="x"), "metricName is ignored"),
    "nothing to ask": (lambda spec: spec["triggers"][0]["metadata"].pop("query"), "query is missing"),
    "a utilization of a query": (lambda spec: spec["triggers"][0].update(metricType="Utilization"), "for cpu and memory"),
    "a negative number": (lambda spec: spec["fallback"].update(failureThreshold=-1), "0 or more"),
    # While its metric fails it would be put to sleep.
    "a fallback to nothing": (lambda spec: spec["fallback"].update(replicas=0), "puts it to sleep"),
    "a fallback of cpu alone": (lambda spec: spec.update(triggers=[{"type": "cpu", "metadata": {"value": "9"}}]), "at least one"),
    "cached cpu": (
        lambda spec: spec["triggers"].append({"type": "cpu", "useCachedMetrics": True, "metadata": {"value": "9"}}),
        "useCachedMetrics",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_keda_would_refuse_or_ignore_is_seen(change: str) -> None:
    manifest = ours()
    assert list(problems(manifest)) == []
    change_it, problem = CHANGES[change]
    change_it(manifest["spec"])
    assert any(problem in each for each in problems(manifest)), list(problems(manifest))


def test_a_name_is_short_enough_for_the_hpa_that_keda_makes_of_it() -> None:
    manifest = ours()
    manifest["metadata"]["name"] = "a" * 55
    assert any("63 characters" in each for each in problems(manifest))
    manifest["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["name"] = "short"
    assert list(problems(manifest)) == []


def test_settings_of_zero_are_pointless_above_it() -> None:
    manifest = ours(ranges="1..8")
    manifest["spec"]["cooldownPeriod"] = 300
    assert list(problems(manifest)) == ["cooldownPeriod is not relevant with minReplicaCount 1"]


def test_by_default_keda_asks_the_gateway() -> None:
    (trigger,) = ours("{scaler: keda, namespace: team}")["spec"]["triggers"]
    assert trigger["type"] == "external-push"
    # four fifths of the 50 that a replica is planned for, and none that may wait: bursts have room until another has started
    assert trigger["metadata"] == {"scalerAddress": "gateway-scaler.team.svc:9091", "model": "a", "target": "40"}


def test_azures_prometheus_is_asked_with_an_identity() -> None:
    kubernetes = "{scaler: keda, prometheus: 'https://w.eastus.prometheus.monitor.azure.com'}"
    made = manifests(cluster({"a": "vllm"}, kubernetes, ranges="0..8"))
    (authentication,) = [each for each in made if each["kind"] == "TriggerAuthentication"]
    assert authentication["spec"] == {"podIdentity": {"provider": "azure-workload"}}
    (trigger,) = next(each for each in made if each["kind"] == "ScaledObject")["spec"]["triggers"]
    assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    # Its agents read a group of their own, and pass the usual one by.
    assert {each["apiVersion"] for each in made if each["kind"] == "PodMonitor"} == {"azmonitoring.coreos.com/v1"}


@needs_crds
def test_the_common_snippet_breaks_a_rule() -> None:
    said = list(problems(yaml.safe_load((FOLDER / "examples" / "snippet-keda-so.yaml").read_text())))
    assert said == ["prometheus: metricName is ignored"]
