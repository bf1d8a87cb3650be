"""What the objects say: of engines, GPUs, scaling, weights, KAITO; and two small clusters whole, reviewed."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.spec.load import loads
from headrace.spec.model import NAME_PATTERN
from headrace.targets.manifests import kaito
from headrace.targets.manifests.base import object_name
from headrace.targets.manifests.gateway import settings
from headrace.targets.manifests.manifests import manifests, stream
from tests.unit.manifests.clusters import AZURE, MODELS, cluster, sharing

GOLDEN = Path(__file__).with_name("golden")
KEDA = "{scaler: keda}"
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
AZURE_PROMETHEUS = "https://work-abcd.eastus.prometheus.monitor.azure.com"


def find(made: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in made if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def engine(made: list[dict[str, Any]], name: str) -> dict[str, Any]:
    container: dict[str, Any] = find(made, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
    return container


def words(container: dict[str, Any]) -> list[str]:
    return [*container.get("command", []), *container["args"]]


def after(container: dict[str, Any], flag: str) -> str:
    return words(container)[words(container).index(flag) + 1]


# --- engines

STARTS = {
    # Explicit in place of the image's entrypoint, which is the same: the CPU image's was another in some versions.
    "vllm": ["vllm", "serve", "/weights/ready", "--served-model-name"],
    "sglang": ["python3", "-m", "sglang.launch_server", "--model-path", "/weights/ready"],
    "tgi": ["--model-id", "/weights/ready"],  # its entrypoint finds its own Python
    "triton": ["tritonserver", "--model-repository=/models"],
    "llamacpp": ["python", "-P", "-m", "headrace.runners.llamacpp"],
    "code": ["python", "-P", "-m", "headrace.runners.custom"],
    "command": ["serve", "--port", "8000"],
}


@pytest.mark.parametrize("kind", STARTS)
def test_an_engine_starts_with_its_own_command(kind: str) -> None:
    made = manifests(cluster({kind: kind}, "{images: {command: 'me/serve:1'}}"))
    assert words(engine(made, kind))[: len(STARTS[kind])] == STARTS[kind]


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in ("triton", "onnx", "command")])
def test_an_engine_listens_where_its_port_is(kind: str) -> None:
    container = engine(manifests(cluster({kind: kind})), kind)
    said = " ".join(words(container))
    assert "http://0.0.0.0:8000" in said or "--port 8000" in said
    assert container["ports"][0] == {"name": "http", "containerPort": 8000, "protocol": "TCP"}


@pytest.mark.parametrize(("kind", "flag"), [("vllm", "--shutdown-timeout"), ("tgi", "--graceful-termination-timeout")])
def test_an_engine_drains_as_long_as_the_pod_lets_it(kind: str, flag: str) -> None:
    container = engine(manifests(cluster({kind: kind})), kind)
    assert after(container, flag) == "30"
    assert words(container).count(flag) == 1  # TGI refuses a flag that is there twice


def test_no_secret_is_in_any_manifest() -> None:
    made = manifests(cluster({"vllm": "vllm"}, "{secret: hf-token}"))
    job = next(each for each in made if each["kind"] == "Job")["spec"]["template"]["spec"]["containers"][0]
    token = next(each for each in job["env"] if each["name"] == "HF_TOKEN")
    assert token["valueFrom"] == {"secretKeyRef": {"name": "hf-token", "key": "HF_TOKEN"}}
    assert not any(each["kind"] == "Secret" for each in made)


def test_threads_follow_the_quota_and_not_the_node() -> None:
    environment = {each["name"]: each["value"] for each in engine(manifests(cluster({"a": "vllm"}, "{cpu: 6}", "")), "a")["env"]}
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environment["OMP_NUM_THREADS"] == "6"


def test_an_image_of_the_users_takes_the_place_of_ours() -> None:
    made = manifests(cluster({"a": "vllm", "b": "vllm"}, "{images: {vllm: 'mine/vllm:1', b: 'mine/b:2'}}"))
    assert engine(made, "a")["image"] == "mine/vllm:1"
    assert engine(made, "b")["image"] == "mine/b:2"


# --- GPUs


@pytest.mark.parametrize(
    ("machine", "selector"),
    [
        (AZURE, {"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"}),
        ("A100-80GB", {"nvidia.com/gpu.present": "true"}),  # no size is known: what GPU feature discovery says
    ],
)
def test_a_gpu_pod_has_selector_and_toleration_both(machine: str, selector: dict[str, str]) -> None:
    pod = find(manifests(cluster({"a": "vllm"}, machine=machine)), "Deployment", "a")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == selector
    assert {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"} in pod["tolerations"]


def test_gpus_are_whole_and_requested_as_limited() -> None:
    resources = engine(manifests(cluster({"a": "vllm"})), "a")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"


def test_pods_without_gpus_are_kept_off_gpu_nodes() -> None:
    pod = find(manifests(cluster({"a": "llamacpp"})), "Deployment", "a")["spec"]["template"]["spec"]
    assert "tolerations" not in pod


@pytest.mark.parametrize(("machine", "selected"), [(AZURE, {"gpu"}), ("", {"cpu", "code"})])
def test_labels_name_the_gpu_nodes_where_there_are_any(machine: str, selected: set[str]) -> None:
    kinds = {"cpu": "llamacpp", "code": "code"} | ({"gpu": "vllm"} if machine else {})
    made = manifests(cluster(kinds, "{nodes: {labels: {workload: gpu}}}", machine))
    pods = {name: find(made, "Deployment", name)["spec"]["template"]["spec"] for name in kinds}
    assert {name for name, pod in pods.items() if "nodeSelector" in pod} == selected


@pytest.mark.parametrize(
    ("machine", "surge"),
    [(AZURE, 0), ("4 x H100-80GB", 1)],  # one GPU and one replica; one replica and three GPUs to spare
)
def test_a_rollout_takes_a_further_gpu_only_where_there_is_one(machine: str, surge: int) -> None:
    strategy = find(manifests(cluster({"a": "vllm"}, machine=machine)), "Deployment", "a")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": surge, "maxUnavailable": 1 - surge}


# --- scaling


def test_what_a_scaler_owns_has_no_replicas() -> None:
    made = manifests(cluster({"a": "vllm"}, KEDA, ranges="1..8"))
    assert "replicas" not in find(made, "Deployment", "a")["spec"]
    assert find(manifests(cluster({"a": "vllm"}, KEDA, ranges="3")), "Deployment", "a")["spec"]["replicas"] == 3


def test_the_scalers_query_is_one_number_of_one_model_and_an_outage_is_no_zero() -> None:
    made = manifests(cluster({"a": "vllm"}, f"{{scaler: keda, namespace: team, prometheus: '{PROMETHEUS}'}}", ranges="0..8"))
    (trigger,) = find(made, "ScaledObject", "a")["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    labels = '{namespace="team",model="a"}'
    assert query == f"sum(headrace_queue_depth{labels}) + (sum(headrace_in_flight_requests{labels}) or vector(0))"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert trigger["metricType"] == "AverageValue"


@pytest.mark.parametrize(("ranges", "sleeps"), [("0..8", True), ("1..8", False)])
def test_settings_that_matter_only_at_zero_are_there_only_then(ranges: str, sleeps: bool) -> None:
    """KEDA's webhook warns of the others."""
    spec = find(manifests(cluster({"a": "vllm"}, KEDA, ranges=ranges)), "ScaledObject", "a")["spec"]
    assert ("cooldownPeriod" in spec) is ("pollingInterval" in spec) is sleeps
    assert spec["fallback"]["replicas"] == 1  # never 0: an outage of the metric would put it to sleep


def test_a_range_without_a_scaler_is_refused() -> None:
    with pytest.raises(PlanError, match=r"need something that scales. Write `kubernetes: \{scaler: keda\}`"):
        cluster({"a": "vllm"}, "{}", ranges="0..8")


# --- weights


def test_other_weights_are_another_volume_and_job() -> None:
    def names(kind: str) -> set[str]:
        return {
            each["metadata"]["name"]
            for each in manifests(cluster({"a": kind}))
            if each["kind"] in ("PersistentVolumeClaim", "Job")
        }

    assert names("vllm").isdisjoint(names("llamacpp"))


def test_the_engine_waits_for_the_link_that_the_job_makes_last() -> None:
    made = manifests(cluster({"a": "vllm"}))
    pod = find(made, "Deployment", "a")["spec"]["template"]["spec"]
    job = next(each for each in made if each["kind"] == "Job")["spec"]["template"]["spec"]["containers"][0]
    assert job["args"] == ["pull", "/config/headrace.yaml", "--link", "/weights/ready"]
    assert '[ -e "/weights/ready" ]' in pod["initContainers"][0]["command"][2]
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("kind", ["vllm", "triton", "llamacpp"])
def test_what_the_job_is_told_is_a_spec(kind: str) -> None:
    made = manifests(cluster({"a": kind}))
    (text,) = [each["data"]["headrace.yaml"] for each in made if each["metadata"]["name"].endswith("-pull") and "data" in each]
    assert loads(text).weights.cache == "/weights"


# --- the gateway


def test_a_request_that_wakes_a_model_may_wait_until_it_is_loaded() -> None:
    asleep, awake = (cluster({"a": "vllm"}, KEDA, ranges=ranges) for ranges in ("0..8", "1..8"))
    assert settings(asleep)["gateway"]["queue"]["wait"] > asleep.workloads[0].load_seconds
    assert "queue" not in settings(awake)["gateway"]
    said = replace(asleep, gateway={"queue": {"wait": 5.0}})
    assert settings(said)["gateway"]["queue"] == {"wait": 5.0}


@pytest.mark.parametrize(
    ("kubernetes", "ranges", "others"),
    [
        ("{}", "", []),
        (KEDA, "1..4", []),  # KEDA asks the gateway, and nobody scrapes
        (f"{{scaler: keda, prometheus: '{PROMETHEUS}'}}", "1..4", ["monitoring"]),
        (f"{{scaler: keda, prometheus: '{AZURE_PROMETHEUS}'}}", "1..4", ["kube-system"]),  # where its agents run
        ("{target: kaito, scaler: keda, secret: hf-token}", "1..4", ["keda"]),  # KAITO's scaler reads the pods itself
        ("{target: kaito, scaler: keda, secret: hf-token, keda: kube-system}", "1..4", ["kube-system"]),
        (
            "{inference_pool: {picker: epp, proxies: gateways}}",
            "",
            [None, "gateways"],
        ),  # any pod here: the picker's labels are its own
    ],
)
def test_only_who_has_to_reaches_an_engine(kubernetes: str, ranges: str, others: list[str | None]) -> None:
    gateway, *rules = find(manifests(cluster({"a": "preset"}, kubernetes, ranges=ranges)), "NetworkPolicy", "a")["spec"][
        "ingress"
    ]
    assert gateway["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "gateway"
    names = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] if "namespaceSelector" in peer else None
        for rule in rules
        for peer in rule["from"]
    ]
    assert names == others
    assert all(rule["ports"] for rule in rules)


# --- KAITO


def test_kaito_runs_its_preset_where_it_has_one_and_a_template_otherwise() -> None:
    made = manifests(cluster({"a": "preset", "b": "vllm"}, "{target: kaito, secret: hf-token}"))
    inference = find(made, "InferenceSet", "a")["spec"]["template"]["inference"]
    assert inference["preset"] == {"name": "llama-3.1-8b-instruct", "presetOptions": {"modelAccessSecret": "hf-token"}}
    assert set(find(made, "InferenceSet", "b")["spec"]["template"]["inference"]) == {"template"}


def test_kaito_is_scaled_by_the_annotations_of_its_current_scaler() -> None:
    annotations = find(manifests(cluster({"a": "preset"}, "{target: kaito, scaler: keda}", ranges="0..8")), "InferenceSet", "a")
    said = {key.partition("/")[2]: value for key, value in annotations["metadata"]["annotations"].items()}
    (metric,) = yaml.safe_load(said["metrics"])
    assert metric["downthreshold"] <= metric["upthreshold"]
    assert (said["min-replicas"], said["max-replicas"]) == ("1", "8")  # it never sleeps
    assert not {"metricName", "threshold"} & set(said)


def test_nodes_that_are_there_already_are_selected_and_no_size_is_named() -> None:
    spec = find(manifests(cluster({"a": "preset"}, "{target: kaito, nodes: {labels: {pool: gpu}}}")), "InferenceSet", "a")["spec"]
    assert spec["labelSelector"]["matchLabels"] == {"pool": "gpu"}
    assert spec["template"]["resource"] == {}


@pytest.mark.parametrize("kind", ["inferenceset", "workspace"])
def test_a_machine_that_kaito_can_neither_bring_nor_find_is_refused(kind: str) -> None:
    """Its labels were of no node: the model waited for ever. A Deployment goes to any node with GPUs."""
    kubernetes, machine = f"target: kaito, kaito: {kind}", "2 x A100-80GB"
    with pytest.raises(PlanError, match=r"there is neither\. Write `machine: \{azure: SIZE\}`, or name nodes"):
        cluster({"a": "preset"}, f"{{{kubernetes}}}", machine)
    made = manifests(cluster({"a": "preset"}, f"{{{kubernetes}, nodes: {{labels: {{pool: gpu}}}}}}", machine))
    (one,) = [each for each in made if each["kind"] in ("InferenceSet", "Workspace")]
    assert (one.get("spec") or one["resource"])["labelSelector"] == {"matchLabels": {"pool": "gpu"}}
    assert cluster({"a": "preset"}, "{}", machine).workloads


def test_nodes_that_kaito_brings_have_a_label_of_the_model() -> None:
    spec = find(manifests(cluster({"a": "preset"}, "{target: kaito}")), "InferenceSet", "a")["spec"]
    assert spec["labelSelector"]["matchLabels"] == {"headrace/model": "a"}
    assert spec["template"]["resource"] == {"instanceType": "Standard_NC24ads_A100_v4"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda each: each["metadata"].update(name="a.b"), "no DNS-1123 label"),
        (lambda each: each["spec"]["template"]["inference"].update(template={"spec": {}}), "exactly one of preset and template"),
        (lambda each: each["spec"]["labelSelector"].update(matchLabels={"kaito.sh/workspace": "x"}), "not reserved"),
        (lambda each: each["spec"]["template"]["resource"].update(instanceType="m5.large"), "Unsupported instance type"),
        (lambda each: each["metadata"]["annotations"].update({"scaledobject.kaito.sh/threshold": "10"}), "older scaler"),
        (lambda each: each["metadata"]["annotations"].update({"scaledobject.kaito.sh/max-replicas": "1"}), "more than 1"),
        (lambda each: each["spec"]["template"]["inference"]["preset"].pop("presetOptions"), "is gated"),
    ],
)
def test_what_kaitos_webhook_would_refuse_is_seen(change: Any, problem: str) -> None:
    kubernetes = "{target: kaito, scaler: keda, secret: hf-token}"
    manifest = find(manifests(cluster({"a": "preset"}, kubernetes, ranges="1..8")), "InferenceSet", "a")
    assert list(kaito.problems(manifest)) == []
    change(manifest)
    assert any(problem in each for each in kaito.problems(manifest))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda each: each.update(spec={}), "has no spec"),  # the API server would drop it without a word
        (lambda each: each.pop("inference"), "Either Inference or Tuning"),
        (lambda each: each["inference"].update(template={"spec": {}}), "exactly one of preset and template"),
        (lambda each: each["resource"].pop("labelSelector"), "not reserved"),
        (lambda each: each["resource"].update(instanceType="m5.large"), "Unsupported instance type"),
    ],
)
def test_what_kaitos_webhook_would_refuse_in_a_workspace_is_seen(change: Any, problem: str) -> None:
    kubernetes = "{target: kaito, kaito: workspace, secret: hf-token}"
    manifest = find(manifests(cluster({"a": "preset"}, kubernetes)), "Workspace", "a-workspace")
    assert list(kaito.problems(manifest)) == []
    change(manifest)
    assert any(problem in each for each in kaito.problems(manifest))


def test_a_workspace_is_one_replica() -> None:
    with pytest.raises(PlanError, match="one replica, and this is 2"):
        cluster({"a": "preset"}, "{target: kaito, kaito: workspace}", ranges="2")
    with pytest.raises(PlanError, match=r"1\.\.2"):
        cluster({"a": "preset"}, "{target: kaito, kaito: workspace, scaler: keda}", ranges="1..2")


def test_our_service_of_a_workspace_has_another_name_than_the_one_that_kaito_makes() -> None:
    made = manifests(cluster({"a": "preset"}, "{target: kaito, kaito: workspace, secret: hf-token}"))
    (workspace,) = [each["metadata"]["name"] for each in made if each["kind"] == "Workspace"]
    assert workspace not in {each["metadata"]["name"] for each in made if each["kind"] == "Service"}
    assert find(made, "Service", "a")["spec"]["selector"] == {"kaito.sh/workspace": workspace}


# --- names


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.from_regex(NAME_PATTERN, fullmatch=True))
def test_different_models_have_different_legal_names(one: str, other: str) -> None:
    names = [object_name(one), object_name(other)]
    assert (names[0] == names[1]) is (one == other)
    for name in names:
        assert len(name) <= 40
        assert name.replace("-", "").isalnum()
        assert name[0].isalpha()
        assert name == name.lower().strip("-")


# --- whole


WHOLE = {
    "chat": lambda: cluster(
        {"chat": "vllm"}, "{scaler: keda, secret: hf-token, storage: {class: azurefile-csi-premium}}", ranges="0..8"
    ),
    "small": lambda: cluster({"small": "llamacpp"}),
    "kaito": lambda: cluster({"chat": "preset"}, "{target: kaito, scaler: keda, secret: hf-token}", ranges="1..4"),
    "shared": lambda: sharing("time-slicing", "namespace: inference", "1", f"{AZURE} x 4"),
    "exposed": lambda: cluster(
        {"chat": "command"},
        f"{{scaler: keda, prometheus: '{AZURE_PROMETHEUS}', images: {{command: 'me/serve:1', chat: 'me/chat:1'}}, "
        "expose: {host: chat.example.com, ingress: nginx, tls: certificate, insecure: true}}",
        ranges="0..2",
    ),
    "split": lambda: cluster({"big": "vllm"}, "{split: {big: 2}}", "2 x L4"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_small_cluster_is_as_it_was_reviewed(name: str) -> None:
    """Set HEADRACE_GOLDEN=1 to write what is rendered now, and review the difference like code."""
    text = stream(manifests(WHOLE[name]()))
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("HEADRACE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")
