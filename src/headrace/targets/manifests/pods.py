"""The pod of a replica: container, probes, volumes, what it may do, and which nodes it goes to."""

from math import ceil

from headrace.engines import engines, triton_config
from headrace.runners.triton_config import Config
from headrace.spec.kubernetes import taint
from headrace.targets.manifests.base import (
    ENGINE,
    GPU,
    PORT,
    PORT_NAME,
    Cluster,
    Manifest,
    Workload,
    gibibytes,
    mebibytes,
    selector,
)
from headrace.targets.manifests.containers import CONTAINERS, HOME, run
from headrace.targets.manifests.known import CODE, READY, WEIGHTS

PRE_STOP_SECONDS = 10
"""Between the end of its endpoint and SIGTERM: routes to it are taken away meanwhile (KServe: 15 s)."""

_LEAST_BUDGET_SECONDS = 600
"""For a start: KServe's for language models. A budget that is too small is a loop of restarts."""

_SHM = "2Gi"
_SCRATCH = "8Gi"
VOLUME_GROUP = 1000
"""Of all pods: what the Job has written, engines of other users may read."""


def template(cluster: Cluster, load: Workload) -> Manifest:
    """The pod template of a Deployment."""
    user, group = CONTAINERS[load.placement.engine].user, CONTAINERS[load.placement.engine].group
    spec: Manifest = {
        "serviceAccountName": load.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # VLLM_PORT=tcp://… of a Service called vllm stops vLLM
        "terminationGracePeriodSeconds": grace_seconds(cluster, load),
        "securityContext": pod_security(user, group),
        **nodes(cluster, load),
        **({"topologySpreadConstraints": [spread(load.name, ENGINE)]} if load.replicas[1] > 1 else {}),
        **({"initContainers": [_first(cluster, load)]} if load.weights else {}),
        "containers": [container(cluster, load)],
        "volumes": _volumes(cluster, load),
    }
    return {"metadata": {"labels": pod_labels(cluster, load)}, "spec": spec}


def pod_labels(cluster: Cluster, load: Workload) -> dict[str, str]:
    return {**selector(load.name, ENGINE), "headrace/engine": load.placement.engine}


def grace_seconds(cluster: Cluster, load: Workload) -> int:
    """From the wish to end it until it is killed: preStop, then draining, then what the engine takes to end."""
    ends = max(10, ceil(engines()[load.placement.engine].grace_seconds))
    return PRE_STOP_SECONDS + cluster.drain_seconds + ends


def container(cluster: Cluster, load: Workload) -> Manifest:
    """The engine's container."""
    runs, about = run(load.placement, cluster.drain_seconds), CONTAINERS[load.placement.engine]
    ports = [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]
    if about.metrics_port != PORT:
        ports.append({"name": "metrics", "containerPort": about.metrics_port, "protocol": "TCP"})
    return {
        "name": ENGINE,
        "image": cluster.image_of(load),
        "imagePullPolicy": "IfNotPresent",
        **({"command": list(runs.command)} if runs.command else {}),
        "args": list(runs.args),
        "env": [{"name": name, "value": value} for name, value in sorted(runs.environment.items())],
        "ports": ports,
        **probes(load),
        "lifecycle": pre_stop(),
        "resources": resources(load),
        "securityContext": container_security(),
        "volumeMounts": _mounts(load),
    }


def probes(load: Workload) -> Manifest:
    """Started: a budget of three times the planned load. Ready: at once out of the Service. Alive: patient with a busy engine."""
    engine, about = engines()[load.placement.engine], CONTAINERS[load.placement.engine]
    ready = {"httpGet": {"path": engine.ready(load.placement), "port": PORT_NAME}}
    alive = {"httpGet": {"path": about.live_path, "port": PORT_NAME}} if about.live_path else ready
    budget = max(_LEAST_BUDGET_SECONDS, 3 * load.load_seconds)
    return {
        "startupProbe": {**ready, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": ceil(budget / 10)},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 10},
    }


def pre_stop() -> Manifest:
    return {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_SECONDS)]}}}


def resources(load: Workload) -> Manifest:
    """GPUs and parts of them are counted whole, and requests equal limits. CPU has no limit, which would only throttle."""
    asked = {"cpu": str(load.need.cores), "memory": mebibytes(load.need.memory_bytes)}
    if not load.need.gpus:
        return {"requests": asked, "limits": {"memory": asked["memory"]}}
    gpus = {load.need.resource: str(load.need.gpus)}
    # Weights are read through the page cache of the pod, which a limit on memory would make it do without.
    return {"requests": {**asked, **gpus}, "limits": gpus}


def pod_security(user: int, group: int) -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": VOLUME_GROUP,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def nodes(cluster: Cluster, load: Workload) -> Manifest:
    """Selector and tolerations, both: a toleration neither attracts nor keeps others away."""
    made: Manifest = {"nodeSelector": dict(load.need.selector)} if load.need.selector else {}
    if load.need.gpus:
        made["tolerations"] = tolerations(cluster)
    return made


def tolerations(cluster: Cluster) -> list[Manifest]:
    """Those of the user's pools, and the one that managed GPU pools come with."""
    tolerated = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    for text in cluster.spec.nodes.taints:
        key, value, effect = taint(text)
        how = {"operator": "Exists"} if not value else {"operator": "Equal", "value": value}
        tolerated.append({"key": key, **how, "effect": effect})
    return tolerated


def fetching(cluster: Cluster, load: Workload) -> Manifest:
    """`headrace pull` into the model's volume. The link that it makes last says that all is there, checked."""
    return {
        "name": "pull",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["headrace"],
        "args": ["pull", "/config/headrace.yaml", "--link", load.placement.weights],
        "env": [{"name": "HOME", "value": HOME}, *token(cluster)],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "weights", "mountPath": WEIGHTS},
            {"name": "pull", "mountPath": "/config", "readOnly": True},
            {"name": "tmp", "mountPath": HOME},
        ],
    }


def token(cluster: Cluster) -> list[Manifest]:
    """The token by reference: its value is in no manifest."""
    secret = cluster.spec.secret
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "HF_TOKEN"}}}] if secret else []


def scratch() -> Manifest:
    return {"name": "tmp", "emptyDir": {"sizeLimit": _SCRATCH}}


def pull_settings(load: Workload) -> Manifest:
    return {"name": "pull", "configMap": {"name": f"{load.weights}-pull"}}


def weights_claim(load: Workload, *, read_only: bool) -> Manifest:
    claim: Manifest = {"claimName": load.weights}
    return {"name": "weights", "persistentVolumeClaim": {**claim, "readOnly": True} if read_only else claim}


def repository(load: Workload) -> dict[str, bytes]:
    """The files of Triton's model repository by their paths, where it is one."""
    options, name = load.placement.options, load.placement.model
    if load.placement.engine != "triton":
        return {}
    if options["kind"] == "onnx":
        config = Config("onnxruntime", instances=options["instances"])  # tensors and batching Triton reads of the graph
        files = triton_config.repository(name, "onnxruntime", config)
        (content,) = load.files.values()
        return {**{path: text.encode() for path, text in files.items()}, f"{name}/1/model.onnx": content}
    arguments = {
        "model": load.placement.weights,
        "max_model_len": load.placement.context,
        "max_num_seqs": load.placement.slots,
        "max_num_batched_tokens": options["step_tokens"],
        "tensor_parallel_size": options["tensor_parallel"],
        "pipeline_parallel_size": options["pipeline"],
        "kv_cache_memory_bytes": options["cache_bytes"],
        "gpu_memory_utilization": options.get("utilization"),
        "quantization": options["quantization"] or None,
    }
    said = {key: value for key, value in arguments.items() if value is not None}
    return {path: text.encode() for path, text in triton_config.repository(name, "vllm", Config("vllm"), said).items()}


def mounted(load: Workload) -> dict[str, bytes]:
    """Files that the pod gets from a ConfigMap, by their paths below where it is mounted."""
    return repository(load) or dict(load.files)


def file_key(path: str) -> str:
    """The key of a path in a ConfigMap, which takes no slashes."""
    return path.replace("/", "__")


def _volumes(cluster: Cluster, load: Workload) -> list[Manifest]:
    volumes: list[Manifest] = [scratch()]
    if load.need.shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM}})
    volumes += _weights_volumes(cluster, load)
    if files := mounted(load):
        items = [{"key": file_key(path), "path": path} for path in sorted(files)]
        volumes.append({"name": "files", "configMap": {"name": f"{load.name}-files", "items": items}})
    return volumes


def _weights_volumes(cluster: Cluster, load: Workload) -> list[Manifest]:
    if load.weights_image:
        return [{"name": "weights", "image": {"reference": load.weights_image, "pullPolicy": "IfNotPresent"}}]
    if not load.weights:
        return []
    match cluster.spec.storage.access:
        case "many":
            return [weights_claim(load, read_only=True)]
        case "once":
            return [weights_claim(load, read_only=False), pull_settings(load)]
        case "each":
            made = {"metadata": {"labels": selector(load.name, ENGINE)}, "spec": claim_spec(cluster, load)}
            return [{"name": "weights", "ephemeral": {"volumeClaimTemplate": made}}, pull_settings(load)]


def claim_spec(cluster: Cluster, load: Workload) -> Manifest:
    """What a model's volume has to be."""
    many = cluster.spec.storage.access == "many"
    spec: Manifest = {
        "accessModes": ["ReadWriteMany" if many else "ReadWriteOnce"],
        "resources": {"requests": {"storage": volume_size(cluster, load)}},
    }
    return {**spec, "storageClassName": cluster.spec.storage.class_} if cluster.spec.storage.class_ else spec


def _mounts(load: Workload) -> list[Manifest]:
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": HOME}]
    if load.need.shm:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if load.weights or load.weights_image:
        # What is at the image's root is where the link to fetched weights would be.
        mounts.append({"name": "weights", "mountPath": READY if load.weights_image else WEIGHTS, "readOnly": True})
    if mounted(load):
        mounts.append({"name": "files", "mountPath": "/models" if load.placement.engine == "triton" else CODE, "readOnly": True})
    return mounts


def _first(cluster: Cluster, load: Workload) -> Manifest:
    """What has to end before the engine starts: its weights are complete, or are fetched by the pod itself."""
    return _waiting(cluster, load) if cluster.spec.storage.access == "many" else fetching(cluster, load)


def _waiting(cluster: Cluster, load: Workload) -> Manifest:
    """In the engine's own image, which the node has to have anyway."""
    script = f'until [ -e "{load.placement.weights}" ]; do echo "waiting for the weights in {load.weights}"; sleep 5; done'
    return {
        "name": "weights",
        "image": cluster.image_of(load),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "weights", "mountPath": WEIGHTS, "readOnly": True}],
    }


def spread(name: str, component: str) -> Manifest:
    """Over nodes, where that can be: several replicas on one large node are no reason to stay Pending."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(name, component)},
    }


def volume_size(cluster: Cluster, load: Workload) -> str:
    """Room for the weights and as much again of a quarter, which a partial download and the cache's records take."""
    return cluster.spec.storage.size or gibibytes(int(load.weights_bytes * 1.25) + 2**30)
