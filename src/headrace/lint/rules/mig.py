"""HR5xx: MIG layouts, and who meets whom on shared GPUs."""

import re
from collections.abc import Iterator

from headrace.facts import catalogue
from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context, folder, of_one_project
from headrace.lint.parse import embedded
from headrace.lint.rules.sharing import plugin_configs
from headrace.lint.serving import engines
from headrace.spec.sentences import nearest

_MIG = "https://github.com/NVIDIA/mig-parted/blob/main/api/spec/v1/spec.go"
_KEYS = ("devices", "device-filter", "mig-enabled", "mig-devices")
_SLICES = 7
"""Compute slices of the GPUs with the most."""


def _layouts(context: Context) -> Iterator[At]:
    """Configurations of mig-parted: files of their own, and those in ConfigMaps."""
    for one in context.of("mig-parted"):
        yield one.at
    maps = [one.at.get("data") for one in context.of("ConfigMap")]
    maps += [one.at.get("migManager", "config", "data") for one in context.of("values")]
    for data in maps:
        for _, value in data.items():  # noqa: PERF102 (At, not a dict)
            if "mig-configs" in value.text:
                at = embedded(value, context.texts.get(value.file, ""))
                if at is not None and at.get("mig-configs").value is not None:
                    yield at


_PROFILE = re.compile(r"(?:[12347]c\.)?([12347])g\.\d+gb(?:[+.-](?:me|gfx)(?:\.all)?)?")
"""A profile's name: compute instances where they are fewer, compute slices, memory. New cards bring new sizes, so that only the
shape can be wrong for certain."""


def profiles() -> list[str]:
    """MIG profiles of the catalogue's GPUs."""
    return sorted({profile.name for gpu in catalogue.gpus().values() for profile in gpu.mig})


def slices_of(profile: str) -> int | None:
    """The compute slices of a MIG profile; None for what can be none."""
    match = _PROFILE.fullmatch(profile)
    return int(match[1]) if match else None


@rule("HR508", "error", "a MIG configuration that is refused", _MIG)
def mig_config(context: Context) -> Iterator[Say]:
    """mig-parted reads strictly: version v1, mig-configs with at least one entry each, devices and mig-enabled in each,
    mig-devices when enabled and only then; any other key is an error."""
    for at in _layouts(context):
        if at.get("version").text != "v1":
            yield Say(at.get("version") if at.get("version") else at, "version has to be v1.", "Write version: v1.")
        for key, value in at.items():
            if key not in ("version", "mig-configs"):
                yield Say(value, f"mig-parted refuses the key {key}.", nearest(key, ("version", "mig-configs")) or "Delete it.")
        for name, config in at.get("mig-configs").items():
            if not config:
                yield Say(config, f"{name} has no entry.", "Write at least one.")
            for each in config.each():
                yield from _entry(each)


def _entry(each: At) -> Iterator[Say]:
    for key, value in each.items():
        if key not in _KEYS:
            yield Say(value, f"mig-parted refuses the key {key}.", nearest(key, _KEYS) or "Delete it.")
    for key in ("devices", "mig-enabled"):
        if each.get(key).value is None:
            yield Say(each, f"{key} is missing.", f"Write {key}.")
    enabled, devices = each.get("mig-enabled").value, each.get("mig-devices")
    if enabled is True and devices.value is None:
        yield Say(each, "mig-devices is missing.", "Write the slices, such as {1g.10gb: 7}.")
    if enabled is False and devices:
        yield Say(devices, "mig-devices is written while MIG is off.", "Write mig-enabled: true, or leave it out.")


@rule(
    "HR510",
    "warning",
    "slices for GPUs that are needed whole",
    "https://github.com/NVIDIA/k8s-device-plugin#shared-access-to-gpus",
)
def slices_everything(context: Context) -> Iterator[Say]:
    """A device-plugin configuration with one entry is that of every node: the GPUs of a model that needs them whole are sliced as
    well."""
    for config in plugin_configs(context):
        alone = config.owner is not None and len(list(config.owner.at.get("data").items())) == 1
        resources = [
            each for each in config.means("timeSlicing").get("resources").each() if each.get("name").text == "nvidia.com/gpu"
        ]
        if not alone or not resources:
            continue
        file = config.at.file
        whole = [one for one in engines(context) if one.pod is not None and one.pod.gpus > 1]
        whole = [one for one in whole if of_one_project(file, one.owner.at.file)]
        for one in whole[:1]:
            what = f"Every node's GPUs are sliced, and {one.owner.title} needs {one.pod.gpus if one.pod else 0} whole ones."
            yield Say(
                config.means("timeSlicing"),
                what,
                "Make two entries, and choose by the node label nvidia.com/device-plugin.config.",
            )


@rule(
    "HR511",
    "error",
    "a MIG layout that no GPU has",
    "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html",
)
def impossible_layout(context: Context) -> Iterator[Say]:
    """Profiles are fixed for each GPU, and their slices have to fit its seven: else the layout is refused, or a pod that asks
    for one is Pending. With the strategy `single` slices are called nvidia.com/gpu."""
    for at in _layouts(context):
        for name, config in at.get("mig-configs").items():
            for each in config.each():
                yield from _layout(name, each.get("mig-devices"))
    single = [each.at.file for each in plugin_configs(context) if each.at.get("flags", "migStrategy").text == "single"]
    for pod in context.pods():
        for container in pod.containers:
            for name, amount in container.get("resources", "limits").items():
                if not name.startswith("nvidia.com/mig-"):
                    continue
                profile = name.removeprefix("nvidia.com/mig-").removesuffix(".shared")
                if slices_of(profile) is None:
                    yield Say(
                        amount,
                        f"No GPU has the MIG profile {profile}.",
                        nearest(profile, profiles()) or "See nvidia-smi mig -lgip.",
                    )
                elif any(of_one_project(file, amount.file) for file in single):
                    yield Say(
                        amount, "With migStrategy single slices are called nvidia.com/gpu.", "Ask for that, or write mixed."
                    )


def _layout(name: str, devices: At) -> Iterator[Say]:
    used = 0
    for profile, count in devices.items():
        if slices_of(profile) is None:
            yield Say(
                count, f"No GPU has the MIG profile {profile}.", nearest(profile, profiles()) or "See nvidia-smi mig -lgip."
            )
            return
        used += (slices_of(profile) or 0) * (count.number or 0)
    if used > _SLICES:
        yield Say(devices, f"{name} takes {used} compute slices, and a GPU has {_SLICES}.", "Take some out.")


@rule("HR512", "warning", "tenants that share memory", "https://github.com/microsoft/onnxruntime/issues/24943")
def shared_tenants(context: Context) -> Iterator[Say]:
    """Time-slicing isolates neither memory nor faults: one tenant's engine that takes too much, or crashes the GPU, takes the
    others down."""
    sharing = []
    for one in engines(context):
        slices = one.container.get("resources", "limits", "nvidia.com/gpu.shared")
        if slices.value is not None and one.owner.namespace:
            sharing.append((one, slices))
    spaces = sorted({one.owner.namespace for one, _ in sharing})
    if len(spaces) > 1:
        one, slices = sharing[-1]
        named = ", ".join(spaces[:3])
        what = f"Engines of {len(spaces)} namespaces ({named}) may meet on one GPU, and nothing isolates their memory."
        apart = len({folder(one.owner.at.file) for one, _ in sharing}) > 1
        yield Say(slices, what, "Use MIG, or a pool for each tenant.", (), "info" if apart else None)
