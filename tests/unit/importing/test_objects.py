"""Objects of Kubernetes, KAITO and KEDA, docker-compose and shell scripts → our file; bad input → where and why."""

import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.cli import main
from headrace.importing.base import NotImported
from headrace.importing.convert import File, Imported, convert
from headrace.importing.flags import LANGUAGES
from headrace.spec.load import loads
from headrace.weights.source import parse
from tests.unit.importing.manifests import deployment, of, said, spec

QWEN = "Qwen/Qwen2.5-7B-Instruct"
EXAMPLES = Path(os.environ.get("HEADRACE_SHARED", Path(__file__).parents[4] / "shared")) / "crds" / "examples"

SCALED = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "chat"},
    "spec": {
        "scaleTargetRef": {"name": "chat"},
        "minReplicaCount": 0,
        "maxReplicaCount": 8,
        "cooldownPeriod": 120,
        "triggers": [{"type": "prometheus", "metadata": {"query": "sum(vllm:num_requests_waiting)", "threshold": "12"}}],
    },
}


def test_a_scaled_object_becomes_a_range_a_threshold_and_a_time_to_sleep() -> None:
    scale = spec(of(deployment(args=[QWEN]), SCALED)).models["chat"].scale
    assert (scale.replicas, scale.queue, scale.idle) == ((0, 8), 12, 120)
    assert spec(of(deployment(args=[QWEN]), SCALED)).kubernetes.scaler == "keda"


def test_a_scaled_object_finds_its_workload_in_any_order_and_no_other() -> None:
    assert spec(of(SCALED, deployment(args=[QWEN]))).models["chat"].scale.replicas == (0, 8)
    other = of(SCALED, deployment(args=[QWEN], name="other"))
    assert spec(other).models["other"].scale.replicas is None
    assert "ScaledObject chat: what it scales is not among the files" in said(other)


def test_an_hpa_on_waiting_requests_is_carried_and_one_on_the_cpu_is_told() -> None:
    waiting = {"metric": {"name": "vllm_num_requests_waiting"}, "target": {"averageValue": "7"}}
    metrics: list[Any] = [{"type": "Pods", "pods": waiting}, {"type": "Resource", "resource": {"name": "cpu"}}]
    target = {"kind": "Deployment", "name": "chat"}
    hpa = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}}
    made = of(deployment(args=[QWEN]), {**hpa, "spec": {"scaleTargetRef": target, "maxReplicas": 4, "metrics": metrics}})
    scale = spec(made).models["chat"].scale
    assert (scale.replicas, scale.queue) == ((1, 4), 7)
    assert "not carried: metric Resource cpu" in said(made)


NAMES = [
    # (flags, Service, what clients may ask for, and the name of the model)
    # without a name of its own the model's path is what clients ask for
    ([QWEN], None, {"chat": None, QWEN: "chat"}),
    ([QWEN, "--served-model-name", "qwen"], None, {"qwen": None}),
    ([QWEN, "--served-model-name", "qwen", "gpt-4o"], None, {"qwen": None, "gpt-4o": "qwen"}),
    # the Service's name where it is another one
    ([QWEN, "--served-model-name", "qwen"], "front", {"qwen": None, "front": "qwen"}),
    ([QWEN], "chat", {"chat": None, QWEN: "chat"}),
    # a name that our file cannot have
    ([QWEN, "--served-model-name", "my model"], None, {"chat": None, QWEN: "chat"}),
]


@pytest.mark.parametrize(("args", "service", "names"), NAMES)
def test_clients_may_go_on_using_the_names_they_use(args: list[str], service: str | None, names: dict[str, str | None]) -> None:
    front = {"kind": "Service", "metadata": {"name": service}, "spec": {"selector": {"app": "chat"}}}
    made = spec(of(deployment(args=args), *([front] if service else [])))
    assert dict.fromkeys(made.models) | dict(made.aliases) == names


def test_two_models_of_one_name_are_both_kept() -> None:
    made = of(deployment(args=[QWEN]), deployment(args=["org/other"]))
    assert list(spec(made).models) == ["chat", "chat-2"]


def test_nodes_secret_and_storage_become_the_kubernetes_section() -> None:
    pod = {
        "nodeSelector": {"workload": "gpu"},
        "tolerations": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}, {"operator": "Exists"}],
        "volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": "weights"}}],
    }
    token = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}}
    storage = {"spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "azurefile-csi-premium"}}
    made = of(deployment(args=[QWEN], pod=pod, env=token), {**claim, **storage})
    cluster = spec(made).kubernetes
    assert (cluster.nodes.labels, cluster.nodes.taints) == ({"workload": "gpu"}, ("sku=gpu:NoSchedule",))
    assert (cluster.secret, cluster.storage.class_, cluster.storage.access) == ("hub", "azurefile-csi-premium", "many")
    assert "Secret hub needs the token under the key HF_TOKEN" in said(made)
    assert "toleration of everything" in said(made)


def kaito(**inference: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "ws"},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"a": "b"}}},
        "inference": inference,
    }


def test_a_preset_of_kaito_becomes_its_repository_and_the_machine_its_size() -> None:
    made = spec(of(kaito(preset={"name": "phi-4-mini-instruct", "presetOptions": {"modelAccessSecret": "hub"}})))
    assert made.models["phi-4-mini-instruct"].source == "hf:microsoft/Phi-4-mini-instruct"
    assert made.elsewhere == "azure:Standard_NC24ads_A100_v4"
    assert (made.kubernetes.target, made.kubernetes.secret, made.aliases) == ("kaito", "hub", {"ws": "phi-4-mini-instruct"})


def test_a_workspace_that_has_its_fields_below_spec_is_understood_and_told() -> None:
    right = kaito(preset={"name": "org/model"})
    wrong = {**{key: right[key] for key in ("kind", "metadata")}, "spec": {key: right[key] for key in ("resource", "inference")}}
    made = of(wrong)
    assert [model.source for model in spec(made).models.values()] == ["hf:org/model"]
    assert "decided: spec: a Workspace has no `spec`" in said(made)


def test_the_flags_in_a_config_of_kaito_are_read() -> None:
    config = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"inference_config.yaml": "vllm:\n  max-model-len: 4096\n"}}
    made = of(kaito(preset={"name": "phi-4"}, config="c"), config)
    assert spec(made).models["phi-4"].context == 4096
    assert "the ConfigMap is not among the files" in said(of(kaito(preset={"name": "phi-4"}, config="c")))


ANNOTATIONS = [
    ({"max-replicas": "8", "metrics": '- {name: "vllm:num_requests_waiting", type: gauge, upthreshold: 5, downthreshold: 1}'}, 5),
    # the pair of old scalers, which the current one refuses
    ({"max-replicas": "8", "metricName": "vllm:num_requests_waiting", "threshold": "5"}, 5),
    # nothing that can be read: the range is carried all the same
    ({"max-replicas": "8", "metrics": "{{{"}, 0),
]


@pytest.mark.parametrize(("annotations", "queue"), ANNOTATIONS)
def test_both_generations_of_kaitos_annotations_are_read(annotations: dict[str, str], queue: int) -> None:
    said_ = {f"scaledobject.kaito.sh/{key}": value for key, value in {"auto-provision": "true", **annotations}.items()}
    body = {key: value for key, value in kaito(preset={"name": "phi-4"}).items() if key in ("resource", "inference")}
    one = {"kind": "InferenceSet", "metadata": {"name": "s", "annotations": said_}, "spec": {"replicas": 2, "template": body}}
    scale = spec(of(one)).models["phi-4"].scale
    assert (scale.replicas, scale.queue) == ((1, 8), queue)


def test_a_list_and_several_documents_are_taken_apart_and_lines_are_the_files() -> None:
    text = f"---\n---\nkind: List\nitems:\n- {json.dumps(deployment(args=[QWEN, '--port', '1']))}\n---\n# nothing\n"
    made = convert([File("all.yaml", text)])
    assert list(spec(made).models) == ["chat"]
    assert "all.yaml:5: not needed: --port 1" in said(made)


def test_compose_and_shell_scripts_are_read() -> None:
    compose = f"services:\n  web: {{image: nginx}}\n  llm:\n    image: vllm/vllm-openai\n    command: --model {QWEN}\n"
    script = "docker run --gpus all -p 8000:8000 \\\n  vllm/vllm-openai:v0.11.0 --model org/one\nvllm serve org/two\n"
    made = spec(convert([File("compose.yaml", compose), File("run.sh", script)]))
    assert {name: model.source for name, model in made.models.items()} == {
        "one": "hf:org/one",
        "two": "hf:org/two",
        "llm": f"hf:{QWEN}",
    }


BAD = [
    # (text, what is said of it)
    ("a: b: c\n", "bad.yaml:1:5: is not valid YAML"),
    ("kind: Pod\nimage: '{{ .Values.image }}'\n", "bad.yaml:2:9: is a template of Helm"),
    ("{{- if .Values.x }}\nkind: Pod\n{{- end }}\n", "bad.yaml:1:1: is a template of Helm"),
    ("- a\n- b\n", "bad.yaml:1:1: is no object"),
    ("x: 1\n", "has no `kind`"),
    ("models: {chat: hf:org/name}\n", "is a file of Headrace's already"),
    ("kind: Kustomization\n", "kubectl kustomize"),
    ("", "There is no model in bad.yaml"),
    ("kind: Widget\nmetadata: {name: w}\n", "Headrace does not read this kind"),
    ("kind: Deploiment\nmetadata: {name: w}\n", "Did you mean Deployment?"),
    # Ollama, and an engine that names no model
    (json.dumps(deployment("ollama/ollama:0.5")), "Ollama keeps models in a store of its own"),
    (json.dumps(deployment()), "its command line names no model"),
    (json.dumps(deployment("nginx")), "no container of it runs an engine"),
    (json.dumps(deployment(args=["s3://bucket/model"])), "s3://bucket/model"),
    (json.dumps(deployment(args=["$(MODEL)"])), "a variable without a value"),
    ("a: &a [*a]\n", "is nested deeper"),
    ("[" * 100_000, "is nested deeper"),
    ("- {x: 1, y: [1, 2, 3]}\n" * 200_000, "holds more than 200000 values"),
    ("kind: Pod\nx: !!python/object:os.system y\n", "There is no model"),
]


@pytest.mark.parametrize(("text", "what"), BAD, ids=lambda value: value[:40])
def test_bad_input_is_told_with_its_place(text: str, what: str) -> None:
    with pytest.raises(NotImported) as error:
        convert([File("bad.yaml", text)])
    assert what in str(error.value)
    assert error.value.exit_code == 65


def test_every_bad_file_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("a: b: c")
    (tmp_path / "b.yaml").write_text("- 1")
    (tmp_path / "c.txt").write_text("not YAML, and not asked about")
    assert main(["import", str(tmp_path)]) == 65
    said_ = capsys.readouterr().err
    assert "a.yaml:1:5" in said_
    assert "b.yaml:1:1" in said_


def test_the_file_is_on_standard_output_and_the_notes_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.yaml").write_text(json.dumps(deployment(args=[QWEN, "--port", "1"])))
    assert main(["import", str(tmp_path / "d.yaml")]) == 0
    out, err = capsys.readouterr()
    assert list(loads(out).models) == ["chat"]
    assert "d.yaml:1: not needed: --port 1" in err
    assert "1 model; " in err


PATHS = [("nothing.yaml", "no such file"), ("chart", "helm template"), ("empty", "holds no .yaml"), ("latin.yaml", "not UTF-8")]


@pytest.mark.parametrize(("name", "what"), PATHS)
def test_paths_that_cannot_be_read(name: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chart").mkdir()
    (tmp_path / "chart" / "Chart.yaml").write_text("name: x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    assert main(["import", str(tmp_path / name)]) == 65
    assert what in capsys.readouterr().err


words = st.one_of(
    st.sampled_from(sorted(flag for language in LANGUAGES.values() for flag in (*language.takes, *language.short))),
    st.sampled_from(
        ["1", "0", "-1", "8k", "auto", "yes", "1:2", "012", "a=b", "org/name", "/m/x.bin", "$(X)", "~", "#", "x: y", "é"]
    ),
    st.text(string.printable, max_size=8),
)
images = st.sampled_from(["vllm/vllm-openai", "sglang", "text-generation-inference:3", "llama.cpp:server", "tritonserver", "x"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(images, st.lists(words, max_size=10), st.text(max_size=12), st.integers(-3, 90), st.text(max_size=6))
def test_whatever_is_imported_loads(image: str, args: list[str], name: str, replicas: int, label: str) -> None:
    pod = {"nodeSelector": {label: label}, "tolerations": [{"key": label, "value": name, "effect": "NoSchedule"}]}
    one = deployment(image, [QWEN, *args], name=name, pod=pod)
    one["spec"]["replicas"] = replicas
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": name, "key": "t"}}}]
    one["spec"]["template"]["spec"]["containers"][0]["env"] = env
    scaled = {"kind": "ScaledObject", "metadata": {}, "spec": {"scaleTargetRef": {"name": name}, "maxReplicaCount": replicas}}
    service = {"kind": "Service", "metadata": {"name": label}, "spec": {"selector": {"app": name}}}
    try:
        made = of(one, scaled, service)
    except NotImported:
        return
    loads(made.text, check_source=parse)


def imported(file: File) -> Imported | None:
    """None for a file without a model in it, whose kind is told."""
    try:
        return convert([file])
    except NotImported as error:
        if f"{file.name}:1: not" in str(error):
            return None
        raise


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="shared/crds is not here")
def test_the_manifests_that_people_start_from_are_imported() -> None:
    """Each by itself, or with a word on why there is no model in it; and all of them together."""
    seeds = [
        File(file.name, file.read_text()) for kind in ("good", "snippet") for file in sorted(EXAMPLES.glob(f"{kind}-*.yaml"))
    ]
    without = set()
    for seed in seeds:
        if made := imported(seed):
            loads(made.text, check_source=parse)
        else:
            without.add(seed.name)
    served = {file.name for file in seeds} - without
    assert served == {
        "good-vllm.yaml",
        "snippet-vllm.yaml",
        *(f"good-kaito-{kind}.yaml" for kind in ("infset", "ws-preset", "ws-template")),
    }
    together = loads(convert(seeds).text, check_source=parse)
    assert len(together.models) == 5
    assert together.models["vllm-llama2"].scale.replicas == (1, 8)
