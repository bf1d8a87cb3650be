"""What manifests are made of: one model as it shall run in the cluster, names and labels, and how quantities are written."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from headrace.engines.base import Placement
from headrace.plan.base import Decision
from headrace.plan.sharing import Shared
from headrace.spec.kubernetes import KubernetesSpec

Manifest = dict[str, Any]
"""One object, as JSON would have it."""

PORT = 8000
"""Where engines and the gateway listen in their pods; unprivileged, whatever an image's own default is."""

PORT_NAME = "http"
"""Monitors, probes and Services name the port: a number that changes would be missed silently."""

GPU = "nvidia.com/gpu"
"""A whole GPU, as a pod asks for it."""

GATEWAY = "gateway"
ENGINE = "engine"
SCALER = "gateway-scaler"
"""The Service by which KEDA asks the gateway (its external scaler, gRPC)."""

SCALER_PORT = 9091

SPARE = "headrace/spare-gpus"
"""The annotation of a Deployment whose plan has GPUs for one replica more, which a rollout may take."""

_LONGEST_NAME = 40
"""Of a model: suffixes, and the names that controllers make of ours (pods, keda-hpa-NAME), end at 63."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one pod is given. Without GPUs `gpus` is 0; `selector` are labels of the nodes that it may run on."""

    cores: int
    memory_bytes: int
    gpus: int = 0
    selector: Mapping[str, str] = field(default_factory=dict)
    spare: bool = False
    """Whether there are GPUs for one replica more than the most."""
    instance_type: str | None = None
    """The size of machine that the plan is for, as its cloud calls it."""
    resource: str = GPU
    """What `gpus` counts: whole GPUs, parts of shared ones, MIG slices."""
    shm: bool = True
    """Whether the pod brings its own /dev/shm; where MPS shares a GPU, the device plugin mounts its own there."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One model as it shall run in the cluster.

    `replicas` are the fewest and the most, `concurrency` the requests that one is planned for, `source` says what to fetch
    (None: nothing; its files are in `files`, by name), `weights_bytes` how much that is, `load_seconds` how long a start takes.
    """

    model: str
    name: str
    placement: Placement
    image: str
    """Empty: Headrace's own."""
    need: Need
    replicas: tuple[int, int]
    concurrency: int
    queue: int
    idle_seconds: float
    load_seconds: int
    source: str | None = None
    weights_bytes: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    preset: str | None = None
    """What KAITO calls the model, if it knows it."""
    machines: int = 1
    """That one replica is split over, a pod on each; `need` is that of one."""
    weights_image: str = ""
    """An image that has the weights, mounted as it is."""
    decisions: tuple[Decision, ...] = ()

    @property
    def scaled(self) -> bool:
        """Whether a scaler owns the number of replicas."""
        return self.replicas[0] != self.replicas[1]

    @property
    def slots(self) -> int:
        return self.placement.slots

    @property
    def weights(self) -> str | None:
        """The name of its weights: that of the model, and a hash of what they are, so that other weights are another volume."""
        if self.source is None or self.weights_image:
            return None
        return f"{self.name}-{short_hash(self.source, self.placement.engine)}"


@dataclass(frozen=True, slots=True)
class Outside:
    """A model that runs elsewhere already: only the gateway knows it."""

    model: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything that is rendered. `gateway` is the part of the user's file for the gateway, as the file has it."""

    spec: KubernetesSpec
    workloads: tuple[Workload, ...]
    version: str
    outside: tuple[Outside, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    gateway: Mapping[str, Any] = field(default_factory=dict)
    drain_seconds: int = 30
    shared: Shared | None = None
    """Where models sit that share GPUs, if any do."""
    prices: Mapping[str, Any] = field(default_factory=dict)
    """What tokens of the workloads cost, by model, as the file has it."""

    @property
    def image(self) -> str:
        """The image with Headrace in it."""
        return self.spec.image or f"headrace:{self.version}"

    @property
    def monitored(self) -> bool:
        """Whether a Prometheus has to have the numbers that models are scaled on."""
        return self.spec.scaler == "keda" and self.spec.prometheus is not None

    def image_of(self, load: Workload) -> str:
        return load.image or self.image


def short_hash(*parts: str) -> str:
    """Eight characters that stand for `parts`."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def object_name(model: str) -> str:
    """The model's name as a DNS label: itself where it is one, else made of it and a hash, so that two never become one."""
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    if plain == model and not plain[0].isdigit() and plain not in (GATEWAY, SCALER):
        return plain
    # A Service's name begins with a letter.
    return f"m-{plain[: _LONGEST_NAME - 11]}".strip("-") + f"-{short_hash(model)}"


def called(model: str, spec: KubernetesSpec) -> str:
    """What a model's objects are called."""
    return spec.names.get(model) or object_name(model)


def labels(name: str, component: str, version: str) -> dict[str, str]:
    """The recommended labels, on every object."""
    return {**selector(name, component), "app.kubernetes.io/managed-by": "headrace", "app.kubernetes.io/version": version}


def selector(name: str, component: str) -> dict[str, str]:
    """The labels that pods are found by; they never change, as a Deployment's selector cannot."""
    return {
        "app.kubernetes.io/name": "headrace",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": component,
    }


def metadata(cluster: Cluster, name: str, component: str, **more: Any) -> Manifest:
    """Name, namespace and labels of an object that belongs to `name`, unless `named` otherwise."""
    named = more.pop("named", name)
    return {
        "name": named,
        "namespace": cluster.spec.namespace,
        "labels": labels(name, component, cluster.version),
        **more,
    }


def gibibytes(count: int) -> str:
    """Bytes as a quantity, rounded up to whole GiB: `12Gi`."""
    return f"{max(1, ceil(count / 2**30))}Gi"


def mebibytes(count: int) -> str:
    return f"{max(1, ceil(count / 2**20))}Mi"
