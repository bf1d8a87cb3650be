"""Models that share GPUs: what their pods ask for, the memory that they are started with, and what the cluster is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli import main
from headrace.errors import PlanError
from headrace.targets.manifests.base import Cluster, Workload
from headrace.targets.manifests.manifests import manifests
from headrace.targets.sharing import device_plugin, mig
from tests.unit.manifests.clusters import AZURE, cluster, sharing

NAMESPACE = "namespace: inference"


def args(cluster: Cluster, name: str) -> list[str]:
    made = manifests(cluster)
    (found,) = [each for each in made if each["kind"] == "Deployment" and each["metadata"]["name"] == name]
    arguments: list[str] = found["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments


def by_name(whole: Cluster) -> dict[str, Workload]:
    return {load.name: load for load in whole.workloads}


@pytest.mark.parametrize(
    ("how", "resource", "shm"),
    [
        ("time-slicing", "nvidia.com/gpu.shared", True),
        ("mps", "nvidia.com/gpu.shared", False),  # the device plugin mounts one of its own there
        ("mig", "nvidia.com/mig-1g.20gb", True),
    ],
)
def test_who_shares_asks_for_one_part_and_who_does_not_for_a_gpu(how: str, resource: str, shm: bool) -> None:
    loads = by_name(sharing(how, NAMESPACE, "1", f"{AZURE} x 4"))
    assert (loads["vllm-1"].need.resource, loads["vllm-1"].need.gpus, loads["vllm-1"].need.shm) == (resource, 1, shm)
    assert loads["alone"].need.resource == "nvidia.com/gpu"
    assert "nvidia.com/device-plugin.config" in loads["vllm-1"].need.selector
    assert "nvidia.com/device-plugin.config" not in loads["alone"].need.selector


@given(st.integers(1, 4), st.integers(1, 32))
def test_what_meets_on_a_gpu_is_less_than_it_has(replicas: int, users: int) -> None:
    """By the parts of the memory that engines are started with: vLLM looks whether they are free."""
    kind = (f"{{source: 'hf:a/b', engine: vllm, share: time-slice, for: {{users: {users}}}}}", "safetensors")
    try:
        whole = cluster({"a": kind, "b": kind}, "{}", f"{AZURE} x 9", str(replicas))
    except PlanError:
        return  # said, and nothing rendered
    assert whole.shared
    for pool in whole.shared.pools:
        if pool.mode == "shared":
            largest = max(float(_after(load, "--gpu-memory-utilization")) for load in whole.workloads)
            assert largest * pool.slices <= 0.93


def _after(load: Workload, flag: str) -> str:
    given: tuple[str, ...] = load.placement.options["args"]
    return given[given.index(flag) + 1]


def test_an_engine_on_a_part_is_started_with_bytes_and_with_its_part() -> None:
    whole = sharing("time-slicing", NAMESPACE, "1", f"{AZURE} x 4")
    words = args(whole, "vllm-1")
    assert 0 < int(words[words.index("--kv-cache-memory-bytes") + 1]) < 40 * 2**30
    assert 0 < float(words[words.index("--gpu-memory-utilization") + 1]) < 0.5


def test_an_engine_in_a_slice_has_all_of_it() -> None:
    words = args(sharing("mig", NAMESPACE, "1", f"{AZURE} x 4"), "vllm-1")
    assert "--gpu-memory-utilization" not in words
    assert int(words[words.index("--kv-cache-memory-bytes") + 1]) < 20 * 2**30


def test_triton_on_a_part_is_told_in_its_repository() -> None:
    made = manifests(sharing("time-slicing", NAMESPACE, "1", f"{AZURE} x 6", ("triton",)))
    files = next(each for each in made if each["metadata"]["name"] == "triton-1-files")["data"]
    (told,) = [yaml.safe_load(text) for name, text in files.items() if name.endswith("model.json")]
    assert 0 < told["gpu_memory_utilization"] < 0.5
    assert told["kv_cache_memory_bytes"] < 40 * 2**30


@pytest.mark.parametrize("how", ["time-slicing", "mps", "mig"])
def test_isolation_is_said_as_a_decision(how: str) -> None:
    load = by_name(sharing(how, NAMESPACE, "1", f"{AZURE} x 4"))["vllm-1"]
    (decision,) = [each for each in load.decisions if each.subject == "shares"]
    assert ("isolates" if how != "mps" else "a fault of one ends them all") in decision.reason


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an engine that takes a part of all memory": ({"engine": "sglang", "share": "time-slice"}, "{}", "whoever else is there"),
    "several users under MPS": ({"engine": "triton", "share": "time-slice"}, "{sharing: mps}", "one user at a time"),
    "one process": ({"engine": "vllm", "share": "swap"}, "{}", "Write time-slice or mig"),
    "KAITO": ({"engine": "vllm", "share": "mig"}, "{target: kaito}", "KAITO gives whole GPUs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_sharing_that_cannot_be_is_refused_with_a_way_out(case: str) -> None:
    model, kubernetes, said = REFUSED[case]
    kind = (str({"source": "hf:a/b", "for": {"users": 4}, **model}), "safetensors")
    with pytest.raises(PlanError, match=said):
        cluster({"a": kind, "b": kind}, kubernetes, f"{AZURE} x 4")


FILE = """
models:
  a: {source: "hf:Qwen/Qwen3-0.6B", for: {users: 4}, share: SHARE}
  b: {source: "hf:Qwen/Qwen3-8B", for: {users: 4}, share: SHARE}
machine: MACHINE
kubernetes: {image: "r.example.com/headrace:1", sharing: HOW}
"""


@pytest.mark.parametrize(
    ("share", "how", "machine", "config"),
    [
        ("time-slice", "time-slicing", "{azure: Standard_NC24ads_A100_v4, max: 2}", "timeSlicing"),
        ("time-slice", "mps", "{azure: Standard_NC24ads_A100_v4, max: 2}", "mps"),
        ("mig", "time-slicing", "{azure: Standard_NC24ads_A100_v4, max: 2}", "mixed"),
        ("time-slice", "time-slicing", "2 x A100-80GB", "timeSlicing"),  # a machine that nobody rents
    ],
)
def test_what_the_cluster_is_told_is_apart_and_keeps_nvidias_rules(
    share: str, how: str, machine: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(FILE.replace("SHARE", share).replace("HOW", how).replace("MACHINE", machine))
    assert main(["render", str(file), "--offline", "-o", str(tmp_path / "k8s")]) == 0
    assert "gpu-sharing/ has how" in capsys.readouterr().err
    folder = tmp_path / "k8s" / "gpu-sharing"
    maps = [yaml.safe_load(each.read_text()) for each in folder.glob("configmap-*.yaml")]
    plugin = next(each for each in maps if each["metadata"]["name"] == "headrace-device-plugin")
    configs = {name: yaml.safe_load(text) for name, text in plugin["data"].items()}
    assert config in str(configs)
    assert [what for each in configs.values() for what in device_plugin.problems(each)] == []
    for cut in (each for each in maps if each is not plugin):
        assert list(mig.problems(yaml.safe_load(cut["data"]["config.yaml"]))) == []
    values = (folder / "values.yaml").read_text()
    assert "headrace-device-plugin" in values
    assert "helm upgrade --install" in values
    # They are not the namespace's: who applies the models does not apply them.
    assert "gpu-sharing" not in (tmp_path / "k8s" / "kustomization.yaml").read_text()


def test_memory_that_does_not_add_up_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two large models alone on their GPUs, and small ones: whoever shares may meet whoever shares."""
    file = tmp_path / "f.yaml"
    text = FILE.replace("SHARE", "time-slice").replace("HOW", "mps").replace("MACHINE", "{azure: Standard_NC24ads_A100_v4}")
    file.write_text(text.replace("Qwen3-8B", "Qwen3-32B"))
    assert main(["render", str(file), "--offline", "-o", str(tmp_path / "k8s")]) != 0
    assert "MPS gives each" in capsys.readouterr().err
    assert not (tmp_path / "k8s").exists()
