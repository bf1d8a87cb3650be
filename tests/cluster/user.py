"""Somebody who types commands in a folder, and looks at what became of them in the cluster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import SIZE, ControlPlane

from headrace.cli import main
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.order import INSTANCE, OURS

CODE = "class Own:\n    def predict(self, batch):\n        return batch\n"
LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct"  # its facts are in the catalogue: no network is needed
MODELS: dict[str, Any] = {"chat": {"source": LLAMA, "replicas": "0..8"}, "own": "file:./own.py"}
KUBERNETES: dict[str, Any] = {
    "scaler": "keda",
    "prometheus": "http://prometheus.monitoring.svc:9090",
    "image": "registry.example.com/headrace:1",
    "cpu": 1,
    "gateways": 1,
    "storage": {"class": "files"},
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


@dataclass
class User:
    plane: ControlPlane
    namespace: str
    folder: Path
    capsys: pytest.CaptureFixture[str]
    made: list[tuple[str, str]] = field(default_factory=list)
    """(path, name) of what lies outside of the namespace."""

    def __post_init__(self) -> None:
        self.api: Api = self.plane.api()

    def write(self, models: dict[str, Any] | None = None, **kubernetes: Any) -> None:
        """The file: the usual one, but for what is said."""
        (self.folder / "own.py").write_text(CODE)
        spec = {
            "models": MODELS if models is None else models,
            "machine": {"azure": SIZE},
            "kubernetes": {**KUBERNETES, "namespace": self.namespace, **kubernetes},
        }
        (self.folder / "headrace.yaml").write_text(yaml.safe_dump(spec))

    def types(self, command: str, *arguments: str) -> Said:
        """One command; `headrace.yaml` is the file."""
        offline = ("--offline",) if command in ("apply", "diff") else ()
        self.capsys.readouterr()
        code = main([command, *arguments, *offline])
        captured = self.capsys.readouterr()
        return Said(code, captured.out, captured.err)

    def applies(self, *arguments: str) -> Said:
        said = self.types("apply", *arguments)
        assert said.code == 0, said.err
        return said

    def all(self, api_version: str, kind: str, **labels: str) -> list[dict[str, Any]]:
        """What of ours is there."""
        resource = self.api.resource(api_version, kind)
        assert resource, kind
        return self.api.all(resource, self.namespace, {**OURS, **labels})

    def get(self, api_version: str, kind: str, name: str) -> dict[str, Any] | None:
        resource = self.api.resource(api_version, kind)
        assert resource, kind
        return self.api.get(resource, self.namespace, name)

    def deployment(self, name: str) -> dict[str, Any]:
        found = self.get("apps/v1", "Deployment", name)
        assert found, name
        return found

    def pods(self, model: str) -> list[dict[str, Any]]:
        resource = self.api.resource("v1", "Pod")
        assert resource
        return self.api.all(resource, self.namespace, {INSTANCE: model})

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Something of somebody else's; what lies outside of the namespace goes when the test ends."""
        self.api.create(path, body, "make what the test needs")
        if "/namespaces/" not in path:
            self.made.append((path, body["metadata"]["name"]))

    def changes(self, path: str, body: dict[str, Any], manager: str) -> None:
        """Somebody else's hand on an object."""
        headers = {"Content-Type": "application/merge-patch+json"}
        self.api.request("PATCH", path, "change it", params={"fieldManager": manager}, body=body, headers=headers)

    def scales(self, deployment: str, replicas: int) -> None:
        """As `kubectl scale` and KEDA do: by the scale subresource."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{deployment}/scale"
        self.changes(path, {"spec": {"replicas": replicas}}, "keda")

    def storage(self, count: int = 1) -> None:
        """Volumes of a class that many nodes may mount."""
        classes = "/apis/storage.k8s.io/v1/storageclasses"
        name = f"files-{self.namespace}"
        self.create(
            classes,
            {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": "none"},
        )
        for number in range(count):
            spec = {
                "storageClassName": name,
                "capacity": {"storage": "1Ti"},
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": "/nowhere"},
            }
            volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{name}-{number}"}, "spec": spec}
            self.create("/api/v1/persistentvolumes", volume)

    def clean(self) -> None:
        namespaces = self.api.resource("v1", "Namespace")
        assert namespaces
        self.api.delete(namespaces, "", self.namespace)
        for path, name in reversed(self.made):
            self.api.request("DELETE", f"{path}/{name}", "clean up")
        self.api.close()
