"""NVIDIA's DaemonSet reaches the tainted GPU nodes with the tolerations that `headrace nodepool --sharing` gives its chart."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from control_plane import SHARED
from user import User

from headrace.targets.sharing.wiring import values

pytestmark = pytest.mark.controlplane
STATIC = SHARED / "crds" / "nvidia" / "nvidia-device-plugin-static.yml"
DAEMONSETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
GPU_NODES = {"gpu-0", "gpu-1", "mig-0"}


@pytest.mark.parametrize(("tolerations", "reached"), [(None, {"cpu-0"}), ([("sku", "gpu", "NoSchedule")], GPU_NODES | {"cpu-0"})])
def test_the_device_plugin_reaches_tainted_nodes_with_our_values_only(
    user: User, until: Callable[..., Any], tolerations: list[tuple[str, str | None, str]] | None, reached: set[str]
) -> None:
    made = yaml.safe_load(STATIC.read_text())
    made["metadata"]["name"] = user.namespace  # beside others'
    for about in (made["spec"]["selector"]["matchLabels"], made["spec"]["template"]["metadata"]["labels"]):
        about["name"] = user.namespace
    pod = made["spec"]["template"]["spec"]
    pod["tolerations"] = values(tolerations)["tolerations"] if tolerations else pod["tolerations"]
    user.api.create(DAEMONSETS, made, "make the device plugin")
    pods = user.api.resource("v1", "Pod")
    assert pods

    def status() -> dict[str, Any]:
        found: dict[str, Any] = user.api.request("GET", f"{DAEMONSETS}/{user.namespace}", "look")["status"]
        return found

    def nodes() -> set[str]:
        found = user.api.all(pods, "kube-system", {"name": user.namespace})
        return {each["spec"].get("nodeName", "") for each in found}

    try:
        until(lambda: status().get("observedGeneration") and status()["currentNumberScheduled"] == len(reached))
        until(lambda: nodes() == reached)
        assert status()["desiredNumberScheduled"] == len(reached)
    finally:
        user.api.request("DELETE", f"{DAEMONSETS}/{user.namespace}", "clean up")
