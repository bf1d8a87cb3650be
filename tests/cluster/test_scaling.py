"""The real HPA on our objects: KEDA's part is played by the tool beside the checkout, from the ScaledObject that we render."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import free_ports
from user import LLAMA, User

pytestmark = pytest.mark.controlplane


def test_the_hpa_scales_our_deployment_and_apply_lets_it(user: User, tmp_path: Path, until: Callable[..., Any]) -> None:
    """Asleep at zero; 1 for the first request; more as it waits; and applied again in between it stays as it is."""
    user.storage()
    models = {"chat": {"source": LLAMA, "replicas": "0..8", "scale": {"queue": 2}}}
    user.write(models, storage={"class": f"files-{user.namespace}"})
    user.applies()
    scaled = user.get("keda.sh/v1alpha1", "ScaledObject", "chat")
    assert scaled
    metric, file = tmp_path / "metric", tmp_path / "scaledobject.yaml"
    metric.write_text("0")
    file.write_text(yaml.safe_dump(scaled))
    port = str(free_ports(1)[0])
    arguments = ("--metric", str(metric), "--poll", "0.5", "--cooldown", "1", "--port", port, str(file))

    def replicas() -> int:
        return int(user.deployment("chat")["spec"]["replicas"])

    try:
        with user.plane.program("keda_adapter.py", *arguments, log=tmp_path / "keda.log"):
            until(lambda: replicas() == 0)
            # Not at once: pods of the test before may still have the only node, and the Job for the weights waits for it.
            until(lambda: "chat: asleep" in user.types("why", "chat", "--cluster").out, 60)
            metric.write_text("1")
            until(lambda: replicas() == 1)
            metric.write_text("5000")
            until(lambda: replicas() >= 3, 60)
            before = replicas()
            user.applies()
            assert replicas() >= before
    finally:
        for path in (
            "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/keda-external-metrics-reader",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/keda-hpa-controller-external-metrics",
            "/api/v1/namespaces/keda",
        ):
            user.api.request("DELETE", path, "clean up")
