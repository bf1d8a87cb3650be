"""Every object is one that a cluster takes: core kinds by the schemas of three versions, custom resources by their CRDs, all by
the rules of webhooks, and by what they say of each other. Every engine x target x sharing x scaler x exposure.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from headrace.targets.kubernetes.order import KINDS
from headrace.targets.manifests import kaito, keda_rules
from headrace.targets.manifests.base import Cluster
from headrace.targets.manifests.manifests import files, manifests, stream
from tests.unit.manifests.clusters import AZURE, MACHINES, MODELS, cluster, sharing, with_outside
from tests.unit.manifests.crds import CUSTOM, FOLDER, needs_crds, problems

VERSIONS = ("1.30", "1.33", "1.37")
GPU_ONLY = ("sglang", "tgi", "triton")
WORKLOADS = ("Deployment", "Job", "LeaderWorkerSet")

SCALERS = {
    "fixed": "scaler: none",
    "push": "scaler: keda",
    "prometheus": "scaler: keda, prometheus: 'http://prometheus-operated.monitoring.svc:9090'",
    "azure": "scaler: keda, prometheus: 'https://work-abcd.eastus.prometheus.monitor.azure.com'",
}
EXPOSURES = {
    "inside": "gateways: 2",
    "route": "expose: {host: chat.example.com, gateway: public.gateways, insecure: true}",
    "ingress": "expose: {host: chat.example.com, ingress: nginx, tls: certificate, insecure: true}, "
    "inference_pool: {picker: epp, proxies: gateways}",
}
TARGETS = {
    "deployment": "target: deployment",
    "each": "target: deployment, storage: {access: each, class: local}",
    "inferenceset": "target: kaito",
    "workspace": "target: kaito, kaito: workspace",
}
SHARED = ("time-slicing", "mps", "mig")
PLAIN = [
    (machine, target, scaler, exposure)
    for machine, target, scaler, exposure in itertools.product(MACHINES, TARGETS, SCALERS, EXPOSURES)
    if (machine == AZURE or target == "deployment") and (target != "workspace" or scaler == "fixed")
]
CASES = [
    *PLAIN,
    *itertools.product(SHARED, ("shared",), SCALERS, EXPOSURES),
    *itertools.product((AZURE,), ("split",), SCALERS, EXPOSURES),
]


def made_of(machine: str, target: str, scaler: str, exposure: str) -> Cluster:
    """Every engine that can be so."""
    common = f"{SCALERS[scaler]}, {EXPOSURES[exposure]}, secret: hf-token, images: {{command: 'me/serve:1'}}"
    ranges = "0..2" if scaler != "fixed" else "2" if target != "workspace" else "1"
    if target == "shared":
        engines = ("vllm",) if machine == "mps" else ("vllm", "triton")
        return sharing(machine, common, ranges, f"{AZURE} x 9", engines)
    if target == "split":
        return cluster({"vllm": "vllm"}, f"{{{common}, split: {{vllm: 2}}}}", "2 x L4", ranges)
    kinds = {kind: kind for kind in MODELS if machine or kind not in GPU_ONLY}
    return cluster(kinds, f"{{{TARGETS[target]}, {common}}}", machine, ranges)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(part.replace(" ", "") or "cpu" for part in case))
def made(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return manifests(with_outside(made_of(*request.param), url=["http://there:1"], key="env:THERE_KEY"))


def test_core_kinds_pass_strictly_on_three_versions(made: list[dict[str, Any]]) -> None:
    for manifest in made:
        if manifest["kind"] not in CUSTOM:
            for version in VERSIONS:
                passes(json.dumps(manifest), version)


@cache
def passes(manifest: str, version: str) -> None:
    """Most objects are the same in several cases: each is looked at once."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@needs_crds
def test_custom_resources_pass_schema_defaults_and_rules(made: list[dict[str, Any]]) -> None:
    for manifest in made:
        if manifest["kind"] in CUSTOM:
            assert wrong(json.dumps(manifest)) == []


@cache
def wrong(manifest: str) -> list[str]:
    return problems(json.loads(manifest))


def test_webhooks_would_take_them(made: list[dict[str, Any]]) -> None:
    for manifest in made:
        if manifest["kind"] in ("InferenceSet", "Workspace"):
            assert list(kaito.problems(manifest)) == []
        if manifest["kind"] == "ScaledObject":
            assert list(keda_rules.problems(manifest)) == []


def test_templates_inside_of_custom_resources_are_pod_templates(made: list[dict[str, Any]]) -> None:
    """KAITO's schema does not look into them: what is wrong there would be stored."""
    for template in templates(made):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        passes(json.dumps(pod), VERSIONS[-1])


def test_what_pods_mount_and_refer_to_is_there(made: list[dict[str, Any]]) -> None:
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in made}
    for pod in pods(made):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in containers(pod):
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        assert ("ServiceAccount", pod["serviceAccountName"]) in names


def test_keys_that_volumes_take_of_config_maps_are_there(made: list[dict[str, Any]]) -> None:
    maps = {each["metadata"]["name"]: {**each.get("data", {}), **each.get("binaryData", {})} for each in of(made, "ConfigMap")}
    for pod in pods(made):
        for volume in pod["volumes"]:
            for item in volume.get("configMap", {}).get("items", ()):
                assert item["key"] in maps[volume["configMap"]["name"]]


def test_pods_are_restricted(made: list[dict[str, Any]]) -> None:
    """Pod Security's `restricted`, and more: a root file system that cannot be written, no token but the gateway's."""
    for pod in pods(made):
        assert pod["automountServiceAccountToken"] is (pod["serviceAccountName"] == "gateway")
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in pod["volumes"]:
            assert "hostPath" not in volume
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_gpus_and_their_parts_are_whole_numbers_and_requests_are_limits(made: list[dict[str, Any]]) -> None:
    for pod in pods(made):
        for container in containers(pod):
            asked, most = (container["resources"].get(key, {}) for key in ("requests", "limits"))
            gpus = {key: value for key, value in most.items() if key.startswith("nvidia.com/")}
            assert gpus == {key: value for key, value in asked.items() if key.startswith("nvidia.com/")}
            assert all(value.isdigit() for value in gpus.values())
            if gpus:
                assert {"sku", "nvidia.com/gpu"} <= {each["key"] for each in pod["tolerations"]}
            # Two parts of a shared GPU are parts of the same one.
            assert gpus.get("nvidia.com/gpu.shared", "1") == "1"


def test_selectors_match_the_labels_of_pods(made: list[dict[str, Any]]) -> None:
    for manifest in of(made, "Deployment"):
        spec = manifest["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    for manifest, selector in selecting(made):
        assert selected(made, selector), (manifest["kind"], manifest["metadata"]["name"])


def test_ports_that_are_named_are_found_in_the_pods(made: list[dict[str, Any]]) -> None:
    for manifest, selector in selecting(made):
        wanted = [port["targetPort"] for port in manifest["spec"].get("ports", ())] if manifest["kind"] == "Service" else []
        wanted += [each["port"] for each in manifest["spec"].get("podMetricsEndpoints", ())]
        wanted += [each["number"] for each in manifest["spec"].get("targetPorts", ())]
        for labels, ports in selected(made, selector):
            if "kaito" not in " ".join(labels):
                assert set(wanted) <= {port for each in ports for port in (each["name"], each["containerPort"])}


def test_what_is_scaled_is_there_and_has_no_count_of_its_own(made: list[dict[str, Any]]) -> None:
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in made}
    for manifest in of(made, "ScaledObject"):
        target = manifest["spec"]["scaleTargetRef"]
        found = by_name[target["kind"], target["name"]]
        assert found["apiVersion"] == target["apiVersion"]
        assert "replicas" not in found["spec"]
        for trigger in manifest["spec"]["triggers"]:
            if "authenticationRef" in trigger:
                assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in by_name
            if trigger["type"] == "external-push":
                service, namespace, _ = trigger["metadata"]["scalerAddress"].split(".", 2)
                assert by_name["Service", service]["metadata"]["namespace"] == namespace
            else:
                assert any(each["metadata"]["name"] == "gateway" for each in of(made, "PodMonitor"))


def test_routes_lead_to_services_and_ports_that_are_there(made: list[dict[str, Any]]) -> None:
    ports = {each["metadata"]["name"]: each["spec"]["ports"] for each in of(made, "Service")}
    for manifest in of(made, "HTTPRoute"):
        for rule in manifest["spec"]["rules"]:
            for ref in rule["backendRefs"]:
                assert ref["port"] in [port["port"] for port in ports[ref["name"]]]
    for manifest in of(made, "Ingress"):
        for rule in manifest["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in [port["name"] for port in ports[backend["name"]]]


def test_a_pod_has_time_to_drain(made: list[dict[str, Any]]) -> None:
    """preStop and drain (30 s unless the file says otherwise) and a rest end before it is killed."""
    for manifest in of(made, "Deployment"):
        pod = manifest["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod["terminationGracePeriodSeconds"] >= sleep + 30 + 10


def test_names_are_legal_and_one_of_a_kind(made: list[dict[str, Any]]) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in made]
    assert len(set(names)) == len(names)
    for _, name in names:
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", name)


def test_what_is_rendered_is_among_the_kinds_that_are_pruned(made: list[dict[str, Any]]) -> None:
    assert {(each["apiVersion"], each["kind"]) for each in made} <= set(KINDS)


def test_everything_is_in_the_namespace(made: list[dict[str, Any]]) -> None:
    assert {each["metadata"].get("namespace", "inference") for each in made} == {"inference"}


def test_the_same_spec_gives_the_same_bytes() -> None:
    def once() -> dict[str, str]:
        return files(manifests(made_of(AZURE, "deployment", "prometheus", "ingress")))

    assert once() == once()


def test_what_is_written_reads_back_as_it_was_made() -> None:
    """YAML 1.1 has many words for true: quantities, ports in arguments and versions stay text."""
    made = manifests(made_of(AZURE, "deployment", "push", "route"))
    assert list(yaml.safe_load_all(stream(made))) == made
    assert "&id" not in stream(made)


def test_a_volume_of_one_node_is_filled_by_the_pod_itself() -> None:
    made = manifests(cluster({"chat": "vllm"}, "{storage: {access: once}}"))
    assert not of(made, "Job")
    deployment = next(each for each in of(made, "Deployment") if each["metadata"]["name"] == "chat")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["template"]["spec"]["initContainers"][0]["name"] == "pull"
    for manifest in made:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_weights_in_an_image_are_mounted_where_fetched_ones_would_be() -> None:
    """By the schemas of versions that know image volumes: 1.31 and later."""
    kubernetes = "{storage: {images: {chat: 'r.example.com/llama:1', small: 'r.example.com/small@sha256:" + "a" * 64 + "'}}}"
    made = manifests(cluster({"chat": "vllm", "small": "llamacpp"}, kubernetes))
    assert not [each for each in made if each["kind"] in ("Job", "PersistentVolumeClaim")]
    for name, weights in (("chat", "/weights/ready"), ("small", "/weights/ready/model.gguf")):
        pod = next(each for each in of(made, "Deployment") if each["metadata"]["name"] == name)["spec"]["template"]["spec"]
        assert "initContainers" not in pod
        assert {"name": "weights", "mountPath": "/weights/ready", "readOnly": True} in pod["containers"][0]["volumeMounts"]
        assert weights in json.dumps(pod["containers"][0])
    for manifest, version in itertools.product(made, VERSIONS[1:]):
        kubernetes_validate.validate(manifest, version, strict=True)


# --- the check itself

VERDICTS = FOLDER / "examples" / "verdicts.csv"


def verdicts() -> list[tuple[str, str]]:
    if not VERDICTS.is_file():
        return []
    with VERDICTS.open() as file:
        return [(row["object"], row["offline"]) for row in csv.DictReader(file)]


@needs_crds
@pytest.mark.parametrize(("example", "verdict"), verdicts())
def test_the_check_says_of_known_objects_what_is_known_of_them(example: str, verdict: str) -> None:
    found = [said for manifest in yaml.safe_load_all((FOLDER / "examples" / example).read_text()) for said in judged(manifest)]
    assert ("reject" if found else "accept") == verdict, found


def judged(manifest: dict[str, Any]) -> list[str]:
    if manifest["kind"] in CUSTOM:
        return problems(manifest)
    try:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


@needs_crds
@pytest.mark.parametrize("example", ["badhook-kaito-ws-both.yaml", "badhook-kaito-infset-old-annotations.yaml"])
def test_our_rules_see_what_no_schema_does(example: str) -> None:
    manifest = yaml.safe_load(Path(FOLDER, "examples", example).read_text())
    assert list(kaito.problems(manifest))


# --- looking around


def of(made: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in made if each["kind"] == kind]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def templates(made: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in made:
        if each["kind"] in ("Deployment", "Job"):
            yield each["spec"]["template"]
        if each["kind"] == "LeaderWorkerSet":
            yield each["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
            yield each["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        inference = each["spec"]["template"]["inference"] if each["kind"] == "InferenceSet" else each.get("inference", {})
        if "template" in inference:
            yield inference["template"]


def pods(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [template["spec"] for template in templates(made)]


def selecting(made: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """What picks pods by their labels."""
    for each in made:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            yield each, spec["selector"]
        if each["kind"] in ("PodDisruptionBudget", "PodMonitor", "InferencePool"):
            yield each, spec["selector"]["matchLabels"]
        if each["kind"] == "NetworkPolicy":
            yield each, spec["podSelector"]["matchLabels"]


def selected(made: list[dict[str, Any]], selector: dict[str, str]) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
    """(labels, ports) of every pod that a selector picks; KAITO labels its pods itself."""
    found = [
        (each["metadata"].get("labels", {}), [port for one in each["spec"]["containers"] for port in one.get("ports", ())])
        for each in templates(made)
    ]
    for each in made:
        if each["kind"] in ("InferenceSet", "Workspace"):
            key = "inferenceset.kaito.sh/created-by" if each["kind"] == "InferenceSet" else "kaito.sh/workspace"
            found.append(({key: each["metadata"]["name"]}, []))
    return [(labels, ports) for labels, ports in found if selector.items() <= labels.items()]
