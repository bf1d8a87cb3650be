"""What set-ups say of themselves: a file of ours, or the objects of a cluster → what signals have to know of each model."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from headrace.facts import catalogue
from headrace.importing.base import NotImported
from headrace.importing.convert import File, convert
from headrace.spec.file import USUAL
from headrace.spec.load import loads
from headrace.spec.model import ModelSpec, Spec
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.manifests.base import called
from headrace.weights.source import parse

_WORKLOADS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("kaito.sh/v1beta1", "Workspace"),
    ("kaito.sh/v1beta1", "InferenceSet"),
)
_BESIDE = (
    ("v1", "ConfigMap"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)
_GATEWAYS = (("gateway.networking.k8s.io/v1", "HTTPRoute"), ("inference.networking.k8s.io/v1", "InferencePool"))
_KAITO_NAMESPACES = ("kaito-workspace", "kube-system")
"""Where its chart and where AKS's add-on put it."""


@dataclass(frozen=True, slots=True)
class Known:
    """One model as it is set up. None and "" are what the set-up does not say."""

    model: str
    workload: str
    spec: Spec
    served: tuple[str, ...] = ()
    """Other names under which its engine may tell of it."""
    kaito: bool = False
    beside: int = 0
    """The most replicas of other workloads that serve the same model: to clients they are one."""

    @property
    def about(self) -> ModelSpec:
        return self.spec.models[self.model]

    @property
    def engine(self) -> str:
        return "" if self.about.engine_name == "auto" else self.about.engine_name

    @property
    def slots(self) -> int | None:
        return None if self.about.slots == "auto" else self.about.slots

    @property
    def most(self) -> int:
        return self.beside + (self.about.scale.replicas[1] if self.about.scale.replicas else self.about.replicas)

    @property
    def sleeps(self) -> bool:
        scaled = self.about.scale.replicas
        return self.about.share == "swap" or (scaled is not None and scaled[0] == 0)

    @property
    def preset(self) -> str | None:
        """Its name in KAITO's list."""
        source = self.about.source or ""
        return catalogue.kaito_preset(parse(source).location) if source.startswith("hf:") else None


@dataclass(frozen=True, slots=True)
class Setup:
    """All models of a file or a namespace; `addresses` is None where that is not known."""

    models: Sequence[Known]
    addresses: int | None = None
    kaito_version: str = ""
    file: str | None = None
    """As an argument of a command, with a space before it; "" for the usual one, None where there is none."""


def of_file(spec: Spec, file: str = "") -> Setup:
    """What our file says: one gateway is in front of everything."""
    about = spec.kubernetes
    return Setup(
        [Known(name, called(name, about), spec, kaito=about.on_kaito(name)) for name in spec.models], 1, file=argument(file)
    )


def argument(file: str) -> str:
    """How a command names a file: not at all where it finds it by itself."""
    return "" if not file or Path(file).absolute() == Path(USUAL).absolute() else f" {shlex.quote(file)}"


def of_cluster(api: Api, namespace: str) -> Setup:
    """What runs in a namespace, read like `headrace import` reads files. Raises ClusterError."""
    beside = [one for kind in _BESIDE for one in _all(api, kind, namespace)]
    workloads = [one for kind in _WORKLOADS for one in _all(api, kind, namespace)]
    # What KAITO made of its own objects is told of by those.
    own = [one for one in workloads if not any(ref.get("kind") in _KAITO for ref in _owners(one))]
    models = _merged(found for one in own for found in _known(one, beside))
    routed = any(_all(api, kind, namespace) for kind in _GATEWAYS) or any(_is_gateway(one) for one in workloads)
    version = _kaito_version(api) if any(one.kaito for one in models) else ""
    return Setup(models, 1 if routed else len(models), version)


_KAITO = ("Workspace", "InferenceSet")


def _known(workload: Mapping[str, Any], beside: Iterable[Mapping[str, Any]]) -> Iterator[Known]:
    """The model that a workload serves; none when no engine runs in it."""
    name = str(workload["metadata"]["name"])
    about = [one for one in beside if one["kind"] == "ConfigMap" or _target(one) == name]
    text = "---\n".join(yaml.safe_dump(one, sort_keys=False) for one in (workload, *about))
    try:
        spec = loads(convert([File(f"{name}.yaml", text)]).text, f"{name}.yaml", parse)
    except NotImported:
        return
    kaito = workload["kind"] in _KAITO
    for model, known in spec.models.items():
        location = parse(known.source).location if known.source else ""
        yield Known(model, name, spec, tuple(filter(None, (*_aliases(spec, model), location, name))), kaito)


def _merged(found: Iterable[Known]) -> list[Known]:
    models: dict[str, Known] = {}
    for one in found:
        first = models.setdefault(one.model, one)
        if first is not one:
            models[one.model] = replace(first, served=(*first.served, *one.served), beside=first.beside + one.most)
    return list(models.values())


def _aliases(spec: Spec, model: str) -> tuple[str, ...]:
    return tuple(alias for alias, name in spec.aliases.items() if name == model)


def _target(one: Mapping[str, Any]) -> str:
    return str(((one.get("spec") or {}).get("scaleTargetRef") or {}).get("name", ""))


def _owners(one: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return one["metadata"].get("ownerReferences") or ()


def _is_gateway(one: Mapping[str, Any]) -> bool:
    return (one["metadata"].get("labels") or {}).get("app.kubernetes.io/component") == "gateway"


def _kaito_version(api: Api) -> str:
    """The tag of its controller's image, "" where it is not seen."""
    for namespace in _KAITO_NAMESPACES:
        try:
            found = _all(api, ("apps/v1", "Deployment"), namespace)
        except ClusterError:
            continue
        for one in found:
            for container in one["spec"]["template"]["spec"]["containers"]:
                image = str(container.get("image", ""))
                if image.partition("@")[0].rpartition("/")[2].partition(":")[0] == "workspace" and "kaito" in image:
                    return image.partition("@")[0].rpartition(":")[2]
    return ""


def _all(api: Api, kind: tuple[str, str], namespace: str) -> list[dict[str, Any]]:
    resource = api.resource(*kind)
    return api.all(resource, namespace) if resource else []
