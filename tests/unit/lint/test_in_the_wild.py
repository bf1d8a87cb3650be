"""What was wrong when rules met other people's files: alarms that were false, and mistakes that went unseen. Each row is one."""

import json
from typing import Any

import pytest

from headrace.lint.base import Finding
from headrace.lint.checker import File, check

ENGINE: dict[str, Any] = {"name": "engine", "image": "vllm/vllm-openai:v0.11.0", "args": ["org/model"]}
GPU = {"limits": {"nvidia.com/gpu": "1"}}


def deployment(
    container: dict[str, Any], spec: dict[str, Any] | None = None, pod: dict[str, Any] | None = None
) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [{**ENGINE, **container}], **(pod or {})}}
    selector = {"selector": {"matchLabels": {"app": "chat"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat"},
        "spec": {**selector, **(spec or {}), "template": template},
    }


def service(**port: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat"},
        "spec": {"selector": {"app": "chat"}, "ports": [port]},
    }


def hpa(name: str = "chat", **metric: Any) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric], "behavior": {"scaleUp": {}}}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": spec}


def pods(name: str) -> dict[str, Any]:
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": "4"}}}


def volume(kind: dict[str, Any], path: str) -> dict[str, Any]:
    return deployment({"volumeMounts": [{"name": "v", "mountPath": path}]}, pod={"volumes": [{"name": "v", **kind}]})


def compose(**more: Any) -> dict[str, Any]:
    return {"services": {"chat": {"image": "vllm/vllm-openai:v0.11.0", "command": ["--model", "org/model"], **more}}}


def runtime(*args: str) -> dict[str, Any]:
    container = {"name": "kserve-container", "image": "vllm/vllm-openai:latest", "args": ["--model=/mnt/models", *args]}
    spec = {"supportedModelFormats": [{"name": "vLLM"}], "containers": [container]}
    return {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": {"name": "vllm"}, "spec": spec}


def isvc(**model: Any) -> dict[str, Any]:
    spec = {"predictor": {"model": {"modelFormat": {"name": "huggingface"}, **model}}}
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "chat"}, "spec": spec}


def query(text: str) -> dict[str, Any]:
    trigger = {"type": "prometheus", "metadata": {"serverAddress": "http://p.m:9090", "query": text, "threshold": "4"}}
    spec = {"scaleTargetRef": {"name": "chat"}, "triggers": [trigger]}
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "chat"}, "spec": spec}


def slicing(name: str = "shared", entry: str = "any") -> dict[str, Any]:
    text = "version: v1\nsharing:\n  timeSlicing:\n    resources:\n    - {name: nvidia.com/gpu, replicas: 4}\n"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {entry: text}}


def node(label: str) -> dict[str, Any]:
    labels = {"nvidia.com/device-plugin.config": label}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-1", "labels": labels}}


def mig(profile: str) -> dict[str, Any]:
    return {"version": "v1", "mig-configs": {"some": [{"devices": "all", "mig-enabled": True, "mig-devices": {profile: 2}}]}}


def found(*objects: dict[str, Any]) -> list[Finding]:
    """Findings over these objects in one file (JSON is YAML)."""
    return check([File("x.yaml", "\n---\n".join(json.dumps(one) for one in objects))]).findings


def surge(replicas: int, **rolling: Any) -> dict[str, Any]:
    return deployment({"resources": GPU}, {"replicas": replicas, "strategy": {"rollingUpdate": rolling}})


SILENT = [
    ("HR207", "25 % of 40 may be taken away: GPUs are freed as the rollout goes", [surge(40)]),
    ("HR207", "one old pod goes first", [surge(1, maxSurge=1, maxUnavailable=1)]),
    ("HR301", "a front end beside an engine", [deployment({"image": "example/vllm-frontend:latest", "args": ["--", "--x=1"]})]),
    ("HR301", "a nightly build of a commit", [deployment({"image": "vllm/vllm-openai:nightly-0123456789abcdef"})]),
    ("HR301", "a version with a word that moves", [deployment({"image": "example/vllm:main-v0.11.0"})]),
    ("HR305", "a claim beside devices", [volume({"persistentVolumeClaim": {"claimName": "models"}}, "/models")]),
    ("HR306", "the name of a secret", [deployment({"env": [{"name": "API_SECRET", "value": "chat-keys-2024-production"}]})]),
    ("HR306", "the path of an object", [deployment({"env": [{"name": "S3_KEY", "value": "models/Qwen3-32B-v2-2024"}]})]),
    ("HR306", "no value", [deployment({"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": ""}]})]),
    ("HR404", "parallelism by a variable", [deployment({"args": ["org/model", "-pp", "$(NODES)"], "resources": GPU})]),
    ("HR414", "a GPU by another name", [deployment({"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}})]),
    ("HR414", "a runtime class that brings GPUs", [deployment({}, pod={"runtimeClassName": "nvidia"})]),
    ("HR414", "an image for CPUs", [deployment({"image": "lmsysorg/sglang:v0.5.0-xeon", "args": ["--model-path", "org/model"]})]),
    (
        "HR414",
        "devices are added by an overlay",
        [deployment({}), {"apiVersion": "kustomize.config.k8s.io/v1", "kind": "Kustomization"}],
    ),
    ("HR511", "compute instances of a slice", [mig("1c.3g.20gb")]),
    ("HR609", "the machine's own address", [compose(ports=["127.0.0.1:8000:8000"])]),
    ("HR609", "a key", [compose(ports=["8000:8000"], environment={"VLLM_API_KEY": "${KEY}"})]),
    (
        "HR613",
        "a port by its name",
        [deployment({"ports": [{"name": "api", "containerPort": 8000}]}), service(port=80, targetPort="api")],
    ),
    (
        "HR613",
        "a port of another container",
        [
            deployment(
                {},
                pod={
                    "initContainers": [
                        {"name": "proxy", "image": "example/proxy:1", "restartPolicy": "Always", "args": ["--listen=8443"]}
                    ]
                },
            ),
            service(port=8443),
        ],
    ),
    ("HR613", "an image of one's own", [deployment({"image": "example/my-vllm:1.0"}), service(port=8080)]),
    ("HR613", "a port by a variable", [deployment({"args": ["org/model", "--port", "$(PORT)"]}), service(port=9000)]),
    (
        "HR607",
        "two that might be meant",
        [
            deployment({"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]}),
            *({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"hub-{n}"}} for n in ("read", "write")),
        ],
    ),
    ("HR112", "an HPA by CPU of what has no GPU", [deployment({}), hpa(type="Resource", resource={"name": "cpu"})]),
    ("HR106", "running requests", [hpa(**pods("vllm_num_requests_running"))]),
    ("HR101", "a name that a collector made", [query("sum(vllm:num_requests_running_gauge)")]),
]

SAID = [
    (
        "HR605",
        "a setting beside vllmConfig",
        [{"servingEngineSpec": {"modelSpec": [{"name": "m", "modelURL": "org/model", "tensorParallelSize": 2}]}}],
        "Move it into vllmConfig.",
    ),
    (
        "HR407",
        "a profile of KubeAI",
        [
            {
                "apiVersion": "kubeai.org/v1",
                "kind": "Model",
                "metadata": {"name": "big"},
                "spec": {"engine": "VLLM", "url": "hf://Qwen/Qwen3-235B-A22B", "resourceProfile": "nvidia-gpu-h100:1"},
            }
        ],
        "--machine '8 x H100-80GB'",
    ),
    ("HR101", "without num_", [query('avg(vllm_requests_running{model="m"})')], "Write vllm:num_requests_running."),
    (
        "HR106",
        "an HPA on waiting alone",
        [hpa(**pods("prometheus.googleapis.com|vllm:num_requests_waiting|gauge"))],
        "Sum waiting",
    ),
    ("HR112", "an HPA by CPU", [deployment({"resources": GPU}), hpa(type="Resource", resource={"name": "cpu"})], "its cpu says"),
    ("HR301", "a nightly build of a CUDA", [deployment({"image": "vllm/vllm-openai:cu130-nightly"})], "cu130-nightly"),
    ("HR203", "a nightly build of a CUDA", [deployment({"image": "vllm/vllm-openai:cu130-nightly"})], "--shutdown-timeout"),
    ("HR301", "in a runtime of KServe", [runtime()], "vllm-openai:latest"),
    ("HR310", "in a runtime of KServe", [runtime("--trust-remote-code")], "Python code"),
    ("HR310", "for a runtime of KServe", [isvc(args=["--trust_remote_code"], storageUri="hf://org/model")], "whatever is there"),
    ("HR305", "an ephemeral volume", [volume({"ephemeral": {"volumeClaimTemplate": {}}}, "/data")], "an ephemeral volume"),
    ("HR305", "a device is no cache", [volume({"hostPath": {"path": "/dev/kfd"}}, "/dev/kfd")], "no volume keeps it"),
    (
        "HR306",
        "a key of a cloud",
        [deployment({"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "wJ4lrX7UtnF1MIK7MDENGbPx9fiCY2zz0Q8"}]})],
        "written out",
    ),
    ("HR306", "in docker-compose", [compose(environment={"HF_TOKEN": "hf_" + "a" * 30})], "written out"),
    (
        "HR311",
        "TGI in another registry",
        [deployment({"image": "registry.example/hf-tgi-serve:2024", "args": ["--model-id=org/model"]})],
        "maintenance",
    ),
    ("HR320", "serve given to the image", [deployment({"args": ["serve", "org/model"]})], "taken for the model"),
    (
        "HR408",
        "a size with a T4",
        [
            {
                "apiVersion": "kaito.sh/v1beta1",
                "kind": "Workspace",
                "metadata": {"name": "w"},
                "resource": {"instanceType": "Standard_NC4as_T4_v3"},
            }
        ],
        "too old",
    ),
    ("HR414", "CUDA without a GPU", [deployment({})], "finds no device"),
    ("HR501", "a label that names the ConfigMap", [slicing(), node("shared")], "Write one of any."),
    (
        "HR503",
        "in values of the GPU Operator",
        [{"devicePlugin": {"config": {"create": True, "data": slicing()["data"]}}}],
        "two slices of one",
    ),
    (
        "HR605",
        "what is scaled by an old name",
        [
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "chat"},
                "spec": {"scaleTargetRef": {"apiVersion": "apps/v1beta1", "kind": "Deployment", "name": "chat"}},
            }
        ],
        "Write apps/v1.",
    ),
    (
        "HR606",
        "a pool of the old group",
        [{"apiVersion": "inference.networking.x-k8s.io/v1alpha2", "kind": "InferencePool", "metadata": {"name": "p"}}],
        "any more",
    ),
    (
        "HR607",
        "a name without its prefix",
        [
            deployment({}, pod={"volumes": [{"name": "c", "configMap": {"name": "plugins"}}]}),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "picker-plugins"}},
        ],
        "Did you mean picker-plugins?",
    ),
    ("HR609", "docker-compose", [compose(ports=["${PORT:-8000}:8000"])], "Write 127.0.0.1:"),
    ("HR613", "a declared port opens nothing", [deployment({}), service(port=80, targetPort=8080)], "Write targetPort: 8000."),
    (
        "HR613",
        "a name that no port has",
        [deployment({"ports": [{"name": "http", "containerPort": 8000}]}), service(port=80, targetPort="api")],
        "no port called api",
    ),
]


@pytest.mark.parametrize(("code", "why", "objects"), SILENT, ids=lambda value: value if isinstance(value, str) else "")
def test_a_false_alarm_is_not_given(code: str, why: str, objects: list[dict[str, Any]]) -> None:
    assert [each for each in found(*objects) if each.code == code and each.severity != "info"] == [], why


@pytest.mark.parametrize(("code", "why", "objects", "says"), SAID, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_is_seen(code: str, why: str, objects: list[dict[str, Any]], says: str) -> None:
    assert [each for each in found(*objects) if each.code == code and says in each.sentence], why


def test_one_engine_by_a_variable_does_not_silence_the_others() -> None:
    first = deployment({"args": ["org/model", "-pp", "$(NODES)"], "resources": GPU})
    second = deployment({"args": ["org/model", "-tp", "4"], "resources": GPU})
    assert [each.code for each in found(first, second) if each.code == "HR404"] == ["HR404"]


def test_two_scalers_in_two_files_may_be_a_choice() -> None:
    one, other = hpa("a", **pods("x")), hpa("b", **pods("y"))
    apart = check([File("a.yaml", json.dumps(one)), File("b.yaml", json.dumps(other))]).findings
    assert {each.severity for each in apart if each.code == "HR114"} == {"warning"}
    assert {each.severity for each in found(one, other) if each.code == "HR114"} == {"error"}


def test_a_count_that_two_scalers_own_is_said_once() -> None:
    said = [each for each in found(deployment({}, {"replicas": 1}), hpa("a"), hpa("b")) if each.code == "HR113"]
    assert [each.what for each in said] == [
        "Every apply sets Deployment chat back to 1 replica: HorizontalPodAutoscaler a scales it."
    ]


def test_a_merge_that_was_not_resolved_is_called_so() -> None:
    text = "apiVersion: v1\nkind: Service\n<<<<<<< HEAD\nspec: {}\n=======\nspec: {ports: []}\n>>>>>>> theirs\n"
    said = [(each.line, each.what) for each in check([File("x.yaml", text)]).findings if each.code == "HR001"]
    assert said == [(3, "It is not valid YAML: a merge was not resolved here.")]


@pytest.mark.parametrize(
    ("backend", "said"), [("python", True), ("pytorch_libtorch", True), ("onnxruntime", False), ("vllm", False)]
)
def test_triton_batches_by_itself_for_some_backends(backend: str, said: bool) -> None:
    text = f'name: "m"\nbackend: "{backend}"\nmax_batch_size: 8\n'
    assert [each.line for each in check([File("config.pbtxt", text)]).findings if each.code == "HR319"] == [3] * said


OTHERS = [
    ("HR613", [deployment({"args": ["org/model", "--port", "8080"]})], [deployment({}), service(port=8000)]),
    ("HR510", [deployment({"resources": {"limits": {"nvidia.com/gpu": "8"}}})], [slicing()]),
    (
        "HR607",
        [deployment({"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]})],
        [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"HF_TOKEN": ""}}],
    ),
]


@pytest.mark.parametrize(("code", "here", "there"), OTHERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_folder_of_examples_is_many_projects(code: str, here: list[dict[str, Any]], there: list[dict[str, Any]]) -> None:
    """What stands in another example's folder is not for this one; in one folder it is."""
    texts = ["\n---\n".join(json.dumps(one) for one in objects) for objects in (here, there)]
    apart = check([File("a/x.yaml", texts[0]), File("b/y.yaml", texts[1])]).findings
    together = check([File("a/x.yaml", texts[0]), File("a/y.yaml", texts[1])]).findings
    assert code not in {each.code for each in apart if each.severity != "info"}
    assert code in {each.code for each in together if each.severity != "info"}


@pytest.mark.parametrize(("version", "said"), [("1.4.3", 0), ("3.3.7", 1)])
def test_an_old_tgi_knows_the_old_name_of_the_token_only(version: str, said: int) -> None:
    image = f"ghcr.io/huggingface/text-generation-inference:{version}"
    token = {"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    one = deployment({"image": image, "args": ["--model-id", "org/model"], "env": [token]})
    assert [each.code for each in found(one)].count("HR304") == said
