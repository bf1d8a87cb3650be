"""Our own linter finds nothing in what we render, and much in what people start from, of which rendering leaves nothing."""

from pathlib import Path

import pytest
import yaml

from headrace.cli import main
from headrace.facts import catalogue
from headrace.importing.convert import File as Imported
from headrace.importing.convert import convert
from headrace.lint.checker import File, check
from headrace.plan.nodepool import NodePool, Use
from headrace.spec.load import loads
from headrace.targets.manifests.base import Cluster
from headrace.targets.manifests.known import Known
from headrace.targets.manifests.manifests import files, manifests
from headrace.targets.manifests.placing import workload
from headrace.targets.nodepool import aks
from headrace.targets.nodepool.base import Ask
from headrace.weights.source import parse
from tests.known_models import LLAMA_8B
from tests.unit.manifests.clusters import AZURE, ground, with_outside
from tests.unit.manifests.crds import FOLDER, needs_crds
from tests.unit.manifests.test_valid import CASES, EXPOSURES, made_of

MEANT = {
    "HR311",  # TGI is in maintenance mode: it is rendered for who asks for it
    "HR607",  # the token's Secret is named and never written: promise 11
}
ROTATED = [case for place, case in enumerate(CASES) if place // len(EXPOSURES) % len(EXPOSURES) == place % len(EXPOSURES)]
"""Every engine, target, sharing and scaler, each with one of the exposures."""


def found(texts: dict[str, str]) -> set[str]:
    """What is found, in words; but for what is meant."""
    findings = check([File(name, text) for name, text in texts.items()]).findings
    return {f"{each.code} {each.file}:{each.line}: {each.what}" for each in findings if each.code not in MEANT}


@pytest.mark.parametrize("case", ROTATED, ids=lambda case: "-".join(part.replace(" ", "") or "cpu" for part in case))
def test_nothing_is_found_in_what_is_rendered(case: tuple[str, str, str, str]) -> None:
    made = manifests(with_outside(made_of(*case), url=["http://there:1"], key="env:THERE_KEY"))
    assert found(files(made)) == set()


SHARED = """
models:
  a: {source: "hf:Qwen/Qwen3-0.6B", for: {users: 4}, share: SHARE}
  b: {source: "hf:Qwen/Qwen3-8B", for: {users: 4}, share: SHARE}
machine: {azure: Standard_NC24ads_A100_v4, max: 2}
kubernetes: {image: "r.example.com/headrace:1"}
"""


@pytest.mark.parametrize("share", ["time-slice", "mig"])
def test_nothing_is_found_in_how_gpus_are_shared(share: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(SHARED.replace("SHARE", share))
    assert main(["render", str(file), "--offline", "-o", str(tmp_path / "k8s")]) == 0
    texts = {str(each.relative_to(tmp_path)): each.read_text() for each in (tmp_path / "k8s").rglob("*.yaml")}
    assert any("gpu-sharing" in name for name in texts)
    assert found(texts) == set()


def imported(names: list[str]) -> Cluster:
    """The cluster of the file that the import makes of examples."""
    spec = loads(convert([Imported(name, (FOLDER / "examples" / name).read_text()) for name in names]).text, check_source=parse)
    machines = ground(AZURE)
    known = Known(facts=LLAMA_8B, source="hf:meta-llama/Llama-2-7b-chat-hf@" + "0" * 40)
    loads_ = tuple(workload(name, model, known, machines, spec.kubernetes) for name, model in spec.models.items())
    return Cluster(spec.kubernetes, loads_, "1.0", aliases=dict(spec.aliases))


SNIPPETS = ["snippet-vllm.yaml", "snippet-keda-so.yaml", "snippet-device-plugin.yaml"]


@needs_crds
def test_what_people_start_from_is_full_of_mistakes_and_what_comes_of_it_has_none() -> None:
    before = {each.partition(" ")[0] for each in found({name: (FOLDER / "examples" / name).read_text() for name in SNIPPETS})}
    # Facts: lint-evidence.md says that the three break more than twenty-five rules; these are named in keda-hpa.md, section 7.
    assert {"HR101", "HR103", "HR104", "HR105", "HR106", "HR109", "HR110", "HR113", "HR201", "HR301", "HR501", "HR503"} <= before
    assert len(before) >= 20
    whole = imported(SNIPPETS[:2])
    # One thing is not the manifests' to mend: the label of the nodes, which nobody sets. The command for the pool does.
    (label,) = found(files(manifests(whole)))
    assert label.startswith("HR411 vllm-llama2/deployment.yaml")
    sku = catalogue.skus("azure")["Standard_NC24ads_A100_v4"]
    pool = NodePool("gpu", sku, 1, 8, (Use("vllm-llama2", (1, 8), 1),))
    assert "workload=gpu" in aks.commands([pool], Ask(whole.spec.nodes.taints, whole.spec.nodes.labels))


@needs_crds
def test_what_was_meant_in_it_is_still_there() -> None:
    made = manifests(imported(SNIPPETS[:2]))
    scaled = next(each for each in made if each["kind"] == "ScaledObject")["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 8)
    pod = next(each for each in made if each["kind"] == "Deployment" and each["metadata"]["name"] == "vllm-llama2")
    template = pod["spec"]["template"]["spec"]
    assert template["nodeSelector"] == {"workload": "gpu"}
    assert "4096" in template["containers"][0]["args"]
    told = yaml.safe_load(
        next(each for each in made if each["metadata"]["name"] == "gateway" and "data" in each)["data"]["gateway.json"]
    )
    assert told["aliases"] == {"meta-llama/Llama-2-7b-chat-hf": "vllm-llama2"}  # clients go on to say the name they know
