"""Every object is one that a cluster takes: core kinds by the schemas of three versions, custom resources by their CRDs."""

import itertools
import json
import time
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from headrace.targets.manifests import kaito
from headrace.targets.manifests.manifests import files, manifests, stream
from tests.unit.manifests.clusters import AZURE, MACHINES, MODELS, cluster, with_outside
from tests.unit.manifests.crds import FOLDER, needs_crds, problems

VERSIONS = ("1.30", "1.33", "1.37")
CUSTOM = ("ScaledObject", "PodMonitor", "InferenceSet")
GPU_ONLY = ("sglang", "tgi", "triton")
IMAGES = "images: {command: 'me/serve:1'}"


def settings(target: str, scaler: str, access: str = "many") -> str:
    return f"{{target: {target}, scaler: {scaler}, secret: hf-token, storage: {{access: {access}}}, {IMAGES}}}"


CASES = [
    case
    for case in itertools.product(MACHINES, ("deployment", "kaito"), ("keda", "none"))
    if case[0] == AZURE or case[1] == "deployment"
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(part or "cpu" for part in case))
def made(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Every engine on one kind of machine, target and scaler."""
    machine, target, scaler = request.param
    ranges = "0..4" if scaler == "keda" else "2"
    kinds = {kind: kind for kind in MODELS if machine or kind not in GPU_ONLY}
    whole = with_outside(cluster(kinds, settings(target, scaler), machine, ranges), url=["http://there:1"], key="env:THERE_KEY")
    return manifests(whole)


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
            assert problems(manifest) == []


def test_templates_inside_of_custom_resources_are_pod_templates(made: list[dict[str, Any]]) -> None:
    """KAITO's schema does not look into them: what is wrong there would be stored."""
    for manifest in made:
        if manifest["kind"] == "InferenceSet" and (pod := manifest["spec"]["template"]["inference"].get("template")):
            pod_manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod["spec"]}
            kubernetes_validate.validate(pod_manifest, VERSIONS[-1], strict=True)
            assert list(kaito.problems(manifest)) == []


def test_what_pods_mount_and_refer_to_is_there(made: list[dict[str, Any]]) -> None:
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in made}
    for pod in pods(made):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        assert ("ServiceAccount", pod["serviceAccountName"]) in names


def test_pods_are_restricted(made: list[dict[str, Any]]) -> None:
    """Pod Security's `restricted`, and more: a root file system that cannot be written, no token."""
    for pod in pods(made):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_selectors_match_the_labels_of_pods(made: list[dict[str, Any]]) -> None:
    for manifest in made:
        if manifest["kind"] == "Deployment":
            spec = manifest["spec"]
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_a_pod_has_time_to_drain(made: list[dict[str, Any]]) -> None:
    """preStop and drain (30 s unless the file says otherwise) and a rest end before it is killed."""
    for manifest in made:
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            assert pod["terminationGracePeriodSeconds"] >= sleep + 30 + 10


def test_names_are_legal(made: list[dict[str, Any]]) -> None:
    for manifest in made:
        name = manifest["metadata"]["name"]
        assert len(name) <= 63
        assert name[0].isalpha()


def test_the_same_spec_gives_the_same_bytes() -> None:
    def once() -> dict[str, str]:
        return files(manifests(cluster({kind: kind for kind in MODELS}, settings("deployment", "keda"), AZURE, "0..8")))

    assert once() == once()


def test_what_is_written_reads_back_as_it_was_made() -> None:
    """YAML 1.1 has many words for true: quantities, ports in arguments and versions stay text."""
    made = manifests(cluster({kind: kind for kind in MODELS}, settings("deployment", "keda"), AZURE, "0..8"))
    assert list(yaml.safe_load_all(stream(made))) == made
    assert "&id" not in stream(made)


def test_a_volume_of_one_node_is_filled_by_the_pod_itself() -> None:
    made = manifests(cluster({"chat": "vllm"}, settings("deployment", "none", "once")))
    kinds = [manifest["kind"] for manifest in made]
    assert "Job" not in kinds
    deployment = next(each for each in made if each["kind"] == "Deployment" and each["metadata"]["name"] == "chat")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["template"]["spec"]["initContainers"][0]["name"] == "pull"
    for manifest in made:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@needs_crds
@pytest.mark.parametrize(
    "file", sorted(FOLDER.glob("examples/bad*-keda-so*.yaml")) if FOLDER.is_dir() else [], ids=lambda f: f.stem
)
def test_the_check_itself_refuses_what_is_known_to_be_wrong(file: Any) -> None:
    assert problems(yaml.safe_load(file.read_text()))


def test_two_hundred_models_are_rendered(record_property: Any) -> None:
    """Five seconds are asked for; what it took is recorded and gates nothing: machines are shared."""
    names = {f"model-{number}": "vllm" if number % 2 else "llamacpp" for number in range(200)}
    whole = cluster(names, settings("deployment", "keda"), AZURE, "0..8")
    begun = time.perf_counter()
    texts = files(manifests(whole))
    record_property("seconds", time.perf_counter() - begun)
    assert len(texts) > 2000


def pods(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [each["spec"]["template"]["spec"] for each in made if each["kind"] in ("Deployment", "Job")]
    sets = [each["spec"]["template"]["inference"] for each in made if each["kind"] == "InferenceSet"]
    return found + [each["template"]["spec"] for each in sets if "template" in each]
