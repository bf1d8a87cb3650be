"""What makes a configuration take effect: ConfigMaps, the chart's values, node labels. A ConfigMap alone does nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.plan.nodepool import NodePool
from headrace.targets.manifests.text import MARK, dumped
from headrace.targets.sharing import budget, device_plugin, mig
from headrace.targets.sharing.device_plugin import WHOLE, How

FOLDER = "gpu-sharing"
CONFIG_MAP = "headrace-device-plugin"
MIG_CONFIG_MAP = "headrace-mig-parted"
Taint = tuple[str, str | None, str]
"""Key, value (None: any), effect."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of Helm: the namespace is where its ConfigMaps have to be. Without a `version` the user says one."""

    name: str
    repository: str
    namespace: str
    version: str = ""


PLUGIN = Chart("nvidia-device-plugin", "https://nvidia.github.io/k8s-device-plugin", "nvidia-device-plugin", "0.20.0")
"""In the version whose rules are in device_plugin.py."""

OPERATOR = Chart("gpu-operator", "https://helm.ngc.nvidia.com/nvidia", "gpu-operator")
"""Brings the device plugin and mig-parted, as its MIG manager."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Everything for the pools together: ConfigMaps, the chart that reads them and its values, the nodes' labels by pool."""

    objects: tuple[dict[str, Any], ...]
    chart: Chart
    values: Mapping[str, Any]
    labels: Mapping[str, Mapping[str, str]]


def wiring(pools: Sequence[NodePool], how: How, taints: Sequence[Taint], *, aks: bool = True) -> Wiring:
    """How the pools' GPUs get to be shared as packed. With `aks`, slices that AKS cuts by itself are left to it."""
    configs = {WHOLE: device_plugin.config(1, how)}
    labels: dict[str, dict[str, str]] = {}
    layouts: dict[str, mig.Layout] = {}
    for pool in pools:
        name = config_name(pool, how)
        configs[name] = device_plugin.config(pool.slices if pool.mode == "shared" else 1, how, mig=pool.mode == "mig")
        labels[pool.name] = {device_plugin.LABEL: name}
        if pool.mode == "mig" and not (aks and mig.aks_profile(pool.layout, pool.gpu)):
            layouts[pool.name] = pool.layout
            labels[pool.name][mig.LABEL] = pool.name
    chart = OPERATOR if layouts else PLUGIN
    objects = [_map(CONFIG_MAP, chart, {name: dumped(config) for name, config in configs.items()})]
    if layouts:
        # The MIG manager sets nodes without a label to what this one is called.
        whole: dict[str, mig.Layout] = {"all-disabled": ((),)}
        objects.append(_map(MIG_CONFIG_MAP, chart, {"config.yaml": dumped(mig.config(whole | layouts))}))
    return Wiring(tuple(objects), chart, operator_values(taints) if layouts else values(taints), labels)


def config_name(pool: NodePool, how: How) -> str:
    """The key of its config: `whole`, `mig`, `shared-4`, `mps-2`."""
    return {"whole": WHOLE, "mig": "mig", "shared": f"{'mps' if how == 'mps' else 'shared'}-{pool.slices}"}[pool.mode]


def values(taints: Sequence[Taint]) -> dict[str, Any]:
    """Of the device plugin's chart: which ConfigMap, what nodes without a label get, and tolerations, without which the DaemonSet
    does not reach tainted nodes and these never advertise a GPU. Node feature discovery, which comes with `gfd`, needs them too.
    """
    tolerations = _tolerations(taints)
    return {
        "config": {"name": CONFIG_MAP, "default": WHOLE},
        "gfd": {"enabled": True},
        "tolerations": tolerations,
        "nfd": {"worker": {"tolerations": tolerations}},
    }


def operator_values(taints: Sequence[Taint]) -> dict[str, Any]:
    """Of the GPU Operator's chart, on nodes that come with a driver."""
    tolerations = _tolerations(taints)
    return {
        "driver": {"enabled": False},
        "toolkit": {"enabled": False},
        "operator": {"runtimeClass": "nvidia-container-runtime"},
        "mig": {"strategy": "mixed"},
        "devicePlugin": {"config": {"name": CONFIG_MAP, "default": WHOLE}},
        "migManager": {"config": {"name": MIG_CONFIG_MAP, "default": "all-disabled"}},
        "daemonsets": {"tolerations": tolerations},
        "node-feature-discovery": {"worker": {"tolerations": tolerations}},
    }


def files(pools: Sequence[NodePool], wired: Wiring, how: How) -> dict[str, str]:
    """The ConfigMaps and the chart's values as files: they are the whole cluster's, not the models'."""
    made = {f"{FOLDER}/configmap-{each['metadata']['name']}.yaml": f"{MARK}\n{dumped(each)}" for each in wired.objects}
    said = [line for pool in pools for line in _said(pool, pools, wired, how)]
    version = f" --version {wired.chart.version}" if wired.chart.version else ""
    install = f"helm upgrade --install {wired.chart.name} {wired.chart.name} --repo {wired.chart.repository}{version}"
    said += [f"{install} --namespace {wired.chart.namespace} --create-namespace --values {FOLDER}/values.yaml"]
    text = "".join(f"# {line}\n" for line in said)
    return {**made, f"{FOLDER}/values.yaml": f"{MARK}\n{text}{dumped(wired.values)}"}


def _said(pool: NodePool, pools: Sequence[NodePool], wired: Wiring, how: How) -> list[str]:
    labels = " ".join(f"{key}={value}" for key, value in wired.labels[pool.name].items())
    return [
        f"{pool.most} x {pool.sku.name}, labelled {labels}: {budget.isolation(pool, how)}",
        *(f"  {line}" for line in budget.arithmetic(pool, pools)),
    ]


def problems(wired: Wiring, taints: Sequence[Taint]) -> list[str]:
    """What of the wiring would not take effect: a ConfigMap that nothing names, one in another namespace, a label that names no
    config, a taint that is not tolerated. Nothing for what `wiring` makes."""
    said = str(wired.values)
    names = {each["metadata"]["name"] for each in wired.objects}
    wrong = [f"nothing refers to the ConfigMap {name}" for name in sorted(names) if name not in said]
    wrong += [f"{o['metadata']['name']} is not where {wired.chart.name} is" for o in wired.objects if not _there(o, wired.chart)]
    configs = next(each["data"] for each in wired.objects if each["metadata"]["name"] == CONFIG_MAP)
    chosen = {pool: labels.get(device_plugin.LABEL, WHOLE) for pool, labels in wired.labels.items()}
    wrong += [f"{pool}: there is no config {name}" for pool, name in chosen.items() if name not in configs]
    if WHOLE not in configs:
        wrong.append(f"the default config {WHOLE} is not there")
    tolerated = wired.values.get("tolerations") or wired.values.get("daemonsets", {}).get("tolerations", [])
    keys = {each["key"] for each in tolerated}
    return wrong + [f"the taint {key} is not tolerated" for key, _, _ in taints if key not in keys]


def _there(manifest: Mapping[str, Any], chart: Chart) -> bool:
    return bool(manifest["metadata"]["namespace"] == chart.namespace)


def _tolerations(taints: Sequence[Taint]) -> list[dict[str, str]]:
    own: Taint = ("nvidia.com/gpu", None, "NoSchedule")
    return [_toleration(each) for each in dict.fromkeys((own, *taints))]


def _toleration(taint: Taint) -> dict[str, str]:
    key, value, effect = taint
    operator = {"operator": "Exists"} if value is None else {"operator": "Equal", "value": value}
    return {"key": key, **operator, "effect": effect}


def _map(name: str, chart: Chart, data: Mapping[str, str]) -> dict[str, Any]:
    about = {"name": name, "namespace": chart.namespace, "labels": {"app.kubernetes.io/managed-by": "headrace"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": dict(data)}
