"""Thresholds of scalers → `scale.queue`, which counts requests that wait; and back from what is rendered."""

import json
from typing import Any

import pytest

from headrace.importing.convert import File, Imported, convert
from headrace.targets.manifests.manifests import manifests
from tests.unit.importing.manifests import deployment, of, said, spec
from tests.unit.manifests.clusters import cluster

QWEN = "Qwen/Qwen2.5-7B-Instruct"
BOTH = "sum(vllm:num_requests_running) + sum(vllm:num_requests_waiting)"
ENGINE = '{model_name="org/running"}'


def scaled(query: str, threshold: str, *args: str) -> Imported:
    trigger = {"type": "prometheus", "metadata": {"query": query, "threshold": threshold}}
    one = {"kind": "ScaledObject", "metadata": {"name": "chat"}}
    target = {"scaleTargetRef": {"name": "chat"}, "minReplicaCount": 1, "maxReplicaCount": 8, "triggers": [trigger]}
    return of(deployment(args=[QWEN, *args]), {**one, "spec": target})


def queue(made: Imported) -> int:
    return spec(made).models["chat"].scale.queue


SLOTS = ("--max-num-seqs", "64")
THRESHOLDS = [
    # (query, threshold, flags, queue, what is said)
    ("sum(vllm:num_requests_waiting)", "50", SLOTS, 50, ""),
    # 51 of 64 slots are what scaling aims at
    (BOTH, "101", SLOTS, 50, "decided: threshold 101 on requests that wait and run: queue 50: 51 run (of 64 slots)"),
    (BOTH, "50", SLOTS, 0, "more replicas come at 51, and earlier with fewer slots"),
    (BOTH, "51", SLOTS, 0, "queue 0: 51 run (of 64 slots)"),
    # how many run at once is not said
    (BOTH, "50", (), 0, "not carried: threshold 50 on requests that wait and run: `scale.queue` counts those that wait alone"),
    ('sum({__name__=~"vllm:num_requests_(running|waiting)"})', "60", SLOTS, 9, "decided: threshold 60"),
    # a name with a slash in it is no division
    (f"sum(vllm:num_requests_running{ENGINE}) + sum(vllm:num_requests_waiting{ENGINE})", "60", SLOTS, 9, "decided"),
    ("sum(vllm:num_requests_waiting) / sum(vllm:num_requests_running)", "2", SLOTS, 0, "no sum of requests that wait and run"),
    # seconds are no requests
    ("histogram_quantile(0.9, sum by (le) (rate(vllm:request_queue_time_seconds_bucket[1m])))", "5", SLOTS, 0, "not carried"),
]


@pytest.mark.parametrize(("query", "threshold", "args", "wanted", "says"), THRESHOLDS)
def test_a_threshold_is_taken_for_what_it_counts(
    query: str, threshold: str, args: tuple[str, ...], wanted: int, says: str
) -> None:
    made = scaled(query, threshold, *args)
    assert queue(made) == wanted
    assert says in said(made)
    assert bool(says) == ("threshold" in said(made) or "trigger" in said(made))


def test_an_hpa_on_a_sum_is_read_the_same_way() -> None:
    metric = {"metric": {"name": "vllm_requests_running_and_waiting"}, "target": {"averageValue": "60"}}
    target = {"scaleTargetRef": {"kind": "Deployment", "name": "chat"}, "maxReplicas": 4}
    body = {"spec": {**target, "metrics": [{"type": "Pods", "pods": metric}]}}
    made = of(deployment(args=[QWEN, *SLOTS]), {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, **body})
    assert queue(made) == 9
    assert "decided: threshold 60" in said(made)


@pytest.mark.parametrize("wanted", [0, 1, 50])
@pytest.mark.parametrize("slots", [1, 64, 100])
def test_what_is_rendered_is_imported_as_it_was(slots: int, wanted: int) -> None:
    model = f"{{source: 'hf:a/b', engine: vllm, slots: {slots}, scale: {{replicas: 1..8, queue: {wanted}}}}}"
    prometheus = "{scaler: keda, prometheus: 'http://prometheus-operated.monitoring.svc:9090'}"
    rendered = manifests(cluster({"a": (model, "safetensors")}, prometheus))
    kinds = [one for one in rendered if one["metadata"]["name"] == "a" and one["kind"] in ("Deployment", "ScaledObject")]
    made = spec(convert([File("k8s.yaml", "\n---\n".join(map(json.dumps, kinds)))])).models["a"]
    assert (made.slots, made.scale.replicas, made.scale.queue) == (slots, (1, 8), wanted)


def workspace(resource: dict[str, Any], name: str = "ws") -> dict[str, Any]:
    about = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": name}}
    return {**about, "resource": resource, "inference": {"preset": {"name": "phi-4"}}}


LABELS = {"labelSelector": {"matchLabels": {"pool": "gpu"}}}
SIZE = {"instanceType": "Standard_NC24ads_A100_v4"}


def test_kaitos_labels_without_a_size_are_of_nodes_that_are_there() -> None:
    assert spec(of(workspace(LABELS))).kubernetes.nodes.labels == {"pool": "gpu"}
    assert spec(of(workspace({**SIZE, **LABELS}))).kubernetes.nodes.labels == {}
    template = {"resource": {}, "inference": {"preset": {"name": "phi-4"}}}
    of_a_set = {"kind": "InferenceSet", "metadata": {"name": "s"}, "spec": {"replicas": 1, **LABELS, "template": template}}
    assert spec(of(of_a_set)).kubernetes.nodes.labels == {"pool": "gpu"}


def test_labels_beside_a_size_are_told() -> None:
    """With labels KAITO brings nodes for none of them."""
    made = of(workspace(LABELS), workspace({**SIZE, **LABELS}, "other"))
    assert spec(made).kubernetes.nodes.labels == {}
    assert "not carried: labelSelector of Workspace ws" in said(made)


def test_ranks_and_nodes_of_vllm_are_planned_and_not_passed_on() -> None:
    made = of(deployment(args=[QWEN, "-dp", "16", "-dpl", "8", "-dpa", "10.0.0.1", "--nnodes", "2", "-ep"]))
    assert "--data-parallel" not in made.text
    assert "--nnodes" not in made.text
    assert "not carried: -dpl 8: the plan decides how a model is split" in said(made)
