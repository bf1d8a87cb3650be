"""Configurations of NVIDIA's mig-parted (the GPU Operator's MIG manager), and AKS's own profiles.

Facts: NVIDIA/mig-parted @bd7160f, api/spec/v1/spec.go; layouts: plan/packing/mig.py.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from headrace.facts.hardware import Gpu, MigProfile
from headrace.plan.packing.mig import place

LABEL = "nvidia.com/mig.config"
"""The node label whose value is the name of a config; `nvidia.com/mig.config.state=success` says when it is done."""

Layout = tuple[tuple[MigProfile, ...], ...]
"""The profiles of each device of a node."""

_ENTRY = ("devices", "device-filter", "mig-enabled", "mig-devices")


def config(layouts: Mapping[str, Layout]) -> dict[str, Any]:
    """mig-parted's configuration with a config for each name."""
    return {"version": "v1", "mig-configs": {name: _entries(layout) for name, layout in layouts.items()}}


def _entries(layout: Layout) -> list[dict[str, Any]]:
    """Devices that are cut alike have one entry; those that are not cut are said to be not."""
    counted = [(index, tuple(sorted(Counter(profile.name for profile in device).items()))) for index, device in enumerate(layout)]
    kinds = {kind for _, kind in counted}
    if len(kinds) == 1:
        return [_entry("all", kinds.pop())]
    ordered = sorted(counted, key=lambda pair: (pair[1], pair[0]))
    return [_entry([index for index, _ in group], kind) for kind, group in groupby(ordered, key=lambda pair: pair[1])]


def _entry(devices: object, kind: Sequence[tuple[str, int]]) -> dict[str, Any]:
    cut = {"mig-enabled": True, "mig-devices": dict(kind)} if kind else {"mig-enabled": False}
    return {"devices": devices, **cut}


def problems(config: Mapping[str, Any], gpu: Gpu | None = None) -> Iterator[str]:
    """What mig-parted refuses in a configuration, and with `gpu` the layouts that this one cannot have."""
    if config.get("version") != "v1":
        yield "version: v1 is required"
    yield from (f"{key} is an unknown field" for key in config if key not in ("version", "mig-configs"))
    if not config.get("mig-configs"):
        yield "mig-configs: at least one config is required"
    for name, entries in (config.get("mig-configs") or {}).items():
        if not entries:
            yield f"{name}: at least one entry is required"
        for entry in entries or ():
            yield from (f"{name}: {what}" for what in _wrong(entry, gpu))


def _wrong(entry: Mapping[str, Any], gpu: Gpu | None) -> Iterator[str]:
    yield from (f"{key} is an unknown field" for key in entry if key not in _ENTRY)
    devices = entry.get("devices")
    if devices != "all" and not (isinstance(devices, list) and all(isinstance(each, int) for each in devices)):
        yield "devices: all, or a list of indices"
    if not isinstance(entry.get("mig-enabled"), bool):
        yield "mig-enabled is required"
    elif entry["mig-enabled"] != ("mig-devices" in entry):
        yield "mig-devices is required when MIG is enabled, and forbidden when not"
    if gpu is not None and (wanted := entry.get("mig-devices")):
        yield from _impossible(wanted, gpu)


def _impossible(wanted: Mapping[str, int], gpu: Gpu) -> Iterator[str]:
    by_name = {profile.name: profile for profile in gpu.mig}
    missing = [name for name in wanted if name not in by_name]
    yield from (f"{gpu.name} has no profile {name}" for name in missing)
    if not missing and place([by_name[name] for name, count in wanted.items() for _ in range(count)], gpu) is None:
        yield f"{gpu.name} cannot be cut into {', '.join(f'{count} x {name}' for name, count in wanted.items())}"


def resource(profile: MigProfile) -> str:
    """What a pod asks for with strategy mixed: `nvidia.com/mig-1g.10gb`, `nvidia.com/mig-1g.10gb.me`."""
    return f"nvidia.com/mig-{profile.name.replace('+', '.')}"


def aks_profile(layout: Layout, gpu: Gpu) -> str | None:
    """AKS's `--gpu-instance-profile` where it gives what is needed: all devices in slices of one size, the plain profile of that
    size. It cuts as many as there is room for; None: the layout needs mig-parted."""
    profiles = {profile.name: profile for device in layout for profile in device}
    if len(profiles) != 1 or not all(layout):
        return None
    (profile,) = profiles.values()
    alike = [each for each in gpu.mig if each.compute_slices == profile.compute_slices and "+" not in each.name]
    plain = max(alike, key=lambda each: each.at_most, default=None)
    found = re.match(r"([1-7])g\.", profile.name)
    return f"MIG{found[1]}g" if found and plain == profile and found[1] in "12347" else None
