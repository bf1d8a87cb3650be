"""What a cluster lacks: all of it at once, with the command that brings it."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.targets.kubernetes import preflight
from headrace.targets.kubernetes.preflight import Found, Right, given, problems, rights, secrets, takes, without_namespace
from headrace.targets.kubernetes.resources import Resource

GPU_TAINT = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
TOLERATES = {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}


def manifest(kind: str, api_version: str = "v1", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "chat"}, "spec": spec}


def node(gpus: int = 0, taints: list[dict[str, str]] | None = None, **labels: str) -> dict[str, Any]:
    allocatable = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}, "status": {"allocatable": allocatable}}


def class_(name: str, provisioner: str, default: bool = False) -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner}


def gpu_pods(count: int = 1, **pod: Any) -> dict[str, Any]:
    limits = {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}
    return manifest("Deployment", "apps/v1", template={"spec": {"containers": [limits], **pod}})


def secret_key(name: str, **more: Any) -> dict[str, Any]:
    return {"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": "A", **more}}}


KINDS = [manifest("Service"), manifest("Deployment", "apps/v1"), manifest("ScaledObject", "keda.sh/v1alpha1")]
FOUND = Found(
    "v1.30.2", frozenset((each["apiVersion"], each["kind"]) for each in [*KINDS, manifest("PersistentVolumeClaim")]), True
)
CLAIM = manifest("PersistentVolumeClaim", accessModes=["ReadWriteMany"])
NAMED = manifest("PersistentVolumeClaim", accessModes=["ReadWriteMany"], storageClassName="files")
FILES, DISKS = class_("files", "file.csi.azure.com"), class_("disks", "disk.csi.azure.com", default=True)


def test_a_cluster_that_has_everything_has_no_problem() -> None:
    found = replace(FOUND, nodes=(node(gpus=1),), classes=(FILES,))
    assert problems([*KINDS, NAMED, gpu_pods()], found, "ai") == []


@pytest.mark.parametrize(
    ("made", "found", "said", "fix", "fatal"),
    [
        ([manifest("Service")], replace(FOUND, version="v1.20.2"), "v1.20.2 is older than 1.25", "Upgrade", False),
        (
            KINDS,
            replace(FOUND, kinds=FOUND.kinds - {("keda.sh/v1alpha1", "ScaledObject")}),
            "KEDA is not installed",
            "helm install keda",
            True,
        ),
        ([manifest("InferenceSet", "kaito.sh/v1beta1")], FOUND, "KAITO is not installed", "helm install kaito-workspace", True),
        ([manifest("PodDisruptionBudget", "policy/v1")], FOUND, "knows no PodDisruptionBudget (policy/v1)", "1.25", True),
        (
            KINDS,
            replace(FOUND, denied=(Right("patch", "apps", "deployments", "ai"), Right("create", "", "services", "ai"))),
            "You may not, in the namespace ai: create services; patch deployments.apps.",
            "kubectl -n ai create role headrace-apply --verb=create,patch --resource=deployments.apps,services",
            True,
        ),
        (
            KINDS,
            replace(FOUND, namespace=False, denied=(Right("create", "", "namespaces", ""),)),
            "The namespace ai is not there, and you may not make it.",
            "kubectl create namespace ai",
            True,
        ),
        ([NAMED], replace(FOUND, classes=(DISKS,)), "The storage class files is not there.", "There are: disks.", True),
        ([CLAIM], replace(FOUND, classes=(DISKS,)), "Volumes of the storage class disks are for one node", "access: once", True),
        ([CLAIM], replace(FOUND, classes=(FILES,)), "No storage class is the default", "There are: files", False),
        ([gpu_pods()], replace(FOUND, nodes=(node(),)), "No node has 1 nvidia.com/gpu for chat", "headrace nodepool", False),
        # there are enough, but in two nodes; behind a taint; with another label
        ([gpu_pods(2)], replace(FOUND, nodes=(node(gpus=1), node(gpus=1))), "No node has 2 nvidia.com/gpu", "nodepool", False),
        ([gpu_pods()], replace(FOUND, nodes=(node(gpus=1, taints=[GPU_TAINT]),)), "No node has 1", "nodepool", False),
        (  # a replica over several machines: the pods of its workers count, too
            [manifest("Deployment", "apps/v1", leaderWorkerTemplate={"workerTemplate": gpu_pods()["spec"]["template"]})],
            replace(FOUND, nodes=(node(),)),
            "No node has 1 nvidia.com/gpu for chat (",
            "headrace nodepool",
            False,
        ),
        ([gpu_pods(nodeSelector={"a": "b"})], replace(FOUND, nodes=(node(gpus=1, a="c"),)), "No node has 1", "nodepool", False),
        (
            [gpu_pods(env=[secret_key("hf")])],
            replace(FOUND, absent_secrets=("hf",)),
            "The Secret hf is not there",
            "kubectl -n ai create secret generic hf",
            False,
        ),
    ],
)
def test_what_is_missing_is_said_with_the_command(
    made: list[dict[str, Any]], found: Found, said: str, fix: str, fatal: bool
) -> None:
    (problem,) = problems(made, found, "ai")
    assert said in problem.what
    assert fix in problem.fix
    assert problem.fatal is fatal


def test_all_that_is_wrong_is_told_at_once_and_what_is_fatal_first() -> None:
    found = replace(FOUND, version="v1.20.2", kinds=frozenset(), classes=(), denied=(Right("get", "", "services", "ai"),))
    told = problems([*KINDS, NAMED], found, "ai")
    assert [each.fatal for each in told] == [True] * 5 + [False]
    assert {"KEDA is not installed", "The storage class files is not there."} <= {each.what.partition(":")[0] for each in told}


def test_what_may_not_be_looked_at_is_no_problem() -> None:
    assert problems([CLAIM, gpu_pods()], FOUND, "ai") == []


def test_a_namespace_that_is_there_need_not_be_ours_to_change() -> None:
    found = replace(FOUND, denied=(Right("patch", "", "namespaces", ""),))
    made = [manifest("Namespace"), manifest("Service")]
    assert [each["kind"] for each in without_namespace(made, found)] == ["Service"]
    assert problems([manifest("Service")], found, "ai") == []
    assert without_namespace(made, FOUND) == made


def test_rights_are_asked_for_what_is_done_only() -> None:
    service = Resource("v1", "Service", "services", True)
    asked = rights([service, Resource("v1", "Namespace", "namespaces", False)], "ai", removes=False, waits=False)
    assert {(each.verb, each.plural, each.namespace) for each in asked} == {
        (verb, plural, namespace)
        for verb in ("get", "create", "patch")
        for plural, namespace in (("services", "ai"), ("namespaces", ""))
    } | {("list", "services", "ai")}  # what may not be listed would count as absent: replicas, records of graduations
    more = set(rights([service], "ai", removes=True, waits=True)) - set(asked)
    assert {f"{each.verb} {each.named}" for each in more} == {
        "delete services",
        "list deployments.apps",
        "list pods",
        "list events",
        "get pods/log",
    }


def test_secrets_are_found_wherever_pods_name_them() -> None:
    env, spare = [secret_key("hf")], [secret_key("not-needed", optional=True)]
    volumes = [{"secret": {"secretName": "client-keys"}}, {"secret": {"secretName": "nor-this", "optional": True}}]
    pod = {"initContainers": [{"env": env}], "containers": [{"env": spare}], "volumes": volumes}
    assert set(secrets([manifest("Deployment", "apps/v1", template={"spec": pod})])) == {"hf", "client-keys"}


@pytest.mark.parametrize(
    ("made", "said", "fix"),
    [
        (
            gpu_pods(volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
            "pods that need it wait for it",
            "create secret generic s --from-file=keys.json",
        ),
        (
            manifest(
                "PodMonitor",
                "monitoring.coreos.com/v1",
                podMetricsEndpoints=[{"authorization": {"credentials": {"name": "s", "key": "k"}}}],
            ),
            "Prometheus gets no metrics",
            "create secret generic s --from-literal=k=KEY",
        ),
        (
            manifest("Ingress", "networking.k8s.io/v1", tls=[{"hosts": ["h"], "secretName": "s"}]),
            "its host has no certificate",
            "create secret tls s --cert=FILE --key=FILE",
        ),
        (
            {
                **manifest("InferenceSet", "kaito.sh/v1beta1"),
                "spec": {"template": {"inference": {"preset": {"presetOptions": {"modelAccessSecret": "s"}}}}},
            },
            "pods that need it wait for it",
            "create secret generic s --from-literal=HF_TOKEN=VALUE",
        ),
    ],
)
def test_whatever_names_a_secret_is_told_with_what_makes_that_kind(made: dict[str, Any], said: str, fix: str) -> None:
    found = replace(FOUND, kinds=frozenset({(made["apiVersion"], made["kind"])}), absent_secrets=tuple(secrets([made])))
    (problem,) = problems([made], found, "ai")
    assert f"The Secret s is not there: {said}" in problem.what
    assert f"kubectl -n ai {fix}" in problem.fix
    assert not problem.fatal


def test_what_a_role_gives_is_a_right_each() -> None:
    rule = {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices", "endpointslices/status"],
        "verbs": ["list", "watch"],
    }
    assert {f"{each.verb} {each.named}" for each in given([{"kind": "Role", "rules": [rule]}], "ai")} == {
        "list endpointslices.discovery.k8s.io",
        "watch endpointslices.discovery.k8s.io",
        "list endpointslices/status.discovery.k8s.io",
        "watch endpointslices/status.discovery.k8s.io",
    }


@pytest.mark.parametrize(
    ("tolerations", "taints", "there"),
    [
        ([], [], True),
        ([], [GPU_TAINT], False),
        ([TOLERATES], [GPU_TAINT], True),
        ([{**TOLERATES, "value": "cpu"}], [GPU_TAINT], False),
        ([{"key": "sku", "operator": "Exists"}], [GPU_TAINT], True),
        ([{"operator": "Exists"}], [GPU_TAINT, {"key": "x", "effect": "NoExecute"}], True),
        ([{**TOLERATES, "effect": "NoExecute"}], [GPU_TAINT], False),
        ([], [{**GPU_TAINT, "effect": "PreferNoSchedule"}], True),
    ],
)
def test_taints_keep_off_what_does_not_tolerate_them(tolerations: list[Any], taints: list[Any], there: bool) -> None:
    assert takes(node(taints=taints), {"tolerations": tolerations}) is there


def test_every_project_whose_kinds_we_make_has_its_command() -> None:
    for api_version, _ in preflight_kinds():
        assert api_version.rpartition("/")[0] in preflight._INSTALL


def preflight_kinds() -> list[tuple[str, str]]:
    from headrace.targets.kubernetes.order import KINDS as MADE

    return [
        each for each in MADE if each[0].partition("/")[0].count(".") and not each[0].partition("/")[0].endswith(".k8s.io")
    ] + [each for each in MADE if each[0].startswith(("gateway.networking", "inference.networking", "leaderworkerset"))]
