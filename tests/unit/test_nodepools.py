"""`headrace nodepool`: the machines for a file's models, as commands and as objects."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli import main
from headrace.facts import catalogue
from headrace.plan.nodepool import NodePool, Use, machines, pool_name
from headrace.plan.packing.base import Assignment
from headrace.spec.kubernetes import taint
from headrace.targets.nodepool import aks, karpenter
from headrace.targets.nodepool.base import Ask
from headrace.targets.sharing import budget
from headrace.targets.sharing.wiring import problems, wiring

SHARED = Path(os.environ.get("HEADRACE_SHARED", Path(__file__).parents[3] / "shared"))
SKU = catalogue.skus("azure")["Standard_NC24ads_A100_v4"]
POOL = NodePool("gpua100", SKU, 0, 3, (Use("chat", (0, 3), 1),))

FLEET = """
models:
  chat: {source: "hf:meta-llama/Meta-Llama-3.1-8B", replicas: 0..4, for: {users: 8}}
  small: {source: "hf:Qwen/Qwen3-0.6B", for: {users: 4}, share: SHARE}
  coder: {source: "hf:Qwen/Qwen3-8B", for: {users: 4}, share: SHARE}
  there: {url: "http://127.0.0.1:9"}
"""
NAMED = "machine: {azure: Standard_NC24ads_A100_v4, max: 6}\n"

SCRIPT = """\
# chat 0 to 4 x 1 GPU; small 1 x 1 GPU; coder 1 x 1 GPU: 2 to 6 machines of 1 x A100-80GB-PCIe
"""
COMMAND = """\
az aks nodepool add \\
  --resource-group "$GROUP" --cluster-name "$CLUSTER" \\
  --name gpua100 \\
  --mode User \\
  --node-vm-size Standard_NC24ads_A100_v4 \\
  --enable-cluster-autoscaler --min-count 2 --max-count 6 --node-count 2 \\
  --node-taints sku=gpu:NoSchedule \\
  --labels nvidia.com/gpu.present=true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text((FLEET + NAMED).replace("SHARE", "auto"))
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["nodepool", *arguments, "--offline"]) == 0
    return capsys.readouterr().out


def commands(script: str) -> list[list[str]]:
    """The commands of a script as a shell reads them, heredocs left out."""
    lines = script.replace("\\\n", " ").splitlines()
    return [words for line in lines if line.startswith(("az ", "kubectl ", "helm ")) and (words := shlex.split(line))]


def heredocs(script: str) -> list[Any]:
    return [yaml.safe_load(part.split("\nYAML\n")[0]) for part in script.split("<<'YAML'\n")[1:]]


def test_the_script_is_this_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, str(file))
    assert SCRIPT in script
    assert COMMAND in script
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0


def test_the_script_runs_nothing_without_a_cluster(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, str(file)).replace("az aks", "echo az aks")
    empty = subprocess.run(["sh"], input=script, text=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    assert empty.returncode != 0
    assert "the resource group of the cluster" in empty.stderr
    named = {"PATH": os.environ["PATH"], "GROUP": "my group", "CLUSTER": "c"}
    assert "--resource-group my group" in subprocess.run(["sh"], input=script, text=True, capture_output=True, env=named).stdout


def test_without_a_machine_in_the_file_it_is_the_cheapest_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text('models: {small: "hf:Qwen/Qwen3-0.6B"}\n')
    (words,) = commands(printed(capsys, str(tmp_path / "one.yaml")))
    assert words[words.index("--node-vm-size") + 1] in catalogue.skus("azure")


def test_more_machines_than_the_file_allows_are_not_asked_for(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("max: 6", "max: 4"))
    assert main(["nodepool", str(file), "--offline"]) == 0
    out, err = capsys.readouterr()
    assert "--max-count 4" in out
    assert "6 machines of Standard_NC24ads_A100_v4 would be needed" in err


REFUSED = [
    (["--machine", "2 x A100-80GB"], 64, "no machine that can be rented"),
    (["--machine", "azure:Standard_Nonsense"], 64, "is not a size of azure"),
    (["--sharing", "--machine", "azure"], 64, "machines of one size"),
    (["--machine", "azure:Standard_NV6ads_A10_v5"], 69, "models.chat"),
]


@pytest.mark.parametrize(("arguments", "code", "what"), REFUSED)
def test_what_cannot_be_is_told(
    arguments: list[str], code: int, what: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nodepool", str(file), "--offline", *arguments]) == code
    assert what in capsys.readouterr().err


hostile = st.text(alphabet="ab$`'\"\\ ;&|\n(){}*?<>!#=,é", max_size=12)


@given(hostile, hostile, st.lists(hostile, max_size=3))
def test_no_value_escapes_its_word_in_the_shell(key: str, value: str, zones: list[str]) -> None:
    ask = Ask(taints=(f"{key}={value}:NoSchedule",), labels={key: value}, zones=tuple(zones), spot=True)
    script = aks.commands([POOL], ask)
    start = script.index("az aks")
    words = shlex.split(script[start : script.index("\n# AKS taints")], comments=False)
    assert f"{key}={value}:NoSchedule" in words
    assert f"{key}={value}" in words
    assert words[words.index("--zones") + 1 :] == zones if zones else "--zones" not in words


FLAGS = [
    # a fixed count needs no autoscaler
    (NodePool("p", SKU, 2, 2, ()), Ask(), ["--node-count 2"], ["--enable-cluster-autoscaler"]),
    # a model that sleeps leaves no machine behind
    (POOL, Ask(), ["--enable-cluster-autoscaler --min-count 0 --max-count 3 --node-count 0"], ["--priority"]),
    (
        POOL,
        Ask(spot=True),
        ["--priority Spot --eviction-policy Delete --spot-max-price -1", "scalesetpriority=spot"],
        ["--zones"],
    ),
    (POOL, Ask(zones=("1", "3")), ["--zones 1 3"], []),
    (POOL, Ask(taints=(), labels={"workload": "gpu"}), ["--labels nvidia.com/gpu.present=true workload=gpu"], ["--node-taints"]),
]


@pytest.mark.parametrize(("pool", "ask", "there", "not_there"), FLAGS)
def test_flags_follow_what_is_asked(pool: NodePool, ask: Ask, there: list[str], not_there: list[str]) -> None:
    script = aks.commands([pool], ask)
    assert all(each in script for each in there)
    assert not any(each in script for each in not_there)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 9)), max_size=6))
def test_machines_hold_all_replicas_and_one_less_would_not(needs: list[tuple[int, int]]) -> None:
    """Where counts are powers of two, nothing is lost at the edges: it is the sum, rounded up."""
    assert machines(needs, 8) == -(-sum(gpus * count for gpus, count in needs) // 8)


@pytest.mark.parametrize("gpu", list(catalogue.gpus()))
def test_names_are_what_aks_takes(gpu: str) -> None:
    names = [pool_name(gpu, place) for place in range(40)]
    assert all(name.isascii() and name.isalnum() and name == name.lower() and len(name) <= 12 for name in names)
    assert len(set(names)) == len(names)


def test_sharing_wires_the_configuration_to_chart_nodes_and_taints(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("replicas: 0..4, ", ""))
    script = printed(capsys, str(file), "--sharing")
    (add, *_, helm), (config, values) = commands(script), heredocs(script)
    assert "nvidia.com/device-plugin.config=shared-3" in add
    assert set(config["data"]) == {"whole", "shared-3"}
    assert values["config"] == {"name": config["metadata"]["name"], "default": "whole"}
    assert config["metadata"]["namespace"] == helm[helm.index("--namespace") + 1]
    sku = {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
    assert sku in values["tolerations"]
    assert sku in values["nfd"]["worker"]["tolerations"]
    assert "Time slicing isolates neither memory nor faults" in script
    assert "--kv-cache-memory-bytes" in script


def test_slices_are_cut_by_mig_parted_where_aks_cannot(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text((FLEET + NAMED).replace("SHARE", "mig").replace("replicas: 0..4, ", ""))
    script = printed(capsys, str(file))
    plugin, parted, values = heredocs(script)
    (name,) = set(yaml.safe_load(parted["data"]["config.yaml"])["mig-configs"]) - {"all-disabled"}
    assert f"nvidia.com/mig.config={name}" in script
    assert values["migManager"]["config"]["name"] == parted["metadata"]["name"]
    assert yaml.safe_load(plugin["data"]["mig"])["flags"]["migStrategy"] == "mixed"
    assert plugin["metadata"]["namespace"] == parted["metadata"]["namespace"] == "gpu-operator"


def tenant(name: str, gib: int, share: Any = "time-slice") -> Assignment:
    return Assignment(name, 0, (("node-1", 0),), SKU.gpu.name, share, gib * 2**30, 2**29, "", cache_bytes=2**30)


def shared(*tenants: Assignment, slices: int = 2) -> NodePool:
    return NodePool("p", SKU, 1, 1, (), "shared", slices, (), tenants)


SUMS = [
    # two that fit, however they meet
    ([shared(tenant("a", 30), tenant("b", 30))], "time-slicing", []),
    # the scheduler may put the two large ones together
    ([shared(tenant("a", 50), tenant("b", 10), tenant("c", 50))], "time-slicing", ["if they meet on one GPU"]),
    # and one of another pool, as slices have one name everywhere
    ([shared(tenant("a", 50), tenant("b", 10)), shared(tenant("c", 50))], "time-slicing", ["if they meet"]),
    ([shared(tenant("a", 20), tenant("b", 20, "exclusive"))], "time-slicing", ["b has whole GPUs"]),
    # MPS gives each half
    ([shared(tenant("a", 45), tenant("b", 10))], "mps", ["MPS gives each"]),
]


@pytest.mark.parametrize(("pools", "how", "said"), SUMS)
def test_memory_that_does_not_add_up_is_told(pools: list[NodePool], how: Any, said: list[str]) -> None:
    found = list(budget.problems(pools[0], pools, how))
    assert len(found) == len(said)
    assert all(part in problem for part, problem in zip(said, found, strict=True))


def test_what_is_wired_takes_effect_and_what_is_not_is_found() -> None:
    taints = [taint("sku=gpu:NoSchedule"), taint("dedicated:NoExecute")]
    wired = wiring([shared(tenant("a", 30), tenant("b", 30))], "time-slicing", taints)
    assert problems(wired, taints) == []
    assert problems(wired, [*taints, taint("other=x:NoSchedule")]) == ["the taint other is not tolerated"]


def claim_schema() -> dict[str, Any]:
    """NodeClaim's spec without what a NodePool's template leaves out."""
    crd = yaml.load((SHARED / "crds/karpenter/karpenter.sh_nodeclaims.yaml").read_text(), Loader=yaml.CSafeLoader)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    closed = {**spec, "additionalProperties": False}
    closed["required"] = [key for key in spec["required"] if key != "resources"]
    return closed


@pytest.mark.skipif(not (SHARED / "crds" / "karpenter").is_dir(), reason="shared/crds is not here")
@pytest.mark.parametrize("ask", [Ask(), Ask(spot=True, zones=("westeurope-1",)), Ask(taints=("a:NoExecute", "b=c:NoSchedule"))])
def test_the_template_of_a_karpenter_pool_is_a_valid_claim(ask: Ask) -> None:
    made = karpenter.manifest(POOL, ask)
    jsonschema.validate(made["spec"]["template"]["spec"], claim_schema())


def test_karpenter_gets_objects_and_as_many_gpus_as_the_plan_needs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pool,) = yaml.safe_load_all(printed(capsys, str(file), "--karpenter"))
    assert pool["spec"]["limits"] == {"nvidia.com/gpu": "6"}
    assert pool["spec"]["disruption"] == {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "10m"}
    stream = printed(capsys, str(file), "--karpenter", "--sharing")
    assert [each["kind"] for each in yaml.safe_load_all(stream)][-1] == "ConfigMap"
