"""HR5xx: how GPUs are shared: the device plugin's configuration, MIG layouts, and who meets on a GPU."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, rule
from headrace.lint.context import Context, Object, closest, of_one_project
from headrace.lint.parse import embedded
from headrace.targets.sharing import device_plugin

_PLUGIN = "https://github.com/NVIDIA/k8s-device-plugin#readme"
_CONFIG = "https://github.com/NVIDIA/k8s-device-plugin/blob/main/api/config/v1/config.go"


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One configuration of the device plugin, in a ConfigMap or a file of its own."""

    at: At
    owner: Object | None
    key: str

    def means(self, name: str) -> At:
        return self.at.get("sharing", name)


def plugin_configs(context: Context) -> list[PluginConfig]:
    """Every configuration of the device plugin in the run."""
    return context.once("plugin", lambda: list(_found(context)))


def _found(context: Context) -> Iterator[PluginConfig]:
    for one in context.of("ConfigMap"):
        for key, value in one.at.get("data").items():
            if re.search(r"\b(?:timeSlicing|mps|migStrategy)\b", value.text):
                at = embedded(value, context.texts.get(value.file, ""))
                if at is not None and (at.get("sharing") or at.get("flags", "migStrategy")):
                    yield PluginConfig(at, one, key)
    for one in context.of("device-plugin"):
        yield PluginConfig(one.at, None, "")
    for one in context.of("values"):
        for path in (("config", "map"), ("devicePlugin", "config", "data")):  # of the plugin's own chart, of the GPU Operator's
            for key, value in one.at.get(*path).items():
                at = embedded(value, context.texts.get(value.file, ""))
                if at is not None and at.get("sharing"):
                    yield PluginConfig(at, None, key)


@rule("HR501", "error", "a configuration that nothing reads", _PLUGIN)
def nobody_reads(context: Context) -> Iterator[Say]:
    """A ConfigMap alone changes nothing: the device plugin has to be told of it, by config.name of its chart, by
    devicePlugin.config.name of the GPU Operator, or by a mount and CONFIG_FILE. With NVIDIA's static DaemonSet nothing refers
    to it (measured)."""
    seen: set[str] = set()
    for config in plugin_configs(context):
        owner = config.owner
        if owner is None or owner.name in seen:
            continue
        seen.add(owner.name)
        yield from _named_by_nodes(context, owner)
        others = [one for one in context.objects if one is not owner and one.kind not in ("ConfigMap", "Node")]
        if any(_mentions(one.at.value, owner.name) for one in others):
            continue
        plugin = any(one.kind in ("ClusterPolicy", "values") or "device-plugin" in one.name for one in others)
        what = f"Nothing among these files tells the device plugin of ConfigMap {owner.name}: alone it changes nothing."
        fix = f"Install the plugin with --set config.name={owner.name}, or set devicePlugin.config.name of the GPU Operator."
        yield Say(owner.at, what, fix, (), None if plugin else "warning")


def _named_by_nodes(context: Context, owner: Object) -> Iterator[Say]:
    """Labels of nodes that name the ConfigMap where an entry of it is meant."""
    for node in context.of("Node"):
        label = node.at.get("metadata", "labels", "nvidia.com/device-plugin.config")
        near = closest(node.at.file, context.named("ConfigMap", owner.name))
        entries = [key for one in near for key, _ in one.at.get("data").items()]
        if label.text == owner.name and entries and label.text not in entries:
            what = f"The label chooses an entry of ConfigMap {owner.name}, and this is the ConfigMap's own name."
            yield Say(label, what, f"Write one of {', '.join(entries[:5])}.")


def _mentions(value: object, name: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(each, name) for each in value.values())
    if isinstance(value, list):
        return any(_mentions(each, name) for each in value)
    return isinstance(value, str) and name in value


@rule("HR503", "warning", "two slices that are one GPU", "https://github.com/NVIDIA/k8s-device-plugin#with-cuda-time-slicing")
def slices_of_one(context: Context) -> Iterator[Say]:
    """Time-slicing advertises each GPU several times. Without failRequestsGreaterThanOne a pod that asks for 2 gets two slices
    of the same GPU, and believes that it has two (measured)."""
    for config in plugin_configs(context):
        means = config.means("timeSlicing")
        given = means.get("failRequestsGreaterThanOne")
        if means.get("resources") and given.value is not True:
            what = "A pod that asks for 2 GPUs gets two slices of one."
            edit = (
                Edit("set", given, "", True) if given.value is False else Edit("add", means, "failRequestsGreaterThanOne", True)
            )
            yield Say(given if given.value is not None else means, what, "Write failRequestsGreaterThanOne: true.", (edit,))


@rule("HR504", "info", "slices that are called GPUs", "https://github.com/NVIDIA/k8s-device-plugin#with-cuda-time-slicing")
def same_name(context: Context) -> Iterator[Say]:
    """Without renameByDefault a slice is called nvidia.com/gpu, like a whole one: what tells them apart is a label of the node
    (nvidia.com/gpu.product ends in -SHARED), which a pod that needs a whole GPU has to name."""
    for config in plugin_configs(context):
        means = config.means("timeSlicing")
        if means.get("resources") and means.get("renameByDefault").value is not True:
            at = means.get("renameByDefault")
            what = "Slices and whole GPUs have the same name, nvidia.com/gpu."
            yield Say(
                at if at.value is not None else means, what, "Write renameByDefault: true, and ask for nvidia.com/gpu.shared."
            )


@rule("HR505", "error", "a device plugin that never comes to the GPU nodes", _PLUGIN)
def plugin_not_tolerating(context: Context) -> Iterator[Say]:
    """NVIDIA's static DaemonSet tolerates nvidia.com/gpu only. On nodes with the taint sku=gpu it makes no pod, and they never
    advertise their GPUs (measured)."""
    taints = {
        (each.get("key").text, each.get("value").text, each.file)
        for pod in context.pods()
        if pod.gpus and pod.owner.kind != "DaemonSet"
        for each in pod.spec.get("tolerations").each()
        if each.get("key").text
        and each.get("key").text != "nvidia.com/gpu"
        and each.get("effect").text in ("NoSchedule", "NoExecute")
    }
    for pod in context.pods():
        if pod.owner.kind != "DaemonSet" or not any("k8s-device-plugin" in each.get("image").text for each in pod.containers):
            continue
        own = list(pod.spec.get("tolerations").each())
        if any(not each.get("key").text and each.get("operator").text == "Exists" for each in own):
            continue
        near = {(key, value) for key, value, file in taints if of_one_project(pod.owner.at.file, file)}
        for key, value in sorted(near - {(each.get("key").text, each.get("value").text) for each in own}):
            if key == "sku" and not any(each.get("key").text == key for each in own):
                what = f"The pods that ask for GPUs tolerate {key}={value}, and the device plugin does not."
                yield Say(pod.spec, what, f"Add the toleration {key}={value}:NoSchedule.")


@rule("HR506", "error", "a configuration that the device plugin refuses or ignores", _CONFIG)
def plugin_config(context: Context) -> Iterator[Say]:
    """version is v1; resources are needed and have 2 replicas or more; unknown keys are ignored without a word, and rename and
    devices with a warning."""
    for config in plugin_configs(context):
        if not isinstance(config.at.value, dict):
            continue
        try:
            found = list(device_plugin.problems(config.at.value))
        except (TypeError, AttributeError, ValueError):
            yield Say(config.at, "It is not of the shape that the device plugin reads.", "See its documentation.")
            continue
        for text in found:
            if not re.search(r"failRequestsGreaterThanOne|renameByDefault|mps wins|MPS on MIG", text):
                yield Say(_place(config.at, text), f"{text}.", "Correct it.")


def _place(at: At, text: str) -> At:
    """Where a problem is, by the path that its text begins with."""
    path = re.match(r"[\w.]+", text)
    for part in path[0].split(".") if path else ():
        below = at.get(part)
        if below.value is None:
            break
        at = below
    return at


@rule("HR507", "error", "MPS that cannot be", _CONFIG)
def mps(context: Context) -> Iterator[Say]:
    """MPS is not for MIG devices, needs flags.mpsRoot, and wins over timeSlicing when both are written."""
    for config in plugin_configs(context):
        means = config.means("mps")
        if not means:
            continue
        strategy = config.at.get("flags", "migStrategy")
        if strategy.text == "mixed":
            yield Say(strategy, "MPS on MIG devices is not supported.", "Write migStrategy: none, or share by MIG alone.")
        if config.means("timeSlicing"):
            yield Say(config.means("timeSlicing"), "mps wins over timeSlicing.", "Keep one of them.")
