"""Configurations of NVIDIA's device plugin: time slicing and MPS; and the rules that it keeps or breaks silently.

Facts: NVIDIA/k8s-device-plugin @1b826ac (v0.20.0), api/config/v1 and cmd/nvidia-device-plugin/main.go.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

How = Literal["time-slicing", "mps"]

WHOLE = "whole"
"""The config of nodes whose GPUs are not shared. It is the default: nodes without a label are not sliced by accident."""

LABEL = "nvidia.com/device-plugin.config"
"""The node label whose value is the key of a config in the ConfigMap."""

SHARED = "nvidia.com/gpu.shared"
_TOP = ("version", "flags", "resources", "sharing", "imex")
_SHARING = ("timeSlicing", "mps")
_MEANS = ("renameByDefault", "failRequestsGreaterThanOne", "resources")
_RESOURCE = ("name", "replicas", "rename", "devices")
_FLAGS = (
    *("migStrategy", "failOnInitError", "mpsRoot", "nvidiaDriverRoot", "nvidiaDevRoot", "gdrcopyEnabled", "gdsEnabled"),
    *("mofedEnabled", "useNodeFeatureAPI", "deviceDiscoveryStrategy", "plugin", "gfd", "restartOnDeviceUnhealthy"),
)


def config(slices: int, how: How, *, mig: bool = False) -> dict[str, Any]:
    """The config for nodes whose GPUs are shared by `slices` processes each (1: whole). With `mig`, slices of MIG have resources
    of their own, `nvidia.com/mig-…`."""
    made: dict[str, Any] = {"version": "v1", "flags": {"migStrategy": "mixed" if mig else "none"}}
    if slices > 1:
        made["sharing"] = {
            "mps" if how == "mps" else "timeSlicing": {
                "renameByDefault": True,  # shared and whole GPUs are told apart by their names
                "failRequestsGreaterThanOne": True,  # two slices are two of the same GPU
                "resources": [{"name": "nvidia.com/gpu", "replicas": slices}],
            }
        }
    return made


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What the plugin refuses, or ignores without a word, in a config; nothing for one that does what it says."""
    if config.get("version", "v1") not in ("v1", ""):
        yield f"version {config['version']}: only v1 is known"
    yield from _unknown(config, _TOP, "")
    flags, sharing = config.get("flags") or {}, config.get("sharing") or {}
    yield from _unknown(flags, _FLAGS, "flags.")
    if flags.get("migStrategy", "none") not in ("none", "single", "mixed"):
        yield f"flags.migStrategy {flags['migStrategy']}: none, single or mixed"
    yield from _unknown(sharing, _SHARING, "sharing.")
    if "mps" in sharing and "timeSlicing" in sharing:
        yield "sharing: mps wins over timeSlicing; keep one"
    if "mps" in sharing and flags.get("migStrategy") == "mixed":
        yield "sharing.mps: MPS on MIG devices is not supported"
    for means in ("timeSlicing", "mps"):
        if means in sharing:
            yield from _means(means, sharing[means] or {})


def _means(name: str, means: Mapping[str, Any]) -> Iterator[str]:
    where = f"sharing.{name}"
    yield from _unknown(means, _MEANS, f"{where}.")
    if not means.get("resources"):
        yield f"{where}: no resources specified"
    for resource in means.get("resources") or ():
        yield from _unknown(resource, _RESOURCE, f"{where}.resources.")
        if not resource.get("name"):
            yield f"{where}: a resource without a name"
        if (resource.get("replicas") or 0) < 2:
            yield f"{where}: number of replicas must be >= 2"
        if "rename" in resource or resource.get("devices", "all") != "all":
            yield f"{where}: rename and devices are ignored with a warning"
    if not means.get("failRequestsGreaterThanOne", name == "mps"):
        yield f"{where}: without failRequestsGreaterThanOne two slices are two of the same GPU"
    if not means.get("renameByDefault"):
        yield f"{where}: without renameByDefault shared and whole GPUs cannot be told apart"


def _unknown(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> Iterator[str]:
    """Unknown keys are ignored by the plugin: a typo would not be noticed."""
    yield from (f"{where}{key} is no key of the plugin, and ignored" for key in value if key not in known)
