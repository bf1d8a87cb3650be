"""The `kubernetes` section: where manifests put things, what scales them, and what the cluster calls its nodes and storage."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from headrace.spec.values import Seconds, Strict
from headrace.units import parse_range

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_AZURE = ".prometheus.monitor.azure.com"
_SERVER = re.compile(rf"https?://{LABEL}(\.{LABEL})+(:\d{{1,5}})?(/\S*)?")
_TAINT = re.compile(r"(?P<key>[A-Za-z0-9./_-]+)(=(?P<value>[A-Za-z0-9._-]*))?:(?P<effect>NoSchedule|NoExecute)")
_IMAGE = re.compile(r"[a-z0-9][\w./:-]*(:[\w][\w.-]*|@sha256:[0-9a-f]{64})")

Name = Annotated[str, Field(pattern=f"^{LABEL}$")]
Domain = Annotated[str, Field(pattern=rf"^{LABEL}(\.{LABEL})*$", max_length=253)]
QuantityText = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Gi|Ti)$")]


def _range(value: Any) -> Any:
    if not isinstance(value, int | str) or isinstance(value, bool):
        return value
    least, most = parse_range(str(value))
    if not 1 <= most <= 1024:
        raise ValueError(f'"{value}" ends at {most}; write at least 0..1 and at most 0..1024')
    return least, most


class ScaleSpec(Strict):
    """How the number of replicas follows the load, here and in Kubernetes."""

    replicas: Annotated[tuple[int, int], BeforeValidator(_range)] | None = Field(
        None, description="The fewest and the most, as in 0..8. `replicas: 0..8` of the model is short for it."
    )
    queue: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="Requests that may wait per replica, beyond those it serves at once, before there are more replicas."
    )
    idle: Seconds = Field(600.0, description="How long a model that may sleep (0..N) is unused before it does.")


class StorageSpec(Strict):
    """Where the weights of a model are kept in the cluster: a volume for each, filled once and then only read."""

    class_: Name | None = Field(
        None, alias="class", description="Storage class, such as azurefile-csi-premium. Default: the cluster's own."
    )
    access: Literal["many", "once", "each"] = Field(
        "many",
        description="many: ReadWriteMany, a Job fills the volume and every replica reads it. once: ReadWriteOnce, for storage "
        "that only one node can mount; the replica fills it itself, so there can be one. each: a volume that is made with every "
        "pod and goes with it, for fast disks in the node; each replica fetches for itself.",
    )
    size: QuantityText | None = Field(None, description="Size of every volume, such as 100Gi. Default: by the weights' size.")
    images: dict[str, str] = Field(
        {},
        description="Images (OCI artifacts) with the weights of a model at their root, by model, mounted as they are: no "
        "volume is made and nothing is fetched. Kubernetes 1.33 or newer, where its feature ImageVolume is on.",
    )

    @field_validator("images")
    @classmethod
    def _are_pinned(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: _pinned(image) for name, image in value.items()}


class NodesSpec(Strict):
    """How the nodes for models are found, and which taints keep others away from them."""

    labels: dict[str, str] = Field(
        {},
        description="Labels of the nodes that models run on; where the file has GPUs, of the models on them alone. Default on "
        "GPUs: for `machine: {azure: SIZE}` its instance type, else nvidia.com/gpu.present, which GPU feature discovery sets; "
        "without GPUs none. With them KAITO brings no nodes.",
    )
    taints: tuple[str, ...] = Field(
        ("sku=gpu:NoSchedule",),
        description="Taints of GPU nodes that models tolerate: KEY=VALUE:EFFECT, as in az aks nodepool add.",
    )

    @field_validator("taints", mode="before")
    @classmethod
    def _a_list(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("taints")
    @classmethod
    def _are_taints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not _TAINT.fullmatch(text):
                raise ValueError(f'"{text}" is not a taint; write KEY=VALUE:NoSchedule')
        return value


class ExposeSpec(Strict):
    """How clients outside of the cluster reach the gateway: through a Gateway (HTTPRoute) or an Ingress; by default not."""

    host: Domain = Field(description="The host name that clients use.")
    gateway: str | None = Field(
        None,
        pattern=rf"^{LABEL}(\.{LABEL})?$",
        description="NAME or NAME.NAMESPACE of a Gateway that is there: an HTTPRoute joins it. TLS is the Gateway's.",
    )
    ingress: Domain | None = Field(
        None, description="The class of an Ingress, such as nginx or webapprouting.kubernetes.azure.com, instead of `gateway`."
    )
    tls: Name | None = Field(None, description="With `ingress`: the Secret with the certificate for the host.")
    timeout: Annotated[Seconds, Field(ge=1, le=86_400)] = Field(
        3600.0, description="Longest that one answer may take on its way through: a stream is cut there."
    )
    insecure: bool = Field(
        False,
        description="Expose a gateway without keys: whoever reaches the host uses the models. For where something in front asks "
        "for keys, or the network is closed.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "ExposeSpec":
        if (self.gateway is None) == (self.ingress is None):
            raise ValueError("needs one of `gateway` and `ingress`; write {host: chat.example.com, gateway: NAME.NAMESPACE}")
        if self.tls is not None and self.ingress is None:
            raise ValueError("has `tls` beside `gateway`, whose listeners have their own certificates; remove it")
        return self


class PoolSpec(Strict):
    """InferencePools, for a Gateway with an endpoint picker that is there: requests then go to engines past our gateway."""

    picker: Name = Field(description="The Service of the endpoint picker, in the same namespace.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(9002, description="The picker's port.")
    proxies: Name = Field(description="The namespace of the Gateway's proxies, which reach engines directly.")


class KubernetesSpec(Strict):
    """Used by the commands for Kubernetes only: render, apply and their kin."""

    namespace: Name = Field("inference", description="Where everything goes. It is made, with its labels.")
    target: Literal["deployment", "kaito"] = Field(
        "deployment", description="deployment: plain Deployments. kaito: KAITO's InferenceSets, which bring their own nodes."
    )
    scaler: Literal["keda", "none"] = Field(
        "none", description="What scales models whose `replicas` is a range. keda: a ScaledObject each (KAITO: its annotations)."
    )
    kaito: Literal["inferenceset", "workspace"] = Field(
        "inferenceset", description="With `target: kaito`, its kind of object. workspace: for one replica that nothing scales."
    )
    prometheus: str | None = Field(
        None,
        description="Scale on what this Prometheus has, as KEDA reaches it: http://NAME.NAMESPACE.svc:9090, from whose namespace "
        "alone it may scrape, or the query endpoint of an Azure Monitor workspace. Default: KEDA asks our gateway, without any.",
    )
    keda: Name = Field("keda", description="The namespace of KEDA; kube-system where it is AKS's add-on.")
    image: str | None = Field(
        None, description="The image with Headrace in it, which runs the gateway, fetches weights and runs llama.cpp and code."
    )
    images: dict[str, str] = Field(
        {}, description="Other images, by the engine or the model that they are for, tag or digest said."
    )
    secret: Name | None = Field(
        None, description="A Secret with the key HF_TOKEN, for weights that are gated. It is named here and never written."
    )
    sharing: Literal["time-slicing", "mps"] = Field(
        "time-slicing", description="How models with `share: time-slice` share a GPU: NVIDIA's time slicing, or MPS."
    )
    split: dict[str, Annotated[int, Field(ge=2, le=16)]] = Field(
        {},
        description="Machines that one replica of a model is split over, by model: a stage of its layers on each, as a "
        "LeaderWorkerSet. vLLM only.",
    )
    targets: dict[str, Literal["deployment", "kaito"]] = Field(
        {}, description="Models of another target, by model: one moves from KAITO to a Deployment while the others stay."
    )
    names: dict[str, Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")]] = Field(
        {},
        description="What the objects of a model are called, by model, where not as the model is. `headrace graduate --cluster` "
        "writes it: what a model moves to stands beside what it was, under another name.",
    )
    expose: ExposeSpec | None = Field(None, description="How clients outside reach the gateway. Default: they do not.")
    inference_pool: PoolSpec | None = Field(
        None, description="InferencePools of the Gateway API inference extension as well, one for each model. Default: none."
    )
    cpu: Annotated[int, Field(ge=1, le=1024)] = Field(4, description="Cores of one replica where there are no GPUs.")
    gateways: Annotated[int, Field(ge=1, le=64)] = Field(2, description="Copies of the gateway.")
    storage: StorageSpec = Field(StorageSpec(), description="Where weights are kept.")
    nodes: NodesSpec = Field(NodesSpec(), description="How nodes for models are found.")

    def on_kaito(self, model: str) -> bool:
        """Whether a model goes to KAITO, if it goes to GPUs."""
        return self.targets.get(model, self.target) == "kaito"

    @field_validator("prometheus")
    @classmethod
    def _is_full(cls, value: str | None) -> str | None:
        if value is not None and not _SERVER.fullmatch(value):
            raise ValueError(f'"{value}" is not http://NAME.NAMESPACE.svc:9090; a short name means another server to KEDA')
        return value

    @field_validator("image")
    @classmethod
    def _is_pinned(cls, value: str | None) -> str | None:
        return value if value is None else _pinned(value)

    @field_validator("images")
    @classmethod
    def _are_pinned(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: _pinned(image) for name, image in value.items()}


SECTIONS: Mapping[str, type[Strict]] = {
    "kubernetes": KubernetesSpec,
    "kubernetes.storage": StorageSpec,
    "kubernetes.nodes": NodesSpec,
    "kubernetes.expose": ExposeSpec,
    "kubernetes.inference_pool": PoolSpec,
}
"""Its mappings with fixed keys, by their paths."""


def azure_managed(server: str | None) -> bool:
    """Whether a Prometheus is Azure's own: asked with a workload identity, and scraping from kube-system."""
    return (urlsplit(server or "").hostname or "").endswith(_AZURE)


def taint(text: str) -> tuple[str, str | None, str]:
    """(key, value, effect) of a taint as written; no value: any."""
    found = _TAINT.fullmatch(text)
    assert found, "the spec has checked it"
    return found["key"], found["value"], found["effect"]


def _pinned(image: str) -> str:
    if not _IMAGE.fullmatch(image) or image.endswith(":latest"):
        raise ValueError(f'"{image}" says no version; write NAME:TAG (not latest) or NAME@sha256:DIGEST')
    return image
