"""A real etcd, API server, scheduler and controller-manager on loopback, of the tools beside the checkout.

They are of Kubernetes 1.20 (what Debian builds), so kinds that came later are written in the version before (`downlevel`).
"""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubelet import Kubelet

from headrace.targets.kubernetes.client import Api, connect

SHARED = Path(os.environ.get("HEADRACE_SHARED", Path(__file__).parents[3] / "shared"))
TOOLS = SHARED / "tools" / "controlplane"
HOME = Path(os.environ.get("HEADRACE_CONTROLPLANE", Path.home() / ".cache" / "headrace-controlplane"))
KAITO = ("kaito/kaito.sh_inferencesets.yaml", "kaito/kaito.sh_workspaces.yaml")
CRDS = ("keda/keda.sh_scaledobjects.yaml", "prometheus-operator/monitoring.coreos.com_podmonitors.yaml", *KAITO)
SIZE = "Standard_NC24ads_A100_v4"
"""What the GPU nodes say that they are."""

_START_SECONDS = 90
_NODES_SECONDS = 60
_TRIES = 3
"""An API server that has just begun is slow, on a busy machine slower than a client waits."""
_PORTS = ("ETCD_PORT", "ETCD_PEER", "API_PORT", "KCM_PORT", "SCHED_PORT")


def absent() -> str | None:
    """Why there can be no control plane here; None where there can."""
    if not (TOOLS / "start.sh").is_file():
        return f"no control plane in {TOOLS}: set HEADRACE_SHARED"
    if not (HOME / "bin" / "kube-apiserver").is_file():
        return f"no control plane is built: {TOOLS / 'build.sh'} (5 minutes)"
    return None


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """One that runs. `run` is its folder: kubeconfigs, tokens, logs."""

    run: Path
    environment: Mapping[str, str]
    kubelet: Kubelet

    @property
    def kubeconfig(self) -> Path:
        return self.run / "pki" / "admin.kubeconfig"

    def api(self) -> Api:
        return connect(str(self.kubeconfig))

    def user(self, account: str, namespace: str, folder: Path) -> Path:
        """A kubeconfig of a new service account in the namespace, which has no right but those that are given to it."""
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        with self.api() as api:
            about = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
            api.create(accounts, about, "make an account")
            token = api.create(f"{accounts}/{account}/token", asked, "make a token")["status"]["token"]
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        file = folder / f"{account}.kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return file

    @contextmanager
    def program(self, script: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """One of the tools, until the block ends."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(TOOLS / script), *arguments], env=dict(self.environment), stdout=out, stderr=out
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait(20)


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """A fresh one on ports of its own, with nodes whose kubelet runs nothing and the kinds of KEDA and Prometheus."""
    run = folder / "run"
    ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
    environment = {
        **os.environ,
        **ports,
        "HEADRACE_CONTROLPLANE": str(HOME),
        "RUN": str(run),
        "OWNER": str(os.getpid()),
        "HPA_SYNC": "2s",
        "HPA_DOWN": "10s",
        "KUBECONFIG": str(run / "pki" / "admin.kubeconfig"),
    }
    with ExitStack() as stack:
        # Before it is started: one that takes too long has begun all the same.
        stack.callback(subprocess.run, [str(TOOLS / "start.sh"), "stop"], env=environment, check=False, timeout=60)
        started = subprocess.run(
            [str(TOOLS / "start.sh")], env=environment, capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )
        assert started.returncode == 0, started.stderr
        plane = ControlPlane(run, environment, Kubelet(connect(environment["KUBECONFIG"])))
        define(plane)
        _make_nodes(plane, folder / "nodes.log")
        plane.kubelet.start()
        stack.callback(plane.kubelet.close)
        yield plane


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def downlevel(manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What 1.20 has in an earlier version only, in that; the fields that we use are the same."""
    earlier = {"policy/v1": "policy/v1beta1", "autoscaling/v2": "autoscaling/v2beta2"}
    return [{**each, "apiVersion": earlier.get(each["apiVersion"], each["apiVersion"])} for each in manifests]


def unique(prefix: str) -> str:
    """A namespace of a test's own."""
    return f"{prefix}-{secrets.token_hex(3)}"


def define(plane: ControlPlane, crds: Sequence[str] = CRDS) -> None:
    """Kinds of others, made acceptable to 1.20."""
    files = [str(SHARED / "crds" / each) for each in crds]
    made = subprocess.run(
        [sys.executable, str(TOOLS / "crd_downlevel.py"), *files], capture_output=True, text=True, check=True, timeout=60
    )
    with plane.api() as api:
        for each in map(json.loads, made.stdout.splitlines()):
            api.create(f"/apis/{each['apiVersion']}/customresourcedefinitions", each, f"define {each['metadata']['name']}")


def _make_nodes(plane: ControlPlane, log: Path) -> None:
    """Those of the tool beside the checkout; those with GPUs get the label that clouds give."""
    for _ in range(_TRIES):
        with plane.program("fakekubelet.py", "--nodes", "--for", "0", log=log) as made:
            if made.wait(_NODES_SECONDS) == 0:
                break
    else:
        raise AssertionError(f"nodes could not be made: {log.read_text()[-2000:]}")
    body = {"metadata": {"labels": {"node.kubernetes.io/instance-type": SIZE}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    with plane.api() as api:
        for node in ("gpu-0", "gpu-1"):
            api.request("PATCH", f"/api/v1/nodes/{node}", "label a node", body=body, headers=headers)
